"""Units of work on execution records: plain functions of a connection that never commit."""

from functools import cache
from typing import Any, Final

from sqlalchemy import Connection, bindparam, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.dml import ReturningInsert

from operator_core.actions.errors import Conflict, NotFound
from operator_core.actions.types import StoredRecord
from operator_core.db.sql.dialect import is_sqlite
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
"""The schema's refusal of an execution that starts when its proposal has ended."""


@cache
def _insert(by_clock: frozenset[str]) -> ReturningInsert[Any]:
    """An INSERT in which the database's clock gives the times in `by_clock`."""
    times = {name: utcnow() for name in by_clock}
    return insert(RECORDS).values(**times).returning(*RECORD_COLUMNS)


def create_record(conn: Connection, values: dict[str, Any]) -> StoredRecord:
    """Inserts the start of an execution, or a whole one that ended elsewhere, and returns it.

    Without `started_at` it starts by the database's clock, and an outcome without `completed_at`
    ends by it. Raises `NotFound` for an unknown proposal, `Conflict` for a start of one that has ended.
    """
    finished = values["success"] is not None
    timed = ("started_at", "completed_at") if finished else ("started_at",)
    by_clock = frozenset(name for name in timed if values[name] is None)
    given = {name: value for name, value in values.items() if name not in by_clock}
    try:
        row = conn.execute(_insert(by_clock), given).one()
    except IntegrityError as error:
        if _ENDED in str(error.orig):
            raise Conflict("proposal", values["proposal_id"], "ended") from None
        if missing_key(error) is not None or not _exists(conn, values["proposal_id"]):
            raise NotFound("proposal", values["proposal_id"]) from None
        raise
    return to_record(row)


def _exists(conn: Connection, proposal_id: int) -> bool:
    """On SQLite; a server has said which reference failed, and answers nothing more in that transaction."""
    if not is_sqlite(conn):
        return True
    return conn.scalar(select(PROPOSALS.c.id).where(PROPOSALS.c.id == proposal_id)) is not None


def get_record(conn: Connection, id: int) -> StoredRecord | None:
    """The record, or None; raises `CorruptRow`."""
    row = conn.execute(_GET, {"id": id}).one_or_none()
    return None if row is None else to_record(row)


def get_records_for_proposal(conn: Connection, proposal_id: int) -> Listing[StoredRecord]:
    """The executions of a proposal, oldest first."""
    rows = conn.execute(_OF_PROPOSAL, {"proposal_id": proposal_id})
    return to_listing(rows, to_record)
