"""Units of work that create proposals: plain functions of a connection that never commit."""

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from operator import itemgetter
from typing import Any, Final, TypeAlias, TypeVar

from sqlalchemy import (
    Connection,
    Executable,
    Table,
    bindparam,
    cast,
    func,
    insert,
    select,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSON
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.dml import ReturningInsert

from operator_core.actions.digest import proposal_digest
from operator_core.actions.errors import (
    CommitOutcomeUnknown,
    Conflict,
    ConstraintViolation,
    InvalidValue,
    NotFound,
)
from operator_core.actions.identities import identity_keys
from operator_core.actions.model import KEPT
from operator_core.actions.policies import Deny, Require
from operator_core.actions.types import (
    ActionProposal,
    ActionStatus,
    EndCode,
    ProposalRequest,
    StoredProposal,
)
from operator_core.db.ledger.partial import IGNORED
from operator_core.db.ledger.policies import require as require_approvals
from operator_core.db.sql.arrays import listed
from operator_core.db.sql.base import JSONText, array_of, encode_json
from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sql.errors import violates_constraint
from operator_core.db.sql.execution import fetch, insert_rows
from operator_core.db.sql.functions import may_be_ruled, utcnow
from operator_core.db.sql.postgresql_errors import missing_row
from operator_core.db.sql.rows import (
    PROPOSAL_COLUMNS,
    decode_time,
    to_proposal,
)
from operator_core.db.sql.tables import PROPOSALS, TICKETS
from operator_core.db.sql.unit import (
    UNANSWERED,
    Batch,
    Shared,
    Shortcut,
    SingleStatement,
    Unanswered,
    Unit,
)

__all__ = [
    "MAX_ROWS",
    "NewProposals",
    "create_once",
    "create_proposals",
    "creation",
    "creation_once",
    "is_same_call",
    "replayed",
    "require",
]

T = TypeVar("T")

_ROW = PROPOSALS.c

_INSERT = insert(PROPOSALS).values(status_changed_at=utcnow())
# What a rule matches is read again: its denial and the votes that were given in advance follow the row.
_CREATED = (_ROW.id, _ROW.created_at, _ROW.updated_at, may_be_ruled())
_INSERT_ONE = _INSERT.returning(*_CREATED)
_BY_KEY = select(*PROPOSAL_COLUMNS).where(_ROW.idempotency_key == bindparam("key"))


# The fields that the ledger sets, with the values that a proposal has before.
_SET_BY_LEDGER: Final = {
    name: field.default
    for name, field in ActionProposal.model_fields.items()
    if KEPT in field.metadata
}

# The columns that an INSERT sets: all except those that the database sets, and the actor.
_WRITTEN: Final = (
    *(
        name
        for name in ActionProposal.model_fields
        if name not in _SET_BY_LEDGER or name in ("workflow_id", "supersedes_id")
    ),
    "identity_keys",
    "status_changed_by",
    "content_digest",
)


def _several(*names: str) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """Returns a function that reads several values of a dict at once, in a third of the time of a loop."""
    getter: Any = itemgetter
    return getter(*names)


_set_by_ledger: Final = _several(*_SET_BY_LEDGER)
_BEFORE: Final = tuple(_SET_BY_LEDGER.values())
_written: Final = _several(*_WRITTEN[:-3])

# The columns that keep their defaults in most proposals. They are then not sent, and the table's defaults apply.
_ALWAYS_SENT: Final = frozenset({"ticket_id", "action_type", "parameters"})
_PLAN: Final = (
    *(
        name
        for name, field in ProposalRequest.model_fields.items()
        if not field.is_required() and name not in _ALWAYS_SENT
    ),
    "workflow_id",
    "supersedes_id",
    "identity_keys",
)
_WITHOUT_PLAN: Final = tuple(name for name in _WRITTEN if name not in _PLAN)
_NO_PLAN: Final = {
    **{
        name: ActionProposal.model_fields[name].default for name in _PLAN if name != "identity_keys"
    },
    "depends_on": None,
    "identity_keys": None,
}

_plan: Final = _several(*_NO_PLAN)
_NO_PLAN_VALUES: Final = tuple(_NO_PLAN.values())
_without_plan: Final = _several(*_WITHOUT_PLAN)

# The content that an idempotency key compares, besides the parameters. The reason is not part of it, because a model
# words it differently each time; nor is the trace, which each attempt begins anew.
_CONTENT: Final = (
    *(
        name
        for name in ProposalRequest.model_fields
        if name not in ("reason", "parameters", "traceparent")
    ),
    "proposed_by",
)


def _insert_arrays(names: Sequence[str]) -> ReturningInsert[Any, Any, Any, Any]:
    """An INSERT with an array for each column.

    The statement is the same for any number of rows and is prepared once, while a VALUES list is parsed and planned
    again for each number. PostgreSQL assigns ids in the order of the SELECT.
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
# The SQLSTATE of the ledger's triggers; a missing row is known from the error itself.
_OF_A_TRIGGER: Final = ("23000",)
_OTHER_RUN: Final = "action_proposals_parent_run"
_SAME_CALL: Final = ("uq_action_proposals_call", "a call has one proposal in its run")


def is_same_call(error: BaseException | None) -> bool:
    """Whether a proposal was refused because its tool call has one already."""
    return any(words in str(error) for words in _SAME_CALL)


MAX_ROWS: Final = 10_000
"""The largest number of proposals in one statement; more need several statements in one transaction."""


class NewProposals:
    """The proposals that one call creates for `actor`, and the values of their rows."""

    def __init__(self, actor: str, max_json_bytes: int) -> None:
        self._actor = actor
        self._max_json_bytes = max_json_bytes
        self._calls: set[tuple[str, str]] = set()
        self.proposals: list[ActionProposal] = []
        self.values: list[dict[str, Any]] = []
        self._answers: list[Sequence[Deny | Require]] = []

    def add(
        self,
        proposal: ActionProposal,
        *,
        workflow_id: int | None = None,
        supersedes_id: int | None = None,
        answer: Sequence[Deny | Require] = (),
    ) -> None:
        """Adds a checked `proposal` and what the policy of the service asks of it.

        Raises `InvalidValue` for one that is in a ledger, or for a call of another one."""
        if proposal.run_id is not None and proposal.call_id is not None:
            call = proposal.run_id, proposal.call_id
            if call in self._calls:
                raise InvalidValue("call_id", "is that of another of these proposals")
            self._calls.add(call)
        links = {"workflow_id": workflow_id, "supersedes_id": supersedes_id}
        self.values.append(_values(proposal, self._actor, self._max_json_bytes, links))
        self.proposals.append(proposal)
        self._answers.append(answer)

    def each(self) -> Iterator[tuple[ActionProposal, dict[str, Any]]]:
        """Each proposal, and the values of its row."""
        return zip(self.proposals, self.values, strict=True)

    def asked(self) -> Iterator[tuple[int, Sequence[Deny | Require]]]:
        """What the policy asks of proposals, by their places."""
        return ((place, answer) for place, answer in enumerate(self._answers) if answer)

    @property
    def depends(self) -> bool:
        """Whether other statements follow: they read what became of one that depends on others, or require approvals."""
        return any(each.depends_on for each in self.proposals) or any(self._answers)

    @property
    def refers(self) -> bool:
        """Whether any of them refers to a row that another transaction may have locked."""
        return self.depends or any(each.ticket_id is not None for each in self.proposals)


def create_proposals(
    conn: Connection, several: Sequence[NewProposals]
) -> list[list[StoredProposal]]:
    """Inserts the proposals in order and returns them with their ids and the database's times.

    Raises `NotFound` for an unknown ticket or dependency; none is inserted then. If a trigger of another program has
    ignored some rows, raises `ConstraintViolation`, or on a server `CommitOutcomeUnknown`: the others may be kept.
    """
    values = [each for new in several for each in new.values]
    if not values:
        return [[] for _ in several]
    with _known(conn, several):
        rows = _insert(conn, values)
    if len(rows) != len(values):
        if not is_sqlite(conn):
            _missing(rows, several)
        raise ConstraintViolation(IGNORED)
    asked = _require(conn, rows, several)
    return _each_stored(several, rows, _changed(conn, several, rows, asked))


_RULED = -1
"""The place of `may_be_ruled` in a row of `_CREATED`."""
_LISTED = select(*PROPOSAL_COLUMNS).where(listed(_ROW.id, "ids"))


def _require(conn: Connection, rows: Sequence[Any], several: Sequence[NewProposals]) -> bool:
    """Writes what policies ask of new proposals; whether they ask for anything."""
    asked = False
    first = 0
    for new in several:
        for place, answer in new.asked():
            require_approvals(conn, rows[first + place][0], answer)
            asked = True
        first += len(new.values)
    return asked


def _changed(
    conn: Connection, several: Sequence[NewProposals], rows: Sequence[Any], asked: bool
) -> dict[int, StoredProposal]:
    """The new proposals, by their ids, of which the trigger of a rule, a policy or a dependency may have made others."""
    proposals = (proposal for new in several for proposal in new.proposals)
    ids = [
        row[0]
        for row, proposal in zip(rows, proposals, strict=True)
        if asked or row[_RULED] or proposal.depends_on
    ]
    return _by_id(fetch(conn, _LISTED, {"ids": ids})) if ids else {}


def _by_id(found: Sequence[Any]) -> dict[int, StoredProposal]:
    return {each.id: each for each in map(to_proposal, found)}


def _stored(
    proposal: ActionProposal,
    values: Mapping[str, Any],
    row: Sequence[Any],
    known: Mapping[int, StoredProposal],
) -> StoredProposal:
    return known.get(row[0]) or _with_row(proposal, values, row)


def _each_stored(
    several: Sequence[NewProposals], rows: Sequence[Any], known: Mapping[int, StoredProposal]
) -> list[list[StoredProposal]]:
    created = iter(rows)
    return [
        [_stored(proposal, values, next(created), known) for proposal, values in new.each()]
        for new in several
    ]


def creation(new: NewProposals) -> Unit[list[StoredProposal]]:
    """`create_proposals` for one call, as a `SingleStatement` where one statement is enough."""
    unit = partial(_create, new=new)
    if new.depends or len(new.values) > MAX_ROWS:
        return unit
    batch = Batch(create_proposals, new)
    # The INSERT waits for the lock of a ticket, and a role of the ledger may not lock it earlier to see that it is free.
    shared = None if new.refers else Shared("create", _together, new, len(new.values))
    if len(new.values) != 1:
        return SingleStatement(unit, batch=batch, shared=shared)
    (proposal,), (values,) = new.proposals, new.values
    shortcut = Shortcut(
        _INSERT_ONE,
        values,
        lambda rows: _answer(rows, lambda known: [_stored(proposal, values, rows[0], known)]),
        explains=_OF_A_TRIGGER,
    )
    return SingleStatement(unit, shortcut, batch, shared)


_Together: TypeAlias = list[list[StoredProposal] | Unanswered]


def _together(several: Sequence[NewProposals]) -> Shortcut[_Together]:
    statement, arrays = _arrays(_alike([each for new in several for each in new.values]))

    def answer(rows: Sequence[Any]) -> _Together | Unanswered | Shortcut[_Together]:
        if len(rows) != sum(len(new.values) for new in several):
            return _missing(rows, several)
        rows = sorted(rows, key=itemgetter(0))

        def stored(known: Mapping[int, StoredProposal]) -> _Together:
            return [*_each_stored(several, rows, known)]

        return _answer(rows, stored)

    return Shortcut(statement, arrays, answer, explains=())


def _answer(
    rows: Sequence[Any], answer: Callable[[Mapping[int, StoredProposal]], T]
) -> T | Unanswered | Shortcut[T]:
    """The answer about new rows, after what rules match has been read again; `UNANSWERED` if there are none."""
    if not rows:
        return UNANSWERED
    ids = [row[0] for row in rows if row[_RULED]]
    if not ids:
        return answer({})
    return Shortcut(_LISTED, {"ids": ids}, lambda found: answer(_by_id(found)))


def _missing(rows: Sequence[Any], several: Sequence[NewProposals]) -> list[Any]:
    """Raises `CommitOutcomeUnknown` if some rows of a statement that is its own COMMIT are missing, and not all.

    Which of them are missing is unknown, and another attempt would write the others again.
    """
    if rows:
        raise CommitOutcomeUnknown(IGNORED)
    return [UNANSWERED] * len(several)


def _create(conn: Connection, new: NewProposals) -> list[StoredProposal]:
    return create_proposals(conn, [new])[0]


def creation_once(new: NewProposals, key: str) -> Unit[StoredProposal]:
    """`create_once`, as a `SingleStatement` unless the proposal depends on others: then two statements are needed."""
    unit = partial(create_once, new=new, key=key)
    if new.depends:
        return unit
    (proposal,), (values,) = new.proposals, new.values
    # No row means that a proposal has the key already, which the unit then reads.
    shortcut = Shortcut(
        _INSERT_UNLESS_THERE,
        {**values, "idempotency_key": key},
        lambda rows: _answer(rows, lambda known: _stored(proposal, values, rows[0], known)),
        explains=("23",),
    )
    return SingleStatement(unit, shortcut)


def create_once(conn: Connection, new: NewProposals, key: str) -> StoredProposal:
    """Inserts the one proposal with `key`, or returns the existing proposal with that key.

    A concurrent call with the same key waits for the commit of the first. Raises `Conflict` if the existing proposal
    has other content, and `NotFound` for an unknown ticket or dependency.
    """
    (proposal,), (values,) = new.proposals, new.values
    try:
        with _known(conn, [new]):
            created = _insert_once(conn, {**values, "idempotency_key": key})
    except DBAPIError as error:
        if not is_same_call(error.orig):
            raise
        return _first_of_call(conn, proposal, key, error)
    if created is not None:
        asked = _require(conn, [created], [new])
        return _stored(proposal, values, created, _changed(conn, [new], [created], asked))
    found = replayed(conn, proposal, key)
    if found is None:
        raise ConstraintViolation(IGNORED)
    return found


def _first_of_call(
    conn: Connection, proposal: ActionProposal, key: str, error: DBAPIError
) -> StoredProposal:
    """The proposal of the same tool call, if a concurrent call with the same key was first; otherwise raises `error`."""
    try:
        found = replayed(conn, proposal, key)
    except DBAPIError:
        # In a service's transaction on a server, nothing can be read after an error.
        raise error from None
    if found is None:
        raise error
    return found


def replayed(conn: Connection, proposal: ActionProposal, key: str) -> StoredProposal | None:
    """Returns the proposal with `key`, or None; raises `Conflict` if it has other content than `proposal`."""
    rows = fetch(conn, _BY_KEY, {"key": key})
    if not rows:
        return None
    found = to_proposal(rows[0])
    if _content(found) != _content(proposal):
        state = "stored with this idempotency key and other content"
        raise Conflict("proposal", found.id, state)
    return found.as_replayed()


def _insert_once(conn: Connection, values: dict[str, Any]) -> Any:
    """Returns the new row, or None if a proposal has its key already."""
    if not is_sqlite(conn):
        return conn.execute(_INSERT_UNLESS_THERE, values).one_or_none()
    # On SQLite a trigger refuses a key that is in use before the conflict clause applies; this stops REPLACE too.
    # No other writer can come between the two statements: the transaction has held the write lock from its start.
    if fetch(conn, _KNOWN_KEY, {"key": values["idempotency_key"]}):
        return None
    rows = fetch(conn, _INSERT_ONE, values)
    return rows[0] if rows else None


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
    """The content that must be equal under one idempotency key; 1 and 1.0 differ, the order of keys is ignored."""
    return (
        json.dumps(proposal.parameters, sort_keys=True),
        *(getattr(proposal, name) for name in _CONTENT),
    )


@contextmanager
def _known(conn: Connection, several: Sequence[NewProposals]) -> Generator[None]:
    """A block in which a reference to a missing ticket or proposal raises `NotFound`."""
    try:
        yield
    except DBAPIError as error:
        if not violates_constraint(error):
            raise
        if (missing := missing_row(error)) is not None:
            raise missing from None
        if _OTHER_RUN in str(error.orig):
            raise InvalidValue("run_id", "must be that of the parent") from None
        proposals = [proposal for new in several for proposal in new.proposals]
        needed = [needed for each in proposals for needed in each.depends_on]
        if _ORDER_BROKEN in str(error.orig):
            # An id that is not below the new one does not exist yet.
            raise NotFound("proposal", max(needed)) from None
        if is_sqlite(conn):
            require(conn, "ticket", TICKETS, [each.ticket_id for each in proposals])
            require(conn, "proposal", PROPOSALS, needed)
            require(conn, "proposal", PROPOSALS, [each.parent_id for each in proposals])
        raise


def _insert(conn: Connection, values: list[dict[str, Any]]) -> Sequence[Any]:
    values = _alike(values)
    if len(values) == 1:
        return fetch(conn, _INSERT_ONE, values[0])
    if is_sqlite(conn):
        # SQLite inserts the rows of VALUES in turn, and AUTOINCREMENT counts up: the order of the ids is the order of
        # the rows. SQLAlchemy can't know that, and would insert one row at a time for a guaranteed order.
        return sorted(insert_rows(conn, _INSERT_ONE, values), key=itemgetter(0))
    created: list[Any] = []
    for start in range(0, len(values), MAX_ROWS):
        rows = fetch(conn, *_arrays(values[start : start + MAX_ROWS]))
        created += sorted(rows, key=itemgetter(0))
    return created


def _alike(values: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the same columns, which all rows of one statement must have."""
    if len({len(row) for row in values}) == 1:
        return values
    return [{**row, **{name: row.get(name, _NO_PLAN[name]) for name in _PLAN}} for row in values]


def _arrays(values: list[dict[str, Any]]) -> tuple[Executable, dict[str, list[Any]]]:
    """The INSERT of these rows on a server, and its parameters."""
    statement = _INSERT_PLANNED_ARRAYS if "priority" in values[0] else _INSERT_ARRAYS
    return statement, {name: [row[name] for row in values] for name in values[0]}


def _values(
    proposal: ActionProposal, actor: str, max_json_bytes: int, links: Mapping[str, int | None]
) -> dict[str, Any]:
    fields = proposal.__dict__
    if _set_by_ledger(fields) != _BEFORE:
        problems = [
            (name, f"must be {default}: the ledger sets it")
            for name, default in _SET_BY_LEDGER.items()
            if fields[name] != default
        ]
        raise InvalidValue(*problems[0], problems=problems)
    values = dict(zip(_WRITTEN, _written(fields), strict=False))
    values["action_type"] = proposal.action_type.value
    values["status"] = proposal.status.value
    values["requester_type"] = proposal.requester_type and proposal.requester_type.value
    values["parameters"] = encode_json(proposal.parameters, "parameters", max_json_bytes)
    values["depends_on"] = json.dumps(proposal.depends_on) if proposal.depends_on else None
    values.update(links)
    values["identity_keys"] = identity_keys(fields)
    values["status_changed_by"] = actor
    values["content_digest"] = proposal_digest(fields)
    if _plan(values) == _NO_PLAN_VALUES:
        return dict(zip(_WITHOUT_PLAN, _without_plan(values), strict=True))
    return values


# The end codes of imported proposals, which the database writes.
_END_CODES: Final = {
    ActionStatus.CANCELLED: EndCode.CANCELLED,
    ActionStatus.FAILED: EndCode.FAILED,
}


def _with_row(
    proposal: ActionProposal, values: Mapping[str, Any], row: Sequence[Any]
) -> StoredProposal:
    id_, created_at, updated_at, _ = row
    created = decode_time(created_at)
    return StoredProposal.from_stored(
        {
            **proposal.__dict__,
            "id": id_,
            "created_at": created,
            # Usually equal, and reading it again would cost as much.
            "updated_at": created if updated_at == created_at else decode_time(updated_at),
            "workflow_id": values.get("workflow_id"),
            "supersedes_id": values.get("supersedes_id"),
            "version": 1,
            "end_code": _END_CODES.get(proposal.status),
            "content_digest": values["content_digest"],
        }
    )


def require(conn: Connection, kind: str, table: Table, ids: Iterable[int | None]) -> None:
    """Raises `NotFound` for the lowest of the ids that is not in the table."""
    for id_ in sorted({id_ for id_ in ids if id_ is not None}):
        if conn.scalar(select(table.c.id).where(table.c.id == id_)) is None:
            raise NotFound(kind, id_) from None
