"""Units of work that create proposals: plain functions of a connection that never commit."""

import json
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import Connection, Table, bindparam, cast, func, insert, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.dml import ReturningInsert

from operator_core.actions.errors import (
    Conflict,
    InvalidValue,
    NotFound,
)
from operator_core.actions.model import KEPT
from operator_core.actions.types import ActionProposal, ProposalRequest, StoredProposal
from operator_core.db.ledger.queries import get_proposal
from operator_core.db.sql.base import JSONText, array_of, encode_json
from operator_core.db.sql.dialect import is_sqlite
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


# What is written of a proposal: all but what the database gives; and who acts.
_WRITTEN: Final = (
    *(
        name
        for name, field in ActionProposal.model_fields.items()
        if KEPT not in field.metadata or name == "workflow_id"
    ),
    "status_changed_by",
)

# What most proposals leave as it is. Then the row's own defaults hold, and nothing is sent.
_ALWAYS_SENT: Final = frozenset({"ticket_id", "action_type", "parameters"})
_PLAN: Final = (
    *(
        name
        for name, field in ProposalRequest.model_fields.items()
        if not field.is_required() and name not in _ALWAYS_SENT
    ),
    "workflow_id",
)
_WITHOUT_PLAN: Final = tuple(name for name in _WRITTEN if name not in _PLAN)
_NO_PLAN: Final = {
    **{name: ActionProposal.model_fields[name].default for name in _PLAN},
    "depends_on": None,
}

# What makes two proposals the same one, beside their parameters; not why, which a model words anew each time.
_CONTENT: Final = (
    *(name for name in ProposalRequest.model_fields if name not in ("reason", "parameters")),
    "proposed_by",
)


def _insert_arrays(names: Sequence[str]) -> ReturningInsert[Any, Any, Any]:
    """An INSERT with an array for each column.

    It is the same statement for any number of rows, prepared once, where a VALUES list would be parsed and planned
    anew for each. PostgreSQL gives ids in the order of the SELECT.
    """
    arrays = (bindparam(name, type_=array_of(_ROW[name])) for name in names)
    rows = func.unnest(*arrays).table_valued(*names, with_ordinality="position").render_derived()
    values = [
        cast(rows.c[name], JSON) if isinstance(_ROW[name].type, JSONText) else rows.c[name]
        for name in names
    ]
    return (
        insert(PROPOSALS)
        .from_select(
            [*names, "status_changed_at"],
            select(*values, utcnow()).order_by(rows.c.position),
        )
        .returning(*_CREATED)
    )


_INSERT_ARRAYS = _insert_arrays(_WITHOUT_PLAN)
_INSERT_PLANNED_ARRAYS = _insert_arrays((*_WITHOUT_PLAN, *_PLAN))

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
) -> list[list[StoredProposal]]:
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
) -> StoredProposal:
    created = _with_row(proposal, row, workflow_id)
    if proposal.depends_on:
        # What it depends on may have ended badly, and it with it.
        return get_proposal(conn, created.id) or created
    return created


def creation(new: NewProposals) -> Unit[list[StoredProposal]]:
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


def _create(conn: Connection, new: NewProposals) -> list[StoredProposal]:
    return create_proposals(conn, [new])[0]


def creation_once(new: NewProposals, key: str) -> Unit[StoredProposal]:
    """`create_once`, as one statement unless it depends on others: then another looks what became of it."""
    unit = partial(create_once, new=new, key=key)
    return unit if new.depends else SingleStatement(unit)


def create_once(conn: Connection, new: NewProposals, key: str) -> StoredProposal:
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
        raise Conflict("proposal", found.id, state)
    return found.as_replayed()


def _insert_once(conn: Connection, values: dict[str, Any]) -> Any:
    """The new row, or None if there is one under its key."""
    if not is_sqlite(conn):
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
        json.dumps(proposal.parameters, sort_keys=True),
        *(getattr(proposal, name) for name in _CONTENT),
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
        if is_sqlite(conn):
            require(conn, "ticket", TICKETS, [each.ticket_id for each in proposals])
            require(conn, "proposal", PROPOSALS, needed)
        raise


def _insert(conn: Connection, values: list[dict[str, Any]]) -> Sequence[Any]:
    if len({len(row) for row in values}) > 1:
        # All rows of a statement have the same columns.
        values = [
            {**row, **{name: row.get(name, _NO_PLAN[name]) for name in _PLAN}} for row in values
        ]
    if len(values) == 1:
        return conn.execute(_INSERT_ONE, values[0]).all()
    if is_sqlite(conn):
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
    problems = [
        (name, f"must be {field.default}: the ledger gives it")
        for name, field in ActionProposal.model_fields.items()
        if KEPT in field.metadata and getattr(proposal, name) != field.default
    ]
    if problems:
        raise InvalidValue(*problems[0], problems=problems)
    values = {name: proposal.__dict__[name] for name in _WRITTEN[:-1]}
    values["action_type"] = proposal.action_type.value
    values["status"] = proposal.status.value
    values["parameters"] = encode_json(proposal.parameters, "parameters", max_json_bytes)
    values["depends_on"] = json.dumps(proposal.depends_on) if proposal.depends_on else None
    values["workflow_id"] = workflow_id
    values["status_changed_by"] = actor
    if all(values[name] == default for name, default in _NO_PLAN.items()):
        return {name: values[name] for name in _WITHOUT_PLAN}
    return values


def _with_row(
    proposal: ActionProposal, row: Sequence[Any], workflow_id: int | None = None
) -> StoredProposal:
    id_, created_at, updated_at = row
    return StoredProposal.from_stored(
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
