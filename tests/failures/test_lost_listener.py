"""The connection that listens is lost while things happen: nobody misses any, and who waits is woken again."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import pytest

from operator_core.actions.errors import Busy, CommitOutcomeUnknown, StorageUnavailable
from operator_core.actions.types import ActionStatus
from operator_core.db import ActionDB
from operator_core.db.postgresql import listener as listener_module
from operator_core.db.run.backoff import pause
from tests.databases import query
from tests.failures.harness import PATIENCE, proposal
from tests.failures.server_harness import DRIVERS, by, make_ledger, own_server

pytestmark = pytest.mark.usefixtures("only_woken")

LISTENING: Final = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND query ILIKE 'LISTEN%operator_core_events%'"""

EACH_DRIVER: Final = pytest.mark.parametrize("driver", DRIVERS)


async def listener(url: str, *, other_than: int = 0) -> int:
    """The session that listens, as soon as there is one."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = [pid for (pid,) in query(url, LISTENING) if pid != other_than]
            if found:
                assert len(found) == 1
                return found[0]
            await asyncio.sleep(0.005)


async def end_listener(url: str) -> int:
    """Ends the session that listens, and says which it was."""
    pid = await listener(url)
    assert query(url, "SELECT pg_terminate_backend(%s)", pid) == [(True,)]
    return pid


@asynccontextmanager
async def following(db: ActionDB, heard: list[int]) -> AsyncIterator[None]:
    """Somebody follows the ledger during the block, to `heard`."""

    async def follow() -> None:
        async for event in db.events(follow=True):
            heard.append(event.id)

    task = asyncio.create_task(follow())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def hears_all(url: str, heard: list[int]) -> None:
    """Waits until it has heard of the last; fails unless of each of them once and in order."""
    written = [
        id for (id,) in query(url, "SELECT id FROM action_events ORDER BY transaction_id, id")
    ]
    async with asyncio.timeout(PATIENCE):
        while len(heard) < len(written):
            await asyncio.sleep(0.005)
    assert heard == written


async def slowest_wake_up(db: ActionDB, other: ActionDB, times: int = 5) -> float:
    """Seconds from a commit to what wakes who waits for it, at the most."""
    slowest = 0.0
    for _ in range(times):
        made = await other.create_proposal(proposal())
        waiting = asyncio.create_task(db.wait_for(made.id, timeout=PATIENCE))
        # It looks once, and then nothing but a word from the server wakes it.
        await asyncio.sleep(0.02)
        await other.update_proposal_status(made.id, ActionStatus.CANCELLED)
        begun = time.monotonic()
        await waiting
        slowest = max(slowest, time.monotonic() - begun)
    return slowest


@EACH_DRIVER
async def test_a_listener_that_is_ended_again_and_again_misses_nothing(
    server_ledger: str, driver: str
) -> None:
    url, heard = server_ledger, list[int]()
    async with ActionDB(by(driver, url)) as db, ActionDB(url) as other, following(db, heard):
        stop = asyncio.Event()

        async def write() -> None:
            while not stop.is_set():
                await other.create_proposal(proposal())
                await asyncio.sleep(0.002)

        writing = asyncio.create_task(write())
        ended = 0
        for _ in range(4):
            ended = await end_listener(url)
            await listener(url, other_than=ended)
        stop.set()
        await writing
        await hears_all(url, heard)
        slowest = await slowest_wake_up(db, other)
        await hears_all(url, heard)
    print(
        f"\n{driver}: heard of {len(heard)}, then woken after {slowest * 1000:.1f} ms at the most"
    )


@EACH_DRIVER
async def test_what_is_committed_while_nobody_listens_is_told_when_somebody_does_again(
    server_ledger: str, driver: str
) -> None:
    async with ActionDB(by(driver, server_ledger)) as db, ActionDB(server_ledger) as other:
        made = await other.create_proposal(proposal())
        waiting = asyncio.create_task(db.wait_for(made.id, timeout=PATIENCE))
        ended = await end_listener(server_ledger)
        # In this turn of the loop nobody has heard that the connection is lost.
        query(server_ledger, "UPDATE action_proposals SET status = 'cancelled'")
        assert (await waiting).status is ActionStatus.CANCELLED
        assert ended not in {pid for (pid,) in query(server_ledger, LISTENING)}


@EACH_DRIVER
async def test_who_was_lost_many_times_still_listens_again_at_once(
    server_ledger: str, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    after: list[int] = []

    async def noted(failures: int, **limits: float) -> None:
        after.append(failures)
        await pause(failures, **limits)

    monkeypatch.setattr(listener_module, "pause", noted)
    async with ActionDB(by(driver, server_ledger)) as db, following(db, []):
        await listener(server_ledger)
        for _ in range(10):
            ended = await end_listener(server_ledger)
            await listener(server_ledger, other_than=ended)
    # Who listened in between begins anew, and does not wait longer and longer.
    assert max(after) < 10 <= len(after)


@EACH_DRIVER
async def test_a_server_that_is_restarted_is_listened_to_again(driver: str) -> None:
    # What is answered outlives the server's death, if not the machine's.
    with own_server(durable=False, settings={"synchronous_commit": "on"}) as server:
        url, heard = make_ledger(server), list[int]()
        async with (
            ActionDB(by(driver, url), busy_timeout=PATIENCE) as db,
            ActionDB(url, busy_timeout=PATIENCE) as other,
            following(db, heard),
        ):
            stop = asyncio.Event()
            refused = 0

            async def write() -> None:
                nonlocal refused
                while not stop.is_set():
                    try:
                        await other.create_proposal(proposal())
                    except (CommitOutcomeUnknown, StorageUnavailable, Busy):
                        refused += 1
                    await asyncio.sleep(0.002)

            writing = asyncio.create_task(write())
            for _ in range(2):
                before = await listener(url)
                written = len(heard)
                await asyncio.to_thread(server.restart, "immediate")
                await listener(url, other_than=before)
                async with asyncio.timeout(PATIENCE):
                    while len(heard) < written + 20:
                        await asyncio.sleep(0.01)
            stop.set()
            await writing
            await hears_all(url, heard)
            slowest = await slowest_wake_up(db, other)
            await hears_all(url, heard)
        print(
            f"\n{driver}: heard of {len(heard)}, {refused} writes refused or unknown,"
            f" then woken after {slowest * 1000:.1f} ms at the most"
        )


@EACH_DRIVER
async def test_a_driver_that_loses_a_cancellation_does_not_listen_for_ever(
    server_ledger: str, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = 0

    def losing(listen: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Awaitable[None]]:
        async def listens(*given: object) -> None:
            nonlocal lost
            listening = asyncio.create_task(listen(*given))
            try:
                await asyncio.shield(listening)
            except asyncio.CancelledError:
                # As older psycopg on Python 3.11, where a notification comes in the same turn.
                lost += 1
                await listening

        return listens

    for name in ("_asyncpg", "_psycopg"):
        monkeypatch.setattr(listener_module, name, losing(getattr(listener_module, name)))
    async with ActionDB(by(driver, server_ledger)) as db:
        async with asyncio.timeout(PATIENCE):
            async with db.changes():
                await listener(server_ledger)
            # Its connection is closed, too.
            while query(server_ledger, LISTENING):
                await asyncio.sleep(0.005)
            assert lost == 1
