"""A transaction() that is cancelled while it begins leaves no lock; a failed unit in one leaves nothing."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from operator_core.actions import ActionProposal, ActionStatus, NotFound
from operator_core.actions.types import WorkflowProposal
from operator_core.db import ActionDB
from operator_core.db.sql.sqlite_library import dbapi
from tests.conftest import ON_SQLITE
from tests.engines import engine_on
from tests.failures.harness import PATIENCE, check_lock_free, proposal

KINDS = ("memory", "file", "engine")


@pytest.fixture(params=KINDS)
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ActionDB]:
    path = tmp_path / "ledger.db"
    if request.param != "engine":
        target = ":memory:" if request.param == "memory" else path
        async with ActionDB(target, busy_timeout=PATIENCE) as db:
            yield db
        return
    engine = engine_on(path, connect_args={"timeout": PATIENCE})
    async with ActionDB(engine) as db:
        yield db
    await engine.dispose()


async def hold(db: ActionDB) -> None:
    async with db.transaction():
        await asyncio.Event().wait()


async def check_goes_on(db: ActionDB) -> None:
    """Fails if a later writer, or a later transaction, has to wait for ever."""
    await asyncio.wait_for(db.create_proposal(proposal()), PATIENCE)
    async with asyncio.timeout(PATIENCE), db.transaction() as tx:
        await tx.create_proposal(proposal())


@pytest.mark.parametrize("wait", [0.0, 0.05])
async def test_begin_cancelled_in_the_turn_of_its_answer(ledger: ActionDB, wait: float) -> None:
    for turns in range(12):
        task = asyncio.create_task(hold(ledger))
        await asyncio.sleep(0)
        # The loop stands still until the connection's thread has answered.
        time.sleep(wait)
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await check_goes_on(ledger)


@pytest.mark.parametrize("ledger", ["file", "engine"], indirect=True)
async def test_begin_cancelled_while_it_waits_for_the_lock(
    ledger: ActionDB, tmp_path: Path
) -> None:
    await ledger.create_proposal(proposal())
    with closing(dbapi.connect(tmp_path / "ledger.db", isolation_level=None)) as stranger:
        for turns in (0, 1, 2, 5, None):
            stranger.execute("BEGIN IMMEDIATE")
            task = asyncio.create_task(hold(ledger))
            if turns is None:
                await asyncio.wait({task}, timeout=0.3)
            for _ in range(turns or 0):
                await asyncio.sleep(0)
            task.cancel()
            # On an engine it is heard when the connection is free again.
            await asyncio.wait({task}, timeout=0.1)
            stranger.execute("ROLLBACK")
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(task, return_exceptions=True)
            await check_goes_on(ledger)
    check_lock_free(tmp_path / "ledger.db")


async def test_begin_cancelled_while_it_queues_behind_another(ledger: ActionDB) -> None:
    for turns in (0, 1, 2, 5):
        inside, go_on = asyncio.Event(), asyncio.Event()

        async def first(inside: asyncio.Event = inside, go_on: asyncio.Event = go_on) -> None:
            async with ledger.transaction():
                inside.set()
                await go_on.wait()

        holder = asyncio.create_task(first())
        await inside.wait()
        task = asyncio.create_task(hold(ledger))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        go_on.set()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(holder, task, return_exceptions=True)
        await check_goes_on(ledger)


@pytest.mark.parametrize("backend", [*ON_SQLITE, "postgresql"], indirect=True)
async def test_a_failed_unit_of_several_statements_leaves_the_transaction_as_it_was(
    db: ActionDB,
) -> None:
    some = [proposal(), proposal(depends_on=[99])]
    async with db.transaction() as tx:
        before = await tx.create_proposal(proposal(action_name="before"))
        with pytest.raises(NotFound):
            await tx.create_workflow(WorkflowProposal(name="n"), some)
        with pytest.raises(NotFound):
            await tx.create_proposals([proposal(), proposal(ticket_id=99)])
        after = await tx.create_proposal(proposal(action_name="after"))
        assert len(await tx.list_proposals()) == 2
    assert await db.get_workflow(1) is None
    kept = await db.list_proposals()
    assert [each.id for each in kept] == [after.id, before.id]
    assert len(await db.history()) == 2


@pytest.mark.parametrize("backend", [*ON_SQLITE, "postgresql"], indirect=True)
async def test_units_of_a_transaction_fail_one_by_one(db: ActionDB) -> None:
    made: list[ActionProposal] = []
    async with db.transaction() as tx:
        for number in range(6):
            if number % 2:
                with pytest.raises(NotFound):
                    await tx.create_workflow(
                        WorkflowProposal(name="n"), [proposal(), proposal(depends_on=[9999])]
                    )
            else:
                _, some = await tx.create_workflow(
                    WorkflowProposal(name="n"), [proposal(), proposal()]
                )
                made += some
    assert (await db.count_proposals())[ActionStatus.PROPOSED] == 6 == len(made)
