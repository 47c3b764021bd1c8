"""Units of work that set and remove limits, and that say what is used of them."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Text, bindparam, insert, select, text, update

from operator_core.actions.errors import NotFound
from operator_core.actions.types import Limit, LimitUse
from operator_core.db.ledger.limited import Use, free_at, uses
from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sql.functions import utcnow, written_now
from operator_core.db.sql.rows import LIMIT_COLUMNS, decode_time, to_limit
from operator_core.db.sql.tables import LIMITS

__all__ = ["LimitRequest", "list_limits", "remove_limit", "set_limit"]

_L = LIMITS.c


class LimitRequest(NamedTuple):
    """The values of a new limit."""

    name: str
    action_name: str | None
    agent_id: str | None
    window: float
    max_starts: int | None
    sum_of: Sequence[str | int] | None
    max_sum: int | None
    set_by: str
    reason: str


# The schema's own lock of a writer of limits, so that of two limits of one name at once the second replaces the first.
_LOCK = text("SELECT pg_advisory_xact_lock(7302915, 'action_limits'::regclass::oid::int4)")
_INSERT = insert(LIMITS).returning(*LIMIT_COLUMNS)
_REMOVE = (
    update(LIMITS)
    .where(_L.name == bindparam("of_name", type_=Text()), _L.removed_at.is_(None))
    .values(
        removed_at=utcnow(),
        removed_by=bindparam("by", type_=Text()),
        remove_reason=bindparam("why", type_=Text()),
    )
    .returning(*LIMIT_COLUMNS)
)


def set_limit(conn: Connection, request: LimitRequest) -> Limit:
    """Writes a limit, after the removal of the open one with this name."""
    if not is_sqlite(conn):
        conn.execute(_LOCK)
    _remove(conn, request.name, request.set_by, request.reason)
    values: dict[str, Any] = request._asdict()
    if request.sum_of is not None:
        values["sum_of"] = json.dumps(list(request.sum_of), separators=(",", ":"))
    return to_limit(conn.execute(_INSERT, values).one())


def remove_limit(conn: Connection, name: str, *, by: str, reason: str) -> Limit:
    """Removes the open limit of this name; raises `NotFound`."""
    removed = _remove(conn, name, by, reason)
    if not removed:
        raise NotFound("limit", name)
    return to_limit(removed[0])


def _remove(conn: Connection, name: str, by: str, why: str) -> Sequence[Any]:
    return conn.execute(_REMOVE, {"of_name": name, "by": by, "why": why}).all()


_REMOVED = select(*LIMIT_COLUMNS).where(_L.removed_at.is_not(None)).order_by(_L.id)


def list_limits(conn: Connection, *, active: bool) -> list[LimitUse]:
    """The open limits with what is used of each; all of them if not `active`."""
    now = decode_time(conn.scalar(select(written_now())))

    def used(use: Use) -> LimitUse:
        free = None if use.fits(1) else free_at(conn, use, 1, now)
        return LimitUse(*use, free)

    found = [used(use) for use in uses(conn)]
    if not active:
        found += [LimitUse(to_limit(row), 0, 0, None) for row in conn.execute(_REMOVED)]
    return sorted(found, key=lambda each: each.limit.id)
