"""Units of work that read, list and count proposals; each reads an index in its order."""

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
    literal_column,
    select,
    tuple_,
    union_all,
)

from operator_core.actions.errors import NotFound
from operator_core.actions.types import ActionStatus, StoredProposal
from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sql.execution import fetch
from operator_core.db.sql.planner_hints import unseen
from operator_core.db.sql.rows import PROPOSAL_COLUMNS, Listing, to_listing, to_proposal
from operator_core.db.sql.tables import PROPOSALS, RECORDS
from operator_core.db.sql.unit import Shortcut, SingleStatement

__all__ = [
    "FILTERS",
    "count_proposals",
    "find_call",
    "get_proposal",
    "known_proposal",
    "list_proposals",
    "read_proposal",
]

_ROW = PROPOSALS.c

_SELECT = select(*PROPOSAL_COLUMNS)
_GET = _SELECT.where(_ROW.id == bindparam("id"))


def get_proposal(conn: Connection, id: int) -> StoredProposal | None:
    """The proposal, or None; raises `CorruptRow`."""
    return _one(fetch(conn, _GET, {"id": id}))


def known_proposal(conn: Connection, id: int) -> StoredProposal:
    """The proposal; raises `NotFound` and `CorruptRow`."""
    found = get_proposal(conn, id)
    if found is None:
        raise NotFound("proposal", id)
    return found


def read_proposal(id: int) -> SingleStatement[StoredProposal | None]:
    """`get_proposal` as a `SingleStatement`."""
    return SingleStatement(lambda conn: get_proposal(conn, id), Shortcut(_GET, {"id": id}, _one))


def _one(rows: Sequence[Any]) -> StoredProposal | None:
    return to_proposal(rows[0]) if rows else None


def find_call(run_id: str, call_id: str) -> SingleStatement[StoredProposal | None]:
    """The proposal of a tool call in its run, or None; raises `CorruptRow`."""
    parameters = {"run_id": run_id, "call_id": call_id}
    return SingleStatement(
        lambda conn: _one(fetch(conn, _FIND_CALL, parameters)),
        Shortcut(_FIND_CALL, parameters, _one),
    )


_FIND_CALL = _SELECT.where(_ROW.run_id == bindparam("run_id"), _ROW.call_id == bindparam("call_id"))


def list_proposals(
    conn: Connection,
    statuses: Collection[ActionStatus] = (),
    *,
    limit: int | None = None,
    **filters: Any,
) -> Listing[StoredProposal]:
    """The proposals that match every filter, newest first; `FILTERS` has the names of the filters.

    Those that are None don't count.
    """
    values = {name: value for name, value in filters.items() if value is not None}
    if limit is not None:
        values["limit"] = limit
    newest = _newest if is_sqlite(conn) else _newest_on_server
    query = newest(frozenset(values), len(statuses))
    values |= {f"status_{n}": status.value for n, status in enumerate(sorted(statuses))}
    return to_listing(fetch(conn, query, values), to_proposal)


_EQUAL: Final = (
    "action_name",
    "ticket_id",
    "proposed_by",
    "requester_id",
    "requester_type",
    "agent_id",
    "run_id",
    "parent_id",
    "call_id",
    "traceparent",
    "end_code",
)
_FILTERS: Final = {
    **{name: _ROW[name] == bindparam(name, type_=_ROW[name].type) for name in _EQUAL},
    "before": _ROW.id < bindparam("before"),
    "actor": _ROW.status_changed_by == bindparam("actor"),
    "worker": select(RECORDS.c.id)
    .where(RECORDS.c.proposal_id == _ROW.id, RECORDS.c.worker == bindparam("worker"))
    .exists(),
    "created_after": _ROW.created_at >= bindparam("created_after", type_=_ROW.created_at.type),
    "created_before": _ROW.created_at < bindparam("created_before", type_=_ROW.created_at.type),
}
FILTERS: Final = tuple(_FILTERS)
"""The names of the filters besides the status: columns that must be equal, and conditions."""


@cache
def _newest(filters: frozenset[str], statuses: int) -> Select[Any]:
    """The query for these filters and this number of statuses; cached, as building it takes longer than running it."""
    query = _SELECT.where(*(_FILTERS[name] for name in sorted(filters & _FILTERS.keys())))
    limit = unseen(bindparam("limit", type_=Integer)) if "limit" in filters else None
    # One ordered read of the index for each status, merged: with `status IN (...)` the database would sort all
    # matching rows before it returns the first.
    # The value is an expression: SQLite would compare a parameter with the predicates of the partial indexes, and
    # therefore compile the statement again for each execution.
    values = [
        bindparam(f"status_{n}", type_=Text()) + literal_column("''", Text())
        for n in range(statuses)
    ]
    each = [
        query.where(_ROW.status == value).order_by(_ROW.id.desc()).limit(limit) for value in values
    ]
    if not each:
        return query.order_by(_ROW.id.desc()).limit(limit)
    if len(each) == 1:
        return each[0]
    merged = union_all(*(select(part.subquery()) for part in each)).subquery()
    return select(merged).order_by(merged.c.id.desc()).limit(limit)


# The first of these filters that is used decides which index is read: few proposals have the same parent, and many have
# the same proposer.
_LEADS: Final = (
    "parent_id",
    "run_id",
    "ticket_id",
    "requester_id",
    "agent_id",
    "end_code",
    "action_name",
    "status",
    "proposed_by",
)


@cache
def _newest_on_server(filters: frozenset[str], statuses: int) -> Select[Any]:
    """The same query, written so that PostgreSQL's planner must read the index of a filter.

    For ``status = $1 ORDER BY id DESC LIMIT $2`` it may read all proposals backwards until enough have matched: for a
    prepared statement it does not know how rare a value is. If the condition is a range in the order of the index,
    only that index returns the rows in that order.
    """
    status_values = [bindparam(f"status_{n}", type_=Text()) for n in range(statuses)]
    used = filters | {"status"} if status_values else filters
    lead = next((name for name in _LEADS if name in used), None)
    query = _SELECT.where(
        *(_FILTERS[name] for name in sorted(filters & _FILTERS.keys() - {lead, "before"}))
    )
    limit = bindparam("limit", type_=Integer) if "limit" in filters else None
    if lead is None:
        before = [_FILTERS["before"]] if "before" in filters else []
        return query.where(*before).order_by(_ROW.id.desc()).limit(limit)
    if lead != "status" and status_values:
        query = query.where(_ROW.status.in_(status_values))
    column = _ROW[lead]
    values = status_values if lead == "status" else [bindparam(lead, type_=column.type)]
    each = [
        query.where(column >= value, _up_to(column, value, "before" in filters))
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
    # A comparison of rows lets a later page start at its place in the index.
    return tuple_(column, _ROW.id) < tuple_(value, bindparam("before", type_=BigInteger()))


def count_proposals(conn: Connection, **filters: Any) -> dict[ActionStatus, int]:
    """The number of proposals in each status that match every filter; an unknown status is not counted."""
    values = {name: value for name, value in filters.items() if value is not None}
    found = fetch(conn, _counted(frozenset(values)), values)
    counted = {str(status): count for status, count in found}
    return {status: counted.get(status, 0) for status in ActionStatus}


@cache
def _counted(filters: frozenset[str]) -> Select[Any, Any]:
    matching = (_FILTERS[name] for name in sorted(filters))
    return select(_ROW.status, func.count()).where(*matching).group_by(_ROW.status)
