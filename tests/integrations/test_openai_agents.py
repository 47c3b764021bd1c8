"""What is particular to the OpenAI Agents SDK: its approvals decide nothing, and its conveniences hide nothing."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from agents import (
    Agent,
    FunctionTool,
    ModelBehaviorError,
    RunConfig,
    RunHooks,
    Runner,
    RunState,
    ToolOutputText,
    WebSearchTool,
    function_tool,
    tool_namespace,
)
from agents.mcp import MCPServer, MCPUtil
from agents.testing import ScriptedModel, assistant_message, function_call
from agents.tool_context import ToolContext
from mcp.types import CallToolResult, TextContent
from mcp.types import Tool as MCPTool
from openai.types.responses import ResponseFunctionToolCall
from pydantic import BaseModel

from operator_core import Gate
from operator_core.actions import ActionStatus, InvalidValue, Rule
from operator_core.db import ActionDB
from operator_core.integrations.openai_agents import decide, gated_tools
from tests.clocks import PATIENCE

S = ActionStatus

QUIET = RunConfig(tracing_disabled=True)

Script = list[list[Any]]


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[ActionDB]:
    async with ActionDB(tmp_path / "ledger.db") as opened:
        await opened.add_rule(
            Rule(name="drains", action_name="*drain*"), by="lead", reason="policy 4"
        )
        yield opened


@pytest.fixture
def gate(db: ActionDB) -> Gate:
    return Gate(db, run_id="run-1", agent_id="planner")


class Store:
    """A tool that notes with what it was called."""

    def __init__(self, effect: Callable[[], Any] = lambda: None) -> None:
        self.seen: list[Any] = []
        self.begun = asyncio.Event()
        self.effect = effect

    async def drain(self, store: int, slowly: bool = True) -> Any:
        """Moves everything out of a store."""
        self.seen.append((store, slowly))
        self.begun.set()
        result = self.effect()
        if asyncio.iscoroutine(result):
            result = await result
        return f"store {store} is drained" if result is None else result


def call(number: int, arguments: Any = None, name: str = "drain", **more: Any) -> Any:
    arguments = {"store": number} if arguments is None else arguments
    return function_call(name, arguments, call_id=f"call-{number}", **more)


def agent_of(*turns: list[Any], tools: list[Any], **more: Any) -> Agent:
    """An agent whose model makes these calls, and then ends."""
    model = ScriptedModel([*turns, [assistant_message("done")]])
    return Agent(name=more.pop("name", "planner"), model=model, tools=[*tools], **more)


def told(agent: Agent) -> list[str]:
    """The answers in what the model got last."""
    assert isinstance(agent.model, ScriptedModel)
    assert agent.model.last_call is not None
    sent: Any = agent.model.last_call.input
    return [each["output"] for each in sent if each.get("type") == "function_call_output"]


async def run(agent: Agent, of: Any = "go", **more: Any) -> Any:
    return await Runner.run(agent, of, run_config=QUIET, **more)


async def finish(agent: Agent, result: Any, **more: Any) -> Any:
    """Runs on until nothing interrupts; the ledger has decided."""
    while result.interruptions:
        state = result.to_state()
        assert await decide(state, timeout=0) == []
        result = await run(agent, state, **more)
    return result


async def proposals(db: ActionDB) -> list[Any]:
    return list(reversed(await db.list_proposals()))


async def approve(db: ActionDB, proposal_id: int) -> None:
    found = await db.get_proposal(proposal_id)
    assert found is not None
    await db.approve_proposal(proposal_id, by="maria", digest=found.digest)


async def waiting(db: ActionDB, number: int = 1) -> list[Any]:
    """The proposals, once so many wait."""
    async with asyncio.timeout(PATIENCE), db.changes() as changed:
        while True:
            changed.clear()
            found = await proposals(db)
            if sum(each.status is S.PROPOSED for each in found) == number:
                return found
            await changed.wait()


class Started(RunHooks[Any]):
    """Notes the tools that the framework starts."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        self.seen.append(tool.name)


# ------ a decision


async def test_a_call_interrupts_the_run_and_goes_on_once_it_is_approved(
    db: ActionDB, gate: Gate
) -> None:
    store = Store()
    agent = agent_of([call(4)], tools=gated_tools([function_tool(store.drain)], gate))
    result = await run(agent)
    assert len(result.interruptions) == 1
    state = result.to_state()
    (ticket,) = await decide(state, timeout=0)
    # The state has no decision: it interrupts again.
    result = await run(agent, state)
    assert len(result.interruptions) == 1
    assert store.seen == []
    await approve(db, ticket.proposal_id)
    result = await finish(agent, result)
    assert (result.final_output, told(agent)) == ("done", ["store 4 is drained"])
    assert store.seen == [(4, True)]


async def test_deciding_waits_for_the_ledger(db: ActionDB, gate: Gate) -> None:
    agent = agent_of([call(4)], tools=gated_tools([function_tool(Store().drain)], gate))
    state = (await run(agent)).to_state()
    deciding = asyncio.create_task(decide(state))
    (proposal,) = await waiting(db)
    assert not deciding.done()
    await approve(db, proposal.id)
    async with asyncio.timeout(PATIENCE):
        assert await deciding == []
    await run(agent, state)
    assert told(agent) == ["store 4 is drained"]


async def test_deciding_gives_up_after_its_time(db: ActionDB, gate: Gate) -> None:
    agent = agent_of([call(1), call(2)], tools=gated_tools([function_tool(Store().drain)], gate))
    state = (await run(agent)).to_state()
    async with asyncio.timeout(PATIENCE):
        tickets = await decide(state, timeout=0.01)
    assert [each.call_id for each in tickets] == ["call-1", "call-2"]


async def test_a_rejection_a_denial_and_a_halt_are_told_to_the_model(
    db: ActionDB, gate: Gate
) -> None:
    await db.add_rule(
        Rule(name="no", action_name="erase", effect="deny"), by="lead", reason="never"
    )
    await db.halt(by="maria", reason="backups are frozen", action_name="delete")
    store = Store()
    names = ("drain", "erase", "delete")
    tools = [function_tool(store.drain, name_override=name) for name in names]
    calls = [call(number, name=name) for number, name in enumerate(names)]
    agent = agent_of(calls, tools=gated_tools(tools, gate))
    state = (await run(agent)).to_state()
    (ticket,) = await decide(state, timeout=0)
    await db.reject_proposal(ticket.proposal_id, by="maria", reason="store 0 is needed")
    assert await decide(state) == []
    hooks = Started()
    await run(agent, state, hooks=hooks)
    # They are rejected in the state, too: no hook and no guardrail sees a call that never begins.
    assert hooks.seen == []
    rejected, denied, halted = told(agent)
    assert "rejected it" in rejected
    assert "maria" in rejected
    assert "store 0 is needed" in rejected
    assert "not executed" in denied
    assert "agents are stopped" in halted
    assert store.seen == []


@pytest.mark.parametrize("interrupt", [True, False])
async def test_parallel_calls_each_run_with_their_own_arguments(
    db: ActionDB, gate: Gate, interrupt: bool
) -> None:
    store = Store()
    tools = gated_tools([function_tool(store.drain)], gate, interrupt=interrupt)
    agent = agent_of([call(1), call(2), call(3)], tools=tools)
    running = asyncio.create_task(run(agent))
    if interrupt:
        state = (await running).to_state()
        assert len(await decide(state, timeout=0)) == 3
    found = await waiting(db, 3)
    by_number = {each.parameters["store"]: each.id for each in found}
    await approve(db, by_number[1])
    await approve(db, by_number[3])
    if interrupt:
        (ticket,) = await decide(state, timeout=0)
        assert ticket.proposal_id == by_number[2]
        # Two of the three go on; the run stays interrupted by the third.
        result = await run(agent, state)
        assert len(result.interruptions) == 1
        assert sorted(store.seen) == [(1, True), (3, True)]
        await approve(db, by_number[2])
        await finish(agent, result)
    else:
        await approve(db, by_number[2])
        async with asyncio.timeout(PATIENCE):
            await running
    assert sorted(told(agent)) == [f"store {number} is drained" for number in (1, 2, 3)]
    assert sorted(store.seen) == [(1, True), (2, True), (3, True)]


async def test_a_streamed_run_is_interrupted_too(db: ActionDB, gate: Gate) -> None:
    store = Store()
    agent = agent_of([call(4)], tools=gated_tools([function_tool(store.drain)], gate))
    streamed = Runner.run_streamed(agent, "go", run_config=QUIET)
    _ = [event async for event in streamed.stream_events()]
    state = streamed.to_state()
    (ticket,) = await decide(state, timeout=0)
    await approve(db, ticket.proposal_id)
    await decide(state)
    again = Runner.run_streamed(agent, state, run_config=QUIET)
    _ = [event async for event in again.stream_events()]
    assert again.final_output == "done"
    assert told(agent) == ["store 4 is drained"]


# ------ what the framework believes is no permission


@pytest.mark.parametrize("always", [True, False])
async def test_an_approval_in_the_state_that_nobody_gave_in_the_ledger_runs_nothing(
    db: ActionDB, gate: Gate, always: bool
) -> None:
    store = Store()
    agent = agent_of([call(4)], tools=gated_tools([function_tool(store.drain)], gate))
    state = (await run(agent)).to_state()
    (item,) = state.get_interruptions()
    state.approve(item, always_approve=always)
    running = asyncio.create_task(run(agent, state))
    (proposal,) = await waiting(db)
    assert store.seen == []
    await db.reject_proposal(proposal.id, by="maria", reason="not at night")
    async with asyncio.timeout(PATIENCE):
        await running
    assert "not at night" in told(agent)[0]
    assert store.seen == []


async def test_the_framework_does_not_always_ask_a_callable_and_the_ledger_is_asked(
    db: ActionDB, gate: Gate
) -> None:
    asked: list[str] = []

    async def needs_approval(_context: Any, _arguments: Any, call_id: str) -> bool:
        asked.append(call_id)
        return True

    store = Store()
    tool = function_tool(store.drain, needs_approval=needs_approval)
    turns = [call(1)], [call(2)], [function_call("drain", "", call_id="call-3")]
    agent = agent_of(*turns, tools=[tool])
    result = await run(agent)
    # A default completes the arguments: it is not asked.
    assert asked == []
    state = result.to_state()
    state.approve(result.interruptions[0], always_approve=True)
    await run(agent, state)
    # Nor about any later call.
    assert asked == []
    assert store.seen == [(1, True), (2, True)]

    guarded = agent_of(*turns[:2], tools=gated_tools([tool], gate))
    result = await run(guarded)
    state = result.to_state()
    state.approve(result.interruptions[0], always_approve=True)
    running = asyncio.create_task(run(guarded, state))
    for number in (1, 2):
        *_, proposal = await waiting(db)
        assert proposal.call_id == f"call-{number}"
        await db.reject_proposal(proposal.id, by="maria", reason="no")
    async with asyncio.timeout(PATIENCE):
        await running
    assert len(store.seen) == 2


async def test_a_rejection_in_the_state_leaves_the_call_open_in_the_ledger(
    db: ActionDB, gate: Gate
) -> None:
    store = Store()
    agent = agent_of([call(4)], tools=gated_tools([function_tool(store.drain)], gate))
    state = (await run(agent)).to_state()
    (ticket,) = await decide(state, timeout=0)
    await approve(db, ticket.proposal_id)
    state.reject(state.get_interruptions()[0], rejection_message="no")
    await run(agent, state)
    assert (told(agent), store.seen) == (["no"], [])
    assert await gate.pending() == [ticket]


class Changing(RunHooks[Any]):
    """A hook that changes the arguments of a call before the tool is invoked."""

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        context.tool_call.arguments = '{"store": 9}'


async def test_arguments_that_a_hook_changes_after_the_decision_never_run(
    db: ActionDB, gate: Gate
) -> None:
    store = Store()
    agent = agent_of([call(4)], tools=gated_tools([function_tool(store.drain)], gate))
    result = await run(agent)
    state = result.to_state()
    (ticket,) = await decide(state, timeout=0)
    await approve(db, ticket.proposal_id)
    assert await decide(state) == []
    await run(agent, state, hooks=Changing())
    assert "were changed" in told(agent)[0]
    assert store.seen == []
    (found,) = await proposals(db)
    assert (found.status, found.parameters) == (S.VALIDATED, {"store": 4})


async def test_arguments_that_are_changed_in_the_kept_state_never_run(
    db: ActionDB, gate: Gate
) -> None:
    store = Store()
    agent = agent_of([call(4)], tools=gated_tools([function_tool(store.drain)], gate))
    state = (await run(agent)).to_state()
    (ticket,) = await decide(state, timeout=0)
    await approve(db, ticket.proposal_id)
    kept = state.to_string()
    changed = kept.replace(r"{\"store\":4}", r"{\"store\":9}")
    assert changed != kept
    state = await RunState.from_string(agent, changed)
    with pytest.raises(ModelBehaviorError, match="different invocation"):
        await decide(state)

    # The framework knows it by a digest in the same state.
    whole = json.loads(changed)
    del whole["context"]["tool_invocations"]["call-4"]
    state = await RunState.from_json(agent, whole)
    assert await decide(state) == []
    await run(agent, state)
    assert "were changed" in told(agent)[0]

    # With an approval in the state, too.
    state = await RunState.from_json(agent, whole)
    state.approve(state.get_interruptions()[0])
    agent.model.enqueue([assistant_message("done")])
    await run(agent, state)
    assert "were changed" in told(agent)[0]
    assert store.seen == []


# ------ how a call ends


async def test_a_failure_is_recorded_and_not_turned_into_a_result(db: ActionDB, gate: Gate) -> None:
    def fail() -> None:
        raise RuntimeError("the disk is full")

    tools = [
        function_tool(Store(fail).drain),
        function_tool(Store(fail).drain, name_override="drain_2", failure_error_function=None),
        function_tool(
            Store(fail).drain, name_override="drain_3", failure_error_function=lambda *_: "fine"
        ),
    ]
    calls = [call(1), call(2, name="drain_2"), call(3, name="drain_3")]
    agent = agent_of(calls, tools=gated_tools(tools, gate))
    state = (await run(agent)).to_state()
    for ticket in await decide(state, timeout=0):
        await approve(db, ticket.proposal_id)
    await decide(state)
    await run(agent, state)
    for answer in told(agent):
        assert "executed and failed" in answer
        assert "the disk is full" in answer
    assert [each.status for each in await proposals(db)] == [S.FAILED] * 3


async def test_a_tool_that_is_cancelled_in_the_middle_has_an_unknown_outcome(
    db: ActionDB, gate: Gate
) -> None:
    def cancel() -> None:
        raise asyncio.CancelledError

    store = Store(cancel)
    tools = gated_tools([function_tool(store.drain, name_override="move")], gate, interrupt=False)
    agent = agent_of([call(4, name="move")], [call(5, {"store": 4}, name="move")], tools=tools)
    await run(agent)
    first, second = told(agent)
    assert "not known whether it happened" in first
    # The model repeats itself.
    assert "not known" in second
    assert store.seen == [(4, True)]


async def test_a_timeout_counts_while_the_tool_runs_and_its_outcome_is_unknown(
    db: ActionDB, gate: Gate
) -> None:
    store = Store(lambda: asyncio.Event().wait())
    tool = function_tool(store.drain, timeout=0.01)
    agent = agent_of([call(4)], tools=gated_tools([tool], gate, interrupt=False))
    running = asyncio.create_task(run(agent))
    (proposal,) = await waiting(db)
    # Much longer than the timeout.
    done, _ = await asyncio.wait({running}, timeout=1.0)
    assert not done
    await approve(db, proposal.id)
    async with asyncio.timeout(PATIENCE):
        await running
    assert "not known whether it happened" in told(agent)[0]
    assert "timed out after 0.01 seconds" in told(agent)[0]
    (record,) = await db.get_records_for_proposal(proposal.id)
    assert record.success is None


async def test_a_run_that_is_cancelled_in_the_middle_leaves_an_unknown_outcome(
    db: ActionDB, gate: Gate
) -> None:
    store = Store(lambda: asyncio.Event().wait())
    tools = gated_tools([function_tool(store.drain, name_override="move")], gate)
    agent = agent_of([call(4, name="move")], tools=tools)
    state = (await run(agent)).to_state()
    kept = state.to_string()
    await decide(state)
    running = asyncio.create_task(run(agent, state))
    await store.begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    (found,) = await proposals(db)
    async with asyncio.timeout(PATIENCE):
        await db.wait_until(found.id, S.FAILED)
    # Started again from what was kept before.
    await finish(agent, await run(agent, await RunState.from_string(agent, kept)))
    assert "not known whether it happened" in told(agent)[0]
    assert len(store.seen) == 1


async def test_a_run_that_starts_again_from_an_old_state_repeats_nothing(
    db: ActionDB, gate: Gate
) -> None:
    store = Store()
    tools = gated_tools([function_tool(store.drain)], gate)
    agent = agent_of([call(4)], tools=tools)
    state = (await run(agent)).to_state()
    kept = state.to_string()
    (ticket,) = await decide(state, timeout=0)
    await approve(db, ticket.proposal_id)
    await decide(state)
    await run(agent, state)
    for _ in range(2):
        again = agent_of(tools=gated_tools([function_tool(store.drain)], gate))
        state = await RunState.from_string(again, kept)
        assert await decide(state) == []
        await run(again, state)
        assert told(again) == ["store 4 is drained"]
    assert store.seen == [(4, True)]


async def test_two_runs_of_the_same_state_execute_a_call_once(db: ActionDB, gate: Gate) -> None:
    release = asyncio.Event()
    store = Store(lambda: wait_for(release))
    tools = gated_tools([function_tool(store.drain)], gate)
    first = agent_of([call(4)], tools=tools)
    state = (await run(first)).to_state()
    kept = state.to_string()
    (ticket,) = await decide(state, timeout=0)
    await approve(db, ticket.proposal_id)
    second = agent_of(tools=gated_tools([function_tool(store.drain)], Gate(db, run_id="run-1")))
    other = await RunState.from_string(second, kept)
    await decide(state)
    await decide(other)
    running = asyncio.gather(run(first, state), run(second, other))
    await store.begun.wait()
    release.set()
    async with asyncio.timeout(PATIENCE):
        await running
    assert told(first) == told(second) == ["store 4 is drained"]
    assert len(store.seen) == 1


async def wait_for(event: asyncio.Event) -> None:
    await event.wait()


# ------ arguments and results


async def test_the_tool_gets_what_the_ledger_has(db: ActionDB) -> None:
    store, seen = Store(), []

    async def look(context: ToolContext[Any], store: int, slowly: bool = True) -> None:
        seen.append(json.loads(context.tool_arguments))

    gate = Gate(db, run_id="run-1")
    gate.tool(name="move")(store.drain)
    gate.tool(name="look")(store.drain)
    tools = [
        function_tool(store.drain, name_override="move", strict_mode=False),
        function_tool(look, strict_mode=False),
    ]
    calls = [call(4, name="move"), call(5, name="look"), call(6, {"stor": 6}, name="move")]
    agent = agent_of(calls, tools=gated_tools(tools, gate))
    await finish(agent, await run(agent))
    assert [each.parameters for each in (await proposals(db))[:2]] == [
        {"store": 4, "slowly": True},
        {"store": 5, "slowly": True},
    ]
    assert seen == [{"store": 5, "slowly": True}]
    assert "store: Field required" in told(agent)[2]
    assert store.seen == [(4, True)]


@pytest.mark.parametrize("arguments", ["{", "[1]"])
@pytest.mark.parametrize("interrupt", [True, False])
async def test_arguments_that_can_not_be_read_are_refused(
    db: ActionDB, gate: Gate, arguments: str, interrupt: bool
) -> None:
    store = Store()
    tools = gated_tools([function_tool(store.drain)], gate, interrupt=interrupt)
    agent = agent_of([call(4, arguments)], tools=tools)
    await finish(agent, await run(agent))
    assert "can't be read" in told(agent)[0]
    assert store.seen == []


async def test_a_tool_without_arguments(db: ActionDB, gate: Gate) -> None:
    def now() -> int:
        return 7

    agent = agent_of(
        [call(1, "", name="now"), call(2, "{}", name="now")],
        tools=gated_tools([function_tool(now)], gate),
    )
    await finish(agent, await run(agent))
    assert told(agent) == ["7", "7"]


@dataclass
class Point:
    x: int


class Full(BaseModel):
    used: float


@pytest.mark.parametrize(
    ("result", "answer"),
    [
        ({"used": 0.97}, "{'used': 0.97}"),
        (Point(1), "{'x': 1}"),
        (object, "<class 'object'>"),
        (Full(used=0.5), "{'used': 0.5}"),
        (ToolOutputText(text="hot"), [{"type": "input_text", "text": "hot"}]),
    ],
)
async def test_results_are_told_as_the_framework_tells_them(
    db: ActionDB, gate: Gate, result: Any, answer: Any
) -> None:
    tool = function_tool(Store(lambda: result).drain, name_override="look")
    agent = agent_of([call(4, name="look")], tools=gated_tools([tool], gate))
    await finish(agent, await run(agent))
    assert told(agent) == [answer]


async def test_a_refusal_need_not_fit_the_output_schema_of_the_tool(
    db: ActionDB, gate: Gate
) -> None:
    async def drain(store: int) -> Full:
        return Full(used=0.0)

    tools = gated_tools([function_tool(drain, output_type=Full)], gate, interrupt=False)
    agent = agent_of([call(1), call(2)], tools=tools)
    running = asyncio.create_task(run(agent))
    first, second = await waiting(db, 2)
    await approve(db, first.id)
    await db.reject_proposal(second.id, by="maria", reason="it is needed")
    async with asyncio.timeout(PATIENCE):
        await running
    answers = dict(zip(("call-1", "call-2"), told(agent), strict=True))
    assert answers[first.call_id] == '{"used":0.0}'
    assert "it is needed" in answers[second.call_id]


# ------ agents, names, other tools


async def test_a_run_is_interrupted_in_another_agent_and_goes_on_in_another_process(
    db: ActionDB, gate: Gate
) -> None:
    store = Store()

    def agents(*turns: list[Any]) -> tuple[Agent, Agent]:
        operator = agent_of(
            *turns, tools=gated_tools([function_tool(store.drain)], gate), name="operator"
        )
        transfer = function_call("transfer_to_operator", {}, call_id="call-0")
        return agent_of([transfer], tools=[], handoffs=[operator]), operator

    first, _ = agents([call(4)])
    state = (await run(first)).to_state()
    (ticket,) = await decide(state, timeout=0)
    kept = state.to_string()
    await approve(db, ticket.proposal_id)

    again, operator = agents()
    state = await RunState.from_string(again, kept)
    assert await decide(state) == []
    assert (await run(again, state)).final_output == "done"
    assert told(operator)[-1] == "store 4 is drained"
    assert store.seen == [(4, True)]


async def test_the_tools_of_an_agent_that_is_a_tool_are_guarded_by_themselves(
    db: ActionDB, gate: Gate
) -> None:
    store = Store()

    def agents(outer: list[Any], *inner: list[Any]) -> Agent:
        operator = agent_of(
            *inner, tools=gated_tools([function_tool(store.drain)], gate), name="operator"
        )
        with pytest.raises(InvalidValue, match="is an agent"):
            gated_tools([operator.as_tool("ask", "Asks the operator.")], gate)
        return agent_of(*outer, tools=[operator.as_tool("ask", "Asks the operator.")])

    first = agents([[call(0, {"input": "drain it"}, name="ask")]], [call(4)])
    state = (await run(first)).to_state()
    (ticket,) = await decide(state, timeout=0)
    assert ticket.name == "drain"
    kept = state.to_string()
    await approve(db, ticket.proposal_id)

    again = agents([])
    state = await RunState.from_string(again, kept)
    assert await decide(state) == []
    assert (await run(again, state)).final_output == "done"
    assert told(again) == ["done"]
    assert store.seen == [(4, True)]


async def test_the_ledger_knows_a_tool_by_its_qualified_name(db: ActionDB, gate: Gate) -> None:
    store = Store()
    bare = function_tool(store.drain, name_override="drain")
    (named,) = tool_namespace(name="crm", description="Customers", tools=gated_tools([bare], gate))
    agent = agent_of([call(1), call(2, namespace="crm")], tools=[*gated_tools([bare], gate), named])
    state = (await run(agent)).to_state()
    tickets = await decide(state, timeout=0)
    assert [each.name for each in tickets] == ["drain", "crm.drain"]
    for ticket in tickets:
        await approve(db, ticket.proposal_id)
    await decide(state)
    await run(agent, state)
    assert sorted(store.seen) == [(1, True), (2, True)]
    assert [each.status for each in await proposals(db)] == [S.COMPLETED] * 2


async def test_a_tool_of_the_same_name_in_no_namespace_is_another_tool(
    db: ActionDB, gate: Gate
) -> None:
    bare = function_tool(Store().drain, needs_approval=True)
    tools = tool_namespace(name="crm", description="Customers", tools=gated_tools([bare], gate))
    agent = agent_of([call(1)], tools=[*tools, bare])
    state = (await run(agent)).to_state()
    assert await decide(state, timeout=0) == []
    assert await proposals(db) == []


async def test_a_guarded_tool_is_not_guarded_twice_and_gives_nobody_its_function(
    gate: Gate,
) -> None:
    (tool,) = gated_tools([function_tool(Store().drain)], gate)
    with pytest.raises(InvalidValue, match="guarded already"):
        gated_tools([tool], gate)
    with pytest.raises(AttributeError):
        _ = tool.__wrapped__


async def test_only_function_tools_can_be_guarded(gate: Gate) -> None:
    with pytest.raises(InvalidValue, match="WebSearchTool is no function tool"):
        gated_tools([WebSearchTool()], gate)  # type: ignore[list-item]


async def test_interruptions_of_other_tools_stay_as_they_are(db: ActionDB, gate: Gate) -> None:
    store, other = Store(), Store()
    tools: list[FunctionTool] = [
        *gated_tools([function_tool(store.drain)], gate),
        function_tool(other.drain, name_override="look", needs_approval=True),
    ]
    agent = agent_of([call(1), call(2, name="look")], tools=tools)
    state = (await run(agent)).to_state()
    (ticket,) = await decide(state, timeout=0)
    await approve(db, ticket.proposal_id)
    assert await decide(state) == []
    result = await run(agent, state)
    assert [each.tool_name for each in result.interruptions] == ["look"]
    assert (store.seen, other.seen) == ([(1, True)], [])
    assert len(await proposals(db)) == 1


class Stores(MCPServer):
    """An MCP server in this process."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    async def connect(self) -> None: ...

    async def cleanup(self) -> None: ...

    @property
    def name(self) -> str:
        return "stores"

    async def list_tools(self, run_context: Any = None, agent: Any = None) -> list[MCPTool]:
        schema = {"type": "object", "properties": {"store": {"type": "integer"}}}
        return [MCPTool(name="drain", inputSchema=schema)]

    async def call_tool(self, tool_name: str, arguments: Any, meta: Any = None) -> CallToolResult:
        self.seen.append(arguments)
        return CallToolResult(content=[TextContent(type="text", text="drained")])

    async def list_prompts(self) -> Any: ...

    async def get_prompt(self, name: str, arguments: Any = None) -> Any: ...


async def test_tools_of_an_mcp_server_go_round_the_gate_unless_they_are_given_as_tools(
    db: ActionDB, gate: Gate
) -> None:
    server = Stores()
    agent = agent_of([call(4)], tools=[], mcp_servers=[server])
    await run(agent)
    assert (server.seen, await proposals(db)) == ([{"store": 4}], [])

    found = await server.list_tools()
    tools = [MCPUtil.to_function_tool(each, server, False) for each in found]
    guarded = agent_of([call(5)], tools=gated_tools(tools, gate))
    state = (await run(guarded)).to_state()
    (ticket,) = await decide(state, timeout=0)
    await approve(db, ticket.proposal_id)
    state = await RunState.from_string(guarded, state.to_string())
    assert await decide(state) == []
    await run(guarded, state)
    assert server.seen == [{"store": 4}, {"store": 5}]
    assert "drained" in str(told(guarded)[0])


async def test_a_call_without_an_id_is_not_executed(db: ActionDB, gate: Gate) -> None:
    nameless = ResponseFunctionToolCall(
        type="function_call", name="drain", arguments='{"store": 4}', call_id=""
    )
    for interrupt in (True, False):
        store = Store()
        tools = gated_tools([function_tool(store.drain)], gate, interrupt=interrupt)
        with pytest.raises(Exception, match=r"call ID|call_id"):
            await run(agent_of([nameless], tools=tools))
        assert store.seen == []
