"""Units of work that move proposals along their lifecycle; the UPDATE itself contains the guard."""

from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Text,
    bindparam,
    false,
    func,
    literal_column,
    not_,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from operator_core.actions.actors import LEDGER, normalised
from operator_core.actions.errors import (
    AlreadyClaimed,
    Busy,
    DependencyPending,
    Expired,
    InvalidTransition,
    NotDue,
    NotFound,
    TransitionHalted,
    TransitionUnapproved,
    VersionConflict,
)
from operator_core.actions.lifecycle import TRANSITIONS, sources_of
from operator_core.actions.types import ActionStatus, EndCode
from operator_core.db.ledger.halted import covering_proposal, is_any_open, mode_of, unhalted
from operator_core.db.ledger.limited import (
    check_limits,
    is_any_limit_open,
    unexclusive,
    unlimited,
)
from operator_core.db.ledger.queries import get_proposal
from operator_core.db.ledger.requirements import (
    approved,
    ask,
    is_approved,
    missing_names,
    rejected_by,
)
from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sql.execution import fetch
from operator_core.db.sql.functions import strictly_after, utcnow, written_now
from operator_core.db.sql.planner_hints import few, nearly_all
from operator_core.db.sql.rows import decode_time
from operator_core.db.sql.sharing import calls_of, free_rows, together
from operator_core.db.sql.tables import DEPENDENCIES, PROPOSALS, RECORDS
from operator_core.db.sql.unit import UNANSWERED, Shared, Shortcut, SingleStatement

__all__ = [
    "HELD",
    "TOO_LATE",
    "Move",
    "any_of",
    "attributed",
    "cancel_proposal",
    "check_start",
    "may_start",
    "move_proposal",
    "moved",
    "update_proposal_status",
]

_ROW = PROPOSALS.c

HELD: Final = frozenset({ActionStatus.VALIDATED, ActionStatus.EXECUTING})
"""The statuses to which no proposal moves while a halt covers it."""

TOO_LATE: Final = "it was not started before it expired"
"""The reason of the cancellation of expired proposals."""

_MOVES: Final = 10
"""The number of attempts of a move that fails although the status, when read afterwards, allows it."""


def any_of(statuses: Iterable[ActionStatus]) -> ColumnElement[bool]:
    """Whether a proposal has one of these statuses.

    The statuses are literals in the SQL text. A planner that plans for all values at once then knows how rare they are,
    and which partial index it may read. SQLAlchemy would also render a list of bound values again for each call.
    """
    values = [literal_column(f"'{status.value}'", Text()) for status in sorted(statuses)]
    if not values:
        # SQLAlchemy would render an empty list again for each execution.
        return false()
    if len(values) == 1:
        # SQLite does not match a list of one value with the predicate of a partial index.
        return _ROW.status == values[0]
    return _ROW.status.in_(values)


def moved(
    status: ActionStatus,
    *,
    end_code: EndCode | ColumnElement[Any] | None = None,
    status_cause: str | ColumnElement[Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The columns that an UPDATE sets to move a proposal; actor and reason are in `more` or are bound parameters.

    The end code of a move to `cancelled` or `failed` is by default the one of the same name. `status_cause` is the id
    of what caused the move, as ``{"rule":3}``; see revision 0007 for the names.
    """
    if end_code is None:
        end_code = _END_CODES.get(status)
    if isinstance(end_code, EndCode):
        end_code = literal_column(f"'{end_code.value}'", Text())
    return {
        "status": status.value,
        "end_code": null() if end_code is None else end_code,
        "status_cause": null() if status_cause is None else status_cause,
        **attributed(**more),
    }


_END_CODES: Final = {
    ActionStatus.CANCELLED: EndCode.CANCELLED,
    ActionStatus.FAILED: EndCode.FAILED,
}


def attributed(**more: Any) -> dict[str, Any]:
    """The columns that an UPDATE sets besides actor and reason, for a move or for another time of a retry."""
    return {
        # A changed time tells the trigger that the writer has set the actor.
        "status_changed_at": strictly_after(_ROW.status_changed_at),
        "updated_at": strictly_after(_ROW.updated_at),
        "version": _ROW.version + 1,
        **more,
    }


def may_start() -> list[ColumnElement[bool]]:
    """The conditions under which a validated proposal may start at the statement's time: the schema's guard."""
    return [
        or_(_ROW.scheduled_at.is_(None), written_now() >= _ROW.scheduled_at),
        or_(_ROW.expires_at.is_(None), _ROW.expires_at > written_now()),
        or_(_ROW.depends_on.is_(None), _unfinished().is_(None)),
        approved(),
    ]


def _unfinished() -> Any:
    """A subquery for one proposal that is not completed and on which the row's proposal depends.

    It is a scalar subquery, which runs for each row: PostgreSQL's planner may evaluate an EXISTS for all rows at once.
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
    """A move of a proposal to `status`, from every status that the lifecycle allows or from `source` only."""

    id: int
    status: ActionStatus
    actor: str
    reason: str | None
    expected_version: int | None = None
    source: ActionStatus | None = None
    end_code: EndCode | None = None
    """None stands for the end code with the name of the status, if there is one."""

    @property
    def sources(self) -> frozenset[ActionStatus]:
        """The statuses from which the move is allowed."""
        return sources_of(self.status) if self.source is None else frozenset({self.source})

    @property
    def statement(self) -> ReturningUpdate[tuple[int]]:
        """The UPDATE that makes the move if the proposal's status allows it; its parameters are `parameters`."""
        return self._statement(asks=True)

    @property
    def statement_unasked(self) -> ReturningUpdate[tuple[int]]:
        """The same if no halt and no limit is open."""
        return self._statement(asks=False)

    def _statement(self, *, asks: bool) -> ReturningUpdate[tuple[int]]:
        versioned = self.expected_version is not None
        return _move_one(self.status, self.sources, versioned, self.end_code, asks=asks)

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of `statement`."""
        values = {
            "proposal": self.id,
            "status_changed_by": self.actor,
            "status_reason": self.reason,
        }
        if self.expected_version is not None:
            values["expected"] = self.expected_version
        return values


def update_proposal_status(conn: Connection, move: Move) -> None:
    """Moves a proposal along its lifecycle.

    Raises `NotFound`, `VersionConflict`, or `InvalidTransition`; its subclasses `NotDue`, `Expired` and
    `DependencyPending` are for a proposal that can't start yet or any longer, `LimitReached` and `ExclusiveBusy` for one that
    has to wait for others, and `TransitionHalted` is for one that a halt covers. Raises `Busy` if other writers move the
    proposal so often that every attempt fails.
    """
    asks = move.status in HELD and (
        not is_sqlite(conn)
        or is_any_open(conn)
        or (move.status is ActionStatus.EXECUTING and is_any_limit_open(conn))
    )
    statement = move.statement if asks else move.statement_unasked
    for _ in range(_MOVES):
        if fetch(conn, statement, move.parameters):
            return
        found = conn.execute(_CURRENT, {"proposal": move.id}).one_or_none()
        if found is None:
            raise NotFound("proposal", move.id)
        if move.expected_version not in (None, found.version):
            raise VersionConflict(move.id, move.expected_version or 0, found.version)
        # On a server, another writer may have moved it to an allowed status after the UPDATE. Then the loop retries.
        if found.status not in move.sources:
            raise InvalidTransition(move.id, found.status, move.status, _allowed(found.status))
        if move.status in HELD:
            _check_halts(conn, move.id, found.status, move.status)
            if _check_approval(conn, move.id, found, move.status):
                ask(conn, [move.id])
        if move.status is ActionStatus.EXECUTING:
            _check_start(conn, move.id, found)
    raise Busy(None, "other writers keep moving the proposal, or this role may not change it")


def _check_halts(conn: Connection, id: int, status: str, to: ActionStatus) -> None:
    halts = covering_proposal(conn, id)
    if halts:
        raise TransitionHalted(
            id,
            status,
            to,
            _allowed(status),
            halt_ids=[halt.id for halt in halts],
            mode=mode_of(halts),
            scope=halts[0].scope,
        )


def _check_approval(conn: Connection, id: int, found: Any, to: ActionStatus) -> bool:
    """Raises `TransitionUnapproved` if an approval is missing; returns whether the row says so although none is.

    The row says when the first of the approvals lapses, and others may be good for longer.
    """
    if not found.unapproved:
        return False
    missing = missing_names(conn, id)
    if missing or not is_approved(conn, id):
        raise TransitionUnapproved(
            id,
            found.status,
            to,
            _allowed(found.status),
            missing=missing,
            rejected_by=rejected_by(conn, id),
        )
    return True


def _check_start(conn: Connection, id: int, found: Any) -> None:
    """Raises the error that says why a proposal can't start, if there is a reason."""
    here = id, found.status, _allowed(found.status)
    if found.early:
        raise NotDue(*here, decode_time(found.scheduled_at))
    if found.late:
        raise Expired(*here, decode_time(found.expires_at))
    if pending := conn.scalars(_PENDING_NEEDS, {"proposal": id}).all():
        raise DependencyPending(*here, pending)
    proposal = get_proposal(conn, id)
    if proposal is not None:
        check_limits(conn, proposal, here[2], decode_time(found.now))


def check_start(conn: Connection, id: int) -> bool:
    """Raises the error that says why a proposal can't be claimed now; returns if it can, or could a moment later.

    The result is whether it has failed and its retry is due. Raises `NotFound`, `InvalidTransition` with its
    subclasses, and `CorruptRow`.
    """
    found = conn.execute(_CURRENT, {"proposal": id}).one_or_none()
    if found is None:
        raise NotFound("proposal", id)
    # What can't be read can't be claimed.
    get_proposal(conn, id)
    allowed = _allowed(found.status)
    if found.status == ActionStatus.EXECUTING:
        raise AlreadyClaimed(id, allowed, conn.scalar(_WORKER, {"proposal": id}))
    if found.status == ActionStatus.FAILED and found.next_retry_at is not None:
        if found.paused:
            raise NotDue(id, found.status, allowed, decode_time(found.next_retry_at))
        _check_halts(conn, id, found.status, ActionStatus.VALIDATED)
        _check_approval(conn, id, found, ActionStatus.VALIDATED)
        return True
    if found.late and found.status_changed_by == LEDGER and found.status_reason == TOO_LATE:
        raise Expired(id, found.status, allowed, decode_time(found.expires_at))
    if found.end_code in _LAPSED:
        missing = missing_names(conn, id)
        raise TransitionUnapproved(
            id, found.status, ActionStatus.EXECUTING, allowed, missing=missing
        )
    if found.status in (ActionStatus.PROPOSED, ActionStatus.VALIDATED):
        _check_approval(conn, id, found, ActionStatus.EXECUTING)
    if found.status != ActionStatus.VALIDATED:
        raise InvalidTransition(id, found.status, ActionStatus.EXECUTING, allowed)
    _check_halts(conn, id, found.status, ActionStatus.EXECUTING)
    _check_start(conn, id, found)
    return False


def move_proposal(move: Move) -> SingleStatement[None]:
    """`update_proposal_status` as a `SingleStatement`: an allowed move needs one statement."""
    # A move that cancels dependent proposals waits for their locks.
    ends_badly = move.status in (ActionStatus.CANCELLED, ActionStatus.FAILED)
    return SingleStatement(
        lambda conn: update_proposal_status(conn, move),
        Shortcut(move.statement, move.parameters, lambda rows: None if rows else UNANSWERED),
        shared=None if ends_badly else _shared(move),
    )


def cancel_proposal(conn: Connection, move: Move) -> None:
    """`update_proposal_status` for a cancellation, which is a withdrawal if the proposer or the requester makes it."""
    # Neither of them ever changes.
    who = conn.execute(_PARTIES, {"proposal": move.id}).one_or_none()
    by = normalised(move.actor)
    if who is not None and any(normalised(each) == by for each in who if each is not None):
        move = move._replace(end_code=EndCode.WITHDRAWN)
    update_proposal_status(conn, move)


def _shared(move: Move) -> Shared[Any, None]:
    call = {
        "id": move.id,
        "actor": move.actor,
        "reason": move.reason,
        "version": move.expected_version,
    }
    return Shared(("move", move.status, move.source), _moves(move.status, move.sources), call)


@cache
def _moves(status: ActionStatus, sources: frozenset[ActionStatus]) -> Callable[..., Any]:
    return partial(together, statement=_move_many(status, sources), result=lambda row: None)


def _allowed(current: str) -> list[str]:
    return sorted({before.value: after for before, after in TRANSITIONS.items()}.get(current, ()))


_PROPOSAL_ID = bindparam("proposal", type_=BigInteger())

_LAPSED: Final = frozenset({EndCode.UNDECIDED.value, EndCode.APPROVAL_EXPIRED.value})

_CURRENT = select(
    _ROW.status,
    _ROW.end_code,
    _ROW.status_changed_by,
    _ROW.status_reason,
    _ROW.version,
    _ROW.scheduled_at,
    _ROW.expires_at,
    _ROW.next_retry_at,
    (_ROW.next_retry_at > written_now()).label("paused"),
    (_ROW.scheduled_at > written_now()).label("early"),
    (_ROW.expires_at <= written_now()).label("late"),
    written_now().label("now"),
    not_(approved()).label("unapproved"),
).where(_ROW.id == _PROPOSAL_ID)

_PARTIES = select(_ROW.proposed_by, _ROW.requester_id).where(_ROW.id == _PROPOSAL_ID)

_WORKER = (
    select(RECORDS.c.worker)
    .where(RECORDS.c.proposal_id == _PROPOSAL_ID, RECORDS.c.completed_at.is_(None))
    .order_by(RECORDS.c.id.desc())
    .limit(literal_column("1"))
)

_PENDING_NEEDS = (
    select(_ROW.id)
    .join_from(DEPENDENCIES, PROPOSALS, _ROW.id == DEPENDENCIES.c.depends_on_id)
    .where(DEPENDENCIES.c.proposal_id == _PROPOSAL_ID, _ROW.status != ActionStatus.COMPLETED.value)
    .order_by(_ROW.id)
)


# Each statement is built once and cached: SQLAlchemy takes five times as long to build one as to run it. The
# proposal, the actor and the reason are parameters; SQLAlchemy sets a column for each parameter with a column's name.


@cache
def _move_one(
    status: ActionStatus,
    sources: frozenset[ActionStatus],
    versioned: bool,
    end_code: EndCode | None,
    *,
    asks: bool,
) -> ReturningUpdate[tuple[int]]:
    conditions = [*_may_move(status, sources, asks), _ROW.id == _PROPOSAL_ID]
    if versioned:
        conditions.append(_ROW.version == bindparam("expected"))
    values = moved(status, end_code=end_code, **_stamps(status))
    return update(PROPOSALS).where(*conditions).values(values).returning(_ROW.id)


def _move_many(
    status: ActionStatus, sources: frozenset[ActionStatus]
) -> ReturningUpdate[tuple[int]]:
    """Moves the proposals that may move, except those that other transactions have locked."""
    calls = calls_of(
        {"id": BigInteger(), "actor": Text(), "reason": Text(), "version": BigInteger()}
    )
    as_expected = _ROW.version == func.coalesce(calls.c.version, _ROW.version)
    may_move = nearly_all(*_may_move(status, sources), as_expected)
    free = free_rows(calls, PROPOSALS, may_move, lock=[PROPOSALS])
    by = {"status_changed_by": free.c.actor, "status_reason": free.c.reason}
    return (
        update(PROPOSALS)
        .where(_ROW.id == free.c.id, few(free.c.id))
        .values(moved(status, **_stamps(status), **by))
        .returning(_ROW.id)
    )


def _may_move(
    status: ActionStatus, sources: frozenset[ActionStatus], asks: bool = True
) -> list[ColumnElement[bool]]:
    starts = status is ActionStatus.EXECUTING
    start = [*may_start(), unexclusive()] if starts else []
    if status is ActionStatus.VALIDATED:
        start = [approved()]
    held = [unhalted()] if asks and status in HELD else []
    if asks and starts:
        held.append(unlimited())
    return [any_of(sources), *start, *held]


def _stamps(status: ActionStatus) -> dict[str, Any]:
    """The columns that a move to `status` sets besides those of every move."""
    match status:
        case ActionStatus.VALIDATED:
            # A move by hand makes it due immediately.
            return {"validated_at": utcnow(), "next_retry_at": None}
        case ActionStatus.EXECUTING:
            return {"next_retry_at": None}
        case ActionStatus.CANCELLED:
            return {"cancelled_at": utcnow()}
        case _:
            return {}
