"""Reads an overview of a ledger for its operators: counts, and running executions."""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, Subquery, and_, func, or_, select

from operator_core.actions.errors import CorruptRow, InvalidTransition
from operator_core.actions.types import ActionStatus, Halt, StoredRecord
from operator_core.db import ActionDB
from operator_core.db.ledger.halts import list_halts
from operator_core.db.ledger.queries import count_proposals
from operator_core.db.ledger.status import any_of, check_start
from operator_core.db.sql.functions import utcnow
from operator_core.db.sql.rows import RECORD_COLUMNS, Listing, decode_time, to_listing, to_record
from operator_core.db.sql.tables import PROPOSALS, RECORDS

__all__ = [
    "MOST",
    "UNHANDLED",
    "Execution",
    "Overview",
    "OverviewDB",
    "overview_json",
    "unhandled_names",
]

MOST: Final = 200
"""Limit of the executions that are read; more than a screen shows."""

_P = PROPOSALS.c
_R = RECORDS.c


class Execution(NamedTuple):
    """An execution that has not ended, according to the ledger.

    Its proposal may have left `executing`, for example by a cancellation that its worker has not noticed.
    """

    proposal_id: int
    action_name: str
    status: ActionStatus
    worker: str | None
    since: datetime | None
    lease_until: datetime | None


class Overview(NamedTuple):
    """The state of a ledger at `now`, by the database's clock."""

    now: datetime
    counts: dict[ActionStatus, int]
    executions: Listing[Execution]
    unhandled: list[str]
    """Names of actions that wait and that no worker has handled yet: see `unhandled_names`."""
    halts: list[Halt]
    """The open halts, also freezes that have not begun."""


class OverviewDB(ActionDB):
    """A ledger with the queries that only the command line needs."""

    async def now(self) -> datetime:
        """Returns the database's time, which decides about leases; this machine's clock may differ."""
        return await self._units.read(_now)

    async def hindrance(self, proposal_id: int) -> InvalidTransition | None:
        """Returns the error that says why a validated proposal can't start now, or None."""
        try:
            await self._units.read(lambda conn: check_start(conn, proposal_id))
        except InvalidTransition as error:
            return error
        return None

    async def overview(self) -> Overview:
        """Returns the counts and the running executions: at most 200, those whose lease expires first."""
        return await self._units.read(_overview)

    async def action_names(self, proposal_ids: Collection[int]) -> dict[int, str]:
        """Returns the action names of the proposals with these ids."""
        return await self._units.read(lambda conn: _action_names(conn, proposal_ids))

    async def last_records(self, proposal_ids: Collection[int]) -> Listing[StoredRecord]:
        """Returns the last record of each of these proposals; `corrupt` holds those that can't be read."""
        return await self._units.read(lambda conn: _last_records(conn, proposal_ids))


def _now(conn: Connection) -> datetime:
    return decode_time(conn.scalar(select(utcnow())))


def _action_names(conn: Connection, proposal_ids: Collection[int]) -> dict[int, str]:
    query = select(_P.id, _P.action_name).where(_P.id.in_(proposal_ids))
    # A name that another tool damaged must not hide the others.
    return {known: name if isinstance(name, str) else "?" for known, name in conn.execute(query)}


def _last_records(conn: Connection, proposal_ids: Collection[int]) -> Listing[StoredRecord]:
    rows: list[Sequence[Any]] = []
    for some in _chunks(sorted(proposal_ids)):
        last = select(func.max(_R.id)).where(_R.proposal_id.in_(some)).group_by(_R.proposal_id)
        rows += conn.execute(select(*RECORD_COLUMNS).where(_R.id.in_(last)))
    return to_listing(rows, to_record)


def _chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """Splits `ids` into chunks that every build of SQLite accepts as parameters of one statement."""
    return (ids[start : start + 500] for start in range(0, len(ids), 500))


_COLUMNS: Final = (
    _P.id,
    _P.action_name,
    _P.status,
    func.coalesce(_R.worker, _R.started_by, _P.status_changed_by),
    func.coalesce(_R.started_at, _P.status_changed_at),
    _R.lease_expires_at,
)
_OPEN: Final = and_(_R.proposal_id == _P.id, _R.completed_at.is_(None))

# Two queries, so that each uses an index: one of open leases, one of statuses.
_LEASED: Final = (
    select(*_COLUMNS)
    .join_from(RECORDS, PROPOSALS, _R.proposal_id == _P.id)
    .where(_R.completed_at.is_(None), _R.lease_expires_at.is_not(None))
    .order_by(_R.lease_expires_at, _R.id)
    .limit(MOST)
)
_WITHOUT_LEASE: Final = (
    select(*_COLUMNS)
    .select_from(PROPOSALS.outerjoin(RECORDS, _OPEN))
    .where(any_of([ActionStatus.EXECUTING]), or_(_R.id.is_(None), _R.lease_expires_at.is_(None)))
    .order_by(_P.id)
    .limit(MOST)
)


def _overview(conn: Connection) -> Overview:
    rows = [*conn.execute(_LEASED), *conn.execute(_WITHOUT_LEASE)][:MOST]
    counts, unhandled = count_proposals(conn), unhandled_names(conn)
    halts = list(list_halts(conn, active=True))
    return Overview(_now(conn), counts, to_listing(rows, _execution), unhandled, halts)


_WAITING: Final = (
    select(_P.action_name).where(any_of([ActionStatus.VALIDATED])).order_by(_P.id).limit(MOST)
)


def _handled(waiting: Subquery, *, oldest: bool) -> ColumnElement[bool]:
    proposal = PROPOSALS.alias()
    order = proposal.c.id if oldest else proposal.c.id.desc()
    same = proposal.c.action_name == waiting.c.action_name
    some = select(proposal.c.id).where(same).order_by(order).limit(MOST).correlate(waiting)
    worked = select(_R.id).where(_R.proposal_id.in_(some.scalar_subquery()), _R.worker.is_not(None))
    return worked.exists()


def _unhandled() -> Select[Any]:
    waiting = _WAITING.subquery()
    name = waiting.c.action_name
    none = [~_handled(waiting, oldest=oldest) for oldest in (True, False)]
    return select(name).where(*none).group_by(name)


UNHANDLED: Final = _unhandled()
"""The names of `unhandled_names`, in no order."""


def unhandled_names(conn: Connection) -> list[str]:
    """Returns the names of actions that wait for a worker and that none has handled: perhaps none has their handlers.

    It looks at the 200 oldest waiting proposals, and at the 200 oldest and newest of each name, so that it is fast in
    a large ledger.
    """
    return [str(name) for (name,) in conn.execute(UNHANDLED.order_by("action_name"))]


def overview_json(overview: Overview) -> dict[str, Any]:
    """Returns an overview for `print_json`."""
    return {
        "now": overview.now.isoformat(),
        "counts": {status.value: count for status, count in overview.counts.items()},
        "executions": [
            {
                name: value.isoformat() if isinstance(value, datetime) else value
                for name, value in each._asdict().items()
            }
            for each in overview.executions
        ],
        "unhandled": overview.unhandled,
        "halts": [halt.model_dump(mode="json") for halt in overview.halts],
    }


def _execution(row: Sequence[Any]) -> Execution:
    id_, name, status, worker, since, lease_until = row
    try:
        return Execution(
            id_,
            _text(name),
            ActionStatus(status),
            None if worker is None else _text(worker),
            _time(since),
            _time(lease_until),
        )
    except (ValueError, TypeError):
        raise CorruptRow("action_proposals", id_, "a column", "is damaged") from None


def _time(value: Any) -> datetime | None:
    return None if value is None else decode_time(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
