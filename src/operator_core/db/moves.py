"""Units of work that move proposals along their lifecycle: the UPDATE itself carries the guard."""

from collections.abc import Iterable
from functools import cache
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Text,
    and_,
    bindparam,
    case,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from operator_core.actions.errors import Busy, InvalidTransition, NotFound, VersionConflict
from operator_core.actions.lifecycle import PENDING_STATUSES, TRANSITIONS, sources_of
from operator_core.actions.types import ActionStatus
from operator_core.db.base import strictly_after, utcnow
from operator_core.db.plain import UNANSWERED, Plain
from operator_core.db.tables import PROPOSALS

__all__ = [
    "Move",
    "any_of",
    "cancel_pending",
    "moved",
    "plain_update",
    "update_proposal_status",
]

_ROW = PROPOSALS.c

_MOVES: Final = 10
"""How often a move is tried that the proposal's status allows when it is looked at afterwards."""


def any_of(statuses: Iterable[ActionStatus]) -> ColumnElement[bool]:
    """Whether a proposal is in one of these.

    In the text, so that a planner that plans for all values at once knows how few these are, and which
    partial index it may read; and a list of plain values would be rendered into the SQL anew for each call.
    """
    given = [literal_column(f"'{status.value}'", Text()) for status in sorted(statuses)]
    if len(given) == 1:
        # SQLite does not see that a list of one is what a partial index says.
        return _ROW.status == given[0]
    return _ROW.status.in_(given)


def moved(status: Any, **more: Any) -> dict[str, Any]:
    """What an UPDATE sets that moves a proposal; it says who acts and why in `more` or by parameters."""
    return {
        "status": status.value if isinstance(status, ActionStatus) else status,
        # A trigger tells by a moved time that the writer has said who acts.
        "status_changed_at": strictly_after(_ROW.status_changed_at),
        "updated_at": strictly_after(_ROW.updated_at),
        "version": _ROW.version + 1,
        **more,
    }


class Move(NamedTuple):
    """Where a proposal is to go, from wherever the lifecycle allows it or from `source` only."""

    id: int
    status: ActionStatus
    actor: str
    reason: str | None
    expected_version: int | None = None
    source: ActionStatus | None = None

    @property
    def sources(self) -> frozenset[ActionStatus]:
        """The statuses that it may be in before."""
        return sources_of(self.status) if self.source is None else frozenset({self.source})

    @property
    def statement(self) -> ReturningUpdate[tuple[int]]:
        """What moves it, if it is where the move is allowed; it takes the `parameters`."""
        return _move_one(self.status, self.sources, self.expected_version is not None)

    @property
    def parameters(self) -> dict[str, Any]:
        """Of the statement."""
        said = {"wanted": self.id, "status_changed_by": self.actor, "status_reason": self.reason}
        if self.expected_version is not None:
            said["expected"] = self.expected_version
        return said


def update_proposal_status(conn: Connection, move: Move) -> None:
    """Moves a proposal along its lifecycle.

    Raises `NotFound`, `InvalidTransition`, or `VersionConflict`; `Busy` if others move it back and
    forth so fast that no attempt finds it where it was.
    """
    for _ in range(_MOVES):
        if conn.execute(move.statement, move.parameters).one_or_none() is not None:
            return
        found = conn.execute(_WHERE_IT_IS, {"wanted": move.id}).one_or_none()
        if found is None:
            raise NotFound("proposal", move.id)
        current, version = found
        if move.expected_version not in (None, version):
            raise VersionConflict(move.id, move.expected_version or 0, version)
        # On a server another may have moved it meanwhile to where the move would be allowed.
        if current not in move.sources:
            raise _invalid(move.id, current, move.status)
    raise Busy(None, "a proposal that others keep moving, or that this role may not change")


def plain_update(move: Move) -> Plain[None]:
    """How a proposal is moved by one statement, if it is where the move is allowed."""
    return Plain(
        move.statement,
        move.parameters,
        lambda rows: None if rows else UNANSWERED,
        lambda conn: update_proposal_status(conn, move),
    )


def _invalid(id: int, current: str, status: ActionStatus) -> InvalidTransition:
    allowed = {before.value: after for before, after in TRANSITIONS.items()}.get(current, ())
    return InvalidTransition(id, current, status, sorted(allowed))


def cancel_pending(
    conn: Connection, *, actor: str, reason: str | None, workflow_id: int | None = None
) -> int:
    """Cancels what nobody has started and calls off what would be run again, in one statement; how many.

    All of the ledger, or of one workflow.
    """
    said: dict[str, Any] = {"status_changed_by": actor, "status_reason": reason}
    which: list[ColumnElement[bool]] = []
    if workflow_id is not None:
        said["workflow"] = workflow_id
        which = [_ROW.workflow_id == bindparam("workflow")]
    statement = _CANCEL_PENDING.where(*which)
    first = 0
    if conn.dialect.name == "sqlite":
        # SQLite's triggers run row by row: what depends on others goes before them, by hand, or it would be
        # cancelled for their sake and not for the reason that was given.
        # Sorted here: with an ORDER BY, SQLite may read all rows by their ids.
        ids = sorted(conn.scalars(_DEPENDANTS.where(*which), said), reverse=True)
        one = statement.where(_ROW.id == bindparam("wanted"))
        first = sum(conn.execute(one, {**said, "wanted": id_}).rowcount for id_ in ids)
    return first + conn.execute(statement, said).rowcount


_WHERE_IT_IS = select(_ROW.status, _ROW.version).where(_ROW.id == bindparam("wanted"))

_PENDING = any_of(PENDING_STATUSES)

_CANCEL_PENDING = (
    update(PROPOSALS)
    .where(or_(_PENDING, and_(any_of([ActionStatus.FAILED]), _ROW.next_retry_at.is_not(None))))
    .values(
        moved(
            case((_PENDING, ActionStatus.CANCELLED.value), else_=_ROW.status),
            cancelled_at=case((_PENDING, utcnow())),
            next_retry_at=None,
        )
    )
)
_DEPENDANTS = select(_ROW.id).where(_PENDING, _ROW.depends_on.is_not(None))


# Built once for each: SQLAlchemy takes five times as long to build one as to run it. Who moves what
# and why is given when it runs; a parameter named as a column is a column to set.


@cache
def _move_one(
    status: ActionStatus, sources: frozenset[ActionStatus], versioned: bool
) -> ReturningUpdate[tuple[int]]:
    stamps: dict[str, Any] = {}
    if status is ActionStatus.VALIDATED:
        # Due at once, if it is moved by hand.
        stamps = {"validated_at": utcnow(), "next_retry_at": None}
    if status is ActionStatus.EXECUTING:
        stamps = {"next_retry_at": None}
    if status is ActionStatus.CANCELLED:
        stamps = {"cancelled_at": utcnow()}
    conditions = [any_of(sources), _ROW.id == bindparam("wanted")]
    if versioned:
        conditions.append(_ROW.version == bindparam("expected"))
    return update(PROPOSALS).where(*conditions).values(moved(status, **stamps)).returning(_ROW.id)
