"""What the failure tests on real servers share: a load that notes what it was told, and the reckoning."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from itertools import count, pairwise
from typing import Any, Final, NamedTuple, Self, TypeAlias, TypeVar

import pytest

from operator_core.actions.errors import Busy, CommitOutcomeUnknown, StorageUnavailable
from operator_core.actions.types import ActionRecord, ActionStatus
from operator_core.db import ActionDB, migrate
from tests.databases import NEEDS_SERVER, NoServer, query
from tests.failures.harness import PATIENCE, Child, finish, let_go, proposal, start
from tests.servers import Server

T = TypeVar("T")

DRIVERS: Final = ("postgresql", "postgresql+psycopg")
"""How a URL names each driver."""

_BROKEN: Final = {
    "proposals without exactly one creation in the history": """
        SELECT p.id FROM action_proposals p LEFT JOIN action_events e
            ON e.proposal_id = p.id AND e.event_type = 'proposal_created'
        GROUP BY p.id HAVING count(e.id) != 1""",
    "proposals whose status is not that of their last event": """
        SELECT p.id FROM action_proposals p WHERE p.status IS DISTINCT FROM (
            SELECT to_status FROM action_events
            WHERE proposal_id = p.id AND to_status IS NOT NULL ORDER BY id DESC LIMIT 1)""",
    "records without exactly their events": """
        SELECT r.id FROM action_records r LEFT JOIN action_events e
            ON e.proposal_id = r.proposal_id AND e.record_id = r.id
        GROUP BY r.id
        HAVING count(*) FILTER (WHERE e.event_type = 'record_started') != 1
            OR count(*) FILTER (WHERE e.event_type = 'record_finished')
                != (r.completed_at IS NOT NULL)::int""",
    "events without their row": """
        SELECT id FROM action_events
        WHERE proposal_id NOT IN (SELECT id FROM action_proposals)
            OR record_id IS NOT NULL AND record_id NOT IN (SELECT id FROM action_records)""",
}

_SOON: Final = 15.0
"""Seconds within which a server's sessions are as they are to be."""

_SESSIONS: Final = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'operator-core'"""


@contextmanager
def own_server(**options: Any) -> Iterator[Server]:
    """A server that the test may break; where none can be made the test is skipped, visibly."""
    try:
        server = Server.make(**options)
    except NoServer:
        pytest.skip(NEEDS_SERVER)
    with server:
        yield server


def make_ledger(server: Server) -> str:
    """The URL of an empty ledger on the server."""
    server.sql("CREATE DATABASE ledger")
    migrate.upgrade(server.url("ledger"))
    return server.url("ledger")


def by(driver: str, url: str) -> str:
    """`url` with the driver in it."""
    return driver + url.removeprefix("postgresql")


def await_no_session(url: str) -> None:
    """Waits until the server has ended every session of a ledger in this database."""
    _await(url, _SESSIONS, lambda left: left == 0)


def await_waiting(url: str) -> None:
    """Waits until a session of a ledger waits for another one's lock."""
    _await(url, _SESSIONS + " AND wait_event_type = 'Lock'", lambda waiting: waiting > 0)


def _await(url: str, sql: str, right: Callable[[int], bool]) -> None:
    # Nothing tells a client how the others are: one has to ask.
    deadline = time.monotonic() + _SOON
    while not right(found := query(url, sql)[0][0]):
        assert time.monotonic() < deadline, f"sessions: {found}"
        time.sleep(0.01)


def check_whole(url: str) -> None:
    """Fails unless each row and its events are both there or both absent."""
    for what, sql in _BROKEN.items():
        assert query(url, sql) == [], what


def contend(program: str, *arguments: object, processes: int, stops: Iterable[str]) -> list[Any]:
    """Lets processes loose on a ledger, all at once; each is told its name last. What each printed."""
    children: list[Child] = [
        start(program, *arguments, f"worker-{number}") for number in range(processes)
    ]
    try:
        for stop in stops:
            let_go(children, stop)
        return [printed for child in children for printed in finish(child)]
    finally:
        for child in children:
            child.kill()
            child.communicate()


Claims: TypeAlias = tuple[str, ...]
"""What one unit of work does, a line for each change; the marker in it is in no other unit."""

_MOVES: Final = (ActionStatus.VALIDATED, ActionStatus.EXECUTING)

PAUSE: Final = 0.02
"""Seconds before a service that was refused asks again."""


class _NotAcknowledged(Exception):
    """What the rest of a life builds on may not be there."""


class Load:
    """Tasks that write to one ledger as fast as it answers, and a note of what each was told.

    In the block of ``async with``; at its end the tasks finish what they are at. Errors other than
    those by which a ledger says that its server is away end the block.
    """

    def __init__(self, db: ActionDB, tasks: int = 16) -> None:
        self._db = db
        self._tasks = tasks
        self._group = asyncio.TaskGroup()
        self._news = asyncio.Event()
        self.stopped = False
        self.acknowledged: list[Claims] = []
        self.unknown: list[Claims] = []
        self.refused: list[Claims] = []
        self.refusals: Counter[str] = Counter()
        self.times: list[float] = []
        """When each of the acknowledged was."""

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        for number in range(self._tasks):
            self._group.create_task(self.work(f"task-{number}"))
        return self

    async def __aexit__(self, *error: Any) -> None:
        self.stopped = True
        await self._group.__aexit__(*error)

    async def more(self, told: Sized, more: int) -> None:
        """Waits until so many more stand in `acknowledged`, `unknown` or `refused`, as long as any come."""
        wanted = len(told) + more
        while len(told) < wanted:
            self._news.clear()
            async with asyncio.timeout(PATIENCE):
                await self._news.wait()

    def longest_pause(self) -> float:
        """Seconds between two acknowledgements, at the most."""
        return max(after - before for before, after in pairwise(self.times))

    def note(self, told: list[Claims], claims: Claims) -> None:
        told.append(claims)
        if told is self.acknowledged:
            self.times.append(time.monotonic())
        self._news.set()

    async def work(self, name: str) -> None:
        for number in count():
            if self.stopped:
                return
            with suppress(_NotAcknowledged):
                marker = f"{name}-{number}"
                await (self._together(marker) if number % 3 == 2 else self._live(marker))

    async def _write(self, work: Awaitable[T], *claims: str) -> T:
        try:
            answer = await work
        except CommitOutcomeUnknown:
            self.note(self.unknown, claims)
            raise _NotAcknowledged from None
        except (StorageUnavailable, Busy) as error:
            self.refusals[f"{type(error).__name__}: {error}"] += 1
            self.note(self.refused, claims)
            await asyncio.sleep(PAUSE)
            raise _NotAcknowledged from None
        self.note(self.acknowledged, claims)
        return answer

    async def _check_readable(self, id: int | None, marker: str) -> None:
        try:
            found = await self._db.get_proposal(id)
        except (StorageUnavailable, Busy):
            return
        assert found is not None, "what was acknowledged is not there"
        assert found.parameters == {"marker": marker}, "another caller's answer"

    async def _live(self, marker: str) -> None:
        """One call after another, as long as each is known to have come to something."""
        db, write = self._db, self._write
        made = await write(
            db.create_proposal(proposal(parameters={"marker": marker})), f"proposal {marker}"
        )
        await self._check_readable(made.id, marker)
        for status in _MOVES:
            await write(db.update_proposal_status(made.id, status), f"status {marker} {status}")
        started = ActionRecord(proposal_id=made.id or 0)
        record = await write(db.create_record(started), f"record {marker}")
        assert record.proposal_id == made.id, "another caller's answer"
        await write(db.update_record(record.id, True), f"outcome {marker}")

    async def _together(self, marker: str) -> None:
        """Several calls that are one."""

        async def work() -> None:
            async with self._db.transaction() as tx:
                first = await tx.create_proposal(proposal(parameters={"marker": marker}))
                await tx.create_proposal(proposal(parameters={"marker": f"{marker}-too"}))
                for status in _MOVES:
                    await tx.update_proposal_status(first.id, status)
                record = await tx.create_record(ActionRecord(proposal_id=first.id or 0))
                await tx.update_record(record.id, True)

        moves = [f"status {marker} {status}" for status in _MOVES]
        rest = [f"proposal {marker}-too", *moves, f"record {marker}", f"outcome {marker}"]
        await self._write(work(), f"proposal {marker}", *rest)


_DONE: Final = """
    WITH marked AS (SELECT id, parameters->>'marker' AS marker FROM action_proposals)
    SELECT 'proposal ' || marker FROM marked
    UNION ALL SELECT 'status ' || marker || ' ' || to_status
        FROM action_events e JOIN marked ON marked.id = e.proposal_id
        WHERE event_type = 'status_changed'
    UNION ALL SELECT 'record ' || marker
        FROM action_records r JOIN marked ON marked.id = r.proposal_id
    UNION ALL SELECT 'outcome ' || marker
        FROM action_records r JOIN marked ON marked.id = r.proposal_id
        WHERE completed_at IS NOT NULL"""


class Reckoning(NamedTuple):
    """Where the database is not what the callers were told; all empty if all is well."""

    lost: list[Claims]
    """Acknowledged, and not there, or not all of it."""
    half: list[Claims]
    """There in part, whatever the caller was told."""
    doubled: list[str]
    refused: list[Claims]
    """There, although the caller was told that nothing was done."""


def reckon(load: Load, url: str) -> Reckoning:
    """Compares what the database has with what the callers were told, and prints the figures."""
    done = Counter(claim for (claim,) in query(url, _DONE))
    told = [*load.acknowledged, *load.unknown, *load.refused]
    found = Reckoning(
        [claims for claims in load.acknowledged if not all(done[claim] for claim in claims)],
        [claims for claims in told if len({bool(done[claim]) for claim in claims}) > 1],
        [claim for claim, times in done.items() if times > 1],
        [claims for claims in load.refused if any(done[claim] for claim in claims)],
    )
    there = sum(all(done[claim] for claim in claims) for claims in load.unknown)
    print(
        f"acknowledged={len(load.acknowledged)} unknown={len(load.unknown)} (done: {there})"
        f" refused={len(load.refused)} lost={len(found.lost)} half={len(found.half)}"
        f" doubled={len(found.doubled)} done though refused={len(found.refused)}"
    )
    for message, times in load.refusals.most_common(5):
        print(f"    {times} times {message}")
    return found


def check_waited(load: Load) -> None:
    """Fails if a call was refused that was a whole unit, and so could have waited for a server."""
    alone = [claims for claims in load.refused if len(claims) == 1]
    assert not alone, f"{len(alone)} calls did not wait: {load.refusals.most_common(3)}"


def check_kept(load: Load, url: str) -> None:
    """Fails unless every caller was told the truth, and each row and its events agree."""
    found = reckon(load, url)
    for what, claims in found._asdict().items():
        assert not claims, f"{len(claims)} {what}: {claims[:3]}"
    assert load.acknowledged
    check_whole(url)
