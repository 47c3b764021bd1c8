"""Units of work for proposals whose approvals came too late, lapsed, or were held by a halt: for the sweep of a claim."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Text,
    and_,
    cast,
    func,
    literal_column,
    select,
    text,
    update,
)

from operator_core.actions.actors import LEDGER
from operator_core.actions.types import ActionStatus, EndCode
from operator_core.db.ledger.halted import unhalted
from operator_core.db.ledger.requirements import ask
from operator_core.db.ledger.status import any_of, moved
from operator_core.db.sql.arrays import listed
from operator_core.db.sql.functions import is_met, utcnow, written_now
from operator_core.db.sql.tables import APPROVAL_OPEN, DECISIONS, PROPOSALS

__all__ = ["HELD", "LAPSED", "end_lapsed", "release", "release_all"]

_P = PROPOSALS.c
_D = DECISIONS.c

LAPSED = and_(
    any_of([ActionStatus.PROPOSED, ActionStatus.VALIDATED, ActionStatus.FAILED]),
    _P.lapses_at <= written_now(),
)
"""Whether a proposal was not decided in time, or not started or retried while its approvals were good."""

HELD = and_(text(APPROVAL_OPEN), _P.approval == literal_column("'held'", Text()))
"""Whether a proposal has its approvals, and a halt has kept it from being validated."""


def _lapse(status: ActionStatus, code: EndCode, reason: str, *conditions: Any) -> Any:
    return (
        update(PROPOSALS)
        .where(listed(_P.id, "ids"), any_of([status]), _P.lapses_at <= written_now(), *conditions)
        .values(
            moved(
                ActionStatus.CANCELLED,
                cancelled_at=utcnow(),
                status_changed_by=LEDGER,
                status_reason=reason,
                end_code=code,
            )
        )
        .returning(_P.id)
    )


_UNDECIDED = _lapse(
    ActionStatus.PROPOSED,
    EndCode.UNDECIDED,
    "it was not decided in time",
    _P.approval == literal_column("'needed'", Text()),
)
_OVERDUE = _lapse(
    ActionStatus.VALIDATED,
    EndCode.APPROVAL_EXPIRED,
    "it was not started while its approvals were good",
    ~is_met(_P.id),
)


def end_lapsed(conn: Connection, ids: Sequence[int]) -> Sequence[Any]:
    """Cancels what was not decided or not started in time; an approval to spare may still be good enough."""
    ended = [*conn.execute(_UNDECIDED, {"ids": ids}), *conn.execute(_OVERDUE, {"ids": ids})]
    known = {row[0] for row in ended}
    rest = [id_ for id_ in ids if id_ not in known]
    if rest:
        ask(conn, rest)
    return [*ended, *((id_,) for id_ in rest)]


_LAST = (
    select(func.max(_D.id))
    .where(_D.proposal_id == _P.id, _D.kind == literal_column("'approved'", Text()))
    .correlate(PROPOSALS)
    .scalar_subquery()
)
_RELEASE = (
    update(PROPOSALS)
    .where(listed(_P.id, "ids"), HELD, unhalted(), is_met(_P.id))
    .values(
        moved(
            ActionStatus.VALIDATED,
            validated_at=utcnow(),
            next_retry_at=None,
            retry_count=_P.retry_count
            + literal_column("(CASE WHEN status = 'failed' THEN 1 ELSE 0 END)", BigInteger()),
            status_changed_by=LEDGER,
            status_reason="approved, and the halt is resumed",
            status_cause=literal_column("'{\"decision\":'", Text())
            + cast(_LAST, Text)
            + literal_column("'}'", Text()),
        )
    )
    .returning(_P.id)
)


def release(conn: Connection, ids: Sequence[int]) -> Sequence[Any]:
    """Validates what was approved while it was halted, unless an approval has lapsed meanwhile."""
    released = {row[0] for row in conn.execute(_RELEASE, {"ids": ids})}
    rest = [id_ for id_ in ids if id_ not in released]
    if rest:
        ask(conn, rest)
    return [(id_,) for id_ in ids]


_ALL_HELD = select(_P.id).where(HELD, unhalted()).order_by(_P.id)


def release_all(conn: Connection) -> None:
    """As `release`, for all that no halt covers any more."""
    ids = list(conn.scalars(_ALL_HELD))
    if ids:
        release(conn, ids)
