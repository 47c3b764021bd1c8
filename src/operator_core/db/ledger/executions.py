"""Units of work that extend the lease of an execution and end it, while it belongs to the worker.

An execution belongs to its worker while its record is open, and the first end counts. The id of the record is the
fencing token (M. Kleppmann, "How to do distributed locking", 2016). All times come from the database, never from a
worker.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache, partial
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

from operator_core.actions.errors import (
    ActionError,
    Conflict,
    HaltRequested,
    LeaseLost,
    NotFound,
)
from operator_core.actions.types import ActionStatus, EndCode, HaltMode
from operator_core.db.ledger.halted import covering_execution, is_any_open, unhalted
from operator_core.db.ledger.partial import in_parts
from operator_core.db.ledger.status import moved
from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sql.execution import fetch
from operator_core.db.sql.functions import after_jitter, from_now, utcnow
from operator_core.db.sql.planner_hints import few, few_in, nearly_all
from operator_core.db.sql.rows import decode_time
from operator_core.db.sql.sharing import calls_of, free_rows, together
from operator_core.db.sql.tables import PROPOSALS, RECORDS
from operator_core.db.sql.unit import UNANSWERED, Shared, Shortcut, SingleStatement, Unanswered

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
"""The error messages of executions that a recovery has ended."""


def _executed_by(record_id: Any) -> tuple[Any, ...]:
    """Whether a proposal is executing and this record is its last.

    The greatest id is one lookup in an index. For a NOT EXISTS, PostgreSQL's planner may read all records while its
    statistics say that there are few.
    """
    # `few_in` avoids the index of statuses, which may hold many rows: the query knows the proposal's id.
    return few_in(_P.status, ActionStatus.EXECUTING.value), newest_record(_P.id) == record_id


def newest_record(proposal_id: Any) -> Any:
    """A subquery for the id of the proposal's last record."""
    records = RECORDS.alias("records")
    return (
        select(func.max(records.c.id))
        .where(records.c.proposal_id == proposal_id)
        .correlate(proposal_id.table)
        .scalar_subquery()
    )


_NEW_EXPIRY = from_now(bindparam("lease", type_=Double()))


_UNHALTED = unhalted(only=HaltMode.HALTED)


def _hold(until: Any, *conditions: Any, **more: Any) -> ReturningUpdate[Any]:
    return (
        update(RECORDS)
        .where(
            _R.id == bindparam("record"),
            _R.completed_at.is_(None),
            select(_P.id)
            .where(_P.id == _R.proposal_id, *_executed_by(_R.id), *conditions)
            .exists(),
        )
        .values(lease_expires_at=until, **more)
        .returning(_R.lease_expires_at)
    )


def _later(expiry: Any) -> Any:
    return case((_R.lease_expires_at > expiry, _R.lease_expires_at), else_=expiry)


_HOLD = _hold(_NEW_EXPIRY, _UNHALTED)
_HOLD_LONGER = _hold(_later(_NEW_EXPIRY), _UNHALTED)
_HOLD_ANY = _hold(_NEW_EXPIRY)
_HOLD_ANY_LONGER = _hold(_later(_NEW_EXPIRY))
_HOLD_HALTED = _hold(_NEW_EXPIRY, halt_seen_at=utcnow())
_HOLD_HALTED_LONGER = _hold(_later(_NEW_EXPIRY), halt_seen_at=utcnow())


def heartbeat(
    record_id: int, lease: float, *, may_shorten: bool = True
) -> SingleStatement[datetime | HaltRequested]:
    """Extends a lease to `lease` seconds from now; raises `NotFound` or `LeaseLost`.

    If a halt covers the execution, that its worker has learned of it is kept, and the error that says so is returned.
    """
    parameters = {"record": record_id, "lease": lease}
    hold = _HOLD if may_shorten else _HOLD_LONGER
    hold_any = _HOLD_ANY if may_shorten else _HOLD_ANY_LONGER
    hold_halted = _HOLD_HALTED if may_shorten else _HOLD_HALTED_LONGER

    def unit(conn: Connection) -> datetime | HaltRequested:
        ask = not is_sqlite(conn) or is_any_open(conn)
        until = _until(fetch(conn, hold if ask else hold_any, parameters))
        if until is UNANSWERED:
            until = _until(fetch(conn, hold_halted, parameters))
            if until is UNANSWERED:
                raise lost(conn, record_id)
            halts = covering_execution(conn, record_id)
            if halts:
                first = halts[0]
                return HaltRequested(
                    record_id,
                    halt_ids=[halt.id for halt in halts],
                    by=first.halted_by,
                    reason=first.reason,
                    lease_expires_at=until,
                )
        return until

    beats = _BEATS if may_shorten else _LONGER_BEATS
    shared: Shared[Any, datetime | HaltRequested] = Shared(
        ("heartbeat", may_shorten), beats, {"id": record_id, "lease": lease}
    )
    return SingleStatement(unit, Shortcut(hold, parameters, _until), shared=shared)


def _until(rows: Sequence[Any]) -> datetime | Unanswered:
    return decode_time(rows[0][0]) if rows else UNANSWERED


def _hold_many(until: Callable[[Any], Any]) -> ReturningUpdate[Any, Any]:
    """Extends the leases of executions, except those that other transactions have locked."""
    calls = calls_of({"id": BigInteger(), "lease": Double()})
    held = nearly_all(_R.completed_at.is_(None), *_executed_by(_R.id), _UNHALTED)
    free = free_rows(calls, RECORDS, _P.id == _R.proposal_id, held, lock=[RECORDS])
    return (
        update(RECORDS)
        .where(_R.id == free.c.id, few(free.c.id))
        .values(lease_expires_at=until(from_now(free.c.lease)))
        .returning(_R.id, _R.lease_expires_at)
    )


def _beats(until: Callable[[Any], Any]) -> Callable[..., Any]:
    return partial(together, statement=_hold_many(until), result=lambda row: decode_time(row[1]))


_BEATS = _beats(lambda expiry: expiry)
_LONGER_BEATS = _beats(_later)


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
    .where(_R.id == bindparam("record"))
)


def lost(conn: Connection, record_id: int) -> ActionError:
    """Returns the error that says why a record no longer belongs to the caller: `NotFound` or `LeaseLost`."""
    found = conn.execute(_WHY_LOST, {"record": record_id}).one_or_none()
    if found is None:
        return NotFound("record", record_id)
    if found.completed_at is None:
        cause = "cancelled" if found.status == ActionStatus.CANCELLED else "moved"
        return LeaseLost(record_id, cause, found.status_changed_by)
    recovered = found.outcome_unknown and found.error_message in (SILENCE, ABANDONED)
    return LeaseLost(record_id, "recovered" if recovered else "ended", found.completed_by)


class Ending(NamedTuple):
    """The end of one execution: its result as JSON text, or its error message."""

    record_id: int
    result: str | None
    error: str | None


class Manner(NamedTuple):
    """The outcome of all executions of one call, its actor and its reason; `success` None is an unknown outcome.

    Without an `actor`, each execution's worker is the actor. Without a `reason`, the reason of a failure is its error.
    With `leased`, only the proposals of records with a lease move; those of records created by hand do not.
    """

    success: bool | None
    actor: str | None
    reason: str | None = None
    leased: bool = False
    begun: bool = True
    """False if the executions were surely not begun."""
    tampered: bool = False
    """Whether they are not to begin, because their proposals don't fit their digests."""

    @property
    def end_code(self) -> EndCode | None:
        """The end code of the proposals, or None if they are completed."""
        if self.tampered:
            return EndCode.TAMPERED
        if not self.begun:
            return EndCode.NOT_BEGUN
        return _END_CODES[self.success]


_END_CODES: Final = {True: None, False: EndCode.FAILED, None: EndCode.OUTCOME_UNKNOWN}


def _retry_at() -> Any:
    pause = after_jitter(_P.retry_count, _P.retry_delay, _P.max_retry_delay)
    return case((_P.retry_count < _P.max_retries, from_now(pause)))


_REASON = bindparam("for_reason", type_=Text())


def _outcome(end_code: EndCode | None, by: Any, why: Any, reason: Any = _REASON) -> dict[str, Any]:
    """The columns that an UPDATE of a proposal sets when its execution ends, including the time of a retry."""
    if end_code is None:
        return moved(ActionStatus.COMPLETED, status_changed_by=by, status_reason=reason)
    return moved(
        ActionStatus.FAILED,
        end_code=end_code,
        status_changed_by=by,
        status_reason=func.coalesce(reason, why),
        last_error=why,
        next_retry_at=_retry_at(),
    )


def _named(actor: Any) -> Any:
    # A record that was created by hand may have no worker.
    return func.coalesce(actor, _R.worker, literal_column("'agent'"))


_BY = _named(bindparam("actor", type_=Text()))


@cache
def _end_on_server(success: bool | None, leased: bool, end_code: EndCode | None) -> Select[Any]:
    arrays = (
        bindparam(name, type_=ARRAY(kind))
        for name, kind in (("ids", BigInteger()), ("results", Text()), ("errors", Text()))
    )
    endings = (
        func.unnest(*arrays).table_valued("id", "result", "error").render_derived(name="endings")
    )
    ended = (
        update(RECORDS)
        .where(
            _R.id == endings.c.id,
            few(endings.c.id),
            nearly_all(_R.completed_at.is_(None)),
        )
        .values(
            success=_truth(success),
            outcome_unknown=_truth(success is None),
            completed_at=utcnow(),
            result_data=cast(endings.c.result, JSON),
            error_message=endings.c.error,
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
        .values(_outcome(end_code, ended.c.completed_by, ended.c.error_message))
        .returning(_P.id)
        .cte("moved")
    )
    return select(ended.c.id).add_cte(moved)


def _complete_many() -> Select[Any]:
    """Completes executions, except those of which another transaction has locked the record or the proposal.

    The proposal of a record is locked even if it does not move, because its trigger would wait for it.
    """
    calls = calls_of({"id": BigInteger(), "result": Text(), "actor": Text(), "reason": Text()})
    open_ = nearly_all(_R.completed_at.is_(None))
    free = free_rows(calls, RECORDS, _P.id == _R.proposal_id, open_, lock=[RECORDS, PROPOSALS])
    ended = (
        update(RECORDS)
        .where(_R.id == free.c.id, few(free.c.id))
        .values(
            success=true(),
            outcome_unknown=false(),
            completed_at=utcnow(),
            result_data=cast(free.c.result, JSON),
            completed_by=_named(free.c.actor),
        )
        .returning(_R.id, _R.proposal_id, _R.completed_by, free.c.reason)
        .cte("ended")
    )
    moved = (
        update(PROPOSALS)
        .where(_P.id == ended.c.proposal_id, nearly_all(*_executed_by(ended.c.id)))
        .values(_outcome(None, ended.c.completed_by, null(), ended.c.reason))
        .returning(_P.id)
        .cte("moved")
    )
    return select(ended.c.id).add_cte(moved)


_COMPLETIONS: Callable[..., Shortcut[list[set[int] | Unanswered]]] = partial(
    together, statement=_complete_many(), result=lambda row: {row[0]}
)


def _truth(value: bool | None) -> Any:
    return null() if value is None else true() if value else false()


_END_RECORD = (
    update(RECORDS)
    .where(_R.id == bindparam("record"), _R.completed_at.is_(None))
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
def end_proposal(end_code: EndCode | None) -> Update:
    """An UPDATE that moves the proposal of an ended record, if that record is its current execution.

    It completes the proposal, or fails it with the `end_code`.
    Its parameters are `proposal`, `record`, `by` (the actor), `why` (the error of a failure) and `for_reason`.
    """
    return (
        update(PROPOSALS)
        .where(
            _P.id == bindparam("proposal"),
            *_executed_by(bindparam("record", type_=BigInteger())),
        )
        .values(_outcome(end_code, bindparam("by", type_=Text()), bindparam("why", type_=Text())))
    )


def end(endings: Sequence[Ending], manner: Manner) -> SingleStatement[set[int]]:
    """Ends executions, moves the proposals that still execute them, and returns the ids of the ended records.

    An execution that has already ended is left unchanged, and its id is not returned. A proposal that was cancelled
    during the execution stays cancelled, and its record has the outcome.
    """
    parameters: dict[str, Any] = {
        "ids": [each.record_id for each in endings],
        "results": [each.result for each in endings],
        "errors": [each.error for each in endings],
        "actor": manner.actor,
        "for_reason": manner.reason,
    }
    statement = _end_on_server(manner.success, manner.leased, manner.end_code)

    def unit(conn: Connection) -> set[int]:
        if is_sqlite(conn):
            return _end_on_sqlite(conn, endings, manner)
        return _ids(fetch(conn, statement, parameters))

    shared = _shared(endings[0], manner) if len(endings) == 1 else None
    return SingleStatement(unit, Shortcut(statement, parameters, _ids), shared=shared)


def _shared(ending: Ending, manner: Manner) -> Shared[Any, set[int]] | None:
    """A completion; a failure may cancel dependent proposals, and then waits for their locks."""
    if manner.success is not True or manner.leased:
        return None
    call = {
        "id": ending.record_id,
        "result": ending.result,
        "actor": manner.actor,
        "reason": manner.reason,
    }
    return Shared("complete", _COMPLETIONS, call)


def end_in_parts(conn: Connection, endings: Sequence[Ending], manner: Manner) -> set[int]:
    """As `end`, but skips the executions that the database refuses to end, which are logged."""
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
        rows = fetch(
            conn,
            _END_RECORD,
            {
                "record": each.record_id,
                "succeeded": manner.success,
                "unknown": manner.success is None,
                "result": each.result,
                "error": each.error,
                "actor": manner.actor,
            },
        )
        if not rows:
            continue
        proposal_id, by, lease = rows[0]
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
    # The proposals follow after all records, as on a server.
    for parameters in proposals:
        fetch(conn, end_proposal(manner.end_code), parameters)
    return ended


def why_not_ended(conn: Connection, record_id: int) -> ActionError:
    """Returns the error for a record that could not be ended by hand: `NotFound`, or `Conflict` if it has ended."""
    known = conn.scalar(select(_R.id).where(_R.id == record_id))
    return (
        NotFound("record", record_id)
        if known is None
        else Conflict("record", record_id, "completed")
    )
