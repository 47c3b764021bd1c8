"""Units of work that create proposals: plain functions of a connection that never commit."""

import json
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import (
    TIMESTAMP,
    BigInteger,
    Boolean,
    Connection,
    Double,
    Integer,
    Table,
    Text,
    bindparam,
    cast,
    func,
    insert,
    select,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import ARRAY, JSON
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.dml import ReturningInsert
from sqlalchemy.types import TypeEngine

from operator_core.actions.errors import (
    Conflict,
    InvalidValue,
    NotFound,
)
from operator_core.actions.types import ActionProposal
from operator_core.db.ledger.queries import get_proposal
from operator_core.db.sql.base import encode_json
from operator_core.db.sql.functions import utcnow
from operator_core.db.sql.postgresql_errors import missing_row
from operator_core.db.sql.rows import (
    PROPOSAL_COLUMNS,
    decode_time,
    to_proposal,
)
from operator_core.db.sql.tables import PROPOSALS, TICKETS
from operator_core.db.sql.unit import Batch, Shortcut, SingleStatement, Unit

__all__ = [
    "MAX_ROWS",
    "NewProposals",
    "create_once",
    "create_proposals",
    "creation",
    "creation_once",
    "require",
]

_ROW = PROPOSALS.c

_INSERT = insert(PROPOSALS).values(status_changed_at=utcnow())
_CREATED = (_ROW.id, _ROW.created_at, _ROW.updated_at)
_INSERT_ONE = _INSERT.returning(*_CREATED)
_BY_KEY = select(*PROPOSAL_COLUMNS).where(_ROW.idempotency_key == bindparam("key"))


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


def _insert_arrays(columns: dict[str, TypeEngine[Any]]) -> ReturningInsert[Any, Any, Any]:
    arrays = (bindparam(name, type_=ARRAY(kind)) for name, kind in columns.items())
    rows = func.unnest(*arrays).table_valued(*columns, with_ordinality="position").render_derived()
    given = [
        cast(rows.c[name], JSON) if name in ("parameters", "depends_on") else rows.c[name]
        for name in columns
    ]
    return (
        insert(PROPOSALS)
        .from_select(
            [*columns, "status_changed_at"],
            select(*given, utcnow()).order_by(rows.c.position),
        )
        .returning(*_CREATED)
    )


# What most proposals leave as it is, and then the row's own defaults say.
_PLANNED: Final[dict[str, TypeEngine[Any]]] = {
    "priority": Integer(),
    "scheduled_at": TIMESTAMP(timezone=True),
    "expires_at": TIMESTAMP(timezone=True),
    "max_retries": Integer(),
    "retry_delay": Double(),
    "max_retry_delay": Double(),
    "depends_on": Text(),
    "wait_on_failure": Boolean(),
    "workflow_id": BigInteger(),
}
_KEPT: Final = {
    "retry_count": 0,
    "next_retry_at": None,
    "last_error": None,
    "workflow_id": None,
    "version": None,
}
_UNPLANNED: Final = {
    **{name: ActionProposal.model_fields[name].default for name in _PLANNED},
    "depends_on": None,
}

_INSERT_ARRAYS = _insert_arrays(_ARRAYS)
_INSERT_PLANNED_ARRAYS = _insert_arrays({**_ARRAYS, **_PLANNED})

_ORDER_BROKEN: Final = "ck_action_dependencies_order"

MAX_ROWS: Final = 10_000
"""How many proposals go in one statement; more need a transaction around several."""


class NewProposals:
    """Proposals that one call, by `actor`, wants written down, and the values of their rows."""

    def __init__(self, actor: str, max_json_bytes: int) -> None:
        self._actor = actor
        self._max_json_bytes = max_json_bytes
        self.proposals: list[ActionProposal] = []
        self.values: list[dict[str, Any]] = []

    def add(self, proposal: ActionProposal, *, workflow_id: int | None = None) -> None:
        """Adds `proposal`, which has been checked; raises `InvalidValue` for one that is in a ledger already."""
        self.values.append(_values(proposal, self._actor, self._max_json_bytes, workflow_id))
        self.proposals.append(proposal)

    def each(self) -> Iterator[tuple[ActionProposal, int | None]]:
        """Each proposal and the workflow that it is part of."""
        for proposal, values in zip(self.proposals, self.values, strict=True):
            yield proposal, values.get("workflow_id")

    @property
    def depends(self) -> bool:
        """Whether any of them depends on others, so that one statement more looks what became of it."""
        return any(each.depends_on for each in self.proposals)

    @property
    def refers(self) -> bool:
        """Whether any of them refers to a row that somebody may hold locked."""
        return self.depends or any(each.ticket_id is not None for each in self.proposals)


def create_proposals(
    conn: Connection, several: Sequence[NewProposals]
) -> list[list[ActionProposal]]:
    """Inserts the proposals in order; returns them with their ids and the database's times.

    Raises `NotFound` for an unknown ticket; then none is inserted.
    """
    values = [each for new in several for each in new.values]
    if not values:
        return [[] for _ in several]
    with _known(conn, several):
        created = iter(_insert(conn, values))
    return [
        [
            _stored(conn, proposal, workflow_id, next(created))
            for proposal, workflow_id in new.each()
        ]
        for new in several
    ]


def _stored(
    conn: Connection, proposal: ActionProposal, workflow_id: int | None, row: Sequence[Any]
) -> ActionProposal:
    created = _with_row(proposal, row, workflow_id)
    if proposal.depends_on:
        # What it depends on may have ended badly, and it with it.
        return get_proposal(conn, created.id or 0) or created
    return created


def creation(new: NewProposals) -> Unit[list[ActionProposal]]:
    """`create_proposals` of these, as one statement where one statement does it."""
    unit = partial(_create, new=new)
    if new.depends or len(new.values) > MAX_ROWS:
        return unit
    together = Batch(create_proposals, new, size=len(new.values), may_wait=new.refers)
    if len(new.values) != 1:
        return SingleStatement(unit, batch=together)
    (proposal,), (values,) = new.proposals, new.values
    shortcut = Shortcut(
        _INSERT_ONE, values, lambda rows: [_with_row(proposal, rows[0])], explains=()
    )
    return SingleStatement(unit, shortcut, together)


def _create(conn: Connection, new: NewProposals) -> list[ActionProposal]:
    return create_proposals(conn, [new])[0]


def creation_once(new: NewProposals, key: str) -> Unit[ActionProposal]:
    """`create_once`, as one statement unless it depends on others: then another looks what became of it."""
    unit = partial(create_once, new=new, key=key)
    return unit if new.depends else SingleStatement(unit)


def create_once(conn: Connection, new: NewProposals, key: str) -> ActionProposal:
    """Inserts the one proposal under `key`, or returns the one that is there already.

    Whoever writes the same key at the same moment waits for the first to be committed. Raises
    `Conflict` if the one that is there has another content, `NotFound` for an unknown ticket.
    """
    (proposal,), (values,) = new.proposals, new.values
    with _known(conn, [new]):
        created = _insert_once(conn, {**values, "idempotency_key": key})
    if created is not None:
        return _stored(conn, proposal, None, created)
    found = to_proposal(conn.execute(_BY_KEY, {"key": key}).one())
    if _content(found) != _content(proposal):
        state = "there, with another content, under this idempotency key"
        raise Conflict("proposal", found.id or 0, state)
    return found.as_replayed()


def _insert_once(conn: Connection, values: dict[str, Any]) -> Any:
    """The new row, or None if there is one under its key."""
    if conn.dialect.name == "postgresql":
        return conn.execute(_INSERT_UNLESS_THERE, values).one_or_none()
    # A trigger refuses a key that is taken before SQLite resolves the conflict, as it would by REPLACE, too.
    # Nobody else writes between the two: the transaction has the write lock from its start.
    if conn.scalar(_KNOWN_KEY, {"key": values["idempotency_key"]}) is not None:
        return None
    return conn.execute(_INSERT_ONE, values).one()


_KNOWN_KEY = select(_ROW.id).where(_ROW.idempotency_key == bindparam("key"))
_INSERT_UNLESS_THERE = (
    postgresql.insert(PROPOSALS)
    .values(status_changed_at=utcnow())
    .on_conflict_do_nothing(
        index_elements=[_ROW.idempotency_key], index_where=_ROW.idempotency_key.is_not(None)
    )
    .returning(*_CREATED)
)


def _content(proposal: ActionProposal) -> tuple[Any, ...]:
    """What makes two proposals the same one; 1 and 1.0 differ, the order of keys does not."""
    return (
        proposal.ticket_id,
        proposal.action_name,
        proposal.action_type,
        json.dumps(proposal.parameters, sort_keys=True),
        proposal.proposed_by,
        *(getattr(proposal, name) for name in _PLANNED),
    )


@contextmanager
def _known(conn: Connection, several: Sequence[NewProposals]) -> Generator[None]:
    """In the block, a reference to a ticket or a proposal that is not there is `NotFound`."""
    try:
        yield
    except IntegrityError as error:
        if (missing := missing_row(error)) is not None:
            raise missing from None
        proposals = [proposal for new in several for proposal in new.proposals]
        needed = [needed for each in proposals for needed in each.depends_on]
        if _ORDER_BROKEN in str(error.orig):
            # An id that is not below the new one is nobody's yet.
            raise NotFound("proposal", max(needed)) from None
        if conn.dialect.name == "sqlite":
            require(conn, "ticket", TICKETS, [each.ticket_id for each in proposals])
            require(conn, "proposal", PROPOSALS, needed)
        raise


def _insert(conn: Connection, values: list[dict[str, Any]]) -> Sequence[Any]:
    if len({len(row) for row in values}) > 1:
        # All rows of a statement have the same columns.
        values = [
            {**row, **{name: row.get(name, _UNPLANNED[name]) for name in _PLANNED}}
            for row in values
        ]
    if len(values) == 1:
        return conn.execute(_INSERT_ONE, values[0]).all()
    if conn.dialect.name == "sqlite":
        # SQLite takes the rows of VALUES in turn, and AUTOINCREMENT counts up: the order of the ids
        # is the order of the rows. SQLAlchemy knows no way to be sure and would insert one by one.
        return sorted(conn.execute(_INSERT_ONE, values).all(), key=itemgetter(0))
    created: list[Any] = []
    insert_ = _INSERT_PLANNED_ARRAYS if "priority" in values[0] else _INSERT_ARRAYS
    for start in range(0, len(values), MAX_ROWS):
        some = values[start : start + MAX_ROWS]
        arrays = {name: [row[name] for row in some] for name in values[0]}
        created += sorted(conn.execute(insert_, arrays).all(), key=itemgetter(0))
    return created


def _values(
    proposal: ActionProposal, actor: str, max_json_bytes: int, workflow_id: int | None
) -> dict[str, Any]:
    if proposal.id is not None:
        raise InvalidValue("id", "must be None: the ledger gives it")
    if proposal.created_at is not None or proposal.updated_at is not None:
        raise InvalidValue("created_at", "and updated_at must be None: the ledger gives them")
    set_ = [name for name, default in _KEPT.items() if getattr(proposal, name) != default]
    if set_:
        problems = [(name, f"must be {_KEPT[name]}: the ledger keeps it") for name in set_]
        raise InvalidValue(*problems[0], problems=problems)
    values = {
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
    planned = {name: getattr(proposal, name) for name in _PLANNED}
    planned["depends_on"] = json.dumps(proposal.depends_on) if proposal.depends_on else None
    planned["workflow_id"] = workflow_id
    return values if planned == _UNPLANNED else {**values, **planned}


def _with_row(
    proposal: ActionProposal, row: Sequence[Any], workflow_id: int | None = None
) -> ActionProposal:
    id_, created_at, updated_at = row
    return ActionProposal.from_stored(
        {
            **proposal.__dict__,
            "id": id_,
            "created_at": decode_time(created_at),
            "updated_at": decode_time(updated_at),
            "workflow_id": workflow_id,
            "version": 1,
        }
    )


def require(conn: Connection, kind: str, table: Table, ids: Iterable[int | None]) -> None:
    """Raises `NotFound` for the first of the ids that no row of the table has."""
    for id_ in sorted({id_ for id_ in ids if id_ is not None}):
        if conn.scalar(select(table.c.id).where(table.c.id == id_)) is None:
            raise NotFound(kind, id_) from None
