"""Units of work that end what nobody else ends: silent workers, what came too late, what is to be run again.

A claim does them first, so that nothing else has to run for it.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeAlias

from sqlalchemy import (
    BigInteger,
    Connection,
    Row,
    Select,
    Text,
    bindparam,
    func,
    insert,
    literal_column,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.exc import DBAPIError

from operator_core.actions.actors import LEDGER
from operator_core.actions.lifecycle import PENDING_STATUSES
from operator_core.actions.types import ActionStatus, EventType, StoredRecord
from operator_core.db.ledger.executions import ABANDONED, SILENCE, end_proposal, newest_record
from operator_core.db.ledger.status import any_of, moved
from operator_core.db.sql.arrays import listed
from operator_core.db.sql.base import DOUBLE
from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sql.errors import is_refusal, translate
from operator_core.db.sql.functions import from_now, utcnow, written_now
from operator_core.db.sql.postgresql_errors import LOCK_NOT_AVAILABLE, sqlstate
from operator_core.db.sql.rows import RECORD_COLUMNS, to_listing, to_record
from operator_core.db.sql.savepoint import in_transaction, savepoint
from operator_core.db.sql.tables import EVENTS, PROPOSALS, RECORDS

__all__ = ["is_overdue", "overdue", "recover", "sweep"]

logger = logging.getLogger(__name__)

_P = PROPOSALS.c
_R = RECORDS.c
_E = EVENTS.c

_SWEEP: Final = 100
"""How many proposals or records of a kind one sweep ends at the most: a claim does not wait for thousands."""

_BUDGET: Final = 0.5
"""Seconds after which a sweep tries no further what it could not end at once."""

_PATIENCE: Final = "50ms"
"""How long a sweep waits for a row that is to be cancelled along with another, on a server."""

_NO_PATIENCE: Final = "1ms"
"""How long it waits when it has waited in vain."""

_TOO_LATE: Final = "it was not started before it expired"


def _silent() -> Select[Any]:
    return select(_R.id).where(_R.completed_at.is_(None), _R.lease_expires_at <= written_now())


def _too_old(since: Any) -> Any:
    return since <= from_now(bindparam("since", type_=DOUBLE))


def _unleased() -> Select[Any]:
    """Open records that nobody keeps alive, of proposals that are executing."""
    return (
        select(_R.id)
        .join_from(PROPOSALS, RECORDS, _P.id == _R.proposal_id)
        .where(
            any_of([ActionStatus.EXECUTING]),
            _R.completed_at.is_(None),
            _R.lease_expires_at.is_(None),
            _too_old(func.coalesce(_R.started_at, _R.created_at)),
        )
    )


def _unrecorded() -> Select[Any]:
    """Proposals that are executing although no record of theirs is open."""
    # An imported one may have been executing for longer than the ledger has known it.
    since = func.coalesce(_P.status_changed_at, _P.created_at)
    is_open = select(_R.id).where(_R.proposal_id == _P.id, _R.completed_at.is_(None)).exists()
    return select(_P.id).where(any_of([ActionStatus.EXECUTING]), _too_old(since), ~is_open)


def _expired() -> Select[Any]:
    return select(_P.id).where(any_of(PENDING_STATUSES), _P.expires_at <= written_now())


def _to_retry() -> Select[Any]:
    return select(_P.id).where(any_of([ActionStatus.FAILED]), _P.next_retry_at <= written_now())


def _taken(which: Select[Any], order: Any) -> Select[Any]:
    """The first of these, locked, past what others hold: a sweep waits for nobody's transaction."""
    return (
        which.order_by(order)
        .limit(literal_column(str(_SWEEP)))
        .offset(bindparam("seen", type_=BigInteger()))
        .with_for_update(skip_locked=True, key_share=True)
    )


# With their proposals, which are to be moved too.
_SILENT = _taken(
    _silent().join_from(RECORDS, PROPOSALS, _P.id == _R.proposal_id), _R.lease_expires_at
)
_UNLEASED = _taken(_unleased(), _R.id)
_UNRECORDED = _taken(_unrecorded(), _P.id)
_EXPIRED = _taken(_expired(), _P.expires_at)
_TO_RETRY = _taken(_to_retry(), _P.next_retry_at)

_END_SILENT = (
    update(RECORDS)
    .where(listed(_R.id, "ids"))
    .values(
        outcome_unknown=true(),
        completed_at=utcnow(),
        completed_by=bindparam("by", type_=Text()),
        error_message=bindparam("why", type_=Text()),
    )
    .returning(*RECORD_COLUMNS)
)
_BEGAN = (
    select(func.max(_E.id))
    .where(_E.proposal_id == _R.proposal_id, _E.to_status == ActionStatus.EXECUTING.value)
    .correlate(RECORDS)
    .scalar_subquery()
)
_LAST_RECORDS = (
    select(*RECORD_COLUMNS)
    # One of an earlier execution ended before this one began; times may be the same.
    .join_from(RECORDS, EVENTS, _E.record_id == _R.id)
    .where(
        listed(_R.proposal_id, "ids"),
        _E.proposal_id == _R.proposal_id,
        _E.event_type == EventType.RECORD_FINISHED.value,
        _E.id > _BEGAN,
        _R.success.is_not(None),
        # One that was begun before another is no execution of now, whenever it ended.
        _R.id == newest_record(_R.proposal_id),
    )
    .order_by(_R.id)
)
_RECORD_UNKNOWN = (
    insert(RECORDS)
    .from_select(
        [
            "proposal_id",
            "started_at",
            "completed_at",
            "started_by",
            "completed_by",
            "error_message",
            "outcome_unknown",
        ],
        select(
            _P.id,
            _P.status_changed_at,
            utcnow(),
            _P.status_changed_by,
            bindparam("by", type_=Text()),
            bindparam("why", type_=Text()),
            true(),
        ).where(listed(_P.id, "ids")),
    )
    .returning(*RECORD_COLUMNS)
)
_CANCEL_EXPIRED = (
    update(PROPOSALS)
    .where(listed(_P.id, "ids"))
    .values(
        moved(
            ActionStatus.CANCELLED,
            cancelled_at=utcnow(),
            status_changed_by=LEDGER,
            status_reason=_TOO_LATE,
        )
    )
    .returning(_P.id)
)
_RETRY = (
    update(PROPOSALS)
    .where(listed(_P.id, "ids"))
    .values(
        moved(
            ActionStatus.VALIDATED,
            validated_at=utcnow(),
            retry_count=_P.retry_count + 1,
            status_changed_by=LEDGER,
            status_reason=literal_column(
                "'retry ' || (retry_count + 1) || ' of ' || max_retries", Text()
            ),
        )
    )
    .returning(_P.id)
)


def overdue() -> Any:
    """Whether there is something for `sweep` to do."""
    return or_(_expired().exists(), _to_retry().exists(), _silent().exists())


def is_overdue(conn: Connection) -> bool:
    """Whether there is something for `sweep` to do."""
    return bool(conn.scalar(select(overdue())))


def recover(
    conn: Connection,
    *,
    by: str = LEDGER,
    reason: str | None = None,
    older_than: float | None = None,
) -> list[StoredRecord]:
    """Ends executions whose lease ran out as unknown, in the order of their ids; their proposals fail.

    Those that may be retried get a time for it. With `older_than`, in seconds, also those that have had no
    lease for so long: an open record ends as unknown; where no record is open, one is written, or the outcome that
    the last one has is the proposal's. A record that can't be read is ended too, logged, and left out of the answer.
    """
    each = _Sweep(conn)
    rows = [
        *each.end(_SILENT, partial(_end_silent, by=by, why=SILENCE, reason=reason), "end record")
    ]
    if older_than is not None:
        end_records = partial(_end_silent, by=by, why=ABANDONED, reason=reason)
        rows += each.end(_UNLEASED, end_records, "end record", since=-older_than)
        end_proposals = partial(_end_unrecorded, by=by, reason=reason)
        rows += each.end(_UNRECORDED, end_proposals, "end proposal", since=-older_than)
    return sorted(to_listing(rows, to_record), key=lambda record: record.id)


def sweep(conn: Connection) -> None:
    """Recovers what is silent, cancels what has expired, and puts back what is to be run again.

    What somebody else holds at the moment stays as it is, and so does, with an error in the log, what
    the database refuses to change.
    """
    each = _Sweep(conn)
    each.end(_SILENT, partial(_end_silent, by=LEDGER, why=SILENCE), "end record")
    each.end(_EXPIRED, _cancel_expired, "cancel proposal")
    each.end(_TO_RETRY, _put_back, "put back proposal")


def _end_silent(
    conn: Connection, ids: Sequence[int], *, by: str, why: str, reason: str | None = None
) -> Sequence[Row[Any]]:
    rows = conn.execute(_END_SILENT, {"ids": ids, "by": by, "why": why}).all()
    _fail_proposals(conn, rows, by, why, reason)
    return rows


def _fail_proposals(
    conn: Connection, rows: Sequence[Row[Any]], by: str, why: str, reason: str | None
) -> None:
    if rows:
        said = {"by": by, "why": why, "for_reason": reason}
        proposals = [{"proposal": row.proposal_id, "record": row.id, **said} for row in rows]
        conn.execute(end_proposal(success=False), proposals)


def _end_unrecorded(
    conn: Connection, ids: Sequence[int], *, by: str, reason: str | None
) -> Sequence[Row[Any]]:
    known = {row.proposal_id: row for row in conn.execute(_LAST_RECORDS, {"ids": ids})}
    moved: list[Row[Any]] = []
    for row in known.values():
        said = {
            "proposal": row.proposal_id,
            "record": row.id,
            "by": by,
            "why": row.error_message,
            "for_reason": reason,
        }
        if conn.execute(end_proposal(success=row.success), said).rowcount:
            moved.append(row)
    said = {"ids": [id_ for id_ in ids if id_ not in known], "by": by, "why": ABANDONED}
    written = conn.execute(_RECORD_UNKNOWN, said).all()
    _fail_proposals(conn, written, by, ABANDONED, reason)
    return [*moved, *written]


def _cancel_expired(conn: Connection, ids: Sequence[int]) -> Sequence[Row[Any]]:
    return conn.execute(_CANCEL_EXPIRED, {"ids": ids}).all()


def _put_back(conn: Connection, ids: Sequence[int]) -> Sequence[Row[Any]]:
    return conn.execute(_RETRY, {"ids": ids}).all()


_End: TypeAlias = Callable[[Connection, Sequence[int]], Sequence[Row[Any]]]
"""Ends those with these ids, all or none, and gives back a row for each."""


class _Sweep:
    """Ends what can be ended, and passes over what can't, in one transaction and in little time."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._server = not is_sqlite(conn)
        self._deadline = time.monotonic() + _BUDGET

    def end(self, which: Select[Any], end: _End, what: str, **given: float) -> Sequence[Row[Any]]:
        """Ends the first that can be ended, a hundred at the most; the rows of what it has ended.

        `which` takes the parameters `given`; `what` is what the log calls it.

        All of them together, as a rule. What the database refuses is halved, the largest parts first,
        until it is known which one it is about, or time is up; and where nothing of the first could be
        ended, those behind them come before that.
        """
        ids = self._first(which, 0, given)
        if not ids:
            return ()
        rows: list[Row[Any]] = []
        parts = deque([ids])
        seen = len(ids)
        with self._impatient():
            while parts and len(rows) < _SWEEP:
                ids = parts.popleft()
                ended = self._end_together(ids, end, what)
                if ended is None:
                    half = len(ids) // 2
                    parts.extend(part for part in (ids[:half], ids[half:]) if half)
                else:
                    rows.extend(ended)
                if time.monotonic() > self._deadline:
                    break
                if not rows and len(ids) == _SWEEP and (ids := self._first(which, seen, given)):
                    parts.appendleft(ids)
                    seen += len(ids)
        return rows

    def _first(self, which: Select[Any], seen: int, given: dict[str, float]) -> Sequence[int]:
        return self._conn.scalars(which, {"seen": seen, **given}).all()

    def _end_together(self, ids: Sequence[int], end: _End, what: str) -> Sequence[Row[Any]] | None:
        """All or none of these; None if the database refuses it."""
        try:
            with savepoint(self._conn):
                return end(self._conn, ids)
        except DBAPIError as error:
            if not is_refusal(error) or not (self._server or in_transaction(self._conn)):
                raise
            held = sqlstate(error) == LOCK_NOT_AVAILABLE
            if held:
                self._conn.execute(_SET_LOCK_TIMEOUT, {"timeout": _NO_PATIENCE})
            if len(ids) == 1:
                # Who holds it lets it go again; what is refused, somebody should look at.
                level = logging.INFO if held else logging.ERROR
                logger.log(level, "could not %s %d: %s", what, ids[0], translate(error))
            return None

    @contextmanager
    def _impatient(self) -> Generator[None]:
        """A block that hardly waits for a lock: what is cancelled along with another may be held by somebody."""
        if not self._server:
            yield
            return
        before = self._conn.scalar(select(func.current_setting("lock_timeout")))
        self._conn.execute(_SET_LOCK_TIMEOUT, {"timeout": _PATIENCE})
        yield
        # If the block fails, so does the transaction, or the part of it that this is in.
        self._conn.execute(_SET_LOCK_TIMEOUT, {"timeout": before})


_SET_LOCK_TIMEOUT = select(
    func.set_config("lock_timeout", bindparam("timeout", type_=Text()), true())
)
