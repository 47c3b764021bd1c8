"""Units of work on proposals: plain functions of a connection that never commit."""

from collections.abc import Collection, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    Connection,
    Select,
    bindparam,
    case,
    func,
    insert,
    select,
    union_all,
    update,
)
from sqlalchemy.exc import IntegrityError

from operator_core.actions.errors import InvalidTransition, InvalidValue, NotFound
from operator_core.actions.lifecycle import PENDING_STATUSES, TRANSITIONS, sources_of
from operator_core.actions.types import ActionProposal, ActionStatus
from operator_core.db.base import encode_json, strictly_after, utcnow
from operator_core.db.rows import (
    PROPOSAL_COLUMNS,
    Listing,
    decode_time,
    to_listing,
    to_proposal,
)
from operator_core.db.tables import PROPOSALS, TICKETS

__all__ = [
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
_INSERT_MANY = _INSERT.returning(*_CREATED, sort_by_parameter_order=True)
_SELECT = select(*PROPOSAL_COLUMNS)
_GET = _SELECT.where(_ROW.id == bindparam("id"))


def create_proposals(
    conn: Connection, proposals: Sequence[ActionProposal], *, actor: str, max_json_bytes: int
) -> list[ActionProposal]:
    """Inserts `proposals` in order and returns them with their ids and the database's times.

    Raises `InvalidValue` for a proposal that is in a ledger already and `NotFound` for an unknown
    ticket; then none is inserted.
    """
    values = [_values(proposal, actor, max_json_bytes) for proposal in proposals]
    if not values:
        return []
    try:
        created = _insert(conn, values)
    except IntegrityError:
        _require_tickets(conn, proposals)
        raise
    return [_with_row(proposal, row) for proposal, row in zip(proposals, created, strict=True)]


def _insert(conn: Connection, values: list[dict[str, Any]]) -> Sequence[Any]:
    if len(values) == 1:
        return conn.execute(_INSERT_ONE, values[0]).all()
    if conn.dialect.name == "sqlite":
        # SQLite takes the rows of VALUES in turn, and AUTOINCREMENT counts up: the order of the ids
        # is the order of the rows. SQLAlchemy knows no way to be sure and would insert one by one.
        return sorted(conn.execute(_INSERT_ONE, values).all(), key=itemgetter(0))
    return conn.execute(_INSERT_MANY, values).all()


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
    query = _SELECT
    if action_name is not None:
        query = query.where(_ROW.action_name == action_name)
    if ticket_id is not None:
        query = query.where(_ROW.ticket_id == ticket_id)
    if proposed_by is not None:
        query = query.where(_ROW.proposed_by == proposed_by)
    if before is not None:
        query = query.where(_ROW.id < before)
    rows = conn.execute(_newest(query, sorted(statuses), limit))
    return to_listing(rows, to_proposal)


def _newest(query: Select[Any], statuses: Sequence[ActionStatus], limit: int | None) -> Select[Any]:
    if len(statuses) <= 1:
        if statuses:
            query = query.where(_ROW.status == statuses[0].value)
        return query.order_by(_ROW.id.desc()).limit(limit)
    # One ordered read of the index for each status, merged: `status IN (...)` would make the
    # database sort all that match before it gives back the first.
    each = [
        query.where(_ROW.status == status.value).order_by(_ROW.id.desc()).limit(limit).subquery()
        for status in statuses
    ]
    merged = union_all(*(select(part) for part in each)).subquery()
    return select(merged).order_by(merged.c.id.desc()).limit(limit)


def count_proposals(conn: Connection) -> dict[ActionStatus, int]:
    """How many proposals stand in each status; a status that no code knows is not counted."""
    found = conn.execute(select(_ROW.status, func.count()).group_by(_ROW.status)).all()
    counted = {str(status): count for status, count in found}
    return {status: counted.get(status, 0) for status in ActionStatus}


def update_proposal_status(
    conn: Connection, id: int, status: ActionStatus, *, actor: str, reason: str | None
) -> None:
    """Moves a proposal along its lifecycle; raises `NotFound` or `InvalidTransition`."""
    sources = sorted(sources_of(status))
    moved = conn.execute(
        _move(status, actor, reason)
        .where(_ROW.id == id, _ROW.status.in_([source.value for source in sources]))
        .returning(_ROW.id)
    ).one_or_none()
    if moved is not None:
        return
    current = conn.scalar(select(_ROW.status).where(_ROW.id == id))
    if current is None:
        raise NotFound("proposal", id)
    allowed = {before.value: after for before, after in TRANSITIONS.items()}.get(current, ())
    raise InvalidTransition(id, current, status, sorted(allowed))


def cancel_all_pending(conn: Connection, *, actor: str, reason: str | None) -> int:
    """Cancels every proposal that nobody has started, in one statement, and says how many."""
    pending = [status.value for status in sorted(PENDING_STATUSES)]
    cancelled = conn.execute(
        _move(ActionStatus.CANCELLED, actor, reason).where(_ROW.status.in_(pending))
    )
    return cancelled.rowcount


def _move(status: ActionStatus, actor: str, reason: str | None) -> Any:
    stamps: dict[str, Any] = {}
    if status is ActionStatus.VALIDATED:
        stamps["validated_at"] = utcnow()
    if status is ActionStatus.CANCELLED:
        stamps["cancelled_at"] = utcnow()
    return update(PROPOSALS).values(
        status=status.value,
        status_changed_by=actor,
        status_reason=reason,
        status_changed_at=_after(_ROW.status_changed_at),
        updated_at=strictly_after(_ROW.updated_at),
        **stamps,
    )


def _after(column: Any) -> Any:
    # A history trigger tells by a moved time that the writer said who acts.
    return case((column.is_(None), utcnow()), else_=strictly_after(column))
