"""Who begins to wait, and who stops: at whatever moment, nothing is missed and nothing left behind."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from operator_core.actions import (
    ActionProposal,
    ActionStatus,
    NotOpen,
    StorageError,
)
from operator_core.db import ActionDB
from operator_core.db.sql.sqlite_library import dbapi
from tests.clocks import PATIENCE
from tests.contract.waiting import (
    await_waiting,
    cancelled_at_the_end,
    hold,
    made,
)
from tests.engines import engine_on

S = ActionStatus

pytestmark = pytest.mark.usefixtures("only_woken")


@pytest.fixture
def make_engine() -> Callable[[str | Path], AsyncEngine]:
    """By the library of the connections that the tests open themselves."""
    return engine_on


@pytest.fixture
async def other(
    db: ActionDB, backend: str, open_ledger: Callable[..., Awaitable[ActionDB]]
) -> ActionDB:
    """Another ledger on the same database; in memory there is none."""
    return db if backend == "memory" else await open_ledger()


@pytest.mark.parametrize("timeout", [0, 0.1])
async def test_patience_ends_when_it_was_said(
    db: ActionDB, place: str | Path, timeout: float
) -> None:
    held = await hold(db, place)
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        await db.wait_for(1, timeout=timeout)
    assert timeout <= time.monotonic() - begun < timeout + PATIENCE
    await held.check_given_back()


async def test_who_is_cancelled_while_it_waits_leaves_nothing_behind(
    db: ActionDB, place: str | Path
) -> None:
    held = await hold(db, place)
    waiting: list[asyncio.Task[ActionProposal]] = []
    for count in (1, 2, 3):
        waiting.append(asyncio.create_task(db.wait_for(1)))
        await await_waiting(db, count)
        # What it reads comes back after what it has read.
        await db.get_proposal(1)
    for task in waiting:
        task.cancel()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(answer) for answer in answers] == [asyncio.CancelledError] * 3
    await held.check_given_back()


@pytest.mark.parametrize("count", [1, 3])
async def test_who_is_cancelled_while_it_begins_to_wait_leaves_nothing_behind(
    db: ActionDB, place: str | Path, count: int
) -> None:
    held = await hold(db, place)
    waiting = [asyncio.create_task(db.wait_for(1)) for _ in range(count)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(answer) for answer in answers] == [asyncio.CancelledError] * count
    await held.check_given_back()


async def test_who_is_cancelled_at_any_moment_leaves_nothing_behind(
    db: ActionDB,
    other: ActionDB,
    place: str | Path,
) -> None:
    held = await hold(db, place)
    for turns in range(40):
        waiting = asyncio.create_task(db.wait_for(1))
        for _ in range(turns % 20):
            # Half of them let the driver's thread or the server come to something between.
            await asyncio.sleep(0 if turns < 20 else 0.0003)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await held.check_given_back()
    # And who comes afterwards is woken as ever.
    waiting = asyncio.create_task(db.wait_for(1, timeout=PATIENCE))
    async with cancelled_at_the_end(waiting):
        await await_waiting(db)
        await other.update_proposal_status(1, S.CANCELLED)
        await waiting


@pytest.mark.parametrize("backend", ["file", "engine"], indirect=True)
async def test_who_comes_while_another_begins_to_listen_misses_nothing(
    db: ActionDB, place: Path
) -> None:
    await made(db, 1)

    async def listen() -> None:
        async with db.changes():
            await asyncio.Event().wait()

    with closing(dbapi.connect(place, isolation_level=None)) as stranger:
        for turn in range(10):
            stranger.execute("BEGIN IMMEDIATE")
            stranger.execute("UPDATE action_proposals SET last_error = ?", (str(turn),))
            first = asyncio.create_task(listen())
            async with cancelled_at_the_end(first):
                await asyncio.sleep(0)
                async with db.changes() as changed:
                    changed.clear()
                    stranger.execute("COMMIT")
                    await asyncio.wait_for(changed.wait(), PATIENCE)


async def test_who_waits_when_it_is_closed_is_told_at_once(
    db: ActionDB, place: str | Path, backend: str
) -> None:
    held = await hold(db, place)

    async def follow() -> None:
        async for _ in db.events(follow=True):
            pass

    waiting = [asyncio.create_task(db.wait_for(1)), asyncio.create_task(follow())]
    async with cancelled_at_the_end(*waiting):
        await await_waiting(db, 2)
        await db.close()
        done, _ = await asyncio.wait(waiting, timeout=PATIENCE)
        assert done == set(waiting), "still waiting for a ledger that is closed"
    assert [type(task.exception()) for task in waiting] == [NotOpen, NotOpen]
    await held.check_given_back()
    with pytest.raises(NotOpen):
        await db.wait_for(1)
    with pytest.raises(NotOpen):
        await anext(db.events(follow=True))


@pytest.mark.parametrize("backend", ["file", "engine"], indirect=True)
async def test_who_begins_to_listen_where_nothing_can_be_read_is_told_and_leaves_nothing_behind(
    db: ActionDB, place: Path
) -> None:
    held = await hold(db, place)
    for file in place.parent.glob(f"{place.name}-*"):
        file.unlink()
    place.unlink()
    place.write_text("no database " * 1000)
    with pytest.raises(StorageError):
        async with db.changes():
            pass
    await held.check_given_back()
    gc.collect()
