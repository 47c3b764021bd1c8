"""Units of work that end what nobody else ends: silent workers, what came too late, what is to be run again.

A claim does them first, so that nothing else has to run for it.
"""

from typing import Any, Final, cast

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Text,
    literal_column,
    or_,
    select,
    true,
    update,
)

from operator_core.actions.lifecycle import PENDING_STATUSES
from operator_core.actions.types import ActionRecord, ActionStatus
from operator_core.db.base import utcnow, written_now
from operator_core.db.endings import end_proposal
from operator_core.db.moves import any_of, moved
from operator_core.db.rows import RECORD_COLUMNS, to_listing, to_record
from operator_core.db.tables import PROPOSALS, RECORDS

__all__ = ["overdue", "recover", "sweep"]

_P = PROPOSALS.c
_R = RECORDS.c

_SWEEP: Final = 100
"""How many proposals or records of a kind one sweep ends at the most: a claim does not wait for thousands."""

_LEDGER: Final = "ledger"
"""Who acts where no worker and no person does."""

_SILENCE: Final = "its lease ran out: whether it was done is not known"
_TOO_LATE: Final = "it was not started before it expired"


def _silent() -> Select[tuple[int]]:
    return select(_R.id).where(_R.completed_at.is_(None), _R.lease_expires_at <= written_now())


def _expired() -> Select[tuple[int]]:
    return select(_P.id).where(any_of(PENDING_STATUSES), _P.expires_at <= written_now())


def _to_retry() -> Select[tuple[int]]:
    return select(_P.id).where(any_of([ActionStatus.FAILED]), _P.next_retry_at <= written_now())


def _some(column: Any, order: Any, which: Select[tuple[int]]) -> ColumnElement[bool]:
    """Whether a row is among the first of these, past what others hold.

    A CTE, as PostgreSQL may run a subquery with a LIMIT once for each row.
    """
    first = (
        which.order_by(order)
        .limit(literal_column(str(_SWEEP)))
        .with_for_update(skip_locked=True)
        .cte("first")
    )
    return column.in_(select(cast(Any, first.c)[column.name]))


_END_SILENT = (
    update(RECORDS)
    .where(_some(_R.id, _R.lease_expires_at, _silent()))
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
    .where(_some(_P.id, _P.expires_at, _expired()))
    .values(
        moved(
            ActionStatus.CANCELLED,
            cancelled_at=utcnow(),
            status_changed_by=_LEDGER,
            status_reason=_TOO_LATE,
        )
    )
)
_RETRY = (
    update(PROPOSALS)
    .where(_some(_P.id, _P.next_retry_at, _to_retry()))
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
)


def overdue() -> Any:
    """Whether there is something for `sweep` to do."""
    return or_(_expired().exists(), _to_retry().exists(), _silent().exists())


def recover(conn: Connection) -> list[ActionRecord]:
    """Ends executions whose lease ran out as unknown, in the order of their ids; their proposals fail.

    Those that may be retried get a time for it. A record that can't be read is ended too, logged, and
    left out of the answer.
    """
    rows = conn.execute(_END_SILENT).all()
    for row in rows:
        said = {"proposal": row.proposal_id, "record": row.id, "by": _LEDGER, "why": _SILENCE}
        conn.execute(end_proposal(success=False), said)
    return sorted(to_listing(rows, to_record), key=lambda record: record.id or 0)


def sweep(conn: Connection) -> None:
    """Recovers what is silent, cancels what has expired, and puts back what is to be run again."""
    recover(conn)
    conn.execute(_CANCEL_EXPIRED)
    conn.execute(_RETRY)
