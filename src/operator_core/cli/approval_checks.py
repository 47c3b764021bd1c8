"""Checks the rules, requirements, decisions and grants of a ledger, and what they come to."""

from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

from pydantic_core import from_json
from sqlalchemy import (
    Connection,
    Text,
    and_,
    case,
    column,
    func,
    literal,
    null,
    or_,
    select,
    table,
    type_coerce,
    union,
    union_all,
)
from sqlalchemy import cast as sql_cast

from operator_core.actions.actors import normalised
from operator_core.actions.identities import IDENTITIES
from operator_core.actions.types import ActionStatus, ApprovalStatus, DecisionKind, EventType
from operator_core.cli.findings import Check, Finding, Read, told
from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sql.functions import is_met, utcnow
from operator_core.db.sql.tables import (
    DECISIONS,
    EVENTS,
    GRANTS,
    PROPOSALS,
    REQUIREMENTS,
    RULES,
)

__all__ = ["APPROVAL_CHECKS", "check_identities"]

# Each identity with the column of its normalised form. Those of rules are stored in that form.
_KEYS: Final = (
    ("action_decisions", "decided_by", "decider_key"),
    ("action_grants", "granted_by", "grantor_key"),
    ("action_rules", "agent_id", "agent_id"),
)


def check_identities(read: Read) -> Finding:
    """Checks the normalised identities, which SQL can't compute, so that a trigger may have accepted others.

    A proposal without them is sound: then the triggers let nobody approve whom it might exclude.
    """

    def wrong() -> Iterator[str]:
        for name, identity, key in _KEYS:
            for id_, value, found in read(name, ["id", identity, key]):
                if isinstance(value, str) and normalised(value) != found:
                    yield f"{name} row {id_}: {key} is not the normalised form of {identity}"
        for id_, stored, *values in read("action_proposals", ["id", "identity_keys", *IDENTITIES]):
            if stored is not None:
                identities: dict[str, Any] = dict(zip(IDENTITIES, values, strict=True))
                for name in _other_keys(stored, identities):
                    yield f"proposal {id_}: identity_keys has another {name} than the proposal"

    return told("identities", wrong(), "every normalised form is that of its identity")


def _other_keys(stored: Any, identities: Mapping[str, Any]) -> Iterator[str]:
    try:
        keys: object = from_json(stored) if isinstance(stored, str | bytes) else stored
    except ValueError:
        keys = None
    if not isinstance(keys, dict):
        yield "content"
        return
    for name, key in cast("dict[str, object]", keys).items():
        value = identities.get(name)
        if not isinstance(value, str) or normalised(value) != key:
            yield name


def _details(**members: Any) -> Any:
    """Builds the details of an event as the triggers write them: JSON without the members that are NULL."""
    text: Any = literal("")
    for place, (name, value) in enumerate(members.items()):
        quote = '"' if isinstance(value.type, Text) else ""
        comma = "," if place else ""
        member = literal(f'{comma}"{name}":{quote}') + sql_cast(value, Text) + literal(quote)
        text += func.coalesce(member, "") if place else member
    return literal("{") + text + literal("}")


def _expected() -> Any:
    """What the history must say: a row for each requirement and decision, and for each beginning and end of the others."""
    required, decided = REQUIREMENTS.c, DECISIONS.c
    parts = [
        select(
            literal(EventType.APPROVAL_REQUIRED.value).label("event_type"),
            required.proposal_id.label("proposal_id"),
            _details(requirement=required.id, rule=required.rule_id).label("details"),
            literal("ledger").label("actor"),
            required.name.label("reason"),
        ),
        select(
            case(
                (
                    decided.kind == DecisionKind.WITHDRAWN.value,
                    EventType.APPROVAL_WITHDRAWN.value,
                ),
                else_=decided.kind,
            ),
            decided.proposal_id,
            _details(
                decision=decided.id,
                digest=decided.digest,
                requirement=decided.requirement_id,
                grant=decided.grant_id,
                withdraws=decided.withdraws_id,
            ),
            decided.decided_by,
            decided.comment,
        ),
    ]
    for name, rows, by, added, revoked in (
        ("rule", RULES, RULES.c.added_by, EventType.RULE_ADDED, EventType.RULE_REVOKED),
        ("grant", GRANTS, GRANTS.c.granted_by, EventType.GRANT_ADDED, EventType.GRANT_REVOKED),
    ):
        of = rows.c
        none = sql_cast(null(), EVENTS.c.proposal_id.type)
        which = _details(**{name: of.id})
        parts.append(select(literal(added.value), none, which, by, of.reason))
        parts.append(
            select(literal(revoked.value), none, which, of.revoked_by, of.revoke_reason).where(
                of.revoked_at.is_not(None)
            )
        )
    return parts


_TYPES: Final = (
    EventType.APPROVAL_REQUIRED.value,
    EventType.APPROVED.value,
    EventType.REJECTED.value,
    EventType.APPROVAL_WITHDRAWN.value,
    EventType.RULE_ADDED.value,
    EventType.RULE_REVOKED.value,
    EventType.GRANT_ADDED.value,
    EventType.GRANT_REVOKED.value,
)


def _untold(_: Connection) -> Any:
    """Compares the rows with the events: each has one that says the same, and each event has its row."""
    event = EVENTS.c
    events = select(
        event.event_type,
        event.proposal_id,
        sql_cast(event.details, Text),
        event.actor,
        event.reason,
        literal(0),
        literal(1),
    ).where(event.event_type.in_(_TYPES))
    rows = [
        each.add_columns(literal(1).label("rows"), literal(0).label("events"))
        for each in _expected()
    ]
    both = union_all(*rows, events).subquery().c
    found, events_found = func.sum(both.rows), func.sum(both.events)
    problem = case(
        (found == 0, "has an event, but there is none that says so"),
        (events_found == 0, "has no event that says the same"),
        else_="has more than one event",
    )
    return (
        select(both.event_type, func.coalesce(both.details, "without details"), problem)
        .group_by(both.event_type, both.proposal_id, both.details, both.actor, both.reason)
        .having(or_(found != 1, events_found != 1))
    )


_SNAPSHOT: Final = (
    "name",
    "effect",
    "approvals",
    "roles",
    "approvers",
    "allow_self",
    "allow_agents",
    "decide_within",
    "valid_for",
    "covers_retries",
)


def _other_requirements(_: Connection) -> Any:
    """A requirement is a snapshot of its rule, and a rule never changes."""
    required, rule = REQUIREMENTS.c, RULES.c
    return (
        select(required.id, required.proposal_id, required.rule_id)
        .join_from(REQUIREMENTS, RULES, rule.id == required.rule_id)
        .where(
            or_(
                *(
                    sql_cast(required[name], Text).is_distinct_from(sql_cast(rule[name], Text))
                    for name in _SNAPSHOT
                )
            )
        )
    )


def _bad_approvals(conn: Connection) -> Any:
    """Compares the approval of each proposal with what its requirements and decisions come to now.

    Only time makes the two differ in a sound ledger: from the moment at which an approval expires, `lapses_at`, the
    stored value is that of before.
    """
    row = PROPOSALS.c
    met = is_met(row.id)
    held = and_(
        row.approval == ApprovalStatus.HELD.value, row.status != ActionStatus.VALIDATED.value
    )
    expected = case(
        (met, case((held, row.approval), else_=ApprovalStatus.GIVEN.value)),
        else_=ApprovalStatus.NEEDED.value,
    )
    lapses_at: Any
    if is_sqlite(conn):
        view = table("action_approvals", column("proposal_id"), column("lapses_at")).c
        lapses_at = select(view.lapses_at).where(view.proposal_id == row.id).scalar_subquery()
    else:
        lapses_at = func.action_requirements_lapse(row.id, row.status, met, row.created_at)
    lapses_at = type_coerce(lapses_at, row.lapses_at.type)
    # A rejection of a failed proposal is written there too.
    required = union(
        select(REQUIREMENTS.c.proposal_id),
        select(DECISIONS.c.proposal_id)
        .join_from(DECISIONS, PROPOSALS, row.id == DECISIONS.c.proposal_id)
        .where(
            DECISIONS.c.kind == DecisionKind.REJECTED.value,
            row.status == ActionStatus.FAILED.value,
        ),
    )
    problem = case(
        (row.id.not_in(required), "has an approval, and nothing is required of it"),
        (
            row.approval.is_distinct_from(expected),
            "has another approval than its requirements and decisions come to",
        ),
        (
            row.lapses_at.is_distinct_from(lapses_at),
            "has another lapses_at than its requirements and decisions come to",
        ),
    )
    judged = (
        select(row.id, problem.label("problem"))
        .where(
            or_(row.approval.is_not(None), row.lapses_at.is_not(None), row.id.in_(required)),
            row.status.in_(
                (
                    ActionStatus.PROPOSED.value,
                    ActionStatus.VALIDATED.value,
                    ActionStatus.FAILED.value,
                )
            ),
            or_(row.lapses_at.is_(None), row.lapses_at > utcnow()),
        )
        .subquery()
        .c
    )
    return select(judged.id, judged.problem).where(judged.problem.is_not(None))


APPROVAL_CHECKS: Final = (
    Check(
        "decisions",
        "{0} {1}: {2}",
        _untold,
        "every rule, requirement, decision and grant has its events",
    ),
    Check(
        "requirements",
        "requirement {0} of proposal {1} is not what rule {2} requires",
        _other_requirements,
        "each is what its rule requires",
    ),
    Check(
        "approvals",
        "proposal {0} {1}",
        _bad_approvals,
        "all are what the requirements and decisions come to",
    ),
)
"""The checks of rules, requirements, decisions and grants against the history and each other."""
