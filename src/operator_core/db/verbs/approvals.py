"""The verbs of people who approve and reject proposals, and of the proposals that wait for them."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from pydantic import BaseModel

from operator_core.actions.errors import InvalidValue
from operator_core.actions.types import (
    Approvals,
    Decision,
    DecisionKind,
    PendingApproval,
    RequesterType,
    StoredProposal,
)
from operator_core.db.ledger import amendments, approvals, inbox, requirements
from operator_core.db.ledger.proposals import NewProposals
from operator_core.db.sql.rows import Listing
from operator_core.db.verbs import arguments
from operator_core.db.verbs.arguments import check
from operator_core.db.verbs.base import Verbs

__all__ = ["ApprovalVerbs"]

_MOST: int = 1000


class ApprovalVerbs(Verbs):
    """The verbs of approvals. `by` is the person, whom the service has authenticated."""

    async def approve_proposal(
        self,
        proposal_id: int,
        *,
        by: str,
        digest: str | None = None,
        roles: Iterable[str] = (),
        by_type: RequesterType | str = RequesterType.USER,
        comment: str | None = None,
        requirement_id: int | None = None,
        validate: bool = True,
    ) -> Decision:
        """Approves exactly what has this `digest`, and validates the proposal if nothing is missing any more.

        `digest` is `proposal.digest` of what the person has seen. It is mandatory where something is required. `roles`
        are those that the service vouches for. The approval counts for one requirement that it fits, whichever lets
        the most be met; with `requirement_id`, for that one only. With `validate` False the proposal stays proposed, for a service that
        validates parameters itself afterwards. While a halt covers the proposal, it moves on `resume`.

        A second approval by the same person writes nothing, and returns the first one with `repeated` set. Raises
        `DigestMismatch` for another digest, `NotEligible` if no requirement lets this person approve, `NotFound`, and
        `Conflict` if it is too late: the proposal is executing, has ended, or was not decided in time.
        """
        request = approvals.DecisionRequest(
            check(arguments.ID, proposal_id, "proposal_id"),
            DecisionKind.APPROVED,
            check(arguments.PERSON, by, "by"),
            check(arguments.TYPE, by_type, "by_type").value,
            check(arguments.ROLES, roles, "roles"),
            check(arguments.DIGEST, digest, "digest"),
            check(arguments.REASON, comment, "comment"),
            check(arguments.OPTIONAL_ID, requirement_id, "requirement_id"),
            check(arguments.FLAG, validate, "validate"),
        )
        return await self._units.write(partial(approvals.approve, request=request))

    async def reject_proposal(
        self,
        proposal_id: int,
        *,
        by: str,
        reason: str,
        roles: Iterable[str] = (),
        by_type: RequesterType | str = RequesterType.USER,
    ) -> Decision:
        """Rejects a proposal: it is cancelled for good, and if it has failed, its retry is called off.

        Anybody may reject, also who has approved. Raises `NotFound`, and `Conflict` if the proposal is executing or has
        ended.
        """
        request = approvals.DecisionRequest(
            check(arguments.ID, proposal_id, "proposal_id"),
            DecisionKind.REJECTED,
            check(arguments.PERSON, by, "by"),
            check(arguments.TYPE, by_type, "by_type").value,
            check(arguments.ROLES, roles, "roles"),
            comment=check(arguments.REQUIRED_REASON, reason, "reason"),
        )
        return await self._units.write(partial(approvals.reject, request=request))

    async def withdraw_approval(self, proposal_id: int, *, by: str, reason: str) -> Decision:
        """Withdraws the approval of `by`. If it is then missing, the proposal can't start until somebody else approves.

        Raises `NotFound`, and `Conflict` if `by` has not approved, or if the proposal is executing or has ended.
        """
        request = approvals.DecisionRequest(
            check(arguments.ID, proposal_id, "proposal_id"),
            DecisionKind.WITHDRAWN,
            check(arguments.PERSON, by, "by"),
            comment=check(arguments.REQUIRED_REASON, reason, "reason"),
        )
        return await self._units.write(partial(approvals.withdraw, request=request))

    async def approvals(self, proposal_id: int) -> Approvals:
        """Returns what is required of a proposal, what was decided, and what is missing; raises `NotFound`."""
        known = check(arguments.ID, proposal_id, "proposal_id")
        return await self._units.read(partial(requirements.approvals, proposal_id=known))

    async def is_approved(self, proposal_id: int) -> bool:
        """Returns whether nothing that is required of a proposal is missing now; raises `NotFound`.

        It depends on decisions and time. It is True if nothing is required.
        """
        known = check(arguments.ID, proposal_id, "proposal_id")
        return await self._units.read(partial(requirements.is_approved, proposal_id=known))

    async def pending_approvals(
        self,
        for_: str | None = None,
        roles: Iterable[str] | None = None,
        *,
        run_id: str | None = None,
        agent_id: str | None = None,
        action_name: str | None = None,
        after: int | None = None,
        limit: int = 50,
    ) -> Listing[PendingApproval]:
        """Returns the proposals that wait for approvals, oldest first, with what is missing and when they lapse.

        With `for_` or `roles`, those only that this person, or somebody with these roles, may approve and has not. For
        the next page, pass the last id as `after`. `limit` is from 1 to 1,000. Rows that can't be read are left out,
        logged, and reported in the `corrupt` of the returned list.
        """
        waiting = inbox.Waiting(
            given=False,
            limit=check(arguments.count_up_to(_MOST), limit, "limit"),
            after=check(arguments.POSITION, after, "after") or 0,
            by=None if for_ is None else check(arguments.PERSON, for_, "for_"),
            roles=None if roles is None else check(arguments.ROLES, roles, "roles"),
            run_id=check(arguments.NAME, run_id, "run_id"),
            agent_id=check(arguments.NAME, agent_id, "agent_id"),
            action_name=check(arguments.NAME, action_name, "action_name"),
        )
        return await self._units.read(partial(inbox.pending, waiting=waiting))

    async def approved_not_started(
        self, *, after: int | None = None, limit: int = 50
    ) -> Listing[PendingApproval]:
        """Returns the proposals that people have approved and no worker has started, oldest first."""
        waiting = inbox.Waiting(
            given=True,
            limit=check(arguments.count_up_to(_MOST), limit, "limit"),
            after=check(arguments.POSITION, after, "after") or 0,
        )
        return await self._units.read(partial(inbox.pending, waiting=waiting))

    async def amend_proposal(
        self,
        proposal_id: int,
        *,
        parameters: Mapping[str, Any] | BaseModel,
        by: str,
        reason: str,
    ) -> StoredProposal:
        """Replaces a pending proposal by a new one with other parameters, in one unit of work, and returns the new one.

        The new one is proposed by `by`, under the rules as they are now, with everything else of the old one but its
        `call_id`, its idempotency key and its workflow. Its `supersedes_id` names the old one, which is cancelled. No approval is carried over.
        What depends on the old one is cancelled with it. Raises `NotFound`, `InvalidTransition` if it is not
        pending, and what `create_proposal` raises.
        """
        known = check(arguments.ID, proposal_id, "proposal_id")
        who = check(arguments.PERSON, by, "by")
        why = check(arguments.REQUIRED_REASON, reason, "reason")
        given = check(arguments.JSON, _to_object(parameters), "parameters")
        if given is None:
            raise InvalidValue("parameters", "must be a JSON object")
        old = await self._units.read(partial(amendments.check_pending, proposal_id=known))
        new = NewProposals(who, self._max_json_bytes)
        proposal = amendments.amended(old, given, by=who, reason=why)
        (answer,) = await self._ask([proposal])
        new.add(proposal, supersedes_id=known, answer=answer)
        unit = partial(amendments.amend, proposal_id=known, new=new, by=who, reason=why)
        return await self._propose(unit, [proposal])


def _to_object(value: object) -> object:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
