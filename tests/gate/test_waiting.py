"""A gate in an event loop waits, is cancelled, and shares its ledger with other tasks and processes."""

import asyncio
import concurrent.futures
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from operator_core.actions import (
    ActionProposal,
    ActionStatus,
    EndCode,
    HaltMode,
    InvalidValue,
    OutcomeUnknown,
)
from operator_core.db import ActionDB, SyncActionDB
from operator_core.gate import (
    EffectUnknown,
    ExecutionFailed,
    Gate,
    Pending,
    Refused,
    SyncGate,
    Ticket,
)
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


async def test_a_cancellation_is_never_swallowed(db: ActionDB) -> None:
    gate = gate_of(db)
    begun = asyncio.Event()
    runs: list[int] = []

    @gate.tool(max_retries=3)
    async def drain(store: int) -> None:
        runs.append(store)
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise OSError("interrupted") from None

    ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
    task = asyncio.create_task(gate.settle(ticket))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert runs == [4]
    assert (await now(db, ticket.proposal_id)).last_error == "OSError: interrupted"


async def test_what_a_tool_raises_is_no_end_of_its_caller(db: ActionDB) -> None:
    gate = gate_of(db)

    @gate.tool()
    async def waits(x: int) -> None:
        inner = asyncio.create_task(asyncio.sleep(3600))
        inner.cancel()
        await inner

    @gate.tool()
    def iterates(x: int) -> Any:
        return next(iter([]))

    @gate.tool()
    def cancels(x: int) -> Any:
        raise concurrent.futures.CancelledError

    with pytest.raises(EffectUnknown):
        await gate.call("waits", {"x": 1}, call_id="call-1", timeout=PATIENCE)
    for number, name in enumerate(("iterates", "cancels")):
        with pytest.raises(ExecutionFailed, match="the tool raised"):
            await gate.call(name, {"x": 1}, call_id=f"c-{number}", timeout=PATIENCE)


async def test_who_is_cancelled_while_it_claims_leaves_the_call_to_others(db: ActionDB) -> None:
    async def handler(**_: Any) -> str:
        return "done"

    gate = gate_of(db)
    for turns in range(40):
        ticket = await gate.propose("any", {"turn": turns}, call_id=f"call-{turns}")
        task = asyncio.create_task(gate.settle(ticket, handler=handler))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        outcome = await gate.outcome(ticket, handler=handler, timeout=PATIENCE)
        assert outcome.value == "done" or isinstance(outcome.error, EffectUnknown)


async def test_who_is_cancelled_while_it_says_how_it_ended_has_said_it(
    db: ActionDB, calls: Calls
) -> None:
    gate = gate_of(db, tools=[calls.drain])
    ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
    begun = await gate.begin(ticket)
    task = asyncio.create_task(begun.done(7))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await gate.settle(ticket) == 7


@pytest.mark.parametrize(
    ("on_cancel", "kind"), [("unknown", EffectUnknown), ("not done", ExecutionFailed)]
)
def test_ctrl_c_in_a_tool_without_an_event_loop(tmp_path: Path, on_cancel: Any, kind: Any) -> None:
    with SyncActionDB(tmp_path / "ledger.db") as db:
        gate = SyncGate(db, run_id="run-1")

        @gate.tool(on_cancel=on_cancel)
        def drain(store: int) -> None:
            raise KeyboardInterrupt

        ticket = gate.propose("drain", {"store": 4}, call_id="call-1")
        with pytest.raises(KeyboardInterrupt):
            gate.settle(ticket)
        with pytest.raises(kind):
            gate.settle(ticket)


def test_what_nobody_awaits_is_no_result(tmp_path: Path) -> None:
    async def later() -> None: ...

    with SyncActionDB(tmp_path / "ledger.db") as db:
        gate = SyncGate(db, run_id="run-1")
        with pytest.raises(ExecutionFailed, match="awaitable"):
            gate.call("any", {}, call_id="call-1", handler=lambda: later())  # noqa: PLW0108
        with pytest.raises(InvalidValue, match="coroutine"):
            gate.tool()(later)
        with pytest.raises(InvalidValue, match="coroutine"):
            gate.call("any", {"a": 1}, call_id="call-2", handler=later)


async def test_two_programs_settle_the_same_calls(tmp_path: Path, calls: Calls) -> None:
    path = tmp_path / "ledger.db"
    async with ActionDB(path) as one, ActionDB(path) as other:
        gates = [
            gate_of(db, tools=[calls.drain], worker=name) for db, name in ((one, "a"), (other, "b"))
        ]

        async def run(gate: Any) -> list[Any]:
            return [
                await gate.call("drain", {"store": n}, call_id=f"c-{n}", timeout=PATIENCE)
                for n in range(20)
            ]

        assert await asyncio.gather(*map(run, gates)) == [["done"] * 20] * 2
    assert sorted(each["store"] for each in calls.seen) == list(range(20))


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


async def test_a_gate_that_leaves_it_to_workers_sees_the_end_of_a_halt(db: ActionDB) -> None:
    gate = gate_of(db, execute="worker")
    await db.halt(**WHY, mode=HaltMode.OBSERVE)
    ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
    waiting = asyncio.create_task(gate.settle(ticket))
    await asyncio.sleep(0)
    await db.resume(**WHY)
    async with asyncio.timeout(PATIENCE):
        await db.wait_until(ticket.proposal_id, S.VALIDATED)
        claim = await db.claim_proposal(ticket.proposal_id, "w")
        await db.complete(claim.record.id, {"result": 7})
        assert await waiting == 7


async def test_a_tool_that_makes_its_own_call_does_not_wait_for_itself(db: ActionDB) -> None:
    gate = gate_of(db)
    depth: list[int] = []

    @gate.tool()
    async def dig(store: int) -> int:
        depth.append(store)
        if len(depth) < 3:
            return await gate.call("dig", {"store": store}, call_id=f"call-{len(depth)}")
        return len(depth)

    async with asyncio.timeout(PATIENCE):
        assert await gate.call("dig", {"store": 4}, call_id="call-0") == 3


async def test_two_calls_that_make_each_other_end(db: ActionDB) -> None:
    gate = gate_of(db)
    both = asyncio.Barrier(2)

    async def tool(me: str, other: str) -> str:
        if both.n_waiting or not met:
            met.append(me)
            await both.wait()
        return str((await gate.outcome(await gate.propose(other, {}, call_id=f"of {me}"))).error)

    met: list[str] = []

    @gate.tool()
    async def left() -> str:
        return await tool("left", "right")

    @gate.tool()
    async def right() -> str:
        return await tool("right", "left")

    async with asyncio.timeout(PATIENCE):
        told = await asyncio.gather(
            gate.call("left", {}, call_id="call-1"), gate.call("right", {}, call_id="call-2")
        )
    # Who comes second may find that the other one has ended, and so may make its call.
    assert any("is executed as proposal" in each for each in told)


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


async def test_of_several_who_wait_for_one_call_all_are_told(db: ActionDB, calls: Calls) -> None:
    """Whoever does not execute it looks again until it has ended, and no longer."""
    await rule(db, action_name="drain")
    gates = [gate_of(db, tools=[calls.drain], worker=f"w{number}") for number in range(5)]
    ticket = await gates[0].propose("drain", {"store": 4}, call_id="call-1")
    waiting = [asyncio.create_task(gate.settle(ticket, timeout=PATIENCE)) for gate in gates]
    await asyncio.sleep(0)
    made = await now(db, ticket.proposal_id)
    await db.approve_proposal(made.id, by="mia", digest=made.digest)
    assert await asyncio.gather(*waiting) == ["done"] * 5
    assert len(calls.seen) == 1


async def test_a_call_that_waits_is_refused_once_the_same_one_is_lost(db: ActionDB) -> None:
    await rule(db, action_name="drain")

    async def drain(store: int) -> None:
        raise OutcomeUnknown("the connection was lost")

    gate = gate_of(db, tools=[drain])
    tickets = [
        await gate.propose("drain", {"store": 4}, call_id=f"call-{number}") for number in range(2)
    ]
    waiting = [asyncio.create_task(gate.outcome(each, timeout=PATIENCE)) for each in tickets]
    await asyncio.sleep(0)
    for ticket, task in zip(tickets, waiting, strict=True):
        made = await now(db, ticket.proposal_id)
        await db.approve_proposal(made.id, by="mia", digest=made.digest)
        await task
    assert isinstance(waiting[0].result().error, EffectUnknown)
    assert isinstance(waiting[1].result().error, Refused)


async def test_a_worker_elsewhere_is_awaited_by_all(db: ActionDB) -> None:
    gates = [gate_of(db, execute="worker", worker=f"w{number}") for number in range(3)]
    for number in range(20):
        ticket = await gates[0].propose("drain", {"store": number}, call_id=f"call-{number}")
        waiting = [asyncio.create_task(gate.settle(ticket, timeout=PATIENCE)) for gate in gates]
        while not (claims := await db.claim("a worker")):
            await asyncio.sleep(0)
        await db.complete(claims[0].record.id, {"result": "done"})
        assert await asyncio.gather(*waiting) == ["done"] * 3


async def test_a_tool_may_call_the_gate_of_another_ledger(db: ActionDB) -> None:
    """Whose proposals have the same ids."""
    async with ActionDB(":memory:") as other:

        async def look(store: int) -> str:
            return "fine"

        inner = Gate(other, run_id="run-2", tools=[look])

        async def drain(store: int) -> Any:
            return await inner.call("look", {"store": store}, call_id="call-1")

        gate = gate_of(db, tools=[drain])
        assert await gate.call("drain", {"store": 4}, call_id="call-1") == "fine"
