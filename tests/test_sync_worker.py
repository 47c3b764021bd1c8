"""The worker loop without an event loop."""

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from operator_core.actions import ActionProposal, ActionStatus, InvalidValue
from operator_core.db import SyncActionDB
from operator_core.worker import run_sync_worker
from tests.clocks import PATIENCE
from tests.conftest import proposal

S = ActionStatus


@pytest.fixture
def db(tmp_path: Path) -> Iterator[SyncActionDB]:
    with SyncActionDB(tmp_path / "ledger.db") as db:
        yield db


def ready(name: str = "transfer_leader", **fields: Any) -> ActionProposal:
    return proposal(name, status=S.VALIDATED, **fields)


def test_it_runs_what_comes_until_it_is_stopped(db: SyncActionDB) -> None:
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        db.create_proposal(ready(parameters={"number": 1}))
        working = pool.submit(
            run_sync_worker,
            db,
            {"transfer_leader": lambda each: {"twice": 2 * each.parameters["number"]}},
            worker="worker-1",
            stop=stop,
        )
        later = db.create_proposal(ready(parameters={"number": 2}))
        other = db.create_proposal(ready("another"))
        assert db.wait_for(later.id, timeout=PATIENCE).status is S.COMPLETED
        stop.set()
        assert working.result(PATIENCE) == 2
    records = [*db.get_records_for_proposal(1), *db.get_records_for_proposal(later.id)]
    assert [each.result_data for each in records] == [{"twice": 2}, {"twice": 4}]
    assert {each.worker for each in records} == {"worker-1"}
    found = db.get_proposal(other.id)
    assert found is not None
    assert found.status is S.VALIDATED


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_claims_that_no_thread_runs_are_given_back(
    db: SyncActionDB, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    db.create_proposals([ready() for _ in range(3)])
    submit, submitted, go_on = ThreadPoolExecutor.submit, [], threading.Event()

    def fails(pool: ThreadPoolExecutor, *work: Any) -> Any:
        submitted.append(submit(pool, *work))
        if len(submitted) == 1:
            assert running.wait(PATIENCE)
            return submitted[0]
        # The second is in the queue: a thread runs it, or it is given back. The third is not.
        go_on.set()
        submitted[0].result(PATIENCE)
        raise error

    handled: list[int] = []
    running = threading.Event()

    def handle(each: ActionProposal) -> None:
        handled.append(each.id or 0)
        running.set()
        assert go_on.wait(PATIENCE)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", fails)
    with pytest.raises(error):
        run_sync_worker(db, {"transfer_leader": handle}, concurrency=3, stop=threading.Event())
    ended = {
        each.proposal_id: each.success
        for number in range(1, 4)
        for each in db.get_records_for_proposal(number)
    }
    assert set(ended.values()) == {True, False}
    assert {number for number, success in ended.items() if success} == set(handled)
    assert None not in ended.values()


def test_handlers_run_beside_each_other_up_to_concurrency(db: SyncActionDB) -> None:
    stop, meeting = threading.Event(), threading.Barrier(3)

    def handle(_: ActionProposal) -> None:
        meeting.wait(PATIENCE)

    db.create_proposals([ready() for _ in range(3)])
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(
            run_sync_worker, db, {"transfer_leader": handle}, concurrency=3, stop=stop
        )
        for each in range(1, 4):
            assert db.wait_for(each, timeout=PATIENCE).status is S.COMPLETED
        stop.set()
        assert working.result(PATIENCE) == 3


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("no"), SystemExit(3), KeyboardInterrupt(), StopIteration(4)]
)
def test_an_exception_fails_its_execution_only(db: SyncActionDB, error: BaseException) -> None:
    stop = threading.Event()

    def handle(each: ActionProposal) -> None:
        if each.parameters:
            raise error

    db.create_proposal(ready(parameters={"bad": True}, priority=1))
    db.create_proposal(ready())
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(run_sync_worker, db, {"transfer_leader": handle}, stop=stop)
        assert db.wait_for(2, timeout=PATIENCE).status is S.COMPLETED
        assert db.wait_for(1, timeout=PATIENCE).status is S.FAILED
        stop.set()
        assert working.result(PATIENCE) == 2
    (record,) = db.get_records_for_proposal(1)
    assert (record.success, record.outcome_unknown) == (False, False)


def test_the_result_of_a_lost_lease_is_dropped(db: SyncActionDB) -> None:
    stop = threading.Event()

    def handle(_: ActionProposal) -> dict[str, bool]:
        db.update_proposal_status(1, S.CANCELLED)
        stop.set()
        return {"done": True}

    db.create_proposal(ready())
    lease = timedelta(seconds=1)
    assert run_sync_worker(db, {"transfer_leader": handle}, lease=lease, stop=stop) == 1
    found = db.get_proposal(1)
    assert found is not None
    assert found.status is S.CANCELLED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_after_what_runs(db: SyncActionDB, number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def handle(_: ActionProposal) -> str:
        os.kill(os.getpid(), number)
        return "finished"

    db.create_proposals([ready(), ready()])
    assert run_sync_worker(db, {"transfer_leader": handle}) >= 1
    assert signal.getsignal(number) is before
    counts = db.count_proposals()
    assert counts[S.EXECUTING] == counts[S.FAILED] == 0
    (record,) = db.get_records_for_proposal(1)
    assert record.result_data == {"result": "finished"}


def test_what_is_no_handler_is_refused(db: SyncActionDB) -> None:
    async def handle(_: ActionProposal) -> None: ...

    for handlers in ({}, {"move": 3}, {"move": handle}):
        with pytest.raises(InvalidValue, match="handlers"):
            run_sync_worker(db, handlers)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="concurrency"):
        run_sync_worker(db, {"move": print}, concurrency=0)
