"""Units of work that read the history. Only triggers write it."""

import logging
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Connection, bindparam, func, literal_column, select, tuple_

from operator_core.actions.errors import CorruptRow, ForeignTransactions, NotFound
from operator_core.actions.types import ActionEvent
from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sql.planner_hints import unseen
from operator_core.db.sql.rows import EVENT_COLUMNS, Listing, to_event, to_listing
from operator_core.db.sql.tables import EVENTS

__all__ = ["START", "Page", "Position", "list_events", "newest_event", "next_events", "position_of"]

logger = logging.getLogger(__name__)

_ROW = EVENTS.c

_SELECT = select(*EVENT_COLUMNS)


def list_events(
    conn: Connection,
    proposal_id: int | None = None,
    *,
    after: int | None = None,
    limit: int | None = None,
) -> Listing[ActionEvent]:
    """The events of one proposal or of the ledger, oldest first, with ids above `after` only."""
    query = _SELECT
    if proposal_id is not None:
        query = query.where(_ROW.proposal_id == proposal_id)
    if after is not None:
        query = query.where(_ROW.id > after)
    rows = conn.execute(query.order_by(_ROW.id).limit(limit)).all()
    return to_listing(rows, to_event)


class Position(NamedTuple):
    """The position of a follower: after this event of this transaction."""

    transaction_id: int
    id: int


START = Position(0, 0)


class Page(NamedTuple):
    """Events in the order of a follower, the position after them, and whether some events are held back."""

    events: list[ActionEvent]
    position: Position
    held_back: bool


# PostgreSQL assigns an id when a row is written and shows the row when its transaction commits, in any order. Events of
# transactions older than all running ones are complete: in the order of transactions, no event can precede them later
# (PostgreSQL manual, 9.27, pg_snapshot_xmin). On SQLite, writers run one at a time, so the order of ids is the order of
# commits, also for the reader's own open transaction.
_HORIZON = literal_column("pg_snapshot_xmin(pg_current_snapshot())::text::bigint", BigInteger())
_BEHIND = tuple_(_ROW.transaction_id, _ROW.id) > tuple_(
    bindparam("transaction_id", type_=BigInteger()), bindparam("id", type_=BigInteger())
)
_ORDER = (_ROW.transaction_id, _ROW.id)
_LIMIT = bindparam("limit", type_=BigInteger())
_NEXT = select(_ROW.transaction_id, *EVENT_COLUMNS)
_NEXT_ON_SERVER = (
    _NEXT.where(_BEHIND, _ROW.transaction_id < _HORIZON).order_by(*_ORDER).limit(_LIMIT)
)
_NEXT_ON_SQLITE = (
    _NEXT.where(_ROW.id > bindparam("id", type_=BigInteger()))
    .order_by(_ROW.id)
    .limit(unseen(_LIMIT))
)
_HELD_BACK = select(select(_ROW.id).where(_BEHIND, _ROW.transaction_id >= _HORIZON).exists())
# Events of the reader's own open transaction may be among them, which is not an error.
_FOREIGN = select(
    select(_ROW.id)
    .where(
        _ROW.transaction_id
        >= literal_column("pg_snapshot_xmax(pg_current_snapshot())::text::bigint", BigInteger()),
        _ROW.transaction_id.is_distinct_from(
            literal_column("pg_current_xact_id_if_assigned()::text::bigint", BigInteger())
        ),
    )
    .exists()
)
_NEWEST_ON_SERVER = (
    select(_ROW.id)
    .where(_ROW.transaction_id < _HORIZON)
    .order_by(*(column.desc() for column in _ORDER))
    .limit(1)
)


def next_events(conn: Connection, position: Position, limit: int) -> Page:
    """The next `limit` events after `position`; no event can precede them later."""
    server = not is_sqlite(conn)
    parameters: dict[str, Any] = {"id": position.id, "limit": limit}
    if server:
        parameters["transaction_id"] = position.transaction_id
    rows = conn.execute(_NEXT_ON_SERVER if server else _NEXT_ON_SQLITE, parameters).all()
    events: list[ActionEvent] = []
    for row in rows:
        try:
            events.append(to_event(row[1:]))
        except CorruptRow as error:
            logger.warning("%s", error)
    if rows:
        return Page(events, Position(rows[-1].transaction_id, rows[-1].id), held_back=False)
    if not server:
        return Page([], position, held_back=False)
    _check_order(conn)
    del parameters["limit"]
    return Page([], position, held_back=bool(conn.scalar(_HELD_BACK, parameters)))


def _check_order(conn: Connection) -> None:
    """Raises `ForeignTransactions` for events with transaction ids above every transaction of this server."""
    if conn.scalar(_FOREIGN):
        raise ForeignTransactions


def position_of(conn: Connection, event_id: int) -> Position:
    """The position of a follower whose last event is this one; raises `NotFound`, `ForeignTransactions`."""
    if not is_sqlite(conn):
        _check_order(conn)
    if event_id == 0:
        return START
    found = conn.scalar(select(_ROW.transaction_id).where(_ROW.id == event_id))
    if found is None:
        raise NotFound("event", event_id)
    return Position(found, event_id)


def newest_event(conn: Connection) -> int:
    """The id of the last event in the order of a follower, or 0."""
    sqlite = is_sqlite(conn)
    return conn.scalar(select(func.max(_ROW.id)) if sqlite else _NEWEST_ON_SERVER) or 0
