"""Waiting costs nothing: what changes nothing wakes nobody."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from operator_core.actions.types import ActionStatus
from operator_core.db import ActionDB
from tests.conftest import ON_SQLITE, proposal
from tests.failures.harness import PATIENCE

ON_ALL_SQLITE = pytest.mark.parametrize("backend", ON_SQLITE, indirect=True)


def counted(db: ActionDB) -> list[object]:
    """The units that are read from here on."""
    read, seen = db._units.read, list[object]()

    async def note(unit: Any) -> Any:
        seen.append(unit)
        return await read(unit)

    db._units.read = note  # type: ignore[method-assign]
    return seen


@ON_ALL_SQLITE
@pytest.mark.parametrize("waiters", [1, 10])
async def test_waiting_makes_no_reads_while_nothing_happens(db: ActionDB, waiters: int) -> None:
    made = await db.create_proposal(proposal())
    seen = counted(db)
    tasks = [asyncio.create_task(db.wait_for(made.id, timeout=PATIENCE)) for _ in range(waiters)]

    async def follow() -> None:
        async for _ in db.events(follow=True):
            pass

    tasks.append(asyncio.create_task(follow()))  # type: ignore[arg-type]
    await asyncio.sleep(1.5)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    # Each looks a few times at first, and then every five seconds.
    assert len(seen) <= 5 * len(tasks), len(seen)


async def nothing_to_claim(db: ActionDB) -> None:
    assert await db.claim("worker") == []


async def nothing_to_recover(db: ActionDB) -> None:
    await db.recover_expired()


async def nothing_to_cancel(db: ActionDB) -> None:
    assert await db.cancel_all_pending() == 0


async def refused(db: ActionDB) -> None:
    with pytest.raises(LookupError):
        await db.update_proposal_status(99, ActionStatus.VALIDATED)


async def empty_transaction(db: ActionDB) -> None:
    async with db.transaction() as tx:
        await tx.list_proposals()


async def rolled_back(db: ActionDB) -> None:
    with pytest.raises(RuntimeError, match="mind"):
        async with db.transaction() as tx:
            await tx.create_proposal(proposal())
            raise RuntimeError("changed its mind")


async def looking(db: ActionDB) -> None:
    await db.list_proposals()
    await db.count_proposals()
    await db.history()


QUIET: dict[str, Callable[[ActionDB], Awaitable[None]]] = {
    each.__name__: each
    for each in (
        nothing_to_claim,
        nothing_to_recover,
        nothing_to_cancel,
        refused,
        empty_transaction,
        rolled_back,
        looking,
    )
}


@pytest.mark.parametrize("what", QUIET)
@pytest.mark.parametrize("backend", ["memory", "file"], indirect=True)
async def test_what_changes_nothing_rings_no_bell(db: ActionDB, what: str) -> None:
    async with db.changes() as changed:
        await QUIET[what](db)
        # The first write of a ledger makes the file's log.
        await asyncio.sleep(0.2)
        changed.clear()
        for _ in range(5):
            await QUIET[what](db)
        await asyncio.sleep(0.2)
        assert not changed.is_set()
        await db.create_proposal(proposal())
        async with asyncio.timeout(PATIENCE):
            await changed.wait()


@ON_ALL_SQLITE
async def test_a_commit_of_a_transaction_rings_it(db: ActionDB) -> None:
    await db.create_proposal(proposal())
    async with db.changes() as changed:
        await asyncio.sleep(0.2)
        changed.clear()
        async with db.transaction() as tx:
            await tx.create_proposal(proposal())
        async with asyncio.timeout(PATIENCE):
            await changed.wait()
