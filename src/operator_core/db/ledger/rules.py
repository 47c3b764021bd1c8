"""Units of work for rules: add, revoke, list and explain them."""

from typing import Any, Final

from pydantic_core import to_json
from sqlalchemy import BigInteger, Connection, Text, bindparam, insert, or_, select, update

from operator_core.actions.actors import normalised
from operator_core.actions.errors import Conflict, NotFound
from operator_core.actions.rules import rule_matches, why_it_matches
from operator_core.actions.types import ActionProposal, Rule, RuleMatch, StoredRule
from operator_core.db.sql.execution import fetch
from operator_core.db.sql.functions import utcnow, written_now
from operator_core.db.sql.rows import RULE_COLUMNS, Listing, to_listing, to_rule
from operator_core.db.sql.tables import RULES

__all__ = ["add_rule", "as_names", "explain", "list_rules", "revoke_rule"]

_R = RULES.c

_INSERT = insert(RULES).returning(*RULE_COLUMNS)
_ONE = select(*RULE_COLUMNS).where(_R.id == bindparam("rule", type_=BigInteger()))
_REVOKE = (
    update(RULES)
    .where(_R.id == bindparam("rule", type_=BigInteger()), _R.revoked_at.is_(None))
    .values(
        revoked_at=utcnow(),
        revoked_by=bindparam("by", type_=Text()),
        revoke_reason=bindparam("why", type_=Text()),
    )
    .returning(*RULE_COLUMNS)
)
_ALL = select(*RULE_COLUMNS).order_by(_R.id)
_OPEN: Final = (
    _R.revoked_at.is_(None),
    or_(_R.valid_until.is_(None), _R.valid_until > written_now()),
)
_NOT_OVER = _ALL.where(*_OPEN)
_ACTIVE = _NOT_OVER.where(or_(_R.valid_from.is_(None), _R.valid_from <= written_now()))


def as_names(identities: tuple[str, ...] | None) -> str | None:
    """Identities or roles as the JSON text that the database compares: normalised."""
    if identities is None:
        return None
    return to_json([normalised(each) for each in identities]).decode()


def add_rule(conn: Connection, rule: Rule, *, by: str, reason: str) -> StoredRule:
    """Writes a rule; proposals that are created from then on are subject to it."""
    values: dict[str, Any] = {
        **{name: getattr(rule, name) for name in Rule.model_fields},
        "action_type": rule.action_type and rule.action_type.value,
        "requester_type": rule.requester_type and rule.requester_type.value,
        "agent_id": rule.agent_id and normalised(rule.agent_id),
        "conditions": rule.conditions_json(),
        "roles": as_names(rule.roles),
        "approvers": as_names(rule.approvers),
        "added_by": by,
        "reason": reason,
    }
    return to_rule(conn.execute(_INSERT, values).one())


def revoke_rule(conn: Connection, rule_id: int, *, by: str, reason: str) -> StoredRule:
    """Revokes a rule. What it has required stays required. Raises `NotFound`, and `Conflict` if it is revoked."""
    rows = fetch(conn, _REVOKE, {"rule": rule_id, "by": by, "why": reason})
    if rows:
        return to_rule(rows[0])
    if not fetch(conn, _ONE, {"rule": rule_id}):
        raise NotFound("rule", rule_id)
    raise Conflict("rule", rule_id, "revoked")


def list_rules(conn: Connection, *, active: bool) -> Listing[StoredRule]:
    """All rules, or those that are neither revoked nor over, oldest first."""
    return to_listing(fetch(conn, _NOT_OVER if active else _ALL, {}), to_rule)


def explain(conn: Connection, proposal: ActionProposal) -> list[RuleMatch]:
    """The rules that would match a proposal now, oldest first, and why."""
    fields = proposal.__dict__
    rules = to_listing(fetch(conn, _ACTIVE, {}), to_rule)
    return [
        RuleMatch(each, why_it_matches(each, fields))
        for each in rules
        if rule_matches(each, fields)
    ]
