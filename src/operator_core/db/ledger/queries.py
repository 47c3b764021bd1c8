"""Units of work that read proposals: one, the newest that fit, how many; each reads an index in its order."""

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Select,
    Text,
    bindparam,
    func,
    select,
    tuple_,
    union_all,
)

from operator_core.actions.types import ActionStatus, StoredProposal
from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sql.rows import PROPOSAL_COLUMNS, Listing, to_listing, to_proposal
from operator_core.db.sql.tables import PROPOSALS
from operator_core.db.sql.unit import Shortcut, SingleStatement

__all__ = ["count_proposals", "get_proposal", "list_proposals", "read_proposal"]

_ROW = PROPOSALS.c

_SELECT = select(*PROPOSAL_COLUMNS)
_GET = _SELECT.where(_ROW.id == bindparam("id"))


def get_proposal(conn: Connection, id: int) -> StoredProposal | None:
    """The proposal, or None; raises `CorruptRow`."""
    return _one(conn.execute(_GET, {"id": id}).all())


def read_proposal(id: int) -> SingleStatement[StoredProposal | None]:
    """`get_proposal` as the one statement that it is."""
    return SingleStatement(lambda conn: get_proposal(conn, id), Shortcut(_GET, {"id": id}, _one))


def _one(rows: Sequence[Any]) -> StoredProposal | None:
    return to_proposal(rows[0]) if rows else None


def list_proposals(
    conn: Connection,
    statuses: Collection[ActionStatus] = (),
    *,
    action_name: str | None = None,
    ticket_id: int | None = None,
    proposed_by: str | None = None,
    before: int | None = None,
    limit: int | None = None,
) -> Listing[StoredProposal]:
    """The proposals that fit every given filter, newest first, ids below `before` only."""
    given = {
        "action_name": action_name,
        "ticket_id": ticket_id,
        "proposed_by": proposed_by,
        "before": before,
        "limit": limit,
    }
    given = {name: value for name, value in given.items() if value is not None}
    newest = _newest if is_sqlite(conn) else _newest_on_server
    query = newest(frozenset(given), len(statuses))
    wanted = {f"status_{n}": status.value for n, status in enumerate(sorted(statuses))}
    return to_listing(conn.execute(query, {**given, **wanted}), to_proposal)


_FILTERS = {
    "action_name": _ROW.action_name == bindparam("action_name"),
    "ticket_id": _ROW.ticket_id == bindparam("ticket_id"),
    "proposed_by": _ROW.proposed_by == bindparam("proposed_by"),
    "before": _ROW.id < bindparam("before"),
}


@cache
def _newest(given: frozenset[str], statuses: int) -> Select[Any]:
    """The query for these filters and so many statuses: built once, as it takes longer than to run."""
    query = _SELECT.where(*(_FILTERS[name] for name in sorted(given & _FILTERS.keys())))
    limit = bindparam("limit", type_=Integer) if "limit" in given else None
    # One ordered read of the index for each status, merged: `status IN (...)` would make the
    # database sort all that match before it gives back the first.
    each = [
        query.where(_ROW.status == bindparam(f"status_{n}")).order_by(_ROW.id.desc()).limit(limit)
        for n in range(statuses)
    ]
    if not each:
        return query.order_by(_ROW.id.desc()).limit(limit)
    if len(each) == 1:
        return each[0]
    merged = union_all(*(select(part.subquery()) for part in each)).subquery()
    return select(merged).order_by(merged.c.id.desc()).limit(limit)


# Of the filters that are given, the first is the one whose index is read; few proposals are for the same
# ticket, and many by the same proposer.
_LEADS: Final = ("ticket_id", "action_name", "status", "proposed_by")


@cache
def _newest_on_server(given: frozenset[str], statuses: int) -> Select[Any]:
    """The same, in words that leave PostgreSQL's planner no choice but the index of the filter.

    For ``status = $1 ORDER BY id DESC LIMIT $2`` it may read all proposals backwards until enough have
    matched: for a prepared statement it does not know how rare a value is. Said as a range, in the
    order of the index, nothing else can bring the rows in that order.
    """
    wanted = [bindparam(f"status_{n}", type_=Text()) for n in range(statuses)]
    lead = next((name for name in _LEADS if name in given or (name == "status" and wanted)), None)
    query = _SELECT.where(
        *(_FILTERS[name] for name in sorted(given & _FILTERS.keys() - {lead, "before"}))
    )
    limit = bindparam("limit", type_=Integer) if "limit" in given else None
    if lead is None:
        before = [_FILTERS["before"]] if "before" in given else []
        return query.where(*before).order_by(_ROW.id.desc()).limit(limit)
    if lead != "status" and wanted:
        query = query.where(_ROW.status.in_(wanted))
    column = _ROW[lead]
    values = wanted if lead == "status" else [bindparam(lead, type_=column.type)]
    each = [
        query.where(column >= value, _up_to(column, value, "before" in given))
        .order_by(column.desc(), _ROW.id.desc())
        .limit(limit)
        for value in values
    ]
    if len(each) == 1:
        return each[0]
    merged = union_all(*(select(part.subquery()) for part in each)).subquery()
    return select(merged).order_by(merged.c.id.desc()).limit(limit)


def _up_to(
    column: ColumnElement[Any], value: ColumnElement[Any], before: bool
) -> ColumnElement[bool]:
    if not before:
        return column <= value
    # Compared as rows, so that a later page starts in the index where it starts.
    return tuple_(column, _ROW.id) < tuple_(value, bindparam("before", type_=BigInteger()))


def count_proposals(conn: Connection) -> dict[ActionStatus, int]:
    """How many proposals stand in each status; a status that no code knows is not counted."""
    found = conn.execute(select(_ROW.status, func.count()).group_by(_ROW.status)).all()
    counted = {str(status): count for status, count in found}
    return {status: counted.get(status, 0) for status in ActionStatus}
