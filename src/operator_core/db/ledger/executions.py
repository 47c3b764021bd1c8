"""Units of work on executions under way: to keep one, and to end it, as long as it is one's own.

The record of an execution is what a worker holds: as long as it is open it is the worker's, and whoever
ends it first has ended it; its id is the fencing token (M. Kleppmann, "How to do distributed locking",
2016). Times are the database's, never a worker's.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any, Final, NamedTuple

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
    literal_column,
    null,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON
from sqlalchemy.sql.dml import ReturningUpdate

from operator_core.actions.errors import ActionError, Conflict, LeaseLost, NotFound
from operator_core.actions.types import ActionStatus
from operator_core.db.ledger.partial import in_parts
from operator_core.db.ledger.status import moved
from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sql.functions import after_jitter, from_now, utcnow
from operator_core.db.sql.planner_hints import few, few_in, nearly_all
from operator_core.db.sql.rows import decode_time
from operator_core.db.sql.tables import PROPOSALS, RECORDS
from operator_core.db.sql.unit import UNANSWERED, Shortcut, SingleStatement, Unanswered

__all__ = [
    "ABANDONED",
    "SILENCE",
    "Ending",
    "Manner",
    "end",
    "end_in_parts",
    "end_proposal",
    "heartbeat",
    "lost",
    "newest_record",
    "why_not_ended",
]

_P = PROPOSALS.c
_R = RECORDS.c

SILENCE: Final = "its lease ran out: whether it was done is not known"
ABANDONED: Final = "it had no lease and did not end: whether it was done is not known"
"""Why an execution ended that nobody but a recovery has ended."""


def _executed_by(record_id: Any) -> tuple[Any, ...]:
    """Whether a proposal is being executed, and has no execution after this one.

    By the greatest id, which is one look into an index; for a NOT EXISTS PostgreSQL's planner may read
    all records, as long as it believes that there are few.
    """
    # Not by the index of statuses either, which may hold many: whoever asks has the proposal's id.
    return few_in(_P.status, ActionStatus.EXECUTING.value), newest_record(_P.id) == record_id


def newest_record(proposal_id: Any) -> Any:
    """The id of the last record of the proposal with that id."""
    records = RECORDS.alias("records")
    return (
        select(func.max(records.c.id))
        .where(records.c.proposal_id == proposal_id)
        .correlate(proposal_id.table)
        .scalar_subquery()
    )


_SO_LONG = from_now(bindparam("lease", type_=Double()))


def _hold(until: Any) -> ReturningUpdate[Any]:
    return (
        update(RECORDS)
        .where(
            _R.id == bindparam("wanted"),
            _R.completed_at.is_(None),
            select(_P.id).where(_P.id == _R.proposal_id, *_executed_by(_R.id)).exists(),
        )
        .values(lease_expires_at=until)
        .returning(_R.lease_expires_at)
    )


_HOLD = _hold(_SO_LONG)
_HOLD_LONGER = _hold(case((_R.lease_expires_at > _SO_LONG, _R.lease_expires_at), else_=_SO_LONG))


def heartbeat(
    record_id: int, lease: float, *, may_shorten: bool = True
) -> SingleStatement[datetime]:
    """Extends a lease to `lease` seconds from now; raises `NotFound` or `LeaseLost`."""
    said = {"wanted": record_id, "lease": lease}
    hold = _HOLD if may_shorten else _HOLD_LONGER

    def unit(conn: Connection) -> datetime:
        until = _until(conn.execute(hold, said).all())
        if until is UNANSWERED:
            raise lost(conn, record_id)
        return until

    return SingleStatement(unit, Shortcut(hold, said, _until))


def _until(rows: Sequence[Any]) -> datetime | Unanswered:
    return decode_time(rows[0][0]) if rows else UNANSWERED


_WHY_LOST = (
    select(
        _R.completed_at,
        _R.completed_by,
        _R.outcome_unknown,
        _R.error_message,
        _P.status,
        _P.status_changed_by,
    )
    .join_from(RECORDS, PROPOSALS, _P.id == _R.proposal_id)
    .where(_R.id == bindparam("wanted"))
)


def lost(conn: Connection, record_id: int) -> ActionError:
    """Why a record is no longer the caller's: `NotFound` or `LeaseLost`."""
    found = conn.execute(_WHY_LOST, {"wanted": record_id}).one_or_none()
    if found is None:
        return NotFound("record", record_id)
    if found.completed_at is None:
        cause = "cancelled" if found.status == ActionStatus.CANCELLED else "moved"
        return LeaseLost(record_id, cause, found.status_changed_by)
    recovered = found.outcome_unknown and found.error_message in (SILENCE, ABANDONED)
    return LeaseLost(record_id, "recovered" if recovered else "ended", found.completed_by)


class Ending(NamedTuple):
    """How an execution ended: what it gave back as JSON text, or what went wrong."""

    record_id: int
    result: str | None
    error: str | None


class Manner(NamedTuple):
    """How executions of one call end: well, badly, or (None) so that nobody knows; who says so, and why.

    Without an `actor` it is the worker of each; without a `reason` a failure's is its error. `leased`: the proposals of claimed ones alone are moved; those
    of records that were made by hand are moved by hand.
    """

    success: bool | None
    actor: str | None
    reason: str | None = None
    leased: bool = False


def _retry_at() -> Any:
    pause = after_jitter(_P.retry_count, _P.retry_delay, _P.max_retry_delay)
    return case((_P.retry_count < _P.max_retries, from_now(pause)))


def _outcome(success: bool, by: Any, why: Any) -> dict[str, Any]:
    """What an UPDATE sets for an execution that ended: also when to try again, if it is to be."""
    reason = bindparam("for_reason", type_=Text())
    if success:
        return moved(ActionStatus.COMPLETED, status_changed_by=by, status_reason=reason)
    return moved(
        ActionStatus.FAILED,
        status_changed_by=by,
        status_reason=func.coalesce(reason, why),
        last_error=why,
        next_retry_at=_retry_at(),
    )


# A record that was made by hand may have no worker.
_BY = func.coalesce(bindparam("actor", type_=Text()), _R.worker, literal_column("'agent'"))


@cache
def _end_on_server(success: bool | None, leased: bool) -> Select[Any]:
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
            success=_truth(success),
            outcome_unknown=_truth(success is None),
            completed_at=utcnow(),
            result_data=cast(given.c.result, JSON),
            error_message=given.c.error,
            completed_by=_BY,
        )
        .returning(_R.id, _R.proposal_id, _R.completed_by, _R.error_message, _R.lease_expires_at)
        .cte("ended")
    )
    claimed = [ended.c.lease_expires_at.is_not(None)] if leased else []
    moved = (
        update(PROPOSALS)
        .where(
            _P.id == ended.c.proposal_id,
            nearly_all(*_executed_by(ended.c.id), *claimed),
        )
        .values(_outcome(success is True, ended.c.completed_by, ended.c.error_message))
        .returning(_P.id)
        .cte("moved")
    )
    return select(ended.c.id).add_cte(moved)


def _truth(value: bool | None) -> Any:
    return null() if value is None else true() if value else false()


_END_RECORD = (
    update(RECORDS)
    .where(_R.id == bindparam("wanted"), _R.completed_at.is_(None))
    .values(
        success=bindparam("succeeded", type_=Boolean()),
        outcome_unknown=bindparam("unknown", type_=Boolean()),
        completed_at=utcnow(),
        result_data=bindparam("result", type_=Text()),
        error_message=bindparam("error", type_=Text()),
        completed_by=_BY,
    )
    .returning(_R.proposal_id, _R.completed_by, _R.lease_expires_at)
)


@cache
def end_proposal(*, success: bool) -> Update:
    """Moves the proposal of a record that has ended, if it still executes that, as `by`, for a `reason`, and if it failed `why`."""
    return (
        update(PROPOSALS)
        .where(
            _P.id == bindparam("proposal"),
            *_executed_by(bindparam("record", type_=BigInteger())),
        )
        .values(_outcome(success, bindparam("by", type_=Text()), bindparam("why", type_=Text())))
    )


def end(endings: Sequence[Ending], manner: Manner) -> SingleStatement[set[int]]:
    """Ends executions and moves their proposals, where these still execute them; which it did.

    One that has ended before is not ended again, and left out of the answer. A proposal that was
    cancelled meanwhile stays cancelled, and its record has the outcome all the same.
    """
    said: dict[str, Any] = {
        "ids": [each.record_id for each in endings],
        "results": [each.result for each in endings],
        "errors": [each.error for each in endings],
        "actor": manner.actor,
        "for_reason": manner.reason,
    }
    statement = _end_on_server(manner.success, manner.leased)

    def unit(conn: Connection) -> set[int]:
        if is_sqlite(conn):
            return _end_on_sqlite(conn, endings, manner)
        return _ids(conn.execute(statement, said).all())

    return SingleStatement(unit, Shortcut(statement, said, _ids))


def end_in_parts(conn: Connection, endings: Sequence[Ending], manner: Manner) -> set[int]:
    """As `end`, for all but those that the database refuses to end, which are logged."""
    known = {each.record_id: each for each in endings}

    def some(conn: Connection, ids: Sequence[int]) -> set[int]:
        return end([known[id_] for id_ in ids], manner)(conn)

    return set[int]().union(*in_parts(conn, list(known), some, "end record"))


def _ids(rows: Sequence[Any]) -> set[int]:
    return {row[0] for row in rows}


def _end_on_sqlite(conn: Connection, endings: Sequence[Ending], manner: Manner) -> set[int]:
    ended: set[int] = set()
    proposals: list[dict[str, Any]] = []
    for each in endings:
        row = conn.execute(
            _END_RECORD,
            {
                "wanted": each.record_id,
                "succeeded": manner.success,
                "unknown": manner.success is None,
                "result": each.result,
                "error": each.error,
                "actor": manner.actor,
            },
        ).one_or_none()
        if row is None:
            continue
        proposal_id, by, lease = row
        ended.add(each.record_id)
        if lease is not None or not manner.leased:
            proposals.append(
                {
                    "proposal": proposal_id,
                    "record": each.record_id,
                    "by": by,
                    "why": each.error,
                    "for_reason": manner.reason,
                }
            )
    # After all records, as on a server.
    for said in proposals:
        conn.execute(end_proposal(success=manner.success is True), said)
    return ended


def why_not_ended(conn: Connection, record_id: int) -> ActionError:
    """Why a record could not be ended by hand: `NotFound`, or `Conflict` if it has ended."""
    known = conn.scalar(select(_R.id).where(_R.id == record_id))
    return (
        NotFound("record", record_id)
        if known is None
        else Conflict("record", record_id, "completed")
    )
