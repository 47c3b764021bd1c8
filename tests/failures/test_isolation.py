"""Units that overlap, on every kind of ledger, see and undo nothing of each other."""

import asyncio
import contextvars
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import StaticPool

from operator_core.actions.errors import ActionError, NotFound
from operator_core.db import ActionDB
from tests.engines import engine_on
from tests.failures.harness import PATIENCE, proposal

KINDS = ("memory", "file", "engine", "static pool")


@pytest.fixture(params=KINDS)
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ActionDB]:
    """A ledger of each kind; a static pool is one connection for everyone, as SQLAlchemy has it."""
    path = tmp_path / "ledger.db"
    if request.param in ("memory", "file"):
        async with ActionDB(":memory:" if request.param == "memory" else path) as db:
            yield db
        return
    engine = (
        engine_on(path, connect_args={"timeout": PATIENCE})
        if request.param == "engine"
        else create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
    )
    async with ActionDB(engine) as db:
        yield db
    await engine.dispose()


async def names(db: ActionDB) -> list[str]:
    return sorted(each.action_name for each in await db.list_proposals())


def check_isolated(kept: list[str]) -> None:
    """Fails unless the one that was rolled back is gone and the other one is there."""
    assert kept == ["b"]


async def test_the_rollback_of_one_does_not_take_the_write_of_another_along(
    ledger: ActionDB,
) -> None:
    wrote = asyncio.Event()

    async def failing() -> None:
        async with ledger.transaction() as tx:
            await tx.create_proposal(proposal(action_name="a"))
            wrote.set()
            await asyncio.sleep(0.02)
            raise RuntimeError("changed its mind")

    async def succeeding() -> None:
        await wrote.wait()
        await ledger.create_proposal(proposal(action_name="b"))

    failed, _ = await asyncio.gather(failing(), succeeding(), return_exceptions=True)
    assert isinstance(failed, RuntimeError)
    check_isolated(await names(ledger))


async def test_planted_sessions_on_a_static_pool_are_caught() -> None:
    engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
    insert = text("INSERT INTO t VALUES (:name)")
    async with AsyncSession(engine) as setup:
        await setup.execute(text("CREATE TABLE t (name)"))
        await setup.commit()
    a, b = AsyncSession(engine), AsyncSession(engine)
    await a.execute(insert, {"name": "b"})
    await b.execute(insert, {"name": "a"})
    await b.rollback()
    await a.commit()
    kept = list((await a.scalars(text("SELECT name FROM t ORDER BY name"))).all())
    await a.close()
    await b.close()
    await engine.dispose()
    with pytest.raises(AssertionError):
        check_isolated(kept)


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_another_task_sees_all_of_a_transaction_or_nothing(
    ledger: ActionDB, ending: str
) -> None:
    async def count() -> int:
        return sum((await ledger.count_proposals()).values())

    readers: list[asyncio.Task[int]] = []
    try:
        async with ledger.transaction() as tx:
            for _ in range(3):
                await tx.create_proposal(proposal())
                # Of its own, not one that the transaction would have to wait for.
                readers.append(asyncio.create_task(count(), context=contextvars.Context()))
                await asyncio.sleep(0.005)
            # What the transaction itself reads is what it has written.
            assert sum((await tx.count_proposals()).values()) == 3
            if ending == "rollback":
                raise RuntimeError
    except RuntimeError:
        pass
    seen = await asyncio.wait_for(asyncio.gather(*readers), PATIENCE)
    print(f"read during a transaction of 3 that ended in {ending}: {seen}")
    assert set(seen) <= ({0, 3} if ending == "commit" else {0})
    assert await count() == (3 if ending == "commit" else 0)


async def test_many_transactions_at_once_run_one_after_another(ledger: ActionDB) -> None:
    async def read_then_write() -> None:
        async with ledger.transaction() as tx:
            seen = sum((await tx.count_proposals()).values())
            await asyncio.sleep(0)
            await tx.create_proposal(proposal(parameters={"seen": seen}))

    # Below the size of the engine's pool, which is another limit.
    await asyncio.gather(*(read_then_write() for _ in range(12)))
    seen = [each.parameters["seen"] for each in await ledger.list_proposals()]
    assert sorted(seen) == list(range(12))


async def test_a_write_on_the_outer_ledger_inside_its_transaction_is_an_error_and_no_hang(
    ledger: ActionDB,
) -> None:
    async with asyncio.timeout(30):
        with pytest.raises(ActionError, match="inside transaction"):
            async with ledger.transaction() as tx:
                await tx.create_proposal(proposal(action_name="a"))
                await ledger.create_proposal(proposal(action_name="b"))
        with pytest.raises(ActionError, match="inside"):
            async with ledger.transaction(), ledger.transaction():
                pass
        assert await names(ledger) == []
        await ledger.create_proposal(proposal())


async def test_units_given_to_one_transaction_at_once_do_not_get_between_each_other(
    ledger: ActionDB,
) -> None:
    async with ledger.transaction() as tx:
        unknown_ticket = {3: 4711}
        answers = await asyncio.gather(
            *(
                tx.create_proposal(proposal(action_name=f"n{n}", ticket_id=unknown_ticket.get(n)))
                for n in range(8)
            ),
            return_exceptions=True,
        )
        assert [isinstance(answer, NotFound) for answer in answers] == [n == 3 for n in range(8)]
    assert await names(ledger) == [f"n{n}" for n in range(8) if n != 3]
    assert len(await ledger.history()) == 7
