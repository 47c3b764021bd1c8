"""Units of work by which workers claim due proposals, each for exactly one worker."""

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    Connection,
    Double,
    Select,
    Text,
    bindparam,
    func,
    insert,
    literal_column,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.exc import DBAPIError

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
from operator_core.db.ledger.partial import in_parts, is_of_rows
from operator_core.db.ledger.recovery import overdue, sweep
from operator_core.db.ledger.status import any_of, may_start, moved
from operator_core.db.sql.arrays import each, listed
from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sql.execution import fetch
from operator_core.db.sql.functions import from_now, readable, utcnow, written_now
from operator_core.db.sql.planner_hints import any_number, few, few_in, nearly_all
from operator_core.db.sql.rows import (
    PROPOSAL_COLUMNS,
    decode_time,
    to_proposal,
)
from operator_core.db.sql.savepoint import savepoint
from operator_core.db.sql.tables import PROPOSALS, RECORDS
from operator_core.db.sql.unit import Shortcut, SingleStatement

__all__ = ["ClaimRequest", "claim", "claim_in_parts"]

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

    @property
    def who(self) -> dict[str, str | None]:
        """The worker, the actor and the reason, as parameters of the statements."""
        return {"who": self.worker, "actor": self.actor or self.worker, "for_reason": self.reason}

    @property
    def kinds(self) -> dict[str, list[str]]:
        """The filters by action name and type, as parameters of the statements."""
        filters = {"names": self.action_names, "types": self.action_types}
        return {name: list(values) for name, values in filters.items() if values is not None}


_VALIDATED = any_of([ActionStatus.VALIDATED])


def _claimable(*kinds: Any) -> list[Any]:
    """The conditions under which a validated proposal can be claimed."""
    return [
        # A proposal without a time is due whatever the clock says, also after the clock was set back.
        or_(_P.next_retry_at.is_(None), written_now() >= _P.next_retry_at),
        *may_start(),
        readable(_P.parameters),
        # A proposal at the last version can't move. Another tool may have set it while the triggers were missing.
        _P.version < literal_column(str(MAX_ID)),
        _P.action_type.in_([literal_column(f"'{kind.value}'") for kind in ActionType]),
        *kinds,
    ]


def _kinds(names: bool, types: bool) -> list[Any]:
    filters = ((names, _P.action_name, "names"), (types, _P.action_type, "types"))
    return [listed(column, name) for used, column, name in filters if used]


@cache
def _claim_on_server(names: bool, types: bool) -> Select[Any]:
    """Claims due proposals in one statement, and skips those that other transactions have locked.

    It always returns at least one row, because each row tells whether the ledger has overdue rows. The rows have no
    order.
    """
    due = (
        select(_P.id, _P.priority, _DUE.label("due"))
        .where(
            _VALIDATED,
            # The predicate of the index.
            few_in(_P.status, ActionStatus.VALIDATED.value),
            nearly_all(*_claimable(*_kinds(names, types))),
        )
        .order_by(*_ORDER)
        .limit(any_number(bindparam("limit", type_=BigInteger())))
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    begun = (
        update(PROPOSALS)
        .where(_P.id == due.c.id, few(due.c.id))
        .values(_start())
        .returning(*PROPOSAL_COLUMNS, due.c.due)
    ).cte("moved")
    started = _record(select(due.c.id)).cte("started")
    taken = (
        select(*begun.c, *(column.label(f"record_{column.name}") for column in started.c))
        .join_from(begun, started, started.c.proposal_id == begun.c.id)
        .subquery("taken")
    )
    one = select(overdue().label("overdue")).subquery("one")
    return select(one.c.overdue, *taken.c).select_from(one.outerjoin(taken, true()))


def _start() -> dict[str, Any]:
    actor = bindparam("actor", type_=Text())
    return moved(
        ActionStatus.EXECUTING,
        status_changed_by=actor,
        status_reason=bindparam("for_reason", type_=Text()),
        next_retry_at=None,
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


def _record(ids: Select[Any]) -> Any:
    """An INSERT of the records for the start of the proposals with these ids."""
    (id_,) = ids.subquery("these").c
    worker, actor = bindparam("who", type_=Text()), bindparam("actor", type_=Text())
    lease = from_now(bindparam("lease", type_=Double()))
    return (
        insert(RECORDS)
        .from_select(
            ["proposal_id", "started_at", "started_by", "worker", "lease_expires_at"],
            select(id_, utcnow(), actor, worker, lease),
        )
        .returning(*_BEGUN)
    )


@cache
def _candidates(names: bool, types: bool) -> Select[Any]:
    return (
        select(*PROPOSAL_COLUMNS)
        .where(_VALIDATED, *_claimable(*_kinds(names, types)))
        .order_by(*_ORDER)
        .limit(bindparam("limit", type_=BigInteger()))
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


def claim(request: ClaimRequest) -> SingleStatement[tuple[list[Claim], bool]]:
    """Claims due proposals for a worker; returns the claims, and whether `sweep` has something to do."""
    kinds = request.kinds
    parameters = {
        **request.who,
        "lease": request.lease,
        "limit": request.limit,
        **kinds,
    }
    statement = _claim_on_server("names" in kinds, "types" in kinds)

    def unit(conn: Connection) -> tuple[list[Claim], bool]:
        if is_sqlite(conn):
            sweep(conn)
            return _select_and_start(conn, request), False
        return answer(fetch(conn, statement, parameters))

    def answer(rows: Sequence[Any]) -> tuple[list[Claim], bool]:
        return _claimed(rows, request.worker)

    return SingleStatement(unit, Shortcut(statement, parameters, answer))


def _claimed(rows: Sequence[Any], worker: str) -> tuple[list[Claim], bool]:
    left = rows[0][0]
    if rows[0][_ID] is None:
        return [], left
    taken: list[Claim] = []
    # Sorting here costs less than in the statement.
    found: list[tuple[Any, ...]] = [tuple(row) for row in rows]
    for values in sorted(found, key=_in_order):
        try:
            proposal = to_proposal(values[1:_DUE_AT])
            taken.append(Claim(proposal, _begun(values[_DUE_AT + 1 :], worker)))
        except CorruptRow as error:
            # The server could not detect this one. The others must reach the worker, and this lease expires.
            logger.error("claimed a row that can't be read, its lease will expire: %s", error)
    return taken, left


_FIELDS = tuple(StoredProposal.model_fields)
_ID, _PRIORITY = (1 + _FIELDS.index(name) for name in ("id", "priority"))
_DUE_AT = 1 + len(PROPOSAL_COLUMNS)


def _in_order(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return -row[_PRIORITY], row[_DUE_AT], row[_ID]


def claim_in_parts(conn: Connection, request: ClaimRequest) -> tuple[list[Claim], bool]:
    """As `claim`, but skips the proposals that the database refuses to start, which are logged."""
    return _select_and_start(conn, request), False


def _select_and_start(conn: Connection, request: ClaimRequest) -> list[Claim]:
    """Selects due proposals and then starts them: SQLite has no single statement for both."""
    taken: list[Claim] = []
    refused = 0
    while len(taken) < request.limit:
        rest = request._replace(limit=request.limit - len(taken))
        found = _first_due(conn, rest, refused)
        started = _start_unrefused(conn, request, found)
        taken += started
        if len(started) == len(found):
            break
        # The refused ones keep their places in the order.
        refused += len(found) - len(started)
    return taken


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
    kinds = request.kinds
    candidates = _candidates("names" in kinds, "types" in kinds)
    parameters: dict[str, Any] = {"offset": offset, **kinds}
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
