"""What a write does when someone else keeps the lock: it says Busy, and nothing has changed."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from operator_core.actions.errors import ActionError, Busy, StorageUnavailable
from operator_core.actions.types import ActionRecord, ActionStatus
from operator_core.db import ActionDB
from operator_core.db.sql.sqlite_library import dbapi
from tests.engines import engine_on
from tests.failures.harness import check_lock_free, check_whole, proposal, snapshot

TIMEOUT = 0.05


async def in_transaction(db: ActionDB) -> None:
    async with db.transaction() as tx:
        await tx.create_proposal(proposal())


WRITES: dict[str, Callable[[ActionDB], Awaitable[object]]] = {
    "create_proposal": lambda db: db.create_proposal(proposal()),
    "create_proposals": lambda db: db.create_proposals([proposal(), proposal()]),
    "update_proposal_status": lambda db: db.update_proposal_status(1, ActionStatus.VALIDATED),
    "cancel_all_pending": lambda db: db.cancel_all_pending(),
    "create_record": lambda db: db.create_record(ActionRecord(proposal_id=1)),
    "update_record": lambda db: db.update_record(1, True),
    "transaction": in_transaction,
}


@contextmanager
def held_lock(path: Path) -> Iterator[None]:
    """Someone else's write transaction that does not end."""
    with closing(dbapi.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@pytest.mark.parametrize("operation", WRITES)
@pytest.mark.parametrize("borrowed", [False, True], ids=["file", "engine"])
async def test_a_write_against_a_held_lock_is_busy_and_changes_nothing(
    operation: str, borrowed: bool, tmp_path: Path
) -> None:
    path = tmp_path / "ledger.db"
    async with ActionDB(path) as db:
        await db.create_proposal(proposal())
        await db.create_record(ActionRecord(proposal_id=1))
    before = snapshot(path)
    engine = engine_on(path, connect_args={"timeout": TIMEOUT})
    target = engine if borrowed else path
    async with ActionDB(target, busy_timeout=TIMEOUT) as db:
        with held_lock(path):
            with pytest.raises(Busy) as caught:
                await WRITES[operation](db)
            # Reading goes on beside whoever holds the lock.
            assert (await db.count_proposals())[ActionStatus.PROPOSED] == 1
        # How long a borrowed engine waits is its own affair.
        assert caught.value.timeout == (None if borrowed else TIMEOUT)
        assert snapshot(path) == before
        check_lock_free(path)
        await WRITES[operation](db)
    await engine.dispose()
    assert snapshot(path) != before
    check_whole(path)


async def test_every_unit_that_waits_is_told_busy_after_one_timeout(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with ActionDB(path, busy_timeout=1) as db:
        with held_lock(path):
            loop = asyncio.get_running_loop()
            began = loop.time()
            creates = (db.create_proposal(proposal()) for _ in range(64))
            answers = await asyncio.gather(*creates, return_exceptions=True)
            took = loop.time() - began
        print(f"64 callers told busy after {took:.2f} s with a timeout of 1 s")
        assert [type(answer) for answer in answers] == [Busy] * 64
        # The first may have begun alone, the others wait together; not one after another.
        assert took < 20
        assert await db.list_proposals() == []


async def test_an_exhausted_pool_is_a_clear_error_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    engine = engine_on(path, pool_size=1, max_overflow=0, pool_timeout=TIMEOUT)
    async with ActionDB(engine) as db:
        async with engine.connect():
            for operation in WRITES.values():
                with pytest.raises(ActionError) as caught:
                    await operation(db)
                assert isinstance(caught.value, Busy | StorageUnavailable)
        await db.create_proposal(proposal())
        assert len(await db.list_proposals()) == 1
    await engine.dispose()
    check_whole(path)
