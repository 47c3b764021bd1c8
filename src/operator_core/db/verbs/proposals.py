"""The verbs of proposals: create, read, list and count them."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeAlias, TypedDict, Unpack

from operator_core.actions.errors import Halted
from operator_core.actions.types import (
    ActionStatus,
    EndCode,
    ProposalRequest,
    RequesterType,
    StoredProposal,
)
from operator_core.db.ledger import proposals, queries
from operator_core.db.sql.rows import Listing
from operator_core.db.verbs import arguments
from operator_core.db.verbs.arguments import check, check_proposal
from operator_core.db.verbs.base import Verbs

__all__ = ["ProposalFilters", "ProposalVerbs", "Statuses"]

Statuses: TypeAlias = ActionStatus | Iterable[ActionStatus] | None

_PAGE: Final = 1000
"""The number of proposals that `iter_proposals` holds in memory."""

_TURN: Final = 100
"""The number of proposals that are checked before other tasks of the event loop may run."""


class ProposalFilters(TypedDict, total=False):
    """The filters of the verbs that list and count proposals. One that is absent or None does not count.

    A filter by a column with an index (`action_name`, `ticket_id`, `proposed_by`, `requester_id`, `agent_id`,
    `run_id`, `parent_id`, `end_code`) reads the matching rows only; the others are applied to the rows that are read.
    """

    action_name: str | None
    ticket_id: int | None
    proposed_by: str | None
    requester_id: str | None
    requester_type: RequesterType | None
    agent_id: str | None
    run_id: str | None
    parent_id: int | None
    call_id: str | None
    traceparent: str | None
    end_code: EndCode | None
    actor: str | None
    """Who moved it last."""
    worker: str | None
    """A worker that has executed it, or does."""
    created_after: datetime | None
    """The earliest time at which it was created."""
    created_before: datetime | None
    """It was created before this time."""
    search: str | None
    """A text that its parameters, reason or last error contain; the case of ASCII letters does not count.

    Of the parameters, it is the JSON text that is searched, where a line break is ``\\n``.
    """


_ARGUMENTS: Final[dict[str, arguments.Argument[Any]]] = {
    **dict.fromkeys(ProposalFilters.__annotations__, arguments.NAME),
    **dict.fromkeys(("ticket_id", "parent_id"), arguments.OPTIONAL_ID),
    **dict.fromkeys(("created_after", "created_before"), arguments.TIME),
    "requester_type": arguments.REQUESTER_TYPE,
    "end_code": arguments.END_CODE,
    "traceparent": arguments.TRACEPARENT,
    "search": arguments.REASON,
}


class ProposalVerbs(Verbs):
    """The verbs of proposals."""

    async def create_proposal(
        self,
        proposal: ProposalRequest,
        *,
        proposed_by: str | None = None,
        idempotency_key: str | None = None,
        actor: str | None = None,
    ) -> StoredProposal:
        """Creates a proposal and returns it with its id and the database's times.

        The proposer of a `ProposalRequest` is `proposed_by`, by default the actor of the call or of the ledger. An
        `ActionProposal` names its own proposer, which `proposed_by` overrides. If its status is not `proposed`, it is
        an import, and its event says so.

        `idempotency_key` (1 to 255 characters, unique in the ledger) makes repeated calls safe, from any program. A
        call with the same key and the same content writes nothing. It returns the existing proposal in its current
        state, with `replayed` set. The content is everything that is proposed, and the proposer. The reason, the time
        and the status are not part of it: a model words the reason differently each time.

        Raises `Halted` if a halt covers it. Raises `NotFound` for an unknown ticket, dependency or parent. Raises `Conflict` for a key that is in use with
        other content, and for a tool call that has a proposal in its run already (see `find_call`). Raises
        `InvalidValue` for a proposal that already has an id, and for one of another run than its parent's. In a
        service's transaction that can't read the other proposal of the call, it is `ConstraintViolation`.
        """
        key = check(arguments.NAME, idempotency_key, "idempotency_key")
        new = self._new(actor)
        checked = check_proposal(proposal, "proposal", self._who(actor), proposed_by)
        (answer,) = await self._ask([checked])
        new.add(checked, answer=answer)
        if key is None:
            return (await self._create(new))[0]
        try:
            return await self._propose(proposals.creation_once(new, key), new.proposals)
        except Halted:
            # The existing one is nothing new. On a server, the schema refuses the row before it finds the key.
            (given,) = new.proposals
            known = partial(proposals.replayed, proposal=given, key=key)
            if (found := await self._units.read(known)) is None:
                raise
            return found

    async def create_proposals(
        self,
        proposals_: Iterable[ProposalRequest],
        *,
        proposed_by: str | None = None,
        actor: str | None = None,
    ) -> list[StoredProposal]:
        """Creates several proposals in their order, all or none; accepts and raises what `create_proposal` does."""
        check(arguments.COLLECTION, proposals_, "proposals")
        new, who = self._new(actor), self._who(actor)
        for index, proposal in enumerate(proposals_):
            at = f"proposals[{index}]"
            checked = check_proposal(proposal, at, who, proposed_by)
            (answer,) = await self._ask([checked])
            new.add(checked, answer=answer)
            if index % _TURN == _TURN - 1:
                await asyncio.sleep(0)
        return await self._create(new)

    def _new(self, actor: str | None) -> proposals.NewProposals:
        return proposals.NewProposals(self._who(actor), self._max_json_bytes)

    async def _create(self, new: proposals.NewProposals) -> list[StoredProposal]:
        return await self._propose(proposals.creation(new), new.proposals)

    async def get_proposal(self, proposal_id: int) -> StoredProposal | None:
        """Returns the proposal, or None for an unknown id; raises `CorruptRow` if another tool damaged the row."""
        known = check(arguments.ID, proposal_id, "proposal_id")
        return await self._units.read(queries.read_proposal(known))

    async def find_call(self, run_id: str, call_id: str) -> StoredProposal | None:
        """Returns the proposal of a tool call, or None if none has this `run_id` and `call_id`.

        An agent that starts again after a crash thus finds what it has already proposed. Raises `CorruptRow` if another
        tool damaged the row.
        """
        return await self._units.read(
            queries.find_call(
                check(arguments.REQUIRED_NAME, run_id, "run_id"),
                check(arguments.REQUIRED_NAME, call_id, "call_id"),
            )
        )

    async def list_proposals(
        self,
        status: Statuses = None,
        *,
        oldest_first: bool = False,
        before: int | None = None,
        after: int | None = None,
        limit: int | None = None,
        **filters: Unpack[ProposalFilters],
    ) -> Listing[StoredProposal]:
        """Returns the proposals that match every filter of `ProposalFilters`, newest first or oldest first.

        `status` is one status or several. Only proposals with an id lower than `before` and higher than `after` are
        returned. For the next page, pass the last id as `before`, or as `after` with `oldest_first`. Rows that can't be read are
        left out, logged, and reported in the `corrupt` of the returned list.
        """
        checked: dict[str, Any] = {
            **_checked(filters, "list_proposals"),
            "before": check(arguments.OPTIONAL_ID, before, "before"),
            "after": check(arguments.OPTIONAL_ID, after, "after"),
            "oldest_first": check(arguments.FLAG, oldest_first, "oldest_first"),
            "limit": check(arguments.POSITION, limit, "limit"),
        }
        statuses = _statuses(status)
        if statuses is not None and not statuses:
            return Listing()
        return await self._units.read(
            lambda conn: queries.list_proposals(conn, statuses or (), **checked)
        )

    async def iter_proposals(
        self,
        status: Statuses = None,
        *,
        oldest_first: bool = False,
        before: int | None = None,
        after: int | None = None,
        **filters: Unpack[ProposalFilters],
    ) -> AsyncIterator[StoredProposal]:
        """Yields the proposals that `list_proposals` returns, with constant memory.

        It reads pages, between which other programs may write: a status may have changed since the first page, and
        later proposals appear only with `oldest_first`. Rows that can't be read are left out and logged.
        """
        _checked(filters, "iter_proposals")
        statuses = _statuses(status)
        while True:
            page = await self.list_proposals(
                statuses,
                oldest_first=oldest_first,
                before=before,
                after=after,
                limit=_PAGE,
                **filters,
            )
            for proposal in page:
                yield proposal
            if len(page) + len(page.corrupt) < _PAGE:
                return
            ids = [each.id for each in (*page[-1:], *page.corrupt)]
            if oldest_first:
                after = max(ids)
            else:
                before = min(ids)

    async def count_proposals(self, **filters: Unpack[ProposalFilters]) -> dict[ActionStatus, int]:
        """Returns the number of proposals in each status that match every filter; every status has a key."""
        checked = _checked(filters, "count_proposals")
        return await self._units.read(lambda conn: queries.count_proposals(conn, **checked))


def _checked(filters: ProposalFilters, verb: str) -> dict[str, Any]:
    """The filters, checked and converted; raises `InvalidValue`, and TypeError for an unknown name as Python does."""
    for name in filters:
        if name not in _ARGUMENTS:
            raise TypeError(f"{verb}() got an unexpected keyword argument {name!r}")
    return {name: check(_ARGUMENTS[name], value, name) for name, value in filters.items()}


def _statuses(status: Statuses) -> frozenset[ActionStatus] | None:
    if status is None:
        return None
    if isinstance(status, str):
        return frozenset({check(arguments.STATUS, status, "status")})
    return frozenset(
        check(arguments.STATUS, each, "status")
        for each in check(arguments.COLLECTION, status, "status")
    )
