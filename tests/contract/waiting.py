"""What the tests of waiting and following share: who waits at the moment, and what it holds."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from operator_core.actions import ActionEvent, ActionProposal, ActionStatus
from operator_core.db import ActionDB
from tests.clocks import PATIENCE
from tests.conftest import proposal
from tests.databases import query

LISTENING: Final = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND query ILIKE 'LISTEN%operator_core_events%'"""
"""The server's sessions that listen: it is the only statement that they ever run."""


def listening(place: str | Path) -> set[int]:
    """The sessions that listen in the database, if it is a server's."""
    if not str(place).startswith("postgresql"):
        return set()
    return {pid for (pid,) in query(str(place), LISTENING)}


async def await_waiting(db: ActionDB, count: int = 1) -> None:
    """Waits until so many wait for changes of this ledger object."""
    # Nobody is told that somebody waits.
    async with asyncio.timeout(PATIENCE):
        while len(db._units._doorbell._listeners) != count:  # type: ignore[attr-defined]
            await asyncio.sleep(0.001)


class Held:
    """What the process holds, and the server for it, to compare with what it held before."""

    def __init__(self, place: str | Path) -> None:
        self._place = place
        self._tasks, self._threads = asyncio.all_tasks(), set(threading.enumerate())

    async def check_given_back(self) -> None:
        """Fails unless it is as it was; sessions and threads end a moment after they are told to."""
        deadline = time.monotonic() + PATIENCE
        while left := self._left():
            assert time.monotonic() < deadline, f"left behind: {left}"
            await asyncio.sleep(0.005)

    def _left(self) -> list[object]:
        return [
            *(asyncio.all_tasks() - self._tasks),
            *(set(threading.enumerate()) - self._threads),
            *listening(self._place),
        ]


async def hold(db: ActionDB, place: str | Path) -> Held:
    """As it is when the ledger has the connections that reading and writing need."""
    await db.create_proposal(proposal())
    # Who finds a connection busy takes another, and some are kept.
    for _ in range(2):
        await asyncio.gather(*(db.list_proposals() for _ in range(10)))
    return Held(place)


@asynccontextmanager
async def cancelled_at_the_end(*tasks: "asyncio.Task[Any]") -> AsyncIterator[None]:
    """No task outlives the block, however it ends."""
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


async def started(db: ActionDB, **fields: Any) -> tuple[int, int]:
    """A proposal that a worker has claimed: its id and its record's."""
    made = await db.create_proposal(proposal(status=ActionStatus.VALIDATED, **fields))
    (claim,) = await db.claim("worker")
    assert claim.proposal.id == made.id
    assert made.id is not None
    assert claim.record.id is not None
    return made.id, claim.record.id


async def made(db: ActionDB, count: int) -> list[ActionProposal]:
    return await db.create_proposals([proposal() for _ in range(count)])


async def told(db: ActionDB, count: int, after: int | None = None) -> list[ActionEvent]:
    """The next so many events that a follower is given."""
    events = db.events(after=after, follow=True)
    try:
        async with asyncio.timeout(PATIENCE):
            return [await anext(events) for _ in range(count)]
    finally:
        await events.aclose()
