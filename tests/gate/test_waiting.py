"""A gate in an event loop waits, is cancelled, and shares its ledger with other tasks and processes."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from operator_core.actions import ActionProposal, ActionStatus, EndCode, InvalidValue
from operator_core.db import ActionDB
from operator_core.gate import EffectUnknown, ExecutionFailed, Gate, Pending, Refused, Ticket
from operator_core.worker import run_worker
from tests import warm
from tests.clocks import PATIENCE
from tests.contract.governed import WHY, now, rule
from tests.failures.harness import rows, start
from tests.gate.gates import Calls, gate_of

S = ActionStatus


@pytest.fixture(params=["memory", "file", "postgresql"])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def calls() -> Calls:
    return Calls(result="done")


async def test_a_decision_wakes_it(db: ActionDB, calls: Calls) -> None:
    await rule(db, action_name="drain")
    gate = gate_of(db, tools=[calls.drain])
    ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
    waiting = asyncio.create_task(gate.settle(ticket, timeout=PATIENCE))
    await asyncio.sleep(0)
    made = await now(db, ticket.proposal_id)
    await db.approve_proposal(made.id, by="mia", digest=made.digest)
    assert await waiting == "done"


async def test_of_many_who_settle_it_one_executes_it(db: ActionDB, calls: Calls) -> None:
    gates = [gate_of(db, tools=[calls.drain], worker=f"w{number}") for number in range(6)]
    tickets = await asyncio.gather(
        *(gate.propose("drain", {"store": 4}, call_id="call-1") for gate in gates)
    )
    assert len(set(tickets)) == 1
    found = await asyncio.gather(*(gate.settle(tickets[0], timeout=PATIENCE) for gate in gates))
    assert found == ["done"] * 6
    assert len(calls.seen) == 1


async def test_coroutine_functions_are_tools(db: ActionDB) -> None:
    gate = gate_of(db)

    @gate.tool("wait")
    async def wait(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "waited"

    assert await gate.call("wait", {"seconds": 0}, call_id="call-1") == "waited"


@pytest.mark.parametrize(
    ("on_cancel", "code"),
    [("unknown", EndCode.OUTCOME_UNKNOWN), ("not done", EndCode.FAILED)],
)
async def test_what_a_cancelled_call_came_to(db: ActionDB, on_cancel: Any, code: EndCode) -> None:
    gate = gate_of(db)
    begun = asyncio.Event()

    @gate.tool(on_cancel=on_cancel)
    async def drain(store: int) -> None:
        begun.set()
        await asyncio.Event().wait()

    ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
    task = asyncio.create_task(gate.settle(ticket))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    found = await now(db, ticket.proposal_id)
    assert found.end_code is code
    with pytest.raises(EffectUnknown if on_cancel == "unknown" else ExecutionFailed):
        await gate.settle(ticket)


async def test_a_thread_can_not_be_cancelled(db: ActionDB, calls: Calls) -> None:
    with pytest.raises(InvalidValue, match="thread"):
        gate_of(db).tool(on_cancel="not done")(calls.drain)


async def test_a_halt_cancels_a_tool_that_runs(db: ActionDB) -> None:
    gate = gate_of(db, lease=timedelta(seconds=1))
    begun = asyncio.Event()

    @gate.tool()
    async def drain(store: int) -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(gate.call("drain", {"store": 4}, call_id="call-1"))
    await begun.wait()
    await db.halt(**WHY)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(EffectUnknown, match="halt"):
            await task


async def test_heartbeats_go_on_between_the_two_phases(db: ActionDB, calls: Calls) -> None:
    gate = gate_of(db, tools=[calls.drain], lease=timedelta(seconds=1))
    begun = await gate.begin(await gate.propose("drain", {"store": 4}, call_id="call-1"))
    first = begun.claim.record.lease_expires_at
    await db.halt(**WHY)
    async with asyncio.timeout(PATIENCE):
        while begun.halt is None:
            await asyncio.sleep(0.01)
    record = await db.get_record(begun.claim.record.id)
    assert record is not None
    assert first is not None
    assert record.lease_expires_at is not None
    assert record.lease_expires_at > first
    assert await begun.done("ok") == "ok"


async def test_a_worker_elsewhere_executes_it(db: ActionDB, calls: Calls) -> None:
    gate = gate_of(db, tools=[calls.drain], execute="worker")
    stop = asyncio.Event()

    def handler(proposal: ActionProposal) -> Any:
        return proposal.parameters["store"]

    worker = asyncio.create_task(run_worker(db, {"drain": handler}, stop=stop))
    try:
        async with asyncio.timeout(PATIENCE):
            assert await gate.call("drain", {"store": 4}, call_id="call-1") == 4
    finally:
        stop.set()
        await worker
    assert calls.seen == []
    ticket = await gate.propose("drain", {"store": 5}, call_id="call-2")
    with pytest.raises(Pending, match="validated"):
        await gate.settle(ticket, timeout=0)


# ------ other processes


async def test_the_command_line_decides(tmp_path: Path, calls: Calls) -> None:
    path = tmp_path / "ledger.db"
    async with ActionDB(path) as db:
        await rule(db, action_name="drain")
        gate = Gate(db, run_id="run-1", tools=[calls.drain])
        ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
        waiting = asyncio.create_task(gate.settle(ticket, timeout=PATIENCE))
        made = await now(db, ticket.proposal_id)
        command = ("actions", "approve", str(made.id), "--digest", made.digest, "--by", "mia")
        done = await asyncio.to_thread(
            warm.run, "operator-core", *command, "--db-path", str(path), timeout=PATIENCE
        )
        assert done.returncode == 0, done.stderr
        assert await waiting == "done"
    assert len(calls.seen) == 1


async def test_a_ticket_outlives_the_process_that_proposed(tmp_path: Path, calls: Calls) -> None:
    path = tmp_path / "ledger.db"
    child = start("gate_proposer.py", path)
    assert child.stdout is not None
    ticket = Ticket.from_json(child.stdout.readline())
    # It waits for the decision.
    child.kill()
    child.communicate()
    async with ActionDB(path) as db:
        gate = Gate(db, run_id="run-1", tools=[calls.drain])
        assert await gate.pending() == [ticket]
        made = await now(db, ticket.proposal_id)
        await db.approve_proposal(made.id, by="mia", digest=made.digest)
        assert await gate.settle(ticket) == "done"
        assert await gate.settle(ticket) == "done"
    assert len(calls.seen) == 1


async def test_a_process_that_dies_in_a_tool_leaves_an_unknown_outcome(
    tmp_path: Path, calls: Calls
) -> None:
    path = tmp_path / "ledger.db"
    child = start("gate_proposer.py", path, "run")
    assert child.stdout is not None
    ticket = Ticket.from_json(child.stdout.readline())
    assert child.stdout.readline() == b"begun\n"
    child.kill()
    child.communicate()
    async with ActionDB(path) as db:
        gate = Gate(db, run_id="run-1", tools=[calls.drain])
        with pytest.raises(EffectUnknown):
            await gate.settle(ticket, timeout=PATIENCE)
        again = await gate.propose("drain", {"store": 4}, call_id="call-2")
        with pytest.raises(Refused):
            await gate.settle(again)
    assert calls.seen == []
    assert rows(path, "SELECT count(*) FROM action_records") == [(1,)]
