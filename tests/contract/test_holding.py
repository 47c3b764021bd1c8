"""Holding a claim for the time of a block, the same on every backend."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest

from operator_core.actions import (
    ActionProposal,
    ActionRecord,
    ActionStatus,
    Claim,
    LeaseLost,
    OutcomeUnknown,
)
from operator_core.actions.values import MAX_TEXT
from operator_core.db import ActionDB
from operator_core.db.verbs.executions import BEATS
from operator_core.db.verbs.holding import Execution, hold
from tests.clocks import PATIENCE, LoopClock
from tests.conftest import RawSQL, proposal

S = ActionStatus

LEASE = timedelta(hours=1)
BEAT = LEASE.total_seconds() / BEATS
"""Seconds between two heartbeats."""

MINUTE = 60.0
"""What a test leaves before and after a moment, for a machine however busy."""

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


async def test_after_a_cancellation_it_is_not_known_how_far_it_came(db: ActionDB) -> None:
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
    assert (ended.status, record.success, record.outcome_unknown) == (S.FAILED, None, True)
    assert record.error_message == "CancelledError: whether it was done is not known"


async def test_a_cancellation_that_says_more_than_fits_is_known_all_the_same(db: ActionDB) -> None:
    await db.create_proposal(proposal(status=ActionStatus.VALIDATED))
    with pytest.raises(asyncio.CancelledError):
        async with db.claimed("worker-1") as execution:
            assert execution is not None
            raise asyncio.CancelledError("x" * MAX_TEXT)
    (record,) = await db.get_records_for_proposal(1)
    assert record.outcome_unknown
    assert (record.error_message or "").endswith("whether it was done is not known")


@pytest.mark.parametrize("taken_by", ["recovery", "cancellation", "another execution"])
async def test_who_loses_the_lease_while_at_it_is_cancelled_and_told(
    db: ActionDB, raw: RawSQL, loop_clock: LoopClock, taken_by: str
) -> None:
    (claim,) = await db.claim("worker-1")
    begun, seen = asyncio.Event(), []

    async def work() -> int:
        with pytest.raises(LeaseLost) as caught:
            async with db.holding(claim, lease=LEASE):
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
        await raw(RUN_OUT)
        assert len(await db.recover_expired()) == 1
    elif taken_by == "cancellation":
        await db.update_proposal_status(claim.proposal.id, S.CANCELLED)
    else:
        await db.update_proposal_status(claim.proposal.id, S.FAILED)
        await db.retry(claim.proposal.id)
        assert len(await db.claim("worker-2")) == 1
    before = await outcome(db)
    # The next heartbeat finds out.
    await loop_clock.advance(BEAT)
    # A timeout would cancel the block itself, and hide that nobody else did.
    done, _ = await asyncio.wait({task}, timeout=PATIENCE)
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


def heartbeats(db: ActionDB, monkeypatch: pytest.MonkeyPatch) -> "asyncio.Queue[datetime]":
    """Until when the lease lasts by each heartbeat that has arrived, from now on."""
    arrived: asyncio.Queue[datetime] = asyncio.Queue()
    heartbeat = db.heartbeat

    async def noted(*given: Any, **named: Any) -> datetime:
        until = await heartbeat(*given, **named)
        arrived.put_nowait(until)
        return until

    monkeypatch.setattr(db, "heartbeat", noted)
    return arrived


async def test_heartbeats_keep_a_lease_alive_however_long_it_takes(
    db: ActionDB, raw: RawSQL, loop_clock: LoopClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived = heartbeats(db, monkeypatch)
    async with db.claimed("worker-1", lease=LEASE) as execution:
        assert execution is not None
        # Twice as long as the lease that it was claimed with.
        for _ in range(2 * BEATS):
            await raw(RUN_OUT)
            await loop_clock.advance(BEAT)
            until = await asyncio.wait_for(arrived.get(), PATIENCE)
            assert await db.recover_expired() == []
            _, record = await outcome(db)
            assert record.lease_expires_at == until
    ended, record = await outcome(db)
    assert (ended.status, record.success) == (S.COMPLETED, True)


@pytest.mark.parametrize("entered", ["claimed", "holding", "hold"])
async def test_each_heartbeat_comes_when_a_third_of_the_lease_is_over_and_not_before(
    db: ActionDB, loop_clock: LoopClock, monkeypatch: pytest.MonkeyPatch, entered: str
) -> None:
    arrived = heartbeats(db, monkeypatch)
    async with AsyncExitStack() as block:
        if entered == "claimed":
            await block.enter_async_context(db.claimed("worker-1", lease=LEASE))
        else:
            asked = loop_clock.time()
            (claim,) = await db.claim("worker-1", lease=LEASE)
            if entered == "holding":
                await block.enter_async_context(db.holding(claim))
            else:
                await block.enter_async_context(hold(db, claim, LEASE, asked))
        if entered == "holding":
            # It begins with one.
            await asyncio.wait_for(arrived.get(), PATIENCE)
        for _ in range(2 * BEATS):
            await loop_clock.advance(BEAT - MINUTE)
            assert arrived.empty()
            await loop_clock.advance(MINUTE)
            await asyncio.wait_for(arrived.get(), PATIENCE)
            assert arrived.empty()


OpenLedger = Callable[..., Awaitable[ActionDB]]


@asynccontextmanager
async def held_up(db: ActionDB, record_id: int | None) -> AsyncIterator[None]:
    """While the block runs nobody else can change the record."""
    async with db.transaction() as tx:
        await tx.heartbeat(record_id)
        yield


@pytest.mark.parametrize("entered", ["claimed", "holding"])
async def test_a_block_whose_heartbeats_do_not_arrive_runs_no_longer_than_its_lease(
    db: ActionDB, backend: str, open_ledger: OpenLedger, loop_clock: LoopClock, entered: str
) -> None:
    other = db if backend == "memory" else await open_ledger()
    begun, ended = asyncio.Event(), asyncio.Event()

    async def block() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def work() -> None:
        with pytest.raises(LeaseLost, match="no heartbeat has reached the ledger"):
            if entered == "claimed":
                async with db.claimed("worker-1", lease=LEASE):
                    await block()
            else:
                (claim,) = await db.claim("worker-1")
                async with db.holding(claim, lease=LEASE):
                    await block()

    task = asyncio.create_task(work())
    await begun.wait()
    async with held_up(other, 1):
        await loop_clock.advance(LEASE.total_seconds() - MINUTE)
        assert not ended.is_set()
        await loop_clock.advance(MINUTE)
        await asyncio.wait_for(ended.wait(), PATIENCE)
    await asyncio.wait_for(task, PATIENCE)
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
        async with asyncio.timeout(PATIENCE):
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

                async def completed(*given: Any, **more: Any) -> None:
                    await complete(*given, **more)
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
                await asyncio.wait_for(asyncio.create_task(work()), PATIENCE)
        finally:
            del db.complete
        found = await db.get_proposal(made.id)
        assert found is not None
        assert found.status is S.COMPLETED


async def test_a_task_that_lost_one_lease_and_went_on_can_lose_another(
    db: ActionDB, raw: RawSQL, loop_clock: LoopClock
) -> None:
    await db.create_proposals(proposal(status=S.VALIDATED) for _ in range(2))
    task = asyncio.current_task()
    assert task is not None

    async def lose(claim: Claim) -> None:
        await raw(RUN_OUT + f" WHERE id = {claim.record.id}")
        assert len(await db.recover_expired()) == 1
        # The next heartbeat finds out, and that may be in the turns of this one.
        await loop_clock.advance(BEAT)
        await asyncio.Event().wait()

    for _ in range(2):
        (claim,) = await db.claim("worker-1")
        with pytest.raises(ZeroDivisionError):
            async with db.holding(claim, lease=LEASE):
                try:
                    await lose(claim)
                except asyncio.CancelledError:
                    raise ZeroDivisionError from None
        assert task.cancelling() == 0
    # Who has outlived a cancellation of another's is told of a lost lease all the same.
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(0)
    (claim,) = await db.claim("worker-1")
    with pytest.raises(LeaseLost):
        async with db.holding(claim, lease=LEASE):
            await lose(claim)
    assert task.cancelling() == 1
    task.uncancel()


async def test_a_block_may_say_that_it_does_not_know(db: ActionDB) -> None:
    for why, stored in (
        ("the server closed the connection", "the server closed the connection"),
        ("a\0b" + "x" * 20_000, "a\N{REPLACEMENT CHARACTER}b" + "x" * 20_000),
        (" ", "OutcomeUnknown:  : whether it was done is not known"),
    ):
        made = await db.create_proposal(proposal(status=ActionStatus.VALIDATED))
        claim = await db.claim_proposal(made.id, "w")
        with pytest.raises(OutcomeUnknown):
            async with db.holding(claim):
                raise OutcomeUnknown(why)
        (record,) = await db.get_records_for_proposal(made.id)
        assert (record.success, record.outcome_unknown) == (None, True)
        assert record.error_message is not None
        assert stored.startswith(record.error_message)
        assert await db.unresolved()
