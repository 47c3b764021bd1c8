"""Units of work that read, list and count proposals; each reads an index in its order."""

from collections.abc import Collection, Iterator, Sequence
from functools import cache
from typing import Any, Final

from pydantic_core import to_json
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
    or_,
    select,
    tuple_,
    type_coerce,
    union_all,
)

from operator_core.actions.errors import NotFound
from operator_core.actions.types import ActionStatus, StoredProposal
from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sql.execution import fetch
from operator_core.db.sql.functions import contains
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
    oldest_first: bool = False,
    limit: int | None = None,
    **filters: Any,
) -> Listing[StoredProposal]:
    """The proposals that match every filter, newest first unless `oldest_first`; `FILTERS` has the filters' names.

    Those that are None don't count.
    """
    values = _used(filters)
    if limit is not None:
        values["limit"] = limit
    listed = _listed if is_sqlite(conn) else _listed_on_server
    query = listed(frozenset(values), len(statuses), oldest_first)
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
    "after": _ROW.id > bindparam("after"),
    "actor": _ROW.status_changed_by == bindparam("actor"),
    "worker": select(RECORDS.c.id)
    .where(RECORDS.c.proposal_id == _ROW.id, RECORDS.c.worker == bindparam("worker"))
    .exists(),
    "created_after": _ROW.created_at >= bindparam("created_after", type_=_ROW.created_at.type),
    "created_before": _ROW.created_at < bindparam("created_before", type_=_ROW.created_at.type),
    "search": or_(
        contains(type_coerce(_ROW.parameters, Text), bindparam("search_json", type_=Text)),
        contains(_ROW.reason, bindparam("search", type_=Text)),
        contains(_ROW.last_error, bindparam("search", type_=Text)),
    ),
}
FILTERS: Final = tuple(_FILTERS)
"""The names of the filters besides the status: columns that must be equal, and conditions."""


def _used(filters: dict[str, Any]) -> dict[str, Any]:
    values = {name: value for name, value in filters.items() if value is not None}
    if "search" in values:
        # As it is written inside a text of the stored JSON.
        values["search_json"] = to_json(values["search"]).decode()[1:-1]
    return values


def _ordered(*columns: ColumnElement[Any], oldest_first: bool) -> list[ColumnElement[Any]]:
    return [column if oldest_first else column.desc() for column in columns]


@cache
def _listed(filters: frozenset[str], statuses: int, oldest_first: bool) -> Select[Any]:
    """The query for these filters and this number of statuses; cached, as building it takes longer than running it."""
    conditions = {name: _FILTERS[name] for name in sorted(filters & _FILTERS.keys())}
    if "after" in conditions and (len(conditions) > 1 or statuses):
        # Otherwise SQLite takes the range for rare, and reads it instead of the index of a filter.
        conditions["after"] = func.likely(_FILTERS["after"])
    query = _SELECT.where(*conditions.values())
    limit = unseen(bindparam("limit", type_=Integer)) if "limit" in filters else None
    # One ordered read of the index for each status, merged: with `status IN (...)` the database would sort all
    # matching rows before it returns the first.
    # The value is an expression: SQLite would compare a parameter with the predicates of the partial indexes, and
    # therefore compile the statement again for each execution.
    values = [
        bindparam(f"status_{n}", type_=Text()) + literal_column("''", Text())
        for n in range(statuses)
    ]
    order = _ordered(_ROW.id, oldest_first=oldest_first)
    each = [query.where(_ROW.status == value).order_by(*order).limit(limit) for value in values]
    if not each:
        return query.order_by(*order).limit(limit)
    return _merged(each, limit, oldest_first)


def _merged(each: Sequence[Select[Any]], limit: Any, oldest_first: bool) -> Select[Any]:
    if len(each) == 1:
        return each[0]
    merged = union_all(*(select(part.subquery()) for part in each)).subquery()
    order = _ordered(merged.c.id, oldest_first=oldest_first)
    return select(merged).order_by(*order).limit(limit)


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
def _listed_on_server(filters: frozenset[str], statuses: int, oldest_first: bool) -> Select[Any]:
    """The same query, written so that PostgreSQL's planner must read the index of a filter.

    For ``status = $1 ORDER BY id DESC LIMIT $2`` it may read all proposals backwards until enough have matched: for a
    prepared statement it does not know how rare a value is. If the condition is a range in the order of the index,
    only that index returns the rows in that order.
    """
    status_values = [bindparam(f"status_{n}", type_=Text()) for n in range(statuses)]
    used = filters | {"status"} if status_values else filters
    lead = next((name for name in _LEADS if name in used), None)
    limits = {"before", "after"} & filters
    query = _SELECT.where(
        *(_FILTERS[name] for name in sorted(filters & _FILTERS.keys() - {lead} - limits))
    )
    limit = bindparam("limit", type_=Integer) if "limit" in filters else None
    if lead is None:
        order = _ordered(_ROW.id, oldest_first=oldest_first)
        return (
            query.where(*(_FILTERS[name] for name in sorted(limits))).order_by(*order).limit(limit)
        )
    if lead != "status" and status_values:
        query = query.where(_ROW.status.in_(status_values))
    column = _ROW[lead]
    values = status_values if lead == "status" else [bindparam(lead, type_=column.type)]
    order = _ordered(column, _ROW.id, oldest_first=oldest_first)
    each = [
        query.where(*_range(column, value, limits)).order_by(*order).limit(limit)
        for value in values
    ]
    return _merged(each, limit, oldest_first)


def _range(
    column: ColumnElement[Any], value: ColumnElement[Any], limits: Collection[str]
) -> Iterator[ColumnElement[bool]]:
    """The place of a value in its index. A comparison of rows lets a later page start at its place there."""
    place = tuple_(column, _ROW.id)
    if "after" in limits:
        yield place > tuple_(value, bindparam("after", type_=BigInteger()))
    else:
        yield column >= value
    if "before" in limits:
        yield place < tuple_(value, bindparam("before", type_=BigInteger()))
    else:
        yield column <= value


def count_proposals(conn: Connection, **filters: Any) -> dict[ActionStatus, int]:
    """The number of proposals in each status that match every filter; an unknown status is not counted."""
    values = _used(filters)
    found = fetch(conn, _counted(frozenset(values)), values)
    counted = {str(status): count for status, count in found}
    return {status: counted.get(status, 0) for status in ActionStatus}


@cache
def _counted(filters: frozenset[str]) -> Select[Any, Any]:
    matching = (_FILTERS[name] for name in sorted(filters & _FILTERS.keys()))
    return select(_ROW.status, func.count()).where(*matching).group_by(_ROW.status)
