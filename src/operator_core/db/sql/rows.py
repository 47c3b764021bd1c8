"""Rows as the drivers give them become models: all columns of a row at once.

A stored row is trusted to be within the limits of new values, and never trusted to be readable:
whatever another tool left there that the ledger would not write is a `CorruptRow`.
"""

import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar, cast

from pydantic_core import from_json
from sqlalchemy import ColumnElement, Table

from operator_core.actions.errors import CorruptRow
from operator_core.actions.types import (
    ActionEvent,
    ActionProposal,
    ActionRecord,
    ActionStatus,
    ActionType,
    EventType,
    Workflow,
)
from operator_core.db.sql.tables import EVENTS, PROPOSALS, RECORDS, WORKFLOWS

__all__ = [
    "EVENT_COLUMNS",
    "PROPOSAL_COLUMNS",
    "RECORD_COLUMNS",
    "WORKFLOW_COLUMNS",
    "Listing",
    "decode_time",
    "to_event",
    "to_listing",
    "to_proposal",
    "to_record",
    "to_workflow",
]

logger = logging.getLogger(__name__)

# What converting a value raises when there is something else in its place.
_UNREADABLE: Final = (ValueError, TypeError, KeyError, OverflowError)

T = TypeVar("T")


def _columns(table: Table, names: Iterable[str]) -> tuple[ColumnElement[Any], ...]:
    return tuple(table.c[name] for name in names)


# In the order of the models' fields, so that the functions below can take rows apart by position.
PROPOSAL_COLUMNS: Final = _columns(PROPOSALS, ActionProposal.model_fields)
RECORD_COLUMNS: Final = _columns(RECORDS, ActionRecord.model_fields)
EVENT_COLUMNS: Final = _columns(EVENTS, ActionEvent.model_fields)
WORKFLOW_COLUMNS: Final = _columns(WORKFLOWS, Workflow.model_fields)

_STATUSES: Final = {status.value: status for status in ActionStatus}
_ACTION_TYPES: Final = {kind.value: kind for kind in ActionType}
_EVENT_TYPES: Final = {kind.value: kind for kind in EventType}
_BOOLEANS: Final = {None: None, 0: False, 1: True}
_FLAGS: Final = {0: False, 1: True}

_fromisoformat = datetime.fromisoformat


class Listing(list[T]):
    """A list of the rows that could be read; `corrupt` holds a `CorruptRow` for each that could not."""

    corrupt: tuple[CorruptRow, ...] = ()


def decode_time(value: Any) -> datetime:
    """A stored time as aware UTC; text without an offset is UTC. Raises ValueError or TypeError."""
    if isinstance(value, datetime):
        return value if value.tzinfo is UTC else value.astimezone(UTC)
    try:
        # The form that the ledger writes; six times faster than setting tzinfo afterwards.
        return _fromisoformat(value + "+00:00")
    except ValueError:
        time = _fromisoformat(value)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _time(value: Any) -> datetime | None:
    return None if value is None else decode_time(value)


def _json_object(value: Any) -> dict[str, Any]:
    if not isinstance(value, str):
        raise TypeError
    found: Any = from_json(value, allow_inf_nan=False, cache_strings="keys")
    if _maybe_huge(value):
        json.loads(value, parse_float=_finite)
    if type(found) is not dict:
        raise TypeError
    return cast("dict[str, Any]", found)


# What can be a number beyond a float's range: the parser reads it as infinity and says nothing.
_maybe_large_exponent = re.compile(r"[eE]\+?\d{3}").search
_many_digits = re.compile(r"\d{300}").search


def _maybe_huge(text: str) -> bool:
    # One expression for both would take three times as long.
    return bool(_maybe_large_exponent(text) or (len(text) >= 300 and _many_digits(text)))


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError
    return value


def _optional_text(value: Any) -> str | None:
    return None if value is None else _text(value)


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise TypeError
    return value


def _number(value: Any) -> float:
    # SQLite keeps whole numbers of a REAL column as integers, and RETURNING shows them so.
    if type(value) is not float and type(value) is not int:
        raise TypeError
    return float(value)


def _ids(value: Any) -> tuple[int, ...]:
    found: Any = from_json(_text(value))
    if type(found) is not list:
        raise TypeError
    return tuple(_integer(each) for each in cast(list[Any], found))


def to_proposal(row: Sequence[Any]) -> ActionProposal:
    """A row of `PROPOSAL_COLUMNS` as a model; raises `CorruptRow`."""
    (ticket_id, action_name, action_type, parameters, reason, priority, scheduled_at, expires_at,
     max_retries, retry_delay, max_retry_delay, depends_on, wait_on_failure, id_, status, proposed_at,
     proposed_by, validated_at, cancelled_at, created_at, updated_at, retry_count, next_retry_at,
     last_error, workflow_id, version) = row  # fmt: skip
    try:
        # All at once: none of them is anything else but in a damaged row.
        _integer(priority + max_retries + retry_count + version)
        return ActionProposal.from_stored(
            {
                "id": id_,
                "ticket_id": ticket_id,
                "action_name": _text(action_name),
                "action_type": _ACTION_TYPES[action_type],
                "parameters": _json_object(parameters),
                "reason": _text(reason),
                "status": _STATUSES[status],
                "proposed_at": decode_time(proposed_at),
                "proposed_by": _text(proposed_by),
                "priority": priority,
                "scheduled_at": None if scheduled_at is None else decode_time(scheduled_at),
                "expires_at": None if expires_at is None else decode_time(expires_at),
                "max_retries": max_retries,
                "retry_delay": _number(retry_delay),
                "max_retry_delay": _number(max_retry_delay),
                "depends_on": () if depends_on is None else _ids(depends_on),
                "wait_on_failure": _FLAGS[wait_on_failure],
                "validated_at": None if validated_at is None else decode_time(validated_at),
                "cancelled_at": None if cancelled_at is None else decode_time(cancelled_at),
                "created_at": decode_time(created_at),
                "updated_at": decode_time(updated_at),
                "retry_count": retry_count,
                "next_retry_at": None if next_retry_at is None else decode_time(next_retry_at),
                "last_error": None if last_error is None else _text(last_error),
                "workflow_id": workflow_id,
                "version": version,
            }
        )
    except _UNREADABLE:
        raise _corrupt("action_proposals", row, PROPOSAL_COLUMNS) from None


def to_record(row: Sequence[Any]) -> ActionRecord:
    """A row of `RECORD_COLUMNS` as a model; raises `CorruptRow`."""
    (id_, proposal_id, started_at, completed_at, success, error_message, result_data, worker,
     lease_expires_at, outcome_unknown) = row  # fmt: skip
    try:
        return ActionRecord.from_stored(
            {
                "id": id_,
                "proposal_id": proposal_id,
                "started_at": _time(started_at),
                "completed_at": _time(completed_at),
                "success": _BOOLEANS[success],
                "error_message": _optional_text(error_message),
                "result_data": None if result_data is None else _json_object(result_data),
                "worker": _optional_text(worker),
                "lease_expires_at": _time(lease_expires_at),
                "outcome_unknown": _FLAGS[outcome_unknown],
            }
        )
    except _UNREADABLE:
        raise _corrupt("action_records", row, RECORD_COLUMNS) from None


def to_event(row: Sequence[Any]) -> ActionEvent:
    """A row of `EVENT_COLUMNS` as a model; raises `CorruptRow`."""
    (id_, proposal_id, record_id, event_type, from_status, to_status,
     success, version, actor, worker, reason, occurred_at) = row  # fmt: skip
    try:
        return ActionEvent.from_stored(
            {
                "id": id_,
                "proposal_id": proposal_id,
                "record_id": record_id,
                "event_type": _EVENT_TYPES[event_type],
                "from_status": None if from_status is None else _STATUSES[from_status],
                "to_status": None if to_status is None else _STATUSES[to_status],
                "success": _BOOLEANS[success],
                "version": None if version is None else _integer(version),
                "actor": _text(actor),
                "worker": _optional_text(worker),
                "reason": _optional_text(reason),
                "occurred_at": decode_time(occurred_at),
            }
        )
    except _UNREADABLE:
        raise _corrupt("action_events", row, EVENT_COLUMNS) from None


def to_workflow(row: Sequence[Any]) -> Workflow:
    """A row of `WORKFLOW_COLUMNS` as a model; raises `CorruptRow`."""
    name, description, ticket_id, id_, created_at, updated_at = row
    try:
        return Workflow.from_stored(
            {
                "name": _text(name),
                "description": _optional_text(description),
                "ticket_id": ticket_id,
                "id": id_,
                "created_at": decode_time(created_at),
                "updated_at": decode_time(updated_at),
            }
        )
    except _UNREADABLE:
        raise CorruptRow("workflows", id_, "a column", "is damaged") from None


def to_listing(rows: Iterable[Sequence[Any]], convert: Callable[[Sequence[Any]], T]) -> Listing[T]:
    """Every readable row as a model; the others are logged and reported in the listing's `corrupt`."""
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


# How each column is read, to find the one that can't be: only after a row has failed.
_READERS: Final[dict[str, tuple[Callable[[Any], Any], str]]] = {
    "action_name": (_text, "is not text"),
    "action_type": (_ACTION_TYPES.__getitem__, "is not an action type"),
    "parameters": (_json_object, "is not a JSON object"),
    "reason": (_optional_text, "is not text"),
    "status": (_STATUSES.__getitem__, "is not a status"),
    "proposed_at": (decode_time, "is not a time"),
    "proposed_by": (_text, "is not text"),
    "validated_at": (_time, "is not a time"),
    "cancelled_at": (_time, "is not a time"),
    "created_at": (decode_time, "is not a time"),
    "updated_at": (decode_time, "is not a time"),
    "priority": (_integer, "is not an integer"),
    "scheduled_at": (_time, "is not a time"),
    "expires_at": (_time, "is not a time"),
    "max_retries": (_integer, "is not an integer"),
    "retry_delay": (_number, "is not a number"),
    "max_retry_delay": (_number, "is not a number"),
    "depends_on": (lambda value: value is None or _ids(value), "is not a list of ids"),
    "wait_on_failure": (_FLAGS.__getitem__, "is not a truth value"),
    "retry_count": (_integer, "is not an integer"),
    "next_retry_at": (_time, "is not a time"),
    "last_error": (_optional_text, "is not text"),
    "version": (_integer, "is not an integer"),
    "started_at": (_time, "is not a time"),
    "worker": (_optional_text, "is not text"),
    "lease_expires_at": (_time, "is not a time"),
    "outcome_unknown": (_FLAGS.__getitem__, "is not a truth value"),
    "completed_at": (_time, "is not a time"),
    "success": (_BOOLEANS.__getitem__, "is not a truth value"),
    "error_message": (_optional_text, "is not text"),
    "result_data": (lambda value: value is None or _json_object(value), "is not a JSON object"),
    "event_type": (_EVENT_TYPES.__getitem__, "is not an event type"),
    "actor": (_text, "is not text"),
    "occurred_at": (decode_time, "is not a time"),
}


def _corrupt(table: str, row: Sequence[Any], columns: Sequence[ColumnElement[Any]]) -> CorruptRow:
    id_ = next(value for column, value in zip(columns, row, strict=True) if column.key == "id")
    for column, value in zip(columns, row, strict=True):
        read, problem = _READERS.get(column.key or "", (None, ""))
        if read is None:
            continue
        try:
            read(value)
        except _UNREADABLE:
            return CorruptRow(table, id_, str(column.key), problem)
    return CorruptRow(table, id_, "a column", "is damaged")
