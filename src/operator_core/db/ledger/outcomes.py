"""Units of work that find executions with an unknown outcome, and write down what became of them."""

from typing import Any, Final, NamedTuple

from sqlalchemy import BigInteger, Connection, bindparam, insert, select, true
from sqlalchemy.exc import DBAPIError

from operator_core.actions.errors import Conflict, ConstraintViolation, NotFound
from operator_core.actions.types import OutcomeResolution, StoredRecord
from operator_core.db.ledger.partial import IGNORED
from operator_core.db.sql.errors import violates_constraint
from operator_core.db.sql.execution import fetch
from operator_core.db.sql.planner_hints import unseen
from operator_core.db.sql.rows import (
    RECORD_COLUMNS,
    RESOLUTION_COLUMNS,
    Listing,
    to_listing,
    to_record,
    to_resolution,
)
from operator_core.db.sql.savepoint import savepoint
from operator_core.db.sql.tables import RECORDS, RESOLUTIONS

__all__ = ["Resolution", "resolve_outcome", "unresolved"]

_R = RECORDS.c


class Resolution(NamedTuple):
    """What somebody found out about the execution of a record."""

    record_id: int
    succeeded: bool
    by: str
    evidence: str


_RECORD: Final = bindparam("record", type_=BigInteger())
_INSERT = (
    insert(RESOLUTIONS)
    .from_select(
        ["record_id", "proposal_id", "succeeded", "resolved_by", "evidence"],
        select(
            _R.id,
            _R.proposal_id,
            bindparam("succeeded", type_=RESOLUTIONS.c.succeeded.type),
            bindparam("by", type_=RESOLUTIONS.c.resolved_by.type),
            bindparam("evidence", type_=RESOLUTIONS.c.evidence.type),
        ).where(_R.id == _RECORD),
    )
    .returning(*RESOLUTION_COLUMNS)
)
_STATE = select(_R.completed_at, _R.success, _R.outcome_unknown).where(_R.id == _RECORD)


def resolve_outcome(conn: Connection, found: Resolution) -> OutcomeResolution:
    """Writes down what became of an execution with an unknown outcome.

    Its trigger writes the event, and completes the proposal if this was its last execution, was done, and the proposal
    is failed. Raises `NotFound` for an unknown record, and `Conflict` if its outcome is known or resolved.
    """
    parameters = {
        "record": found.record_id,
        "succeeded": found.succeeded,
        "by": found.by,
        "evidence": found.evidence,
    }
    try:
        with savepoint(conn):
            rows = fetch(conn, _INSERT, parameters)
    except DBAPIError as error:
        if not violates_constraint(error):
            raise
        if any(words in str(error.orig) for words in _RESOLVED):
            raise Conflict("record", found.record_id, "resolved") from error
        _check_unknown(conn, found.record_id)
        raise
    if rows:
        return to_resolution(rows[0])
    _check_unknown(conn, found.record_id)
    raise ConstraintViolation(IGNORED)


# How the database refuses a second resolution.
_RESOLVED: Final = ("uq_outcome_resolutions_record_id", "outcome_resolutions_not_replaced")


def _check_unknown(conn: Connection, record_id: int) -> None:
    """Raises the error that says why a record has nothing to resolve, if there is a reason."""
    found = conn.execute(_STATE, {"record": record_id}).one_or_none()
    if found is None:
        raise NotFound("record", record_id)
    if found.completed_at is None:
        raise Conflict("record", record_id, "open: its worker may still end it")
    if not found.outcome_unknown:
        outcome = "succeeded" if found.success else "failed"
        raise Conflict("record", record_id, f"known to have {outcome}")


def unresolved(
    conn: Connection, *, after: int | None = None, limit: int | None = None
) -> Listing[StoredRecord]:
    """The records whose outcome is unknown and not resolved, oldest first, with ids above `after` only."""
    values: dict[str, Any] = {"after": after or 0}
    query = _UNRESOLVED
    if limit is not None:
        query, values["limit"] = _SOME_UNRESOLVED, limit
    return to_listing(fetch(conn, query, values), to_record)


_UNRESOLVED = (
    select(*RECORD_COLUMNS)
    .where(
        # The condition of the index.
        _R.outcome_unknown == true(),
        _R.id > bindparam("after", type_=BigInteger()),
        ~select(RESOLUTIONS.c.id).where(RESOLUTIONS.c.record_id == _R.id).exists(),
    )
    .order_by(_R.id)
)
_SOME_UNRESOLVED = _UNRESOLVED.limit(unseen(bindparam("limit", type_=BigInteger())))
