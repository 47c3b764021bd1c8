"""Conditions that pass over what a limit or an exclusive key keeps from starting, and the errors that say so."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Text,
    bindparam,
    exists,
    func,
    literal_column,
    or_,
    select,
    true,
)

from operator_core.actions.errors import ExclusiveBusy, LimitReached
from operator_core.actions.types import Limit, StoredProposal
from operator_core.db.sql.base import UTCDateTime
from operator_core.db.sql.execution import fetch
from operator_core.db.sql.functions import amount_in, counts_under, holds_key, used_starts, used_sum
from operator_core.db.sql.rows import LIMIT_COLUMNS, decode_time, to_limit
from operator_core.db.sql.tables import LIMITS, PROPOSALS, STARTS

__all__ = [
    "REFUSALS",
    "Use",
    "admitted",
    "any_limit",
    "check_limits",
    "free_at",
    "is_any_limit_open",
    "unexclusive",
    "unlimited",
    "uses",
]

_L = LIMITS.c
_P = PROPOSALS.c
_S = STARTS.c

REFUSALS: Final = ("action_proposals_limit_reached", "action_proposals_exclusive_busy")
"""What the messages of refusals by the schema begin with."""

_ONE = literal_column("1", Integer())

_USAGE = (
    select(
        _L.action_name,
        _L.agent_id,
        _L.max_starts,
        _L.sum_of,
        _L.max_sum,
        used_starts(_L.id, _L.window).label("starts"),
        used_sum(_L.id, _L.window).label("spent"),
    )
    .where(_L.removed_at.is_(None))
    .cte("usage")
    # Counted once in a statement, and not for each proposal.
    .prefix_with("MATERIALIZED", dialect="postgresql")
)
_U = _USAGE.c


def any_limit() -> ColumnElement[bool]:
    """Whether a limit is open."""
    return exists(select(_ONE).select_from(LIMITS).where(_L.removed_at.is_(None)))


def unlimited() -> ColumnElement[bool]:
    """Whether a proposal fits every limit that covers it, at the statement's time.

    While no limit is open, that is one look at an empty table for the whole statement.
    """
    too_much = amount_in(_P.parameters, _U.sum_of) > _U.max_sum - _U.spent
    reached = (
        select(_ONE)
        .select_from(_USAGE)
        .where(
            counts_under(_U.action_name, _U.agent_id, _P.action_name, _P.agent_id),
            or_(
                _U.starts >= _U.max_starts,
                _U.spent >= _U.max_sum,
                _U.sum_of.is_not(None) & func.coalesce(too_much, true()),
            ),
        )
        .correlate(PROPOSALS)
    )
    return or_(~any_limit(), ~exists(reached))


def unexclusive() -> ColumnElement[bool]:
    """Whether no other proposal with the same exclusive key is executing.

    By a scalar subquery, which runs for each row: PostgreSQL's planner may evaluate an EXISTS for all rows at once.
    """
    other = PROPOSALS.alias("exclusive")
    holder = (
        select(other.c.id)
        .where(
            other.c.exclusive_key == _P.exclusive_key,
            holds_key(other.c.status),
        )
        .limit(_ONE)
        .correlate(PROPOSALS)
        .scalar_subquery()
    )
    return or_(_P.exclusive_key.is_(None), holder.is_(None))


_ANY_OPEN = select(_ONE).select_from(LIMITS).where(_L.removed_at.is_(None)).limit(_ONE)


def is_any_limit_open(conn: Connection) -> bool:
    """Whether a limit is open: on SQLite, as for `is_any_open` of halts."""
    return bool(fetch(conn, _ANY_OPEN, {}))


class Use(NamedTuple):
    """A limit, and what is used of it."""

    limit: Limit
    starts: int
    spent: int

    def fits(self, amount: int | None) -> bool:
        """Whether a start that needs `amount` fits."""
        limit = self.limit
        if limit.max_starts is not None and self.starts >= limit.max_starts:
            return False
        if limit.max_sum is None:
            return True
        return self.spent < limit.max_sum and (
            amount is not None and amount <= limit.max_sum - self.spent
        )


_USES = (
    select(*LIMIT_COLUMNS, used_starts(_L.id, _L.window), used_sum(_L.id, _L.window))
    .where(_L.removed_at.is_(None))
    .order_by(_L.id)
)


def uses(conn: Connection) -> list[Use]:
    """The open limits with what is used of each, in the order of their ids."""
    width = len(LIMIT_COLUMNS)
    return [Use(to_limit(row[:width]), *row[width:]) for row in conn.execute(_USES)]


def admitted(conn: Connection, found: Sequence[StoredProposal]) -> list[StoredProposal]:
    """Those of the proposals, each of which may start alone, that may start together, in their order."""
    keys: set[str] = set()
    used = uses(conn)
    chosen: list[StoredProposal] = []
    for proposal in found:
        if proposal.exclusive_key in keys:
            continue
        amounts = [
            use.limit.amount_of(proposal) if use.limit.covers(proposal) else None for use in used
        ]
        covered = [use.limit.covers(proposal) for use in used]
        if not all(
            use.fits(amount)
            for use, amount, counts in zip(used, amounts, covered, strict=True)
            if counts
        ):
            continue
        used = [
            use._replace(starts=use.starts + 1, spent=use.spent + (amount or 0)) if counts else use
            for use, amount, counts in zip(used, amounts, covered, strict=True)
        ]
        if proposal.exclusive_key is not None:
            keys.add(proposal.exclusive_key)
        chosen.append(proposal)
    return chosen


_OLDEST_OF = (
    select(_S.started_at)
    .where(_S.limit_id == bindparam("limit", type_=BigInteger()), _S.given_back_at.is_(None))
    .order_by(_S.place.desc())
    .limit(_ONE)
    .offset(bindparam("newer", type_=BigInteger()))
)
_LATER = (
    select(_S.started_at, _S.place, func.sum(_S.amount).over(order_by=_S.place.desc()).label("sum"))
    .where(
        _S.limit_id == bindparam("limit", type_=BigInteger()),
        _S.given_back_at.is_(None),
        _S.started_at > bindparam("since", type_=UTCDateTime()),
    )
    .subquery("later")
)
_FIRST_TOO_MUCH = (
    select(_LATER.c.started_at)
    .where(_LATER.c.sum > bindparam("room", type_=BigInteger()))
    .order_by(_LATER.c.place.desc())
    .limit(_ONE)
)


def free_at(conn: Connection, use: Use, amount: int | None, now: datetime) -> datetime | None:
    """When a start that needs `amount` fits, if nothing else starts; None if it never does."""
    limit, window = use.limit, timedelta(seconds=use.limit.window)
    if amount is None or (limit.max_sum is not None and amount > limit.max_sum):
        return None
    times = [now]
    if limit.max_starts is not None and use.starts >= limit.max_starts:
        newer = limit.max_starts - 1
        times += _times(conn, _OLDEST_OF, {"limit": limit.id, "newer": newer}, window)
    if limit.max_sum is not None:
        room = limit.max_sum - max(amount, 1)
        values = {"limit": limit.id, "room": room, "since": now - window}
        times += _times(conn, _FIRST_TOO_MUCH, values, window)
    return max(times)


def _times(
    conn: Connection, which: Any, values: dict[str, Any], window: timedelta
) -> Iterable[datetime]:
    return [decode_time(time) + window for time in conn.scalars(which, values)]


_HOLDER = (
    select(_P.id)
    .where(
        _P.exclusive_key == bindparam("key", type_=Text()),
        holds_key(_P.status),
    )
    .limit(_ONE)
)


def check_limits(
    conn: Connection, proposal: StoredProposal, allowed: Sequence[str], now: datetime
) -> None:
    """Raises `ExclusiveBusy` or `LimitReached` if one of them keeps the proposal from starting."""
    key = proposal.exclusive_key
    if key is not None:
        holder = conn.scalar(_HOLDER, {"key": key})
        if holder is not None and holder != proposal.id:
            raise ExclusiveBusy(
                proposal.id, proposal.status.value, allowed, key=key, proposal_id=holder
            )
    for use in uses(conn):
        limit = use.limit
        if not limit.covers(proposal):
            continue
        amount = limit.amount_of(proposal)
        if use.fits(amount):
            continue
        of_starts = limit.max_starts is not None and use.starts >= limit.max_starts
        raise LimitReached(
            proposal.id,
            proposal.status.value,
            allowed,
            limit_id=limit.id,
            name=limit.name,
            used=use.starts if of_starts else use.spent,
            retry_at=free_at(conn, use, amount, now),
        )
