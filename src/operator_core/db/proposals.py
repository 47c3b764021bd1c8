"""Units of work on proposals: plain functions of a connection that never commit."""

from collections.abc import Collection, Sequence
from functools import cache
from operator import itemgetter
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Select,
    Text,
    Update,
    bindparam,
    cast,
    func,
    insert,
    literal_column,
    select,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate
from sqlalchemy.types import TypeEngine

from operator_core.actions.errors import InvalidTransition, InvalidValue, NotFound
from operator_core.actions.lifecycle import PENDING_STATUSES, TRANSITIONS, sources_of
from operator_core.actions.types import ActionProposal, ActionStatus
from operator_core.db.base import encode_json, strictly_after, utcnow
from operator_core.db.postgresql_errors import missing_key
from operator_core.db.rows import (
    PROPOSAL_COLUMNS,
    Listing,
    decode_time,
    to_listing,
    to_proposal,
)
from operator_core.db.tables import PROPOSALS, TICKETS

__all__ = [
    "MAX_ROWS",
    "Batch",
    "cancel_all_pending",
    "count_proposals",
    "create_proposals",
    "get_proposal",
    "list_proposals",
    "update_proposal_status",
]

_ROW = PROPOSALS.c

_INSERT = insert(PROPOSALS).values(status_changed_at=utcnow())
_CREATED = (_ROW.id, _ROW.created_at, _ROW.updated_at)
_INSERT_ONE = _INSERT.returning(*_CREATED)
_SELECT = select(*PROPOSAL_COLUMNS)
_GET = _SELECT.where(_ROW.id == bindparam("id"))


# Arrays, one for each column: the same statement for any number of rows, prepared once, where a VALUES
# list would be parsed and planned anew for each. PostgreSQL gives ids in the order of the SELECT.
_ARRAYS: Final[dict[str, TypeEngine[Any]]] = {
    "ticket_id": BigInteger(),
    "action_name": Text(),
    "action_type": Text(),
    "parameters": Text(),
    "reason": Text(),
    "status": Text(),
    "proposed_at": TIMESTAMP(timezone=True),
    "proposed_by": Text(),
    "validated_at": TIMESTAMP(timezone=True),
    "cancelled_at": TIMESTAMP(timezone=True),
    "status_changed_by": Text(),
}


def _insert_arrays() -> ReturningInsert[Any, Any, Any]:
    arrays = (bindparam(name, type_=ARRAY(kind)) for name, kind in _ARRAYS.items())
    rows = func.unnest(*arrays).table_valued(*_ARRAYS, with_ordinality="position").render_derived()
    given = [cast(rows.c[name], JSON) if name == "parameters" else rows.c[name] for name in _ARRAYS]
    return (
        insert(PROPOSALS)
        .from_select(
            [*_ARRAYS, "status_changed_at"],
            select(*given, utcnow()).order_by(rows.c.position),
        )
        .returning(*_CREATED)
    )


_INSERT_ARRAYS = _insert_arrays()

MAX_ROWS: Final = 10_000
"""How many proposals go in one statement; more need a transaction around several."""


class Batch(NamedTuple):
    """Proposals that one call wants written down, and the values of their rows."""

    proposals: list[ActionProposal]
    values: list[dict[str, Any]]

    def add(self, proposal: ActionProposal, *, actor: str, max_json_bytes: int) -> None:
        """Adds a checked copy of `proposal`, so that nothing can change between now and the INSERT.

        Checked again although it was when it was made: ``model_copy`` checks nothing, and a dict
        inside a frozen model can still be changed. Raises `InvalidValue`, also for a proposal that
        is in a ledger already.
        """
        checked = ActionProposal.model_validate(proposal.__dict__)
        self.values.append(_values(checked, actor, max_json_bytes))
        self.proposals.append(checked)

    @property
    def refers(self) -> bool:
        """Whether any of them is for a ticket, whose row somebody may hold locked."""
        return any(proposal.ticket_id is not None for proposal in self.proposals)


def create_proposals(conn: Connection, batches: Sequence[Batch]) -> list[list[ActionProposal]]:
    """Inserts the batches' proposals in order; returns them with their ids and the database's times.

    Raises `NotFound` for an unknown ticket; then none is inserted.
    """
    values = [each for batch in batches for each in batch.values]
    if not values:
        return [[] for _ in batches]
    try:
        created = iter(_insert(conn, values))
    except IntegrityError as error:
        missing = missing_key(error)
        if missing is not None:
            raise NotFound("ticket", missing) from None
        if conn.dialect.name == "sqlite":
            _require_tickets(conn, [proposal for batch in batches for proposal in batch.proposals])
        raise
    return [
        [_with_row(proposal, next(created)) for proposal in batch.proposals] for batch in batches
    ]


def _insert(conn: Connection, values: list[dict[str, Any]]) -> Sequence[Any]:
    if len(values) == 1:
        return conn.execute(_INSERT_ONE, values[0]).all()
    if conn.dialect.name == "sqlite":
        # SQLite takes the rows of VALUES in turn, and AUTOINCREMENT counts up: the order of the ids
        # is the order of the rows. SQLAlchemy knows no way to be sure and would insert one by one.
        return sorted(conn.execute(_INSERT_ONE, values).all(), key=itemgetter(0))
    created: list[Any] = []
    for start in range(0, len(values), MAX_ROWS):
        some = values[start : start + MAX_ROWS]
        arrays = {name: [row[name] for row in some] for name in _ARRAYS}
        created += sorted(conn.execute(_INSERT_ARRAYS, arrays).all(), key=itemgetter(0))
    return created


def _values(proposal: ActionProposal, actor: str, max_json_bytes: int) -> dict[str, Any]:
    if proposal.id is not None:
        raise InvalidValue("id", "must be None: the ledger gives it")
    if proposal.created_at is not None or proposal.updated_at is not None:
        raise InvalidValue("created_at", "and updated_at must be None: the ledger gives them")
    return {
        "ticket_id": proposal.ticket_id,
        "action_name": proposal.action_name,
        "action_type": proposal.action_type.value,
        "parameters": encode_json(proposal.parameters, "parameters", max_json_bytes),
        "reason": proposal.reason,
        "status": proposal.status.value,
        "proposed_at": proposal.proposed_at,
        "proposed_by": proposal.proposed_by,
        "validated_at": proposal.validated_at,
        "cancelled_at": proposal.cancelled_at,
        "status_changed_by": actor,
    }


def _with_row(proposal: ActionProposal, row: Sequence[Any]) -> ActionProposal:
    id_, created_at, updated_at = row
    return ActionProposal.from_stored(
        {
            **proposal.__dict__,
            "id": id_,
            "created_at": decode_time(created_at),
            "updated_at": decode_time(updated_at),
        }
    )


def _require_tickets(conn: Connection, proposals: Sequence[ActionProposal]) -> None:
    wanted = {proposal.ticket_id for proposal in proposals if proposal.ticket_id is not None}
    for ticket_id in sorted(wanted):
        if conn.scalar(select(TICKETS.c.id).where(TICKETS.c.id == ticket_id)) is None:
            raise NotFound("ticket", ticket_id) from None


def get_proposal(conn: Connection, id: int) -> ActionProposal | None:
    """The proposal, or None; raises `CorruptRow`."""
    row = conn.execute(_GET, {"id": id}).one_or_none()
    return None if row is None else to_proposal(row)


def list_proposals(
    conn: Connection,
    statuses: Collection[ActionStatus] = (),
    *,
    action_name: str | None = None,
    ticket_id: int | None = None,
    proposed_by: str | None = None,
    before: int | None = None,
    limit: int | None = None,
) -> Listing[ActionProposal]:
    """The proposals that fit every given filter, newest first, ids below `before` only."""
    given = {
        "action_name": action_name,
        "ticket_id": ticket_id,
        "proposed_by": proposed_by,
        "before": before,
        "limit": limit,
    }
    given = {name: value for name, value in given.items() if value is not None}
    newest = _newest if conn.dialect.name == "sqlite" else _newest_on_server
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


def update_proposal_status(
    conn: Connection, id: int, status: ActionStatus, *, actor: str, reason: str | None
) -> None:
    """Moves a proposal along its lifecycle; raises `NotFound` or `InvalidTransition`."""
    said = {"wanted": id, "status_changed_by": actor, "status_reason": reason}
    while conn.execute(_move_one(status), said).one_or_none() is None:
        current = conn.scalar(select(_ROW.status).where(_ROW.id == id))
        if current is None:
            raise NotFound("proposal", id)
        # On a server another may have moved it meanwhile to where the move would be allowed.
        if current not in sources_of(status):
            raise _invalid(id, current, status)


def _invalid(id: int, current: str, status: ActionStatus) -> InvalidTransition:
    allowed = {before.value: after for before, after in TRANSITIONS.items()}.get(current, ())
    return InvalidTransition(id, current, status, sorted(allowed))


def cancel_all_pending(conn: Connection, *, actor: str, reason: str | None) -> int:
    """Cancels every proposal that nobody has started, in one statement, and says how many."""
    said = {"status_changed_by": actor, "status_reason": reason}
    return conn.execute(_move(ActionStatus.CANCELLED, PENDING_STATUSES), said).rowcount


# Built once for each status: SQLAlchemy takes five times as long to build one as to run it. Who
# moves what and why is given when it runs; a parameter named as a column is a column to set.


@cache
def _move_one(status: ActionStatus) -> ReturningUpdate[tuple[int]]:
    move = _move(status, sources_of(status))
    return move.where(_ROW.id == bindparam("wanted")).returning(_ROW.id)


@cache
def _move(status: ActionStatus, sources: frozenset[ActionStatus]) -> Update:
    stamps: dict[str, Any] = {}
    if status is ActionStatus.VALIDATED:
        stamps["validated_at"] = utcnow()
    if status is ActionStatus.CANCELLED:
        stamps["cancelled_at"] = utcnow()
    # In the text, so that a planner that plans for all values at once knows how few these are; and a
    # list of plain values would be rendered into the SQL anew for each call.
    within = _ROW.status.in_([literal_column(f"'{source.value}'") for source in sorted(sources)])
    return (
        update(PROPOSALS)
        .where(within)
        .values(
            status=status.value,
            # A trigger tells by a moved time that the writer has said who acts.
            status_changed_at=strictly_after(_ROW.status_changed_at),
            updated_at=strictly_after(_ROW.updated_at),
            **stamps,
        )
    )
