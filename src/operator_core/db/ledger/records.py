"""Units of work on execution records: plain functions of a connection that never commit."""

from functools import cache
from typing import Any, Final

from sqlalchemy import Connection, bindparam, insert, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.dml import ReturningInsert

from operator_core.actions.errors import Conflict, ConstraintViolation, NotFound
from operator_core.actions.types import StoredRecord
from operator_core.db.ledger.partial import IGNORED
from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sql.errors import violates_constraint
from operator_core.db.sql.execution import fetch
from operator_core.db.sql.functions import utcnow
from operator_core.db.sql.postgresql_errors import missing_key
from operator_core.db.sql.rows import RECORD_COLUMNS, Listing, to_listing, to_record
from operator_core.db.sql.tables import PROPOSALS, RECORDS

__all__ = [
    "create_record",
    "get_record",
    "get_records_for_proposal",
]

_ROW = RECORDS.c

_SELECT = select(*RECORD_COLUMNS)
_GET = _SELECT.where(_ROW.id == bindparam("id"))
_OF_PROPOSAL = _SELECT.where(_ROW.proposal_id == bindparam("proposal_id")).order_by(_ROW.id)
_ENDED: Final = "action_records_proposal_ended"
"""The constraint that refuses the start of an execution of an ended proposal."""


@cache
def _insert(by_clock: frozenset[str]) -> ReturningInsert[Any]:
    """An INSERT that sets the columns in `by_clock` by the database's clock."""
    times = {name: utcnow() for name in by_clock}
    return insert(RECORDS).values(**times).returning(*RECORD_COLUMNS)


def create_record(conn: Connection, values: dict[str, Any]) -> StoredRecord:
    """Inserts a started execution, or a finished one that ran elsewhere, and returns its record.

    The database's clock sets a missing `started_at`, and a missing `completed_at` of an outcome. Raises `NotFound`
    for an unknown proposal, and `Conflict` for a start if the proposal has ended.
    """
    finished = values["success"] is not None
    timed = ("started_at", "completed_at") if finished else ("started_at",)
    by_clock = frozenset(name for name in timed if values[name] is None)
    parameters = {name: value for name, value in values.items() if name not in by_clock}
    try:
        rows = fetch(conn, _insert(by_clock), parameters)
    except DBAPIError as error:
        if not violates_constraint(error):
            raise
        if _ENDED in str(error.orig):
            raise Conflict("proposal", values["proposal_id"], "ended") from None
        if missing_key(error) is not None or not _exists(conn, values["proposal_id"]):
            raise NotFound("proposal", values["proposal_id"]) from None
        raise
    if not rows:
        raise ConstraintViolation(IGNORED)
    return to_record(rows[0])


def _exists(conn: Connection, proposal_id: int) -> bool:
    """Whether the proposal exists; true on a server, whose error names it and whose transaction has failed."""
    if not is_sqlite(conn):
        return True
    return conn.scalar(select(PROPOSALS.c.id).where(PROPOSALS.c.id == proposal_id)) is not None


def get_record(conn: Connection, id: int) -> StoredRecord | None:
    """The record, or None; raises `CorruptRow`."""
    rows = fetch(conn, _GET, {"id": id})
    return to_record(rows[0]) if rows else None


def get_records_for_proposal(conn: Connection, proposal_id: int) -> Listing[StoredRecord]:
    """The records of a proposal, oldest first."""
    rows = fetch(conn, _OF_PROPOSAL, {"proposal_id": proposal_id})
    return to_listing(rows, to_record)
