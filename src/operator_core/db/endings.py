"""Units of work on executions under way: to keep one, and to end it, as long as it is one's own.

The record of an execution is what a worker holds: as long as it is open it is the worker's, and whoever
ends it first has ended it; its id is the fencing token (M. Kleppmann, "How to do distributed locking",
2016). Times are the database's, never a worker's.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Boolean,
    Connection,
    Double,
    Select,
    Text,
    Update,
    bindparam,
    case,
    cast,
    false,
    func,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON

from operator_core.actions.errors import ActionError, LeaseLost, NotFound
from operator_core.actions.types import ActionStatus
from operator_core.db.base import after_jitter, from_now, utcnow
from operator_core.db.moves import moved
from operator_core.db.plain import UNANSWERED, Plain, Unanswered
from operator_core.db.planning import few, few_in, nearly_all
from operator_core.db.rows import decode_time
from operator_core.db.tables import PROPOSALS, RECORDS

__all__ = ["Ending", "end", "end_proposal", "heartbeat", "lost"]

_P = PROPOSALS.c
_R = RECORDS.c


def _executed_by(record_id: Any) -> tuple[Any, ...]:
    """Whether a proposal is being executed, and has no execution after this one.

    By the greatest id, which is one look into an index; for a NOT EXISTS PostgreSQL's planner may read
    all records, as long as it believes that there are few.
    """
    records = RECORDS.alias("records")
    newest = (
        select(func.max(records.c.id))
        .where(records.c.proposal_id == _P.id)
        .correlate(PROPOSALS)
        .scalar_subquery()
    )
    # Not by the index of statuses either, which may hold many: whoever asks has the proposal's id.
    return few_in(_P.status, ActionStatus.EXECUTING.value), newest == record_id


_HOLD = (
    update(RECORDS)
    .where(
        _R.id == bindparam("wanted"),
        _R.completed_at.is_(None),
        select(_P.id).where(_P.id == _R.proposal_id, *_executed_by(_R.id)).exists(),
    )
    .values(lease_expires_at=from_now(bindparam("lease", type_=Double())))
    .returning(_R.lease_expires_at)
)


def heartbeat(record_id: int, lease: float) -> Plain[datetime]:
    """Extends a lease to `lease` seconds from now; raises `NotFound` or `LeaseLost`."""
    said = {"wanted": record_id, "lease": lease}

    def unit(conn: Connection) -> datetime:
        until = _until(conn.execute(_HOLD, said).all())
        if until is UNANSWERED:
            raise lost(conn, record_id)
        return until

    return Plain(_HOLD, said, _until, unit)


def _until(rows: Sequence[Any]) -> datetime | Unanswered:
    return decode_time(rows[0][0]) if rows else UNANSWERED


def lost(conn: Connection, record_id: int) -> ActionError:
    """Why a record is no longer the caller's: `NotFound` or `LeaseLost`."""
    known = conn.scalar(select(_R.id).where(_R.id == record_id))
    return NotFound("record", record_id) if known is None else LeaseLost(record_id)


class Ending(NamedTuple):
    """How an execution ended: what it gave back as JSON text, or what went wrong."""

    record_id: int
    result: str | None
    error: str | None


def _retry_at() -> Any:
    pause = after_jitter(_P.retry_count, _P.retry_delay, _P.max_retry_delay)
    return case((_P.retry_count < _P.max_retries, from_now(pause)))


def _outcome(success: bool, by: Any, why: Any) -> dict[str, Any]:
    """What an UPDATE sets for an execution that ended: also when to try again, if it is to be."""
    if success:
        return moved(ActionStatus.COMPLETED, status_changed_by=by, status_reason=None)
    return moved(
        ActionStatus.FAILED,
        status_changed_by=by,
        status_reason=why,
        last_error=why,
        next_retry_at=_retry_at(),
    )


@cache
def _end_on_server(success: bool) -> Select[Any]:
    arrays = (
        bindparam(name, type_=ARRAY(kind))
        for name, kind in (("ids", BigInteger()), ("results", Text()), ("errors", Text()))
    )
    given = func.unnest(*arrays).table_valued("id", "result", "error").render_derived(name="given")
    ended = (
        update(RECORDS)
        .where(
            _R.id == given.c.id,
            few(given.c.id),
            nearly_all(_R.completed_at.is_(None)),
        )
        .values(
            success=true() if success else false(),
            completed_at=utcnow(),
            result_data=cast(given.c.result, JSON),
            error_message=given.c.error,
            completed_by=func.coalesce(_R.worker, bindparam("actor", type_=Text())),
        )
        .returning(_R.id, _R.proposal_id, _R.completed_by, _R.error_message)
        .cte("ended")
    )
    moved = (
        update(PROPOSALS)
        .where(_P.id == ended.c.proposal_id, nearly_all(*_executed_by(ended.c.id)))
        .values(_outcome(success, ended.c.completed_by, ended.c.error_message))
        .returning(_P.id)
        .cte("moved")
    )
    return select(ended.c.id).add_cte(moved)


_END_RECORD = (
    update(RECORDS)
    .where(_R.id == bindparam("wanted"), _R.completed_at.is_(None))
    .values(
        success=bindparam("succeeded", type_=Boolean()),
        completed_at=utcnow(),
        result_data=bindparam("result", type_=Text()),
        error_message=bindparam("error", type_=Text()),
        completed_by=func.coalesce(_R.worker, bindparam("actor", type_=Text())),
    )
    .returning(_R.proposal_id, _R.completed_by)
)


@cache
def end_proposal(*, success: bool) -> Update:
    """Moves the proposal of a record that has ended, if it still executes that, as `by`, and if it failed `why`."""
    return (
        update(PROPOSALS)
        .where(
            _P.id == bindparam("proposal"),
            *_executed_by(bindparam("record", type_=BigInteger())),
        )
        .values(_outcome(success, bindparam("by", type_=Text()), bindparam("why", type_=Text())))
    )


def end(endings: Sequence[Ending], *, success: bool, actor: str) -> Plain[set[int]]:
    """Ends executions and moves their proposals, where these still execute them; which it did.

    One that has ended before is not ended again, and left out of the answer. A proposal that was
    cancelled meanwhile stays cancelled, and its record has the outcome all the same.
    """
    said: dict[str, Any] = {
        "ids": [each.record_id for each in endings],
        "results": [each.result for each in endings],
        "errors": [each.error for each in endings],
        "actor": actor,
    }
    statement = _end_on_server(success)

    def unit(conn: Connection) -> set[int]:
        if conn.dialect.name == "sqlite":
            return _end_on_sqlite(conn, endings, success=success, actor=actor)
        return _ids(conn.execute(statement, said).all())

    return Plain(statement, said, _ids, unit)


def _ids(rows: Sequence[Any]) -> set[int]:
    return {row[0] for row in rows}


def _end_on_sqlite(
    conn: Connection, endings: Sequence[Ending], *, success: bool, actor: str
) -> set[int]:
    ended: set[int] = set()
    proposals: list[dict[str, Any]] = []
    for each in endings:
        row = conn.execute(
            _END_RECORD,
            {
                "wanted": each.record_id,
                "succeeded": success,
                "result": each.result,
                "error": each.error,
                "actor": actor,
            },
        ).one_or_none()
        if row is not None:
            ended.add(each.record_id)
            proposals.append(
                {"proposal": row[0], "record": each.record_id, "by": row[1], "why": each.error}
            )
    # After all records, as on a server.
    for said in proposals:
        conn.execute(end_proposal(success=success), said)
    return ended
