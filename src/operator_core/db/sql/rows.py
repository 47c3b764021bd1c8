"""The columns of each model, and the functions that convert a row to it.

The limits of new values are not checked for a stored row, but its readability is: a value that another tool wrote
and that can't be read raises `CorruptRow`.
"""

import logging
import re
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Any, Final, TypeVar, cast

from pydantic_core import from_json
from sqlalchemy import Column, Table

from operator_core.actions.errors import CorruptRow
from operator_core.actions.types import (
    ActionEvent,
    ActionStatus,
    ActionType,
    ApprovalStatus,
    Condition,
    Decision,
    DecisionKind,
    EndCode,
    EventType,
    Grant,
    Halt,
    HaltMode,
    Limit,
    OutcomeResolution,
    RequesterType,
    Requirement,
    StoredProposal,
    StoredRecord,
    StoredRule,
    Workflow,
)
from operator_core.db.sql.conversion import (
    Reader,
    converter,
    decode_time,
    to_ids,
    to_names,
    to_path,
)
from operator_core.db.sql.tables import (
    DECISIONS,
    EVENTS,
    GRANTS,
    HALTS,
    LIMITS,
    PROPOSALS,
    RECORDS,
    REQUIREMENTS,
    RESOLUTIONS,
    RULES,
    WORKFLOWS,
)

__all__ = [
    "DECISION_COLUMNS",
    "EVENT_COLUMNS",
    "GRANT_COLUMNS",
    "HALT_COLUMNS",
    "LIMIT_COLUMNS",
    "PROPOSAL_COLUMNS",
    "RECORD_COLUMNS",
    "REQUIREMENT_COLUMNS",
    "RESOLUTION_COLUMNS",
    "RULE_COLUMNS",
    "WORKFLOW_COLUMNS",
    "Listing",
    "decode_time",
    "to_decision",
    "to_event",
    "to_grant",
    "to_halt",
    "to_limit",
    "to_listing",
    "to_proposal",
    "to_record",
    "to_requirement",
    "to_resolution",
    "to_rule",
    "to_workflow",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")


def _columns(table: Table, names: Iterable[str]) -> tuple[Column[Any], ...]:
    return tuple(table.c[name] for name in names)


PROPOSAL_COLUMNS: Final = _columns(PROPOSALS, StoredProposal.model_fields)
RECORD_COLUMNS: Final = _columns(RECORDS, StoredRecord.model_fields)
EVENT_COLUMNS: Final = _columns(EVENTS, ActionEvent.model_fields)
RESOLUTION_COLUMNS: Final = _columns(RESOLUTIONS, OutcomeResolution.model_fields)
HALT_COLUMNS: Final = _columns(HALTS, Halt.model_fields)
LIMIT_COLUMNS: Final = _columns(LIMITS, Limit.model_fields)
RULE_COLUMNS: Final = _columns(RULES, StoredRule.model_fields)
REQUIREMENT_COLUMNS: Final = _columns(REQUIREMENTS, Requirement.model_fields)
DECISION_COLUMNS: Final = _columns(DECISIONS, Decision.model_fields)
# How often a grant was used is counted.
GRANT_COLUMNS: Final = _columns(GRANTS, [name for name in Grant.model_fields if name != "uses"])
WORKFLOW_COLUMNS: Final = _columns(WORKFLOWS, Workflow.model_fields)


def _one_of(enum: type[StrEnum], problem: str) -> Reader:
    return Reader({each.value: each for each in enum}, problem)


_is_digest = re.compile(r"oc1:[0-9a-f]{64}").fullmatch


def _to_digest(value: Any) -> str:
    if not _is_digest(value):
        raise ValueError
    return value


# The columns whose type alone does not decide how they are read, by model.
_STATUS: Final = _one_of(ActionStatus, "is not a status")
_PROPOSAL: Final = {
    "status": _STATUS,
    "action_type": _one_of(ActionType, "is not an action type"),
    "requester_type": _one_of(RequesterType, "is not a type of requester"),
    "end_code": _one_of(EndCode, "is not an end code"),
    # A file that was cut off ends in zeros, which SQLite reads as text.
    "content_digest": Reader(_to_digest, "is not a digest"),
    "depends_on": Reader(to_ids, "is not a list of ids", reads_null=True),
    "approval": _one_of(ApprovalStatus, "is not a status of approvals"),
}


def _to_conditions(value: Any) -> tuple[Condition, ...]:
    found: Any = from_json(value)
    if type(found) is not list:
        raise TypeError
    return tuple(Condition.model_validate(each) for each in cast("list[Any]", found))


_NAMES: Final = Reader(to_names, "is not a list of names")
_TYPE: Final = _one_of(RequesterType, "is not a type of requester")
_RULE: Final = {
    "action_type": _PROPOSAL["action_type"],
    "requester_type": _TYPE,
    "conditions": Reader(_to_conditions, "is not a list of conditions"),
    "effect": Reader({"require": "require", "deny": "deny"}, "is not an effect"),
    "roles": _NAMES,
    "approvers": _NAMES,
}
_DECISION: Final = {
    "kind": _one_of(DecisionKind, "is not a decision"),
    "decider_type": _TYPE,
    "roles": _NAMES,
}
_GRANT: Final = {
    "conditions": _RULE["conditions"],
    "roles": _NAMES,
    "grantor_type": _TYPE,
}
_EVENT: Final = {
    "event_type": _one_of(EventType, "is not an event type"),
    "from_status": _STATUS,
    "to_status": _STATUS,
}

to_proposal: Final = converter(PROPOSAL_COLUMNS, StoredProposal.from_stored, _PROPOSAL)
"""A row of `PROPOSAL_COLUMNS` as a model; raises `CorruptRow`."""

to_record: Final = converter(RECORD_COLUMNS, StoredRecord.from_stored, {})
"""A row of `RECORD_COLUMNS` as a model; raises `CorruptRow`."""

to_event: Final = converter(EVENT_COLUMNS, ActionEvent.from_stored, _EVENT)
"""A row of `EVENT_COLUMNS` as a model; raises `CorruptRow`."""

to_resolution: Final = converter(RESOLUTION_COLUMNS, OutcomeResolution.from_stored, {})
"""A row of `RESOLUTION_COLUMNS` as a model; raises `CorruptRow`."""
to_halt: Final = converter(
    HALT_COLUMNS, Halt.from_stored, {"mode": _one_of(HaltMode, "is not a mode")}
)
"""A row of `HALT_COLUMNS` as a model; raises `CorruptRow`."""

to_limit: Final = converter(
    LIMIT_COLUMNS,
    Limit.from_stored,
    {"sum_of": Reader(to_path, "is not a path", reads_null=True)},
)
"""A row of `LIMIT_COLUMNS` as a model; raises `CorruptRow`."""
to_rule: Final = converter(RULE_COLUMNS, StoredRule.from_stored, _RULE)
"""A row of `RULE_COLUMNS` as a model; raises `CorruptRow`."""

to_requirement: Final = converter(REQUIREMENT_COLUMNS, Requirement.from_stored, _RULE)
"""A row of `REQUIREMENT_COLUMNS` as a model; raises `CorruptRow`."""

to_decision: Final = converter(DECISION_COLUMNS, Decision.from_stored, _DECISION)
"""A row of `DECISION_COLUMNS` as a model; raises `CorruptRow`."""

to_grant: Final = converter(
    GRANT_COLUMNS, lambda values: Grant.from_stored({**values, "uses": 0}), _GRANT
)
"""A row of `GRANT_COLUMNS` as a model, without its uses; raises `CorruptRow`."""

to_workflow: Final = converter(WORKFLOW_COLUMNS, Workflow.from_stored, {})
"""A row of `WORKFLOW_COLUMNS` as a model; raises `CorruptRow`."""


class Listing(list[T]):
    """A list of the readable rows; `corrupt` has a `CorruptRow` for each of the others."""

    corrupt: tuple[CorruptRow, ...] = ()


def to_listing(rows: Iterable[Sequence[Any]], convert: Callable[[Sequence[Any]], T]) -> Listing[T]:
    """Returns the readable rows as models; the others are logged and reported in the listing's `corrupt`."""
    listing: Listing[T] = Listing()
    corrupt: list[CorruptRow] = []
    for row in rows:
        try:
            listing.append(convert(row))
        except CorruptRow as error:
            logger.warning("%s", error)
            corrupt.append(error)
    listing.corrupt = tuple(corrupt)
    return listing
