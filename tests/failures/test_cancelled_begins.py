"""Transactions whose caller is gone before they have begun: cancelled, or its event loop closed."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from operator_core.db import ActionDB
from operator_core.db.sql.sqlite_library import dbapi
from tests.engines import engine_on
from tests.failures.cancelling import EVENTS, OPERATIONS, WITH_THE_ANSWER, Bench, cancel_at, rest
from tests.failures.harness import PATIENCE, check_lock_free, check_whole, proposal

WRITES = [name for name in OPERATIONS if EVENTS.get(name)]


@pytest.fixture
def make_engine() -> Callable[[str | Path], AsyncEngine]:
    """By the library of the connections that the tests open themselves."""
    return engine_on


@pytest.mark.parametrize("operation", WRITES)
@pytest.mark.parametrize("backend", ["file", "engine"], indirect=True)
async def test_a_write_cancelled_while_it_waits_for_another_process_keeps_no_lock(
    db: ActionDB, place: Path, operation: str
) -> None:
    on = Bench(db)
    await on.prepare()
    with closing(dbapi.connect(place, isolation_level=None)) as stranger:
        # Nobody is told when the wait for the lock has begun; at one of these moments it has.
        for after in (0.0, 0.003, 0.03, 0.3):
            stranger.execute("BEGIN IMMEDIATE")
            writing = asyncio.create_task(cancel_at(OPERATIONS[operation](on), 1, after))
            await asyncio.sleep(2 * after)
            stranger.execute("ROLLBACK")
            await writing
            await rest()
            await asyncio.wait_for(db.create_proposal(proposal()), PATIENCE)
            check_lock_free(place)
    check_whole(place)


async def test_a_transaction_cancelled_in_the_turn_in_which_it_has_begun_is_rolled_back(
    db: ActionDB,
) -> None:
    on = Bench(db)
    nth, reached = 0, True
    while reached:
        nth += 1
        await on.prepare()
        before = len(await db.history())
        reached = await cancel_at(Bench.in_transaction(on), nth, WITH_THE_ANSWER)
        await rest()
        # What comes next begins one too.
        async with asyncio.timeout(PATIENCE), db.transaction() as tx:
            await tx.create_proposal(proposal())
        assert len(await db.history()) - before - 1 in (0, EVENTS["transaction"])
    assert nth > 2


@pytest.mark.parametrize("target", [":memory:", "ledger.db"])
async def test_a_transaction_whose_loop_is_gone_when_it_begins_keeps_no_lock(
    target: str, tmp_path: Path
) -> None:
    place = target if target == ":memory:" else tmp_path / target
    async with ActionDB(place, busy_timeout=PATIENCE) as db:
        let_go, held = threading.Event(), threading.Event()

        def hold(_: Connection) -> None:
            held.set()
            let_go.wait(PATIENCE)

        async def begin() -> None:
            async def hang() -> None:
                async with db.transaction():
                    await asyncio.Event().wait()

            task = asyncio.ensure_future(hang())
            await asyncio.sleep(0)
            # What asyncio.run would do at the end; here nobody does.
            task._log_destroy_pending = False  # type: ignore[attr-defined]

        def elsewhere() -> None:
            loop = asyncio.new_event_loop()
            loop.run_until_complete(begin())
            loop.close()

        holding = asyncio.create_task(db._units.write(hold))
        assert await asyncio.to_thread(held.wait, PATIENCE)
        # It waits in the queue, behind what is held up; then its loop is closed.
        await asyncio.to_thread(elsewhere)
        let_go.set()
        await holding
        await asyncio.wait_for(db.create_proposal(proposal()), PATIENCE)
        assert len(await db.list_proposals()) == 1
