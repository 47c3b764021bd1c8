"""Units of work that end what nobody else ends: silent workers, what came too late, what is to be run again.

A claim does them first, so that nothing else has to run for it.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

from sqlalchemy import (
    BigInteger,
    Connection,
    Row,
    Select,
    Text,
    bindparam,
    func,
    literal_column,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.exc import DBAPIError

from operator_core.actions.lifecycle import PENDING_STATUSES
from operator_core.actions.types import ActionRecord, ActionStatus
from operator_core.db.base import utcnow, written_now
from operator_core.db.driver_errors import is_refusal, translate
from operator_core.db.endings import end_proposal
from operator_core.db.listed import listed
from operator_core.db.moves import any_of, moved
from operator_core.db.postgresql_errors import LOCK_NOT_AVAILABLE, sqlstate
from operator_core.db.rows import RECORD_COLUMNS, to_listing, to_record
from operator_core.db.savepoint import in_transaction, savepoint
from operator_core.db.tables import PROPOSALS, RECORDS

__all__ = ["overdue", "recover", "sweep"]

logger = logging.getLogger(__name__)

_P = PROPOSALS.c
_R = RECORDS.c

_SWEEP: Final = 100
"""How many proposals or records of a kind one sweep ends at the most: a claim does not wait for thousands."""

_BUDGET: Final = 0.5
"""Seconds after which a sweep tries no further what it could not end at once."""

_PATIENCE: Final = "50ms"
"""How long a sweep waits for a row that is to be cancelled along with another, on a server."""

_NO_PATIENCE: Final = "1ms"
"""How long it waits when it has waited in vain."""

_LEDGER: Final = "ledger"
"""Who acts where no worker and no person does."""

_SILENCE: Final = "its lease ran out: whether it was done is not known"
_TOO_LATE: Final = "it was not started before it expired"


def _silent() -> Select[Any]:
    return select(_R.id).where(_R.completed_at.is_(None), _R.lease_expires_at <= written_now())


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
_EXPIRED = _taken(_expired(), _P.expires_at)
_TO_RETRY = _taken(_to_retry(), _P.next_retry_at)

_END_SILENT = (
    update(RECORDS)
    .where(listed(_R.id, "ids"))
    .values(
        outcome_unknown=true(),
        completed_at=utcnow(),
        completed_by=_LEDGER,
        error_message=_SILENCE,
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
            status_changed_by=_LEDGER,
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
            status_changed_by=_LEDGER,
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


def recover(conn: Connection) -> list[ActionRecord]:
    """Ends executions whose lease ran out as unknown, in the order of their ids; their proposals fail.

    Those that may be retried get a time for it. A record that can't be read is ended too, logged, and
    left out of the answer.
    """
    rows = _Sweep(conn).end(_SILENT, _end_silent)
    return sorted(to_listing(rows, to_record), key=lambda record: record.id or 0)


def sweep(conn: Connection) -> None:
    """Recovers what is silent, cancels what has expired, and puts back what is to be run again.

    What somebody else holds at the moment stays as it is, and so does, with an error in the log, what
    the database refuses to change.
    """
    each = _Sweep(conn)
    each.end(_SILENT, _end_silent)
    each.end(_EXPIRED, _cancel_expired)
    each.end(_TO_RETRY, _put_back)


def _end_silent(conn: Connection, ids: Sequence[int]) -> Sequence[Row[Any]]:
    rows = conn.execute(_END_SILENT, {"ids": ids}).all()
    if rows:
        said = {"by": _LEDGER, "why": _SILENCE}
        proposals = [{"proposal": row.proposal_id, "record": row.id, **said} for row in rows]
        conn.execute(end_proposal(success=False), proposals)
    return rows


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
        self._server = conn.dialect.name != "sqlite"
        self._deadline = time.monotonic() + _BUDGET

    def end(self, which: Select[Any], end: _End) -> Sequence[Row[Any]]:
        """Ends the first that can be ended, a hundred at the most; the rows of what it has ended.

        All of them together, as a rule. What the database refuses is halved, the largest parts first,
        until it is known which one it is about, or time is up; and where nothing of the first could be
        ended, those behind them come before that.
        """
        ids = self._first(which, 0)
        if not ids:
            return ()
        rows: list[Row[Any]] = []
        parts = deque([ids])
        seen = len(ids)
        with self._impatient():
            while parts and len(rows) < _SWEEP:
                ids = parts.popleft()
                ended = self._end_together(ids, end)
                if ended is None:
                    half = len(ids) // 2
                    parts.extend(part for part in (ids[:half], ids[half:]) if half)
                else:
                    rows.extend(ended)
                if time.monotonic() > self._deadline:
                    break
                if not rows and len(ids) == _SWEEP and (ids := self._first(which, seen)):
                    parts.appendleft(ids)
                    seen += len(ids)
        return rows

    def _first(self, which: Select[Any], seen: int) -> Sequence[int]:
        return self._conn.scalars(which, {"seen": seen}).all()

    def _end_together(self, ids: Sequence[int], end: _End) -> Sequence[Row[Any]] | None:
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
                logger.log(level, "%s %d: %s", end.__name__.strip("_"), ids[0], translate(error))
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
