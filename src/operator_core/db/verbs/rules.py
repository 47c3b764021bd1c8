"""The verbs of rules and grants: what needs approval, and votes that are given in advance."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final

from operator_core.actions.errors import InvalidValue
from operator_core.actions.types import (
    Condition,
    Grant,
    ProposalRequest,
    RequesterType,
    Rule,
    RuleMatch,
    StoredRule,
)
from operator_core.db.ledger import grants, rules
from operator_core.db.sql.rows import Listing
from operator_core.db.verbs import arguments
from operator_core.db.verbs.arguments import check, check_proposal
from operator_core.db.verbs.base import Verbs

__all__ = ["RuleVerbs"]

_MAX_USES: Final = 1_000_000


class RuleVerbs(Verbs):
    """The verbs of rules and grants."""

    async def add_rule(self, rule: Rule, *, by: str, reason: str) -> StoredRule:
        """Adds a rule: proposals that are created from then on are subject to it, whoever writes them.

        A rule is never edited; revoke it and add another one. Its `agent_id`, `roles` and `approvers` are stored as they
        are compared: normalised. Raises `InvalidValue` for a rule that nobody could meet.
        """
        given = check(arguments.RULE, rule, "rule")
        # A second time: `model_copy` checks nothing.
        checked = Rule.model_validate({name: getattr(given, name) for name in Rule.model_fields})
        who = check(arguments.ACTOR, by, "by")
        why = check(arguments.REQUIRED_REASON, reason, "reason")
        return await self._units.write(partial(rules.add_rule, rule=checked, by=who, reason=why))

    async def revoke_rule(self, rule_id: int, *, by: str, reason: str) -> StoredRule:
        """Revokes a rule. What it requires of existing proposals stays required.

        Raises `NotFound` for an unknown rule, and `Conflict` for one that is revoked.
        """
        known = check(arguments.ID, rule_id, "rule_id")
        who = check(arguments.ACTOR, by, "by")
        why = check(arguments.REQUIRED_REASON, reason, "reason")
        return await self._units.write(
            partial(rules.revoke_rule, rule_id=known, by=who, reason=why)
        )

    async def rules(self, *, active: bool = True) -> Listing[StoredRule]:
        """Returns the rules that are neither revoked nor over, oldest first; all of them if not `active`."""
        check(arguments.FLAG, active, "active")
        return await self._units.read(partial(rules.list_rules, active=active))

    async def explain(
        self, proposal: ProposalRequest, *, proposed_by: str | None = None
    ) -> list[RuleMatch]:
        """Returns the rules that would match this proposal now, and why, without writing anything."""
        checked = check_proposal(proposal, "proposal", self._who(None), proposed_by)
        return await self._units.read(partial(rules.explain, proposal=checked))

    async def grant(
        self,
        *,
        by: str,
        action_name: str,
        max_uses: int,
        valid_until: datetime,
        reason: str,
        roles: Iterable[str] = (),
        conditions: Sequence[Condition | Mapping[str, Any]] = (),
        by_type: RequesterType | str = RequesterType.USER,
    ) -> Grant:
        """Gives the vote of `by` in advance, on proposals that fit and are created until `valid_until`.

        `action_name` may be a pattern with ``*`` and ``?``. A condition that can't be evaluated does not hold, and
        ``exists`` is refused. The vote counts as if `by` had approved each proposal: in the same `roles`, and never on a
        proposal of their own. It is used on at most `max_uses` proposals (1 to 1,000,000), and only where it is needed.
        """
        request = grants.GrantRequest(
            check(arguments.PERSON, by, "by"),
            check(arguments.TYPE, by_type, "by_type").value,
            check(arguments.ROLES, roles, "roles"),
            check(arguments.REQUIRED_NAME, action_name, "action_name"),
            check(arguments.CONDITIONS, conditions, "conditions"),
            check(arguments.count_up_to(_MAX_USES), max_uses, "max_uses"),
            _required_time(valid_until),
            check(arguments.REQUIRED_REASON, reason, "reason"),
        )
        grants.refutations(request.conditions)
        return await self._units.write(partial(grants.grant, request=request))

    async def revoke_grant(self, grant_id: int, *, by: str, reason: str) -> Grant:
        """Revokes a grant. The approvals that were given by it stay, and can be withdrawn.

        Raises `NotFound` for an unknown grant, and `Conflict` for one that is revoked.
        """
        known = check(arguments.ID, grant_id, "grant_id")
        who = check(arguments.ACTOR, by, "by")
        why = check(arguments.REQUIRED_REASON, reason, "reason")
        return await self._units.write(
            partial(grants.revoke_grant, grant_id=known, by=who, reason=why)
        )

    async def grants(self, *, active: bool = True) -> Listing[Grant]:
        """Returns the grants that are neither revoked nor over, oldest first; all of them if not `active`."""
        check(arguments.FLAG, active, "active")
        return await self._units.read(partial(grants.list_grants, active=active))


def _required_time(value: object) -> datetime:
    found = check(arguments.TIME, value, "valid_until")
    if found is None:
        raise InvalidValue("valid_until", "must be a datetime: a grant is bounded in time")
    return found
