"""The columns of each model, and the functions that convert a row to it.

The limits of new values are not checked for a stored row, but its readability is: a value that another tool wrote
and that can't be read raises `CorruptRow`.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Any, Final, TypeVar

from sqlalchemy import Column, Table

from operator_core.actions.errors import CorruptRow
from operator_core.actions.types import (
    ActionEvent,
    ActionStatus,
    ActionType,
    EndCode,
    EventType,
    Halt,
    HaltMode,
    Limit,
    OutcomeResolution,
    RequesterType,
    StoredProposal,
    StoredRecord,
    Workflow,
)
from operator_core.db.sql.conversion import Reader, converter, decode_time, to_ids, to_path
from operator_core.db.sql.tables import (
    EVENTS,
    HALTS,
    LIMITS,
    PROPOSALS,
    RECORDS,
    RESOLUTIONS,
    WORKFLOWS,
)

__all__ = [
    "EVENT_COLUMNS",
    "HALT_COLUMNS",
    "LIMIT_COLUMNS",
    "PROPOSAL_COLUMNS",
    "RECORD_COLUMNS",
    "RESOLUTION_COLUMNS",
    "WORKFLOW_COLUMNS",
    "Listing",
    "decode_time",
    "to_event",
    "to_halt",
    "to_limit",
    "to_listing",
    "to_proposal",
    "to_record",
    "to_resolution",
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
WORKFLOW_COLUMNS: Final = _columns(WORKFLOWS, Workflow.model_fields)


def _one_of(enum: type[StrEnum], problem: str) -> Reader:
    return Reader({each.value: each for each in enum}, problem)


# The columns whose type alone does not decide how they are read, by model.
_STATUS: Final = _one_of(ActionStatus, "is not a status")
_PROPOSAL: Final = {
    "status": _STATUS,
    "action_type": _one_of(ActionType, "is not an action type"),
    "requester_type": _one_of(RequesterType, "is not a type of requester"),
    "end_code": _one_of(EndCode, "is not an end code"),
    "depends_on": Reader(to_ids, "is not a list of ids", reads_null=True),
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
