"""Units of work that halt and resume the ledger, and that report what a halt has reached."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Connection,
    Integer,
    Text,
    and_,
    bindparam,
    false,
    func,
    insert,
    literal_column,
    or_,
    select,
    text,
    update,
)

from operator_core.actions.errors import InvalidValue, NotFound
from operator_core.actions.lifecycle import PENDING_STATUSES
from operator_core.actions.types import (
    ActionStatus,
    Blocker,
    EventType,
    Halt,
    HaltMode,
    RunningExecution,
)
from operator_core.actions.values import MAX_REASON
from operator_core.db.ledger.halted import in_scope, is_not_over
from operator_core.db.ledger.lapses import release_all
from operator_core.db.ledger.status import any_of
from operator_core.db.sql.base import UTCDateTime
from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sql.functions import utcnow, written_now
from operator_core.db.sql.lock_waits import limit_lock_waits
from operator_core.db.sql.rows import HALT_COLUMNS, Listing, decode_time, to_halt, to_listing
from operator_core.db.sql.tables import EVENTS, HALTS, PROPOSALS, RECORDS

__all__ = [
    "HaltRequest",
    "Reached",
    "begin_halt",
    "has_begun",
    "holders",
    "list_halts",
    "pending_in_scope",
    "reached",
    "reason_of",
    "resume",
    "settle",
    "terminate",
]

_H = HALTS.c
_P = PROPOSALS.c
_R = RECORDS.c
_E = EVENTS.c


class HaltRequest(NamedTuple):
    """The values of a new halt."""

    mode: HaltMode
    action_name: str | None
    agent_id: str | None
    run_id: str | None
    halted_by: str
    reason: str
    valid_from: datetime | None
    valid_until: datetime | None
    cancels: bool


_SAME: Final = ("mode", "action_name", "agent_id", "run_id", "valid_from", "valid_until")
_SCOPE: Final = ("action_name", "agent_id", "run_id")


def _same(names: Sequence[str]) -> list[ColumnElement[bool]]:
    return [
        _H[name].is_not_distinct_from(bindparam(f"same_{name}", type_=_H[name].type))
        for name in names
    ]


_OPEN_ONE = (
    select(*HALT_COLUMNS)
    .where(
        _H.resumed_at.is_(None),
        is_not_over(),
        *_same(_SAME),
    )
    .order_by(_H.id)
    .limit(1)
)
_INSERT = insert(HALTS).returning(*HALT_COLUMNS)

# The schema's own lock of a writer of halts, so that of two equal halts at once the second finds the first.
_LOCK = text("SELECT pg_advisory_xact_lock(7302914, 'action_halts'::regclass::oid::int4)")

# A halt survives a crash of the server, also where other commits need not. It does not wait for a standby there.
_FLUSH = text(
    "SELECT set_config('synchronous_commit', 'local', true) WHERE current_setting('synchronous_commit') = 'off'"
)

_SHORTEST_WAIT: Final = 1.0
"""Seconds for which a halt waits at least for another one that is being written."""


def begin_halt(conn: Connection, request: HaltRequest, seconds: float) -> Halt:
    """Writes a halt; returns it, or the open one with the same mode, scope and times.

    On a server, it waits `seconds` for another halt that is being written. Raises `InvalidValue` for a time in the past.
    """
    if not is_sqlite(conn):
        # Whoever holds the lock can't keep others from halting without their knowledge.
        limit_lock_waits(conn, f"{max(seconds, _SHORTEST_WAIT) * 1000:.0f}ms")
        conn.execute(_LOCK)
        conn.execute(_FLUSH)
    if request.valid_until is not None and request.valid_until <= _now(conn):
        raise InvalidValue("valid_until", "must be in the future")
    values = request._asdict()
    same = {f"same_{name}": values[name] for name in _SAME}
    found = conn.execute(_OPEN_ONE, same).one_or_none()
    return to_halt(conn.execute(_INSERT, values).one() if found is None else found)


def has_begun(conn: Connection, halt: Halt) -> bool:
    """Whether a halt is in force by now, or was; a freeze may begin later."""
    return halt.valid_from is None or halt.valid_from <= _now(conn)


def _now(conn: Connection) -> datetime:
    return decode_time(conn.scalar(select(written_now())))


# Who holds the schema's shared lock of those that have begun something.
_HELD = """
FROM pg_locks AS held LEFT JOIN pg_stat_activity AS activity ON activity.pid = held.pid
WHERE held.locktype = 'advisory' AND held.granted AND held.objsubid = 2 AND held.classid = 7302913
    AND held.objid = 'action_halts'::regclass::oid
    AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_HOLDERS = text(
    "SELECT DISTINCT held.pid, activity.application_name, activity.xact_start, held.virtualtransaction"
    + _HELD
    # The halt is committed a moment after its created_at.
    + "AND (CAST(:before AS timestamptz) IS NULL OR activity.xact_start IS NULL "
    "OR activity.xact_start <= CAST(:before AS timestamptz) + interval '1 second')"
).bindparams(bindparam("before", type_=UTCDateTime()))
_TERMINATE = text(
    "SELECT pg_terminate_backend(held.pid)" + _HELD + "AND held.virtualtransaction = :it"
)


def holders(conn: Connection, before: datetime | None = None) -> list[Blocker]:
    """The open transactions that have begun something; with `before`, those that may have begun before that time.

    On SQLite, there are none: writers run one at a time.
    """
    if is_sqlite(conn):
        return []
    return [
        Blocker(pid, application or None, None if since is None else decode_time(since), it)
        for pid, application, since, it in conn.execute(_HOLDERS, {"before": before})
    ]


def terminate(conn: Connection, transaction: str) -> None:
    """Ends the server process of a transaction, if it is still open and the role may do that."""
    conn.execute(_TERMINATE, {"it": transaction}).all()


_SETTLE = update(HALTS).where(false()).values(reason=_H.reason)


def settle(conn: Connection) -> None:
    """Lets the schema's triggers see that no halt is open: on a server, they then ask no more. In no transaction."""
    if not is_sqlite(conn):
        conn.execute(_SETTLE)


def _resuming(*which: ColumnElement[bool]) -> Any:
    return (
        update(HALTS)
        .where(_H.resumed_at.is_(None), *which)
        .values(
            resumed_at=utcnow(),
            resumed_by=bindparam("by", type_=Text()),
            resume_reason=bindparam("why", type_=Text()),
        )
        .returning(*HALT_COLUMNS)
    )


_RESUME_ONE = _resuming(_H.id == bindparam("halt", type_=BigInteger()))
_RESUME_SCOPE = _resuming(*_same(_SCOPE))
_ONE = select(*HALT_COLUMNS).where(_H.id == bindparam("halt", type_=BigInteger()))


def resume(
    conn: Connection,
    halt_id: int | None,
    scope: dict[str, str | None],
    *,
    by: str,
    reason: str,
) -> list[Halt]:
    """Resumes one halt, or all open ones of exactly this scope; returns those that it resumed.

    What was approved meanwhile, and is not halted any more, is validated.

    Raises `NotFound` for an unknown id.
    """
    parameters: dict[str, Any] = {"by": by, "why": reason}
    if halt_id is None:
        parameters |= {f"same_{name}": scope[name] for name in _SCOPE}
        rows = conn.execute(_RESUME_SCOPE, parameters).all()
    else:
        _halt(conn, halt_id)
        rows = conn.execute(_RESUME_ONE, {**parameters, "halt": halt_id}).all()
    if rows:
        release_all(conn)
    return sorted((to_halt(row) for row in rows), key=lambda halt: halt.id)


def _halt(conn: Connection, halt_id: int) -> Halt:
    found = conn.execute(_ONE, {"halt": halt_id}).one_or_none()
    if found is None:
        raise NotFound("halt", halt_id)
    return to_halt(found)


_ALL = select(*HALT_COLUMNS).order_by(_H.id)
_NOT_OVER = _ALL.where(_H.resumed_at.is_(None), is_not_over())


def list_halts(conn: Connection, *, active: bool) -> Listing[Halt]:
    """All halts, or those that are open and not over, oldest first."""
    return to_listing(conn.execute(_NOT_OVER if active else _ALL).all(), to_halt)


_THIS_HALT = _H.id == bindparam("halt", type_=BigInteger())
_PENDING = (
    select(_P.id)
    .join_from(PROPOSALS, HALTS, and_(_THIS_HALT, in_scope()))
    .where(
        or_(
            any_of(PENDING_STATUSES),
            and_(any_of([ActionStatus.FAILED]), _P.next_retry_at.is_not(None)),
        ),
        _H.resumed_at.is_(None),
    )
)


def pending_in_scope(conn: Connection, halt_id: int) -> list[int]:
    """The ids of what an open halt cancels, highest first: a proposal depends on lower ids only."""
    # Sorted here: with an ORDER BY, the database may read all rows by their ids.
    return sorted(conn.scalars(_PENDING, {"halt": halt_id}), reverse=True)


def reason_of(halt: Halt) -> str:
    """The reason of what a halt cancels."""
    return (_prefix(halt) + halt.reason)[:MAX_REASON]


def _prefix(halt: Halt) -> str:
    return f"halt {halt.id}: "


class Reached(NamedTuple):
    """What a halt has reached: a report without the transactions that are in its way."""

    halt: Halt
    running: list[RunningExecution]
    cancelled: int
    has_begun: bool


_SEEN = func.coalesce(_R.halt_seen_at >= _H.created_at, false(), type_=Boolean())
_SINCE = func.coalesce(_R.started_at, _P.status_changed_at, type_=UTCDateTime())
_RUNNING = (
    select(_P.id, _P.action_name, _R.id, _R.worker, _SINCE, _SEEN, _R.completed_at)
    .select_from(
        PROPOSALS.join(HALTS, and_(_THIS_HALT, in_scope())).outerjoin(
            RECORDS, and_(_R.proposal_id == _P.id, _R.completed_at.is_(None))
        )
    )
    .where(
        any_of([ActionStatus.EXECUTING]),
        # What has begun after it was resumed.
        or_(
            _H.resumed_at.is_(None),
            _H.resumed_at > _SINCE,
        ),
    )
)
# Its proposal was cancelled, and the worker has not noticed: it acts still.
_UNNOTICED = (
    select(_P.id, _P.action_name, _R.id, _R.worker, _SINCE, _SEEN, _R.completed_at)
    .select_from(
        RECORDS.join(PROPOSALS, _P.id == _R.proposal_id).join(HALTS, and_(_THIS_HALT, in_scope()))
    )
    .where(
        _R.completed_at.is_(None),
        _R.lease_expires_at.is_not(None),
        _P.status != literal_column(f"'{ActionStatus.EXECUTING.value}'", Text()),
        or_(_H.resumed_at.is_(None), _H.resumed_at > _SINCE),
    )
)


def _event_at(kind: EventType, name: str) -> Any:
    """The id of the event that tells of a halt: the first of its kind since that time."""
    return select(func.min(_E.id)).where(
        _E.proposal_id.is_(None),
        _E.event_type == literal_column(f"'{kind.value}'", Text()),
        _E.occurred_at >= bindparam(name, type_=UTCDateTime()),
    )


_BEGAN = _event_at(EventType.HALTED, "since")
_RESUMED = _event_at(EventType.RESUMED, "since")
_DURING = (
    _E.id > bindparam("first", type_=BigInteger()),
    _E.id < bindparam("last", type_=BigInteger()),
)
_ENDED = (
    select(_P.id, _P.action_name, _R.id, _R.worker, _R.started_at, _SEEN, _R.completed_at)
    .select_from(
        EVENTS.join(RECORDS, _R.id == _E.record_id)
        .join(PROPOSALS, _P.id == _R.proposal_id)
        .join(HALTS, and_(_THIS_HALT, in_scope()))
    )
    .where(
        *_DURING, _E.event_type == literal_column(f"'{EventType.RECORD_FINISHED.value}'", Text())
    )
)
_CANCELLED = select(func.count()).where(
    *_DURING,
    _E.to_status == literal_column(f"'{ActionStatus.CANCELLED.value}'", Text()),
    func.substr(_E.reason, 1, bindparam("length", type_=Integer()))
    == bindparam("prefix", type_=Text()),
)
_LAST: Final = 2**62


def reached(conn: Connection, halt_id: int) -> Reached:
    """What a halt has reached so far, or had until it was resumed; raises `NotFound`."""
    halt = _halt(conn, halt_id)
    during = {
        "first": conn.scalar(_BEGAN, {"since": halt.created_at}) or 0,
        "last": (halt.resumed_at and conn.scalar(_RESUMED, {"since": halt.resumed_at})) or _LAST,
    }
    ended = conn.execute(_ENDED, {"halt": halt_id, **during}).all()
    this = {"halt": halt_id}
    running = [*conn.execute(_RUNNING, this), *conn.execute(_UNNOTICED, this)]
    prefix = _prefix(halt)
    cancelled = conn.scalar(_CANCELLED, {**during, "prefix": prefix, "length": len(prefix)})
    # What ends between the two reads is in both.
    known = {row[2]: _execution(row) for row in (*running, *ended) if row[2] is not None}
    unrecorded = [_execution(row) for row in running if row[2] is None]
    ordered = sorted([*known.values(), *unrecorded], key=lambda each: each.proposal_id)
    return Reached(halt, ordered, cancelled or 0, has_begun(conn, halt))


def _execution(row: Sequence[Any]) -> RunningExecution:
    proposal_id, action_name, record_id, worker, since, seen, ended_at = row
    return RunningExecution(
        proposal_id,
        action_name,
        record_id,
        worker,
        None if since is None else decode_time(since),
        bool(seen),
        None if ended_at is None else decode_time(ended_at),
    )
