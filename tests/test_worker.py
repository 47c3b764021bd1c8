"""`run_worker`: claims what it has a handler for, and every start has its end in the ledger."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from operator_core.actions import ActionProposal, ActionRecord, ActionStatus, InvalidValue, NotOpen
from operator_core.db import ActionDB
from operator_core.db.verbs import history
from operator_core.db.verbs.executions import BEATS
from operator_core.worker import loop as worker_loop
from operator_core.worker import run_worker
from tests.clocks import PATIENCE, LoopClock
from tests.conftest import RawSQL, proposal

LEASE: Final = timedelta(hours=1)
BEAT: Final = LEASE.total_seconds() / BEATS
"""Seconds between two heartbeats."""

RUN_OUT: Final = "UPDATE action_records SET lease_expires_at = '2001-01-01 00:00:00.000000'"

S = ActionStatus

TWO: Final = pytest.mark.parametrize("backend", ["file", "postgresql"], indirect=True)
"""The loop is the same on all; these are the two that ledgers mostly are on."""


async def validated(db: ActionDB, name: str = "restart", **fields: Any) -> int:
    made = await db.create_proposal(proposal(name, status=S.VALIDATED, **fields))
    assert made.id is not None
    return made.id


@asynccontextmanager
async def working(
    db: ActionDB, handlers: Mapping[str, Any], **options: Any
) -> AsyncIterator["asyncio.Task[int]"]:
    """A worker that works during the block, and is stopped at its end."""
    stop = asyncio.Event()
    task = asyncio.create_task(run_worker(db, handlers, worker="w-1", stop=stop, **options))
    try:
        yield task
        stop.set()
        await asyncio.wait_for(task, PATIENCE)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ended(db: ActionDB, id: int) -> tuple[ActionProposal, ActionRecord]:
    found = await db.wait_for(id, timeout=PATIENCE)
    return found, (await db.get_records_for_proposal(id))[-1]


async def test_handlers_of_both_kinds_are_run_and_their_results_kept(db: ActionDB) -> None:
    threads: list[threading.Thread] = []

    async def restart(it: ActionProposal) -> dict[str, Any]:
        threads.append(threading.current_thread())
        return {"restarted": it.parameters["host"]}

    def drain(it: ActionProposal) -> dict[str, Any]:
        threads.append(threading.current_thread())
        return {"drained": it.parameters["host"]}

    def nothing(_: ActionProposal) -> None:
        pass

    async def late(it: ActionProposal) -> dict[str, Any]:
        return {"late": it.id}

    def call(function: Any, it: ActionProposal) -> Any:
        return function(it)

    handlers = {"restart": restart, "drain": drain, "nothing": nothing, "late": partial(call, late)}
    ids = [await validated(db, name, parameters={"host": "web-1"}) for name in handlers]
    async with working(db, handlers) as task:
        results = [(await ended(db, id))[1] for id in ids]
    assert await task == 4
    assert [record.result_data for record in results] == [
        {"restarted": "web-1"},
        {"drained": "web-1"},
        None,
        {"late": ids[3]},
    ]
    assert {(record.success, record.worker) for record in results} == {(True, "w-1")}
    assert threads[0] is threading.main_thread()
    assert threads[1] is not threading.main_thread()


@TWO
async def test_what_a_handler_raises_is_the_failure(db: ActionDB) -> None:
    async def restart(_: ActionProposal) -> None:
        raise ConnectionError("web-1 does not answer")

    def drain(_: ActionProposal) -> None:
        raise KeyError

    ids = [await validated(db, "restart"), await validated(db, "drain")]
    async with working(db, {"restart": restart, "drain": drain}):
        (first, record), (second, _) = [await ended(db, id) for id in ids]
    assert (first.status, first.last_error) == (S.FAILED, "ConnectionError: web-1 does not answer")
    assert (record.success, record.error_message) == (False, first.last_error)
    assert (second.status, second.last_error) == (S.FAILED, "KeyError")


@TWO
async def test_what_may_be_run_again_is(db: ActionDB) -> None:
    tries: list[int] = []

    async def restart(it: ActionProposal) -> None:
        tries.append(it.retry_count)
        if len(tries) < 3:
            raise ConnectionError

    id = await validated(db, max_retries=5, retry_delay=0)
    async with working(db, {"restart": restart}) as task:
        assert (await ended(db, id))[0].status is S.COMPLETED
    assert tries == [0, 1, 2]
    assert await task == 3


@TWO
async def test_only_what_has_a_handler_is_claimed(db: ActionDB) -> None:
    async def restart(_: ActionProposal) -> None:
        pass

    others = [await validated(db, name) for name in ("drain", "restar", "restart ", "RESTART")]
    id = await validated(db)
    async with working(db, {"restart": restart}, concurrency=4) as task:
        await ended(db, id)
    assert await task == 1
    assert [each and each.status for each in [await db.get_proposal(id) for id in others]] == (
        [S.VALIDATED] * 4
    )


@TWO
async def test_no_more_run_at_a_time_than_were_asked_for(db: ActionDB) -> None:
    running, most = 0, 0
    full, counted = asyncio.Event(), asyncio.Event()

    async def restart(_: ActionProposal) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 3:
            full.set()
        # All three are there, and have been counted, before the first goes.
        await counted.wait()
        await asyncio.sleep(0.002)
        running -= 1

    ids = [await validated(db) for _ in range(12)]
    async with working(db, {"restart": restart}, concurrency=3) as task:
        await asyncio.wait_for(full.wait(), PATIENCE)
        found = await db.count_proposals()
        assert (found[S.EXECUTING], found[S.VALIDATED]) == (3, 9)
        counted.set()
        for id in ids:
            await ended(db, id)
    assert (most, await task) == (3, 12)


@TWO
async def test_a_lost_lease_cancels_the_handler_and_changes_nothing(
    db: ActionDB, loop_clock: LoopClock
) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def restart(_: ActionProposal) -> dict[str, Any]:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return {}

    id = await validated(db)
    async with working(db, {"restart": restart}, lease=LEASE) as task:
        await asyncio.wait_for(begun.wait(), PATIENCE)
        # It is alive, and nevertheless somebody says how it ended.
        (record,) = await db.get_records_for_proposal(id)
        await db.fail(record.id, "ended by somebody else")
        before = await db.history(id), await db.get_records_for_proposal(id)
        await loop_clock.advance(BEAT)
        await asyncio.wait_for(cancelled.wait(), PATIENCE)
        # And the worker goes on.
        begun.clear()
        other = await validated(db)
        await asyncio.wait_for(begun.wait(), PATIENCE)
        assert (await db.history(id), await db.get_records_for_proposal(id)) == before
        await db.update_proposal_status(other, S.CANCELLED)
        cancelled.clear()
        await loop_clock.advance(BEAT)
        await asyncio.wait_for(cancelled.wait(), PATIENCE)
    assert await task == 2
    assert (await db.history(id), await db.get_records_for_proposal(id)) == before
    assert not task.cancelled()


@TWO
async def test_the_result_of_a_thread_whose_lease_is_lost_is_dropped_and_holds_up_nothing(
    db: ActionDB,
    loop_clock: LoopClock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, go_on, left = threading.Event(), threading.Event(), threading.Event()

    def restart(it: ActionProposal) -> dict[str, Any]:
        if it.id != id:
            return {"in": "time"}
        begun.set()
        try:
            go_on.wait(PATIENCE)
            return {"too": "late"}
        finally:
            left.set()

    asked: list[int | None] = []
    complete = db.complete

    async def noted(record_id: int | None, *given: Any, **named: Any) -> None:
        asked.append(record_id)
        await complete(record_id, *given, **named)

    monkeypatch.setattr(db, "complete", noted)
    id = await validated(db)
    with caplog.at_level(logging.INFO, "operator_core"):
        async with working(db, {"restart": restart}, lease=LEASE) as task:
            assert await asyncio.to_thread(begun.wait, PATIENCE)
            (record,) = await db.get_records_for_proposal(id)
            await db.fail(record.id, "ended by somebody else")
            before = await db.history(id), await db.get_records_for_proposal(id)
            await loop_clock.advance(BEAT)
            # It runs one at a time, and the thread that it can't end is in nobody's way.
            _, second = await ended(db, await validated(db))
            assert not left.is_set()
            go_on.set()
            assert await asyncio.to_thread(left.wait, PATIENCE)
            # Whatever the loop is told by the thread, it has been told when this is over.
            _, third = await ended(db, await validated(db))
    assert await task == 3
    assert [each.result_data for each in (second, third)] == [{"in": "time"}] * 2
    assert (await db.history(id), await db.get_records_for_proposal(id)) == before
    # The ledger would refuse it; it isn't even asked.
    assert asked == [second.id, third.id]
    said = [line for line in caplog.messages if f"record {record.id}" in line]
    assert [line.split()[1] for line in said] == ["starts", "lost"]


async def test_as_many_threads_run_at_once_as_were_asked_for() -> None:
    # More than asyncio has by default, on machines of up to 60 cores.
    many = 65
    together = threading.Barrier(many)

    def restart(_: ActionProposal) -> None:
        together.wait(PATIENCE)

    async with ActionDB(":memory:") as db:
        ids = [await validated(db) for _ in range(many)]
        async with working(db, {"restart": restart}, concurrency=many):
            for id in ids:
                assert (await ended(db, id))[0].status is S.COMPLETED


@TWO
async def test_one_that_is_cancelled_carries_out_what_it_has_taken(db: ActionDB) -> None:
    async def restart(_: ActionProposal) -> dict[str, bool]:
        return {"done": True}

    for turn in range(60):
        id = await validated(db)
        task = asyncio.create_task(run_worker(db, {"restart": restart}, stop=asyncio.Event()))
        await asyncio.sleep(turn / 10_000)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        found = await db.get_proposal(id)
        assert found is not None
        assert found.status in (S.VALIDATED, S.COMPLETED)
        if found.status is S.VALIDATED:
            await db.update_proposal_status(id, S.CANCELLED)


async def test_one_that_is_cancelled_while_it_can_not_claim_is_cancelled(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with (
        ActionDB(path, busy_timeout=0.2) as db,
        ActionDB(path) as other,
        other.transaction() as tx,
    ):
        await validated(tx)  # type: ignore[arg-type]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await run_worker(db, {"restart": print}, stop=asyncio.Event())


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
async def test_a_handler_that_raises_stop_iteration_has_failed(kind: str) -> None:
    def plain(_: ActionProposal) -> None:
        next(iter([]))

    async def coroutine(_: ActionProposal) -> None:
        next(iter([]))

    handler = plain if kind == "plain" else coroutine
    async with ActionDB(":memory:") as db:
        id = await validated(db)
        async with working(db, {"restart": handler}):
            found, record = await ended(db, id)
    assert found.status is S.FAILED
    assert record.error_message is not None
    assert "StopIteration" in record.error_message


@pytest.mark.skipif("threading.current_thread() is not threading.main_thread()")
async def test_signals_mean_afterwards_what_they_meant_before() -> None:
    def mine(*_: object) -> None:
        raise AssertionError("nobody sent it")

    was = signal.signal(signal.SIGTERM, mine)
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    try:
        async with ActionDB(":memory:") as db:
            ran = [asyncio.create_task(run_worker(db, {"restart": print})) for _ in range(2)]
            async with asyncio.timeout(PATIENCE):
                while len(worker_loop._stops) < len(ran):
                    await asyncio.sleep(0)
            assert signal.getsignal(signal.SIGTERM) is not mine
            os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(PATIENCE):
                assert await asyncio.gather(*ran) == [0, 0]
            assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before
            # Who says when to stop says what signals do.
            async with working(db, {"restart": print}):
                assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, was)


@TWO
async def test_a_long_execution_is_kept_alive(
    db: ActionDB, raw: RawSQL, loop_clock: LoopClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived = asyncio.Semaphore(0)
    heartbeat = db.heartbeat

    async def noted(*given: Any, **named: Any) -> datetime:
        until = await heartbeat(*given, **named)
        arrived.release()
        return until

    monkeypatch.setattr(db, "heartbeat", noted)

    over = asyncio.Event()

    async def restart(_: ActionProposal) -> dict[str, Any]:
        # Three leases long, and anybody may look for what is silent.
        try:
            for _ in range(3 * BEATS):
                await raw(RUN_OUT)
                await loop_clock.advance(BEAT)
                await asyncio.wait_for(arrived.acquire(), PATIENCE)
                assert await db.recover_expired() == []
        finally:
            over.set()
        return {"done": True}

    id = await validated(db)
    async with working(db, {"restart": restart}, lease=LEASE):
        # Without a deadline, which the clock would run into.
        await over.wait()
        _, record = await ended(db, id)
    assert record.result_data == {"done": True}


@TWO
async def test_it_stops_when_it_is_told_to_and_ends_what_runs(db: ActionDB) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def restart(_: ActionProposal) -> dict[str, Any]:
        begun.set()
        await go_on.wait()
        return {"done": True}

    first = await validated(db)
    stop = asyncio.Event()
    task = asyncio.create_task(run_worker(db, {"restart": restart}, stop=stop))
    await asyncio.wait_for(begun.wait(), PATIENCE)
    stop.set()
    second = await validated(db)
    # Whatever it might do wrong, it does in the meantime.
    _, waiting = await asyncio.wait([task], timeout=0.1)
    assert waiting
    go_on.set()
    assert await asyncio.wait_for(task, PATIENCE) == 1
    assert (await ended(db, first))[1].result_data == {"done": True}
    found = await db.get_proposal(second)
    assert found is not None
    assert found.status is S.VALIDATED
    # One that was told before it began does nothing.
    assert await run_worker(db, {"restart": restart}, stop=stop) == 0


@TWO
async def test_what_comes_while_it_is_idle_wakes_it(
    db: ActionDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def restart(_: ActionProposal) -> None:
        pass

    # Neither it nor who waits for it looks by itself.
    monkeypatch.setattr(worker_loop, "POLLS_EVERY", 3600.0)
    monkeypatch.setattr(history, "_AT_LEAST_EVERY", 3600.0)
    async with working(db, {"restart": restart}):
        for _ in range(6):
            await ended(db, await validated(db))


async def test_what_makes_no_sense_is_refused() -> None:
    async def restart(_: ActionProposal) -> None:
        pass

    async with ActionDB(":memory:") as db:
        for wrong in ({"concurrency": 0}, {"concurrency": 1001}, {"lease": timedelta(0)}):
            with pytest.raises(InvalidValue):
                await run_worker(db, {"restart": restart}, **wrong)  # type: ignore[arg-type]
        for handlers in ({"": print}, {5: print}, {"restart": 5}):
            with pytest.raises(InvalidValue, match="handlers"):
                await run_worker(db, handlers)  # type: ignore[arg-type]
        with pytest.raises(InvalidValue, match="worker"):
            await run_worker(db, {"restart": print}, worker="")
        with pytest.raises(InvalidValue, match="handlers"):
            await run_worker(db, {})
    with pytest.raises(NotOpen):
        await run_worker(db, {"restart": restart})


async def test_a_ledger_that_is_closed_ends_it() -> None:
    async def restart(_: ActionProposal) -> None:
        pass

    async with ActionDB(":memory:") as db:
        task = asyncio.create_task(run_worker(db, {"restart": restart}))
        id = await validated(db)
        await ended(db, id)
    with pytest.raises(NotOpen):
        await asyncio.wait_for(task, PATIENCE)


@TWO
async def test_what_it_says_names_ids_and_no_values(
    db: ActionDB, caplog: pytest.LogCaptureFixture
) -> None:
    async def restart(it: ActionProposal) -> dict[str, Any]:
        return {"secret-result": it.parameters["key"]}

    async def drain(it: ActionProposal) -> None:
        raise ConnectionError(f"no answer to {it.parameters['key']}")

    secrets = {"key": "secret-value"}
    with caplog.at_level(logging.DEBUG, "operator_core"):
        ids = [await validated(db, name, parameters=secrets) for name in ("restart", "drain")]
        async with working(db, {"restart": restart, "drain": drain}):
            records = [(await ended(db, id))[1] for id in ids]
    said = [record for record in caplog.messages if record.startswith("w-1")]
    for id, record, name in zip(ids, records, ("restart", "drain"), strict=True):
        about = [line for line in said if f"proposal {id} ({name}), record {record.id}" in line]
        assert len(about) == 2, said
    assert "secret" not in caplog.text
