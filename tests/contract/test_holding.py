"""Holding a claim for the time of a block, the same on every backend."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from operator_core.actions import ActionProposal, ActionRecord, ActionStatus, LeaseLost
from operator_core.db import ActionDB
from operator_core.db.holding import Execution
from tests.conftest import RawSQL, proposal

S = ActionStatus

SHORT = timedelta(milliseconds=150)
RUN_OUT = "UPDATE action_records SET lease_expires_at = '2001-01-01 00:00:00.000000'"


async def outcome(db: ActionDB, record_id: int | None = 1) -> tuple[ActionProposal, ActionRecord]:
    record = await db.get_record(record_id)
    assert record is not None
    found = await db.get_proposal(record.proposal_id)
    assert found is not None
    return found, record


@pytest.fixture(autouse=True)
async def _something_to_do(db: ActionDB) -> None:
    await db.create_proposal(proposal(status=S.VALIDATED))


@pytest.mark.parametrize("result", [None, {}, {"rows": 3}])
async def test_at_the_end_of_the_block_it_is_completed_with_its_result(
    db: ActionDB, result: Any
) -> None:
    async with db.claimed("worker-1", action_names="transfer_leader") as execution:
        assert execution is not None
        assert (execution.proposal.status, execution.record.worker) == (S.EXECUTING, "worker-1")
        assert await outcome(db, execution.record.id) == (execution.proposal, execution.record)
        execution.result_data = result
    ended, record = await outcome(db)
    assert (ended.status, record.success, record.result_data) == (S.COMPLETED, True, result)


async def test_where_nothing_is_due_the_block_gets_none(db: ActionDB) -> None:
    async with db.claimed("worker-1", action_names="another") as execution:
        assert execution is None
    with pytest.raises(ZeroDivisionError):
        async with db.claimed("worker-1", action_types=[]):
            raise ZeroDivisionError
    assert len(await db.history()) == 1


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ValueError("no such store"), "ValueError: no such store"),
        (KeyError(), "KeyError"),
        (RuntimeError("a\0b\ud800"), "RuntimeError: a\ufffdb?"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
async def test_an_exception_fails_it_and_goes_on(
    db: ActionDB, error: BaseException, why: str
) -> None:
    with pytest.raises(type(error)) as caught:
        async with db.claimed("worker-1") as execution:
            assert execution is not None
            execution.result_data = {"got": "this far"}
            raise error
    assert caught.value is error
    ended, record = await outcome(db)
    assert (ended.status, ended.last_error) == (S.FAILED, why)
    assert (record.success, record.error_message) == (False, why)
    assert record.result_data == {"got": "this far"}


async def test_a_cancellation_fails_it_too(db: ActionDB) -> None:
    begun = asyncio.Event()

    async def work() -> None:
        async with db.claimed("worker-1"):
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    ended, record = await outcome(db)
    assert (ended.status, record.success) == (S.FAILED, False)
    assert record.error_message == "CancelledError"


@pytest.mark.parametrize("taken_by", ["recovery", "cancellation", "another execution"])
async def test_who_loses_the_lease_while_at_it_is_cancelled_and_told(
    db: ActionDB, raw: RawSQL, taken_by: str
) -> None:
    (claim,) = await db.claim("worker-1")
    begun, seen = asyncio.Event(), []

    async def work() -> int:
        with pytest.raises(LeaseLost) as caught:
            async with db.holding(claim, lease=SHORT):
                begun.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    seen.append("cancelled")
                    raise
        assert caught.value.record_id == claim.record.id
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    task = asyncio.create_task(work())
    await begun.wait()
    if taken_by == "recovery":
        # A heartbeat between the two makes the lease what it was.
        while not await db.recover_expired():
            await raw(RUN_OUT)
    elif taken_by == "cancellation":
        await db.update_proposal_status(claim.proposal.id, S.CANCELLED)
    else:
        await db.update_proposal_status(claim.proposal.id, S.FAILED)
        await db.retry(claim.proposal.id)
        assert len(await db.claim("worker-2")) == 1
    before = await outcome(db)
    # A timeout would cancel the block itself, and hide that nobody else did.
    done, _ = await asyncio.wait({task}, timeout=10)
    task.cancel()
    assert done
    # It was the block that was cancelled, and not what is around it.
    assert task.result() == 0
    assert seen == ["cancelled"]
    assert await outcome(db) == before


async def test_who_ends_after_the_lease_was_lost_is_told_too(db: ActionDB, raw: RawSQL) -> None:
    with pytest.raises(LeaseLost):
        async with db.claimed("worker-1") as execution:
            assert execution is not None
            await raw(RUN_OUT)
            assert len(await db.recover_expired()) == 1
            execution.result_data = {"rows": 3}
    ended, record = await outcome(db)
    assert (ended.status, record.outcome_unknown, record.result_data) == (S.FAILED, True, None)


async def test_an_exception_after_the_lease_was_lost_is_still_the_one_that_goes_on(
    db: ActionDB, raw: RawSQL
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with db.claimed("worker-1"):
            await raw(RUN_OUT)
            assert len(await db.recover_expired()) == 1
            raise ZeroDivisionError
    _, record = await outcome(db)
    assert (record.outcome_unknown, record.success) == (True, None)


async def test_heartbeats_keep_a_short_lease_alive(db: ActionDB) -> None:
    lease = timedelta(milliseconds=600)
    async with db.claimed("worker-1", lease=lease) as execution:
        assert execution is not None
        first = execution.record.lease_expires_at
        assert first is not None
        async with asyncio.timeout(30):
            while True:
                assert await db.recover_expired() == []
                _, record = await outcome(db)
                assert record.lease_expires_at is not None
                # The last one was sent after the first lease would have run out.
                if record.lease_expires_at - first > lease:
                    break
                await asyncio.sleep(0.02)
    ended, record = await outcome(db)
    assert (ended.status, record.success) == (S.COMPLETED, True)


OpenLedger = Callable[..., Awaitable[ActionDB]]


@asynccontextmanager
async def held_up(db: ActionDB, record_id: int | None) -> AsyncIterator[None]:
    """While the block runs nobody else can change the record."""
    async with db.transaction() as tx:
        await tx.heartbeat(record_id)
        yield


@pytest.mark.parametrize("entered", ["claimed", "holding"])
async def test_a_block_whose_heartbeats_do_not_arrive_runs_no_longer_than_its_lease(
    db: ActionDB, backend: str, open_ledger: OpenLedger, entered: str
) -> None:
    other = db if backend == "memory" else await open_ledger()
    lease = timedelta(seconds=0.5)
    begun, ended = asyncio.Event(), asyncio.Event()
    clock = asyncio.get_running_loop().time
    times: list[float] = []

    async def block() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            times.append(clock())
            ended.set()

    async def work() -> None:
        with pytest.raises(LeaseLost, match="no heartbeat has reached the ledger"):
            if entered == "claimed":
                async with db.claimed("worker-1", lease=lease):
                    await block()
            else:
                (claim,) = await db.claim("worker-1")
                async with db.holding(claim, lease=lease):
                    await block()

    task = asyncio.create_task(work())
    await begun.wait()
    async with held_up(other, 1):
        since = clock()
        await asyncio.wait_for(ended.wait(), 30)
        # A heartbeat may have been answered just before.
        assert times[0] - since < lease.total_seconds() * 1.5
    await asyncio.wait_for(task, 30)
    found, record = await outcome(db)
    assert (found.status, record.completed_at) == (S.EXECUTING, None)


@pytest.mark.parametrize("backend", ["file", "postgresql", "psycopg"], indirect=True)
async def test_a_passing_outage_does_not_give_the_claim_up(
    open_ledger: OpenLedger, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    db = await open_ledger(busy_timeout=0.02, pool_size=1)
    other = await open_ledger() if backend == "file" else db
    (claim,) = await db.claim("worker-1")
    away = asyncio.Event()

    async def work() -> None:
        await away.wait()
        async with db.holding(claim):
            pass

    task = asyncio.create_task(work())
    # It has the lock on SQLite, and on a server the only connection.
    async with other.transaction() as tx:
        away.set()
        async with asyncio.timeout(30):
            while "no heartbeat" not in caplog.text:
                await asyncio.sleep(0.01)
        assert await tx.get_record(1) == claim.record
    await task
    assert (await outcome(db))[0].status is S.COMPLETED


async def test_nobody_beats_for_a_block_that_is_over(db: ActionDB) -> None:
    before = asyncio.all_tasks()

    async def hold(execution: Execution | None) -> None:
        assert execution is not None
        assert len(asyncio.all_tasks() - before) == 1

    async with db.claimed("worker-1") as execution:
        await hold(execution)
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("how", ["completed", "cancelled"])
async def test_a_claim_that_is_lost_already_runs_no_block(db: ActionDB, how: str) -> None:
    (claim,) = await db.claim("worker-1")
    if how == "completed":
        await db.complete(claim.record.id)
    else:
        await db.update_proposal_status(claim.proposal.id, S.CANCELLED)
    before = await db.history()
    with pytest.raises(LeaseLost):
        async with db.holding(claim):
            raise AssertionError("the block was run")
    assert await db.history() == before


async def test_a_cancellation_that_comes_with_the_end_is_not_lost(db: ActionDB) -> None:
    for turns in range(12):
        made = await db.create_proposal(proposal(status=S.VALIDATED, action_name="now"))

        async def work() -> None:
            async with db.claimed("worker-1", action_names="now"):
                task = asyncio.current_task()
                complete = db.complete

                async def completed(*given: Any) -> None:
                    await complete(*given)
                    asyncio.get_running_loop().call_soon(later, turns)  # noqa: B023

                def later(left: int) -> None:
                    assert task is not None
                    if left:
                        asyncio.get_running_loop().call_soon(later, left - 1)
                    else:
                        task.cancel()

                db.complete = completed  # type: ignore[method-assign]
            await asyncio.sleep(0)
            await asyncio.Event().wait()

        try:
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(asyncio.create_task(work()), 10)
        finally:
            del db.complete
        found = await db.get_proposal(made.id)
        assert found is not None
        assert found.status is S.COMPLETED


async def test_a_task_that_lost_one_lease_and_went_on_can_lose_another(
    db: ActionDB, raw: RawSQL
) -> None:
    await db.create_proposals(proposal(status=S.VALIDATED) for _ in range(2))
    task = asyncio.current_task()
    assert task is not None
    for _ in range(2):
        (claim,) = await db.claim("worker-1")
        with pytest.raises(ZeroDivisionError):
            async with db.holding(claim, lease=SHORT):
                await raw(RUN_OUT + f" WHERE id = {claim.record.id}")
                await db.recover_expired()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    raise ZeroDivisionError from None
        assert task.cancelling() == 0
    # Who has outlived a cancellation of another's is told of a lost lease all the same.
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(0)
    (claim,) = await db.claim("worker-1")
    with pytest.raises(LeaseLost):
        async with db.holding(claim, lease=SHORT):
            await raw(RUN_OUT + f" WHERE id = {claim.record.id}")
            await db.recover_expired()
            await asyncio.Event().wait()
    assert task.cancelling() == 1
    task.uncancel()
