"""Units of work on the history, which triggers write and nobody changes: it is only read here."""

from sqlalchemy import Connection, select

from operator_core.actions.types import ActionEvent
from operator_core.db.rows import EVENT_COLUMNS, Listing, to_event, to_listing
from operator_core.db.tables import EVENTS

__all__ = ["list_events"]

_ROW = EVENTS.c

_SELECT = select(*EVENT_COLUMNS)


def list_events(
    conn: Connection,
    proposal_id: int | None = None,
    *,
    after: int | None = None,
    limit: int | None = None,
) -> Listing[ActionEvent]:
    """The events, of one proposal or of all, oldest first, ids above `after` only."""
    query = _SELECT
    if proposal_id is not None:
        query = query.where(_ROW.proposal_id == proposal_id)
    if after is not None:
        query = query.where(_ROW.id > after)
    rows = conn.execute(query.order_by(_ROW.id).limit(limit)).all()
    return to_listing(rows, to_event)
