"""Units of work by which workers claim due proposals, each for exactly one worker."""

import logging
from collections.abc import Container, Iterable, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Double,
    Select,
    Text,
    and_,
    any_,
    bindparam,
    cast,
    column,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.selectable import CTE

from operator_core.actions.errors import ConstraintViolation, CorruptRow
from operator_core.actions.types import (
    ActionRecord,
    ActionStatus,
    ActionType,
    Claim,
    StoredProposal,
    StoredRecord,
)
from operator_core.actions.values import MAX_ID
from operator_core.db.ledger.halted import is_any_open, not_all_halted, unhalted
from operator_core.db.ledger.limited import admitted, is_any_limit_open, unexclusive, unlimited
from operator_core.db.ledger.partial import in_parts, is_of_rows
from operator_core.db.ledger.recovery import overdue, sweep
from operator_core.db.ledger.status import any_of, may_start, moved
from operator_core.db.sql.arrays import each, listed
from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sql.execution import fetch
from operator_core.db.sql.functions import from_now, limits_are_quiet, readable, utcnow, written_now
from operator_core.db.sql.planner_hints import any_number, few, few_in, nearly_all, unseen
from operator_core.db.sql.rows import (
    PROPOSAL_COLUMNS,
    decode_time,
    to_proposal,
)
from operator_core.db.sql.savepoint import savepoint
from operator_core.db.sql.tables import PROPOSALS, RECORDS
from operator_core.db.sql.unit import Shared, Shortcut, SingleStatement, Unanswered

__all__ = ["ClaimRequest", "Claimed", "claim", "claim_in_parts"]

logger = logging.getLogger(__name__)

_P = PROPOSALS.c

# The expression of the index.
_DUE = func.coalesce(_P.next_retry_at, _P.scheduled_at, _P.created_at)
_ORDER = (_P.priority.desc(), _DUE, _P.id)


class ClaimRequest(NamedTuple):
    """The parameters of a claim: `limit` is the largest number of proposals, `lease` is in seconds."""

    worker: str
    limit: int
    lease: float
    action_names: tuple[str, ...] | None
    action_types: tuple[str, ...] | None
    actor: str | None = None
    """None stands for the worker."""
    reason: str | None = None
    proposal_id: int | None = None
    """The only proposal that is to be claimed, or None."""

    @property
    def who(self) -> dict[str, str | None]:
        """The worker, the actor and the reason, as parameters of the statements."""
        return {"who": self.worker, "actor": self.actor or self.worker, "for_reason": self.reason}

    @property
    def filters(self) -> dict[str, Any]:
        """The filters by action name, type and id, as parameters of the statements."""
        kinds = {"names": self.action_names, "types": self.action_types}
        found: dict[str, Any] = {
            name: list(values) for name, values in kinds.items() if values is not None
        }
        if self.proposal_id is not None:
            found["proposal"] = self.proposal_id
        return found


class Claimed(NamedTuple):
    """What a claim has taken."""

    claims: list[Claim]
    overdue: bool
    """Whether `sweep` has something to do."""
    passed: bool
    """Whether it has passed over due proposals that could not start together with others, or that others were starting."""


_VALIDATED = any_of([ActionStatus.VALIDATED])


def _claimable(*filters: Any) -> list[Any]:
    """The conditions under which a validated proposal can be claimed."""
    return [
        # A proposal without a time is due whatever the clock says, also after the clock was set back.
        or_(_P.next_retry_at.is_(None), written_now() >= _P.next_retry_at),
        *may_start(),
        readable(_P.parameters),
        # A proposal at the last version can't move. Another tool may have set it while the triggers were missing.
        _P.version < literal_column(str(MAX_ID)),
        _P.action_type.in_([literal_column(f"'{kind.value}'") for kind in ActionType]),
        *filters,
    ]


_FILTERS: Final = {
    "names": listed(_P.action_name, "names"),
    "types": listed(_P.action_type, "types"),
}
_ONE: Final = _P.id == bindparam("proposal", type_=BigInteger())


def _filters(names: Iterable[str]) -> list[Any]:
    return [_FILTERS[name] for name in sorted(names) if name in _FILTERS]


def _one(names: Container[str]) -> list[Any]:
    """The filter by which the planner finds the row."""
    return [_ONE] if "proposal" in names else []


_WHO = bindparam("who", type_=Text())
_ACTOR = bindparam("actor", type_=Text())
_FOR_REASON = bindparam("for_reason", type_=Text())


def _due(filters: frozenset[str]) -> CTE:
    """Locks due proposals, and skips those that other transactions have locked."""
    return (
        select(_P.id, _P.priority, _DUE.label("due"), _P.exclusive_key)
        .where(
            _VALIDATED,
            # The predicate of the index.
            few_in(_P.status, ActionStatus.VALIDATED.value),
            nearly_all(*_claimable(*_filters(filters)), unhalted(), unexclusive(), unlimited()),
            not_all_halted(),
            *_one(filters),
        )
        .order_by(*_ORDER)
        .limit(any_number(bindparam("limit", type_=BigInteger())))
        .with_for_update(skip_locked=True)
        .cte("due")
    )


def _admitted(due: CTE) -> CTE:
    """Those of the due proposals that may start together: all of them, if there are no limits and exclusive keys.

    A function of the schema takes the locks of limits and keys without waiting for long, and counts. So the triggers,
    which ask again, refuse nothing.
    """
    keyed = exists(select(due.c.id).where(due.c.exclusive_key.is_not(None)))
    free = select(and_(limits_are_quiet(), ~keyed)).scalar_subquery()
    in_order = aggregate_order_by(due.c.id, due.c.priority.desc(), due.c.due, due.c.id)
    together = select(func.action_limits_admitted(func.array_agg(in_order))).scalar_subquery()
    # Without the cast, it would be the rows of a subquery that are compared.
    ids = cast(together, ARRAY(BigInteger()))
    return (
        select(due.c.id, due.c.priority, due.c.due)
        # The function runs only if the first condition is false.
        .where(or_(free, due.c.id == any_(ids)))
        .cte("admitted")
    )


def _passed(due: CTE, taken: CTE) -> ColumnElement[bool]:
    due_count, taken_count = (
        select(func.count()).select_from(each).scalar_subquery() for each in (due, taken)
    )
    return due_count > taken_count


@cache
def _claim_on_server(filters: frozenset[str]) -> Select[Any]:
    """Claims due proposals for one worker."""
    due = _due(filters)
    free = _admitted(due)
    return _claim_all(due, free, free.c.due, _start(), _record(select(free.c.id)))


@cache
def _claim_together(filters: frozenset[str]) -> Select[Any]:
    """Claims due proposals for several workers, who get them in the order of the claim.

    `whos`, `actors` and `for_reasons` have an element for each proposal that a caller wants.
    """
    due = _due(filters)
    columns = ("who", "actor", "for_reason")
    calls = (
        func.unnest(*(bindparam(f"{name}s", type_=ARRAY(Text())) for name in columns))
        .table_valued(*(column(name, Text()) for name in columns), with_ordinality="place")
        .render_derived(name="calls")
    )
    free = _admitted(due)
    order = free.c.priority.desc(), free.c.due, free.c.id
    numbered = select(free.c.id, func.row_number().over(order_by=order).label("place")).subquery()
    dealt = (
        select(numbered, calls.c.who, calls.c.actor, calls.c.for_reason)
        .join_from(numbered, calls, calls.c.place == numbered.c.place)
        .order_by(numbered.c.place)
        .cte("dealt")
    )
    to = dealt.c
    record = _record(select(to.id).order_by(to.place), to.actor, to.who)
    return _claim_all(due, dealt, to.place, _start(to.actor, to.for_reason), record)


def _claim_all(
    due: CTE, taken: CTE, place: ColumnElement[Any], start: dict[str, Any], record: Any
) -> Select[Any]:
    """Starts the proposals of `taken` and writes their records, in one statement.

    It always returns at least one row, because each row tells whether the ledger has overdue rows, and whether due ones
    were passed over. The rows have no order.
    """
    started = record.cte("started")
    # The server runs the statements of a WITH in the order in which its plan reads them. This one reads the other's
    # rows first, so that the history is the same for every plan.
    after_records = select(func.count()).select_from(started).scalar_subquery() >= literal_column(
        "0"
    )
    begun = (
        update(PROPOSALS)
        .where(_P.id == taken.c.id, few(taken.c.id), after_records)
        .values(start)
        .returning(*PROPOSAL_COLUMNS, place)
        .cte("moved")
    )
    claimed = (
        select(*begun.c, *(each.label(f"record_{each.name}") for each in started.c))
        .join_from(begun, started, started.c.proposal_id == begun.c.id)
        .subquery("taken")
    )
    passed = _passed(due, taken).label("passed")
    one = select(overdue().label("overdue"), passed).subquery("one")
    return select(one.c.overdue, one.c.passed, *claimed.c).select_from(
        one.outerjoin(claimed, true())
    )


def _start(actor: Any = _ACTOR, reason: Any = _FOR_REASON) -> dict[str, Any]:
    return moved(
        ActionStatus.EXECUTING, status_changed_by=actor, status_reason=reason, next_retry_at=None
    )


# The columns of a new record that the database sets; the others are known.
_BEGUN = tuple(RECORDS.c[name] for name in ("id", "proposal_id", "started_at", "lease_expires_at"))


_OPEN: Final = {name: field.get_default() for name, field in ActionRecord.model_fields.items()}


def _begun(row: Sequence[Any], worker: str) -> StoredRecord:
    id_, proposal_id, started_at, lease_expires_at = row
    return StoredRecord.from_stored(
        {
            **_OPEN,
            "id": id_,
            "proposal_id": proposal_id,
            "started_at": decode_time(started_at),
            "worker": worker,
            "lease_expires_at": decode_time(lease_expires_at),
        }
    )


def _record(ids: Select[Any], actor: Any = _ACTOR, who: Any = _WHO) -> Any:
    """An INSERT of the records for the start of the proposals with these ids."""
    lease = from_now(bindparam("lease", type_=Double()))
    (id_,) = ids.selected_columns
    return (
        insert(RECORDS)
        .from_select(
            ["proposal_id", "started_at", "started_by", "worker", "lease_expires_at"],
            ids.with_only_columns(id_, utcnow(), actor, who, lease),
        )
        .returning(*_BEGUN)
    )


@cache
def _candidates(filters: frozenset[str], halts: bool, limits: bool) -> Select[Any]:
    held = [unexclusive()]
    if halts:
        held += [not_all_halted(), unhalted()]
    if limits:
        held.append(unlimited())
    return (
        select(*PROPOSAL_COLUMNS)
        .where(_VALIDATED, *_claimable(*_filters(filters)), *held, *_one(filters))
        .order_by(*_ORDER)
        .limit(unseen(bindparam("limit", type_=BigInteger())))
        .offset(bindparam("offset", type_=BigInteger()))
        .with_for_update(skip_locked=True)
    )


_START_LISTED = (
    update(PROPOSALS)
    .where(listed(_P.id, "ids"), _VALIDATED)
    .values(_start())
    .returning(_P.id, _P.updated_at, _P.version)
)
_RECORD_LISTED = _record(select(_P.id).where(listed(_P.id, "ids")))
# Keeps the order of the claim.
_RECORD_EACH = _record(select(each("ids").c.value))


def claim(request: ClaimRequest) -> SingleStatement[Claimed]:
    """Claims due proposals for a worker."""
    filters = request.filters
    parameters = {
        **request.who,
        "lease": request.lease,
        "limit": request.limit,
        **filters,
    }
    statement = _claim_on_server(frozenset(filters))

    def unit(conn: Connection) -> Claimed:
        if is_sqlite(conn):
            sweep(conn)
            return Claimed(_select_and_start(conn, request), False, False)
        return answer(fetch(conn, statement, parameters))

    def answer(rows: Sequence[Any]) -> Claimed:
        # Sorting here costs less than in the statement.
        found = sorted(_found(rows), key=_in_order)
        return Claimed(_claims(found, request.worker), *rows[0][:_FACTS])

    # Claims of different callers can share a statement if any of them could get each proposal.
    key = "claim", request.lease, request.action_names, request.action_types
    shared = None if "proposal" in filters else Shared(key, _deal, request, request.limit)
    return SingleStatement(unit, Shortcut(statement, parameters, answer), shared=shared)


def _deal(
    requests: Sequence[ClaimRequest],
) -> Shortcut[list[Claimed | Unanswered]]:
    """One statement for several claims: the first caller gets the first proposals."""
    filters = requests[0].filters
    wanted = [place for place, each in enumerate(requests) for _ in range(each.limit)]
    who = [each.who for each in requests]
    parameters = {
        **{f"{name}s": [who[place][name] for place in wanted] for name in who[0]},
        "lease": requests[0].lease,
        "limit": len(wanted),
        **filters,
    }

    def answer(rows: Sequence[Any]) -> list[Claimed | Unanswered]:
        left = rows[0][:_FACTS]
        shares: list[list[tuple[Any, ...]]] = [[] for _ in requests]
        for row in sorted(_found(rows), key=_place):
            shares[wanted[_place(row) - 1]].append(row)
        return [
            Claimed(_claims(share, each.worker), *left)
            for each, share in zip(requests, shares, strict=True)
        ]

    statement = _claim_together(frozenset(filters))
    return Shortcut(statement, parameters, answer, explains=())


def _found(rows: Sequence[Any]) -> list[tuple[Any, ...]]:
    return [] if rows[0][_ID] is None else [tuple(row) for row in rows]


def _claims(rows: Sequence[tuple[Any, ...]], worker: str) -> list[Claim]:
    taken: list[Claim] = []
    for row in rows:
        try:
            taken.append(
                Claim(to_proposal(row[_FACTS:_DUE_AT]), _begun(row[_DUE_AT + 1 :], worker))
            )
        except CorruptRow as error:
            # The server could not detect this one. The others must reach the worker, and this lease expires.
            logger.error("claimed a row that can't be read, its lease will expire: %s", error)
    return taken


_FIELDS = tuple(StoredProposal.model_fields)
_FACTS = 2
"""The columns before those of the proposal."""
_ID, _PRIORITY = (_FACTS + _FIELDS.index(name) for name in ("id", "priority"))
_DUE_AT = _FACTS + len(PROPOSAL_COLUMNS)
"""When the proposal has been due since, or its place in the order of the claim."""


def _place(row: tuple[Any, ...]) -> int:
    return row[_DUE_AT]


def _in_order(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return -row[_PRIORITY], row[_DUE_AT], row[_ID]


def claim_in_parts(conn: Connection, request: ClaimRequest) -> Claimed:
    """As `claim`, but skips the proposals that the database refuses to start, which are logged."""
    return Claimed(_select_and_start(conn, request), False, False)


def _select_and_start(conn: Connection, request: ClaimRequest) -> list[Claim]:
    """Selects due proposals and then starts them: SQLite has no single statement for both."""
    taken: list[Claim] = []
    refused = 0
    while len(taken) < request.limit:
        rest = request._replace(limit=request.limit - len(taken))
        found = _first_due(conn, rest, refused)
        chosen = _together(conn, found)
        started = _start_unrefused(conn, request, chosen)
        taken += started
        if len(started) == len(found):
            break
        # The refused ones keep their places in the order. What could not start together with these is not found again
        # if it can't start after them.
        refused += len(chosen or found) - len(started)
    return taken


def _together(conn: Connection, found: Sequence[StoredProposal]) -> Sequence[StoredProposal]:
    """Those of the proposals that may start together."""
    if any(each.exclusive_key is not None for each in found) or is_any_limit_open(conn):
        return admitted(conn, found)
    return found


def _start_unrefused(
    conn: Connection, request: ClaimRequest, found: Sequence[StoredProposal]
) -> list[Claim]:
    """Starts all of these proposals, or at least those that the database does not refuse."""
    if not found:
        return []
    try:
        with savepoint(conn):
            return _start_all(conn, request, found)
    except (DBAPIError, ConstraintViolation) as error:
        if not is_of_rows(conn, error):
            raise
    # Each statement has its own time, so some may have expired since they were selected. Others may be damaged.
    known = {each.id: each for each in found}

    def start(conn: Connection, ids: Sequence[int]) -> list[Claim]:
        return _start_all(conn, request, [known[id_] for id_ in ids])

    started: list[Claim] = []
    try:
        for some in in_parts(conn, list(known), start, "start proposal"):
            started += some
    except (DBAPIError, ConstraintViolation) as error:
        if not is_of_rows(conn, error):
            raise
    return started


def _first_due(conn: Connection, request: ClaimRequest, offset: int) -> list[StoredProposal]:
    found: list[StoredProposal] = []
    filters = request.filters
    candidates = _candidates(frozenset(filters), is_any_open(conn), is_any_limit_open(conn))
    parameters: dict[str, Any] = {"offset": offset, **filters}
    while len(found) < request.limit:
        parameters["limit"] = request.limit - len(found)
        rows = fetch(conn, candidates, parameters)
        if not rows:
            break
        parameters["offset"] += len(rows)
        for row in rows:
            try:
                found.append(to_proposal(row))
            except CorruptRow as error:
                # It is never claimed, and does not prevent the claim of others.
                logger.warning("skipped a row that can't be claimed: %s", error)
    return found


def _start_all(
    conn: Connection, request: ClaimRequest, found: Sequence[StoredProposal]
) -> list[Claim]:
    begin = {"ids": [proposal.id for proposal in found], **request.who}
    start = {**begin, "lease": request.lease}
    # The records come first, so that the history is the same as on a server.
    record = _RECORD_EACH if is_sqlite(conn) else _RECORD_LISTED
    records = {row[1]: row for row in fetch(conn, record, start)}
    begun = {id_: changed for id_, *changed in fetch(conn, _START_LISTED, begin)}
    if not len(records) == len(begun) == len(found):
        raise ConstraintViolation(
            "a trigger of another program has ignored the start of a proposal"
        )
    return [
        Claim(_executing(one, *begun[one.id]), _begun(records[one.id], request.worker))
        for one in found
    ]


def _executing(found: StoredProposal, updated_at: Any, version: int) -> StoredProposal:
    """The proposal after its start. It was locked when it was found, so only these values have changed."""
    return StoredProposal.from_stored(
        {
            **found.__dict__,
            "status": ActionStatus.EXECUTING,
            "next_retry_at": None,
            "updated_at": decode_time(updated_at),
            "version": version,
        }
    )
