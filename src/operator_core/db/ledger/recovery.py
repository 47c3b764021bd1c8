"""Units of work for overdue rows: expired leases, proposals that have expired, and retries that are due.

Every claim runs them, so that no other program is needed.
"""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

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
from sqlalchemy.sql.dml import ReturningUpdate

from operator_core.actions.actors import LEDGER
from operator_core.actions.lifecycle import PENDING_STATUSES
from operator_core.actions.types import ActionStatus, EndCode, EventType, StoredRecord
from operator_core.db.ledger.executions import ABANDONED, SILENCE, end_proposal, newest_record
from operator_core.db.ledger.halted import is_any_open, not_all_halted, unhalted
from operator_core.db.ledger.lapses import HELD, LAPSED, end_lapsed, release
from operator_core.db.ledger.requirements import approved
from operator_core.db.ledger.status import TOO_LATE, any_of, moved
from operator_core.db.ledger.sweep import MOST_ROWS, Sweep
from operator_core.db.sql.arrays import listed
from operator_core.db.sql.base import DOUBLE
from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sql.execution import fetch
from operator_core.db.sql.functions import from_now, utcnow, written_now
from operator_core.db.sql.rows import RECORD_COLUMNS, to_listing, to_record
from operator_core.db.sql.tables import EVENTS, PROPOSALS, RECORDS

__all__ = ["is_overdue", "overdue", "put_back", "recover", "sweep"]

logger = logging.getLogger(__name__)

_P = PROPOSALS.c
_R = RECORDS.c
_E = EVENTS.c


def _expired_leases() -> Select[Any]:
    return select(_R.id).where(_R.completed_at.is_(None), _R.lease_expires_at <= written_now())


def _too_old(since: Any) -> Any:
    return since <= from_now(bindparam("since", type_=DOUBLE))


def _unleased() -> Select[Any]:
    """Open records without a lease, of proposals that are executing."""
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
    """Proposals that are executing but have no open record."""
    # An imported proposal may have been executing since before it was created here.
    since = func.coalesce(_P.status_changed_at, _P.created_at)
    is_open = select(_R.id).where(_R.proposal_id == _P.id, _R.completed_at.is_(None)).exists()
    return select(_P.id).where(any_of([ActionStatus.EXECUTING]), _too_old(since), ~is_open)


def _past_expiry() -> Select[Any]:
    return select(_P.id).where(any_of(PENDING_STATUSES), _P.expires_at <= written_now())


def _to_retry(*, halts: bool = True) -> Select[Any]:
    """With `halts`, without those that an open one covers: they stay due."""
    held = [not_all_halted(), unhalted()] if halts else []
    return select(_P.id).where(
        any_of([ActionStatus.FAILED]), _P.next_retry_at <= written_now(), approved(), *held
    )


def _lapsed() -> Select[Any]:
    return select(_P.id).where(LAPSED)


def _held(*, halts: bool = True) -> Select[Any]:
    """What was approved while a halt covered it, with `halts` only what is not covered any more."""
    return select(_P.id).where(HELD, *([unhalted()] if halts else []))


def _taken(which: Select[Any], order: Any) -> Select[Any]:
    """The first of these rows, locked. Rows that other transactions have locked are skipped without waiting."""
    return (
        which.order_by(order)
        .limit(literal_column(str(MOST_ROWS)))
        .offset(bindparam("seen", type_=BigInteger()))
        .with_for_update(skip_locked=True, key_share=True)
    )


# The join locks their proposals too, because these are moved.
_EXPIRED_LEASES = _taken(
    _expired_leases().join_from(RECORDS, PROPOSALS, _P.id == _R.proposal_id), _R.lease_expires_at
)
_UNLEASED = _taken(_unleased(), _R.id)
_UNRECORDED = _taken(_unrecorded(), _P.id)
_PAST_EXPIRY = _taken(_past_expiry(), _P.expires_at)
_LAPSED = _taken(_lapsed(), _P.lapses_at)
_HELD = _taken(_held(), _P.id)
_TO_RETRY = _taken(_to_retry(), _P.next_retry_at)
_TO_RETRY_ANY = _taken(_to_retry(halts=False), _P.next_retry_at)

_END_RECORDS = (
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
    # Ids of events decide, because times may be equal: a record of an earlier execution ended before this one began.
    .join_from(RECORDS, EVENTS, _E.record_id == _R.id)
    .where(
        listed(_R.proposal_id, "ids"),
        _E.proposal_id == _R.proposal_id,
        _E.event_type == EventType.RECORD_FINISHED.value,
        _E.id > _BEGAN,
        _R.success.is_not(None),
        # A record with a later one does not belong to the current execution, whenever it ended.
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
            end_code=EndCode.EXPIRED,
            cancelled_at=utcnow(),
            status_changed_by=LEDGER,
            status_reason=TOO_LATE,
        )
    )
    .returning(_P.id)
)


def _retry(*which: Any) -> ReturningUpdate[int]:
    """Moves proposals whose retry is due back to `validated`."""
    return (
        update(PROPOSALS)
        .where(*which)
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


_RETRY = _retry(listed(_P.id, "ids"))
_RETRY_ONE = _retry(
    _P.id == bindparam("proposal", type_=BigInteger()),
    any_of([ActionStatus.FAILED]),
    _P.next_retry_at <= written_now(),
    approved(),
)


def overdue(*, halts: bool = True) -> Any:
    """Whether there is something for `sweep` to do, without `halts` also for what an open one covers."""
    return or_(
        _past_expiry().exists(),
        _to_retry(halts=halts).exists(),
        _expired_leases().exists(),
        _lapsed().exists(),
        _held(halts=halts).exists(),
    )


_ANYTHING = select(overdue(halts=False))


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
    """Ends executions whose lease has expired, with an unknown outcome, and returns their records in the order of ids.

    Their proposals fail, and those with retries left get the time of the retry. `older_than`, in seconds, includes
    executions without a lease that are at least that old. An open record ends with an unknown outcome. If no record
    is open, the proposal gets the outcome of its last record, or a record with an unknown outcome is written. A
    record that can't be read is ended too, logged, and not returned.
    """
    each = Sweep(conn)
    rows = [
        *each.end(
            _EXPIRED_LEASES, partial(_end_records, by=by, why=SILENCE, reason=reason), "end record"
        )
    ]
    if older_than is not None:
        end_records = partial(_end_records, by=by, why=ABANDONED, reason=reason)
        rows += each.end(_UNLEASED, end_records, "end record", since=-older_than)
        end_proposals = partial(_end_unrecorded, by=by, reason=reason)
        rows += each.end(_UNRECORDED, end_proposals, "end proposal", since=-older_than)
    return sorted(to_listing(rows, to_record), key=lambda record: record.id)


def sweep(conn: Connection) -> None:
    """Recovers expired leases, cancels expired proposals, and moves proposals whose retry is due to `validated`.

    Rows that another transaction has locked stay unchanged. So do rows that the database refuses to change, with an
    error in the log.
    """
    # On SQLite, each claim sweeps: one look takes a fraction of the time of five.
    if is_sqlite(conn) and not fetch(conn, _ANYTHING, {})[0][0]:
        return
    each = Sweep(conn)
    each.end(_EXPIRED_LEASES, partial(_end_records, by=LEDGER, why=SILENCE), "end record")
    each.end(_PAST_EXPIRY, _cancel_expired, "cancel proposal")
    each.end(_LAPSED, end_lapsed, "cancel proposal")
    each.end(_HELD, release, "validate proposal")
    halts = not is_sqlite(conn) or is_any_open(conn)
    each.end(_TO_RETRY if halts else _TO_RETRY_ANY, _put_back, "retry proposal")


def _end_records(
    conn: Connection, ids: Sequence[int], *, by: str, why: str, reason: str | None = None
) -> Sequence[Row[Any]]:
    rows = conn.execute(_END_RECORDS, {"ids": ids, "by": by, "why": why}).all()
    _fail_proposals(conn, rows, by, why, reason)
    return rows


def _fail_proposals(
    conn: Connection, rows: Sequence[Row[Any]], by: str, why: str, reason: str | None
) -> None:
    if rows:
        parameters = {"by": by, "why": why, "for_reason": reason}
        proposals = [{"proposal": row.proposal_id, "record": row.id, **parameters} for row in rows]
        conn.execute(end_proposal(EndCode.OUTCOME_UNKNOWN), proposals)


def _end_unrecorded(
    conn: Connection, ids: Sequence[int], *, by: str, reason: str | None
) -> Sequence[Row[Any]]:
    known = {row.proposal_id: row for row in conn.execute(_LAST_RECORDS, {"ids": ids})}
    moved: list[Row[Any]] = []
    for row in known.values():
        parameters = {
            "proposal": row.proposal_id,
            "record": row.id,
            "by": by,
            "why": row.error_message,
            "for_reason": reason,
        }
        end_code = None if row.success else EndCode.FAILED
        if conn.execute(end_proposal(end_code), parameters).rowcount:
            moved.append(row)
    parameters = {"ids": [id_ for id_ in ids if id_ not in known], "by": by, "why": ABANDONED}
    written = conn.execute(_RECORD_UNKNOWN, parameters).all()
    _fail_proposals(conn, written, by, ABANDONED, reason)
    return [*moved, *written]


def _cancel_expired(conn: Connection, ids: Sequence[int]) -> Sequence[Row[Any]]:
    return conn.execute(_CANCEL_EXPIRED, {"ids": ids}).all()


def put_back(conn: Connection, id: int) -> None:
    """Moves a failed proposal back to `validated` if its retry is due."""
    conn.execute(_RETRY_ONE, {"proposal": id})


def _put_back(conn: Connection, ids: Sequence[int]) -> Sequence[Row[Any]]:
    return conn.execute(_RETRY, {"ids": ids}).all()
