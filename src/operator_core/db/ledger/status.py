"""Units of work that move proposals along their lifecycle: the UPDATE itself carries the guard."""

from collections.abc import Iterable
from functools import cache
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Text,
    bindparam,
    false,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from operator_core.actions.errors import (
    Busy,
    DependencyPending,
    Expired,
    InvalidTransition,
    NotDue,
    NotFound,
    VersionConflict,
)
from operator_core.actions.lifecycle import TRANSITIONS, sources_of
from operator_core.actions.types import ActionStatus
from operator_core.db.sql.functions import strictly_after, utcnow, written_now
from operator_core.db.sql.planner_hints import few, nearly_all
from operator_core.db.sql.rows import decode_time
from operator_core.db.sql.tables import DEPENDENCIES, PROPOSALS
from operator_core.db.sql.unit import UNANSWERED, Shortcut, SingleStatement

__all__ = [
    "Move",
    "any_of",
    "may_start",
    "move_proposal",
    "moved",
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
    if not given:
        # An empty list is text that SQLAlchemy alone can complete, for each execution anew.
        return false()
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


def may_start() -> list[ColumnElement[bool]]:
    """Whether a validated proposal may start by the time of the statement: the guard of the schema, as conditions."""
    return [
        or_(_ROW.scheduled_at.is_(None), written_now() >= _ROW.scheduled_at),
        or_(_ROW.expires_at.is_(None), _ROW.expires_at > written_now()),
        or_(_ROW.depends_on.is_(None), _unfinished().is_(None)),
    ]


def _unfinished() -> Any:
    """A proposal that another depends on and that is not completed.

    By a subquery that is run for each row: PostgreSQL's planner may answer an EXISTS for all at once.
    """
    needed = PROPOSALS.alias("needed")
    return (
        select(needed.c.id)
        .join_from(DEPENDENCIES, needed, needed.c.id == DEPENDENCIES.c.depends_on_id)
        .where(
            DEPENDENCIES.c.proposal_id == _ROW.id,
            few(DEPENDENCIES.c.depends_on_id),
            nearly_all(needed.c.status != literal_column(f"'{ActionStatus.COMPLETED.value}'")),
        )
        .limit(literal_column("1"))
        .correlate(PROPOSALS)
        .scalar_subquery()
    )


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

    Raises `NotFound`, `InvalidTransition` (`NotDue`, `Expired` or `DependencyPending` for one that may not
    start yet or any more), or `VersionConflict`; `Busy` if others move it back and forth so fast that no attempt finds
    it where it was.
    """
    for _ in range(_MOVES):
        if conn.execute(move.statement, move.parameters).one_or_none() is not None:
            return
        found = conn.execute(_WHERE_IT_IS, {"wanted": move.id}).one_or_none()
        if found is None:
            raise NotFound("proposal", move.id)
        if move.expected_version not in (None, found.version):
            raise VersionConflict(move.id, move.expected_version or 0, found.version)
        # On a server another may have moved it meanwhile to where the move would be allowed.
        if found.status not in move.sources:
            raise InvalidTransition(move.id, found.status, move.status, _allowed(found.status))
        if move.status is ActionStatus.EXECUTING:
            _check_start(conn, move.id, found)
    raise Busy(None, "a proposal that others keep moving, or that this role may not change")


def _check_start(conn: Connection, id: int, found: Any) -> None:
    """Raises what keeps a proposal from starting, if something does."""
    here = id, found.status, _allowed(found.status)
    if found.early:
        raise NotDue(*here, decode_time(found.scheduled_at))
    if found.late:
        raise Expired(*here, decode_time(found.expires_at))
    if pending := conn.scalars(_PENDING_NEEDS, {"wanted": id}).all():
        raise DependencyPending(*here, pending)


def move_proposal(move: Move) -> SingleStatement[None]:
    """`update_proposal_status` as the one statement that it is where the move is allowed."""
    return SingleStatement(
        lambda conn: update_proposal_status(conn, move),
        Shortcut(move.statement, move.parameters, lambda rows: None if rows else UNANSWERED),
    )


def _allowed(current: str) -> list[str]:
    return sorted({before.value: after for before, after in TRANSITIONS.items()}.get(current, ()))


_WANTED = bindparam("wanted", type_=BigInteger())

_WHERE_IT_IS = select(
    _ROW.status,
    _ROW.version,
    _ROW.scheduled_at,
    _ROW.expires_at,
    (_ROW.scheduled_at > written_now()).label("early"),
    (_ROW.expires_at <= written_now()).label("late"),
).where(_ROW.id == _WANTED)

_PENDING_NEEDS = (
    select(_ROW.id)
    .join_from(DEPENDENCIES, PROPOSALS, _ROW.id == DEPENDENCIES.c.depends_on_id)
    .where(DEPENDENCIES.c.proposal_id == _WANTED, _ROW.status != ActionStatus.COMPLETED.value)
    .order_by(_ROW.id)
)


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
    conditions = [any_of(sources), _ROW.id == _WANTED]
    if status is ActionStatus.EXECUTING:
        conditions += may_start()
    if versioned:
        conditions.append(_ROW.version == bindparam("expected"))
    return update(PROPOSALS).where(*conditions).values(moved(status, **stamps)).returning(_ROW.id)
