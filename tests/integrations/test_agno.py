"""Runs of agno through the gate: what it injects, pauses, repeats, caches and streams."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from agno.agent import Agent
from agno.db.in_memory import InMemoryDb
from agno.exceptions import RetryAgentRun, StopAgentRun
from agno.media import Image
from agno.models.base import Model
from agno.models.message import Message
from agno.models.response import ModelResponse
from agno.run import RunContext, RunStatus
from agno.team import Team
from agno.tools import Function, Toolkit, tool
from agno.tools.function import FunctionCall, ToolResult
from agno.workflow import Step, Workflow

from operator_core.actions import ActionStatus, InvalidValue, Rule, StoredProposal
from operator_core.db import ActionDB, SyncActionDB
from operator_core.gate import Gate, SyncGate
from operator_core.integrations.agno import gated, gated_tools, paused_calls
from tests.clocks import PATIENCE

S = ActionStatus

Turn = list[tuple[str, str, dict[str, Any]]] | Exception
"""The calls of a turn: id, name, arguments; or what the provider answers instead."""


@dataclass
class Scripted(Model):
    """Makes the calls of its turns, and notes what it was told."""

    id: str = "scripted"
    turns: list[Turn] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    seen: list[Message] = field(default_factory=list)

    def invoke(self, messages: list[Message], **_: Any) -> ModelResponse:
        self.seen = list(messages)
        asked = [number for number, each in enumerate(messages) if each.role == "assistant"]
        last = messages[asked[-1] :] if asked else []
        self.told += [str(each.content) for each in last if each.role == "tool"]
        if not self.turns:
            return ModelResponse(role="assistant", content="done")
        turn = self.turns.pop(0)
        if isinstance(turn, Exception):
            raise turn
        calls = [
            {
                "id": call_id,
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments)},
            }
            for call_id, name, arguments in turn
        ]
        return ModelResponse(role="assistant", tool_calls=calls)

    async def ainvoke(self, messages: list[Message], **_: Any) -> ModelResponse:
        return self.invoke(messages)

    def invoke_stream(self, messages: list[Message], **_: Any) -> Iterator[ModelResponse]:
        yield self.invoke(messages)

    async def ainvoke_stream(
        self, messages: list[Message], **_: Any
    ) -> AsyncIterator[ModelResponse]:
        yield self.invoke(messages)

    def _parse_provider_response(self, response: Any, **_: Any) -> ModelResponse:
        raise NotImplementedError

    def _parse_provider_response_delta(self, response: Any) -> ModelResponse:
        raise NotImplementedError


def agent_of(tools: list[Any], *turns: Turn, **settings: Any) -> tuple[Agent, Scripted]:
    model = Scripted(turns=list(turns))
    return Agent(model=model, tools=tools, telemetry=False, **settings), model


def one(arguments: dict[str, Any] | None = None, call_id: str = "c1", name: str = "drain") -> Turn:
    return [(call_id, name, {"store": 4} if arguments is None else arguments)]


class Store:
    """A tool that notes with what it was called."""

    def __init__(self) -> None:
        self.drained: list[tuple[int, bool]] = []

    async def drain(self, store: int, fast: bool = False) -> str:
        """Drains a store."""
        return self.drain_now(store, fast)

    def drain_now(self, store: int, fast: bool = False) -> str:
        self.drained.append((store, fast))
        return f"drained {store}"


@pytest.fixture
async def db() -> AsyncIterator[ActionDB]:
    async with ActionDB(":memory:") as opened:
        yield opened


@pytest.fixture
def gate(db: ActionDB) -> Gate:
    return Gate(db, run_id="run-1", agent_id="planner")


@pytest.fixture
def store() -> Store:
    return Store()


async def ruled(db: ActionDB) -> None:
    await db.add_rule(Rule(name="drains", action_name="drain*"), by="lead", reason="policy 4")


async def waiting(db: ActionDB, number: int = 1) -> list[StoredProposal]:
    """Waits until so many proposals wait for a person."""
    async with asyncio.timeout(PATIENCE):
        while len(found := await db.list_proposals([S.PROPOSED])) < number:
            await asyncio.sleep(0.01)
    return sorted(found, key=lambda each: each.id)


async def approve(db: ActionDB, of: StoredProposal) -> None:
    await db.approve_proposal(of.id, by="maria", digest=of.digest)


async def executions(db: ActionDB) -> list[tuple[str, int]]:
    found = sorted(await db.list_proposals(), key=lambda each: each.id)
    return [(each.status, len(await db.get_records_for_proposal(each.id))) for each in found]


# ------ a call


async def test_a_call_waits_for_its_decision_and_runs_once(
    db: ActionDB, gate: Gate, store: Store
) -> None:
    await ruled(db)
    agent, model = agent_of([gated(store.drain, gate)], one({"store": "4"}))
    run = asyncio.create_task(agent.arun("go"))
    (found,) = await waiting(db)
    assert (found.run_id, found.call_id, found.action_name) == ("run-1", "c1", "drain")
    assert found.parameters == {"store": 4, "fast": False}
    assert store.drained == []
    await approve(db, found)
    await run
    assert model.told == ["drained 4"]
    assert store.drained == [(4, False)]
    assert await executions(db) == [("completed", 1)]


async def test_what_the_model_is_shown_is_that_of_the_tool(gate: Gate, store: Store) -> None:
    plain = tool(store.drain)
    made = gated(store.drain, gate)
    # As agno does at the begin of each run.
    plain.process_entrypoint()
    made.process_entrypoint()
    assert made.to_dict() == plain.to_dict()
    assert made.parameters["properties"].keys() == {"store", "fast"}


async def test_a_call_that_agno_repeats_is_answered_and_not_executed(
    db: ActionDB, gate: Gate, store: Store
) -> None:
    for _ in range(2):
        agent, model = agent_of([gated(store.drain, gate)], one())
        await agent.arun("go")
        assert model.told == ["drained 4"]
    assert store.drained == [(4, False)]
    assert await executions(db) == [("completed", 1)]


async def test_other_arguments_under_the_same_id_never_run(
    db: ActionDB, gate: Gate, store: Store
) -> None:
    agent, model = agent_of([gated(store.drain, gate)], one(), one({"store": 5}))
    run = await agent.arun("go")
    assert model.told[0] == "drained 4"
    assert model.told[1].startswith("It was not executed. Reason: proposal")
    assert "with other arguments" in model.told[1]
    assert [each.tool_call_error for each in run.tools or []] == [False, True]
    assert store.drained == [(4, False)]


async def test_arguments_that_do_not_fit_are_refused(
    db: ActionDB, gate: Gate, store: Store
) -> None:
    agent, model = agent_of(
        [gated(store.drain, gate)], one({"store": "x"}), one({"store": 4, "more": 1}, "c2")
    )
    await agent.arun("go")
    assert "store: Input should be a valid integer" in model.told[0]
    assert "more: Extra inputs are not permitted" in model.told[1]
    assert store.drained == []
    assert await db.list_proposals() == []


async def test_parallel_calls_of_one_turn(db: ActionDB, gate: Gate) -> None:
    await ruled(db)
    together = asyncio.Barrier(3)
    drained: list[int] = []

    async def drain(store: int) -> int:
        await together.wait()
        drained.append(store)
        return store

    agent, model = agent_of(
        [gated(drain, gate)], [(f"c{n}", "drain", {"store": n}) for n in range(3)]
    )
    run = asyncio.create_task(agent.arun("go"))
    for found in await waiting(db, 3):
        await approve(db, found)
    await run
    assert model.told == ["0", "1", "2"]
    assert sorted(drained) == [0, 1, 2]
    assert await executions(db) == [("completed", 1)] * 3


async def test_two_agents_settle_the_same_call_and_it_runs_once(
    tmp_path: Path, store: Store
) -> None:
    async with ActionDB(tmp_path / "a.db") as first, ActionDB(tmp_path / "a.db") as second:
        await ruled(first)
        agents = [
            agent_of([gated(store.drain, Gate(db, run_id="run-1"))], one())
            for db in (first, second)
        ]
        runs = [asyncio.create_task(agent.arun("go")) for agent, _ in agents]
        (found,) = await waiting(first)
        await approve(first, found)
        await asyncio.gather(*runs)
        assert [model.told for _, model in agents] == [["drained 4"]] * 2
        assert store.drained == [(4, False)]
        assert await executions(first) == [("completed", 1)]


# ------ what is not executed, or not wholly


async def test_a_rejection(db: ActionDB, gate: Gate, store: Store) -> None:
    await ruled(db)
    agent, model = agent_of([gated(store.drain, gate)], one(), one(None, "c2"))
    run = asyncio.create_task(agent.arun("go"))
    (found,) = await waiting(db)
    await db.reject_proposal(found.id, by="maria", reason="not at night")
    await run
    assert "a person has rejected it" in model.told[0]
    assert "By maria. Reason: not at night" in model.told[0]
    assert "the same call was rejected before" in model.told[1]
    assert store.drained == []


async def test_a_halt(db: ActionDB, gate: Gate, store: Store) -> None:
    await db.halt(by="maria", reason="frozen", action_name="drain")
    agent, model = agent_of([gated(store.drain, gate)], one())
    await agent.arun("go")
    assert "agents are stopped" in model.told[0]
    assert store.drained == []


async def test_a_run_that_is_cancelled_in_the_middle_of_a_tool(db: ActionDB, gate: Gate) -> None:
    begun = asyncio.Event()

    async def drain(store: int) -> None:
        begun.set()
        await asyncio.Event().wait()

    agent, _ = agent_of([gated(drain, gate)], one())
    run = asyncio.create_task(agent.arun("go"))
    await begun.wait()
    run.cancel()
    await asyncio.wait([run])
    agent, model = agent_of([gated(drain, gate)], one(), one(None, "c2"))
    await agent.arun("go")
    assert all("not known" in each for each in model.told)
    assert len(model.told) == 2
    assert (await executions(db))[0] == ("failed", 1)


async def test_a_tool_that_fails(db: ActionDB, gate: Gate) -> None:
    async def drain(store: int) -> None:
        raise OSError("the disk is gone")

    agent, model = agent_of([gated(drain, gate)], one())
    run = await agent.arun("go")
    assert model.told[0].startswith("It was executed and failed.")
    assert "the disk is gone" in model.told[0]
    assert (run.tools or [])[0].tool_call_error
    assert await executions(db) == [("failed", 1)]


@pytest.mark.parametrize("error", [RetryAgentRun, StopAgentRun])
async def test_an_exception_by_which_a_tool_speaks_to_agno_repeats_nothing(
    db: ActionDB, gate: Gate, error: Callable[..., Exception]
) -> None:
    calls: list[int] = []

    async def drain(store: int) -> None:
        calls.append(store)
        raise error("it is busy", user_message="ask for another store")

    agent, model = agent_of([gated(drain, gate)], one())
    await agent.arun("go")
    assert calls == [4]
    assert await executions(db) == [("failed", 1)]
    if error is RetryAgentRun:
        assert model.told == ["it is busy"]
        assert "ask for another store" in [each.content for each in model.seen]
    else:
        # The model is not asked again.
        assert model.told == []


async def test_the_retries_of_a_run_execute_nothing_again(
    db: ActionDB, gate: Gate, store: Store
) -> None:
    agent, model = agent_of(
        [gated(store.drain, gate)],
        one(),
        RuntimeError("the provider is down"),
        one(),
        retries=1,
        delay_between_retries=0,
    )
    await agent.arun("go")
    assert model.turns == []
    assert model.told[-1] == "drained 4"
    assert store.drained == [(4, False)]


# ------ what agno gives a tool


async def test_what_agno_injects_reaches_the_tool_and_not_the_ledger(
    db: ActionDB, gate: Gate
) -> None:
    seen: dict[str, Any] = {}

    async def drain(
        store: int,
        agent: Agent,
        run_context: RunContext,
        ctx: RunContext,
        fc: FunctionCall,
        n: int = 1,
    ) -> None:
        seen.update(agent=agent, run_context=run_context, ctx=ctx, fc=fc)
        assert run_context.session_state is not None
        run_context.session_state["drained"] = store

    agent, model = agent_of(
        [gated(drain, gate)],
        one({"store": 4, "run_context": {"user_id": "mallory"}, "fc": "x"}),
        session_state={},
    )
    run = await agent.arun("go", user_id="u-17")
    assert model.told == ["null"]
    assert seen["agent"].model is model
    assert seen["run_context"] is seen["ctx"]
    assert seen["ctx"].user_id == "u-17"
    assert seen["fc"].call_id == "c1"
    assert (run.session_state or {})["drained"] == 4
    (found,) = await db.list_proposals()
    assert found.parameters == {"store": 4, "n": 1}


async def test_what_agno_does_not_show_the_model_can_not_come_from_it(
    db: ActionDB, gate: Gate
) -> None:
    seen: list[Any] = []

    own = Image(id="i0", content=b"png")

    async def chart(store: int, frame: Image = own) -> None:
        seen.append((store, frame.id))

    made = gated(chart, gate)
    assert "frame" not in made.parameters["properties"]
    agent, model = agent_of(
        [made],
        one({"store": 4, "frame": {"id": "i1", "url": "x"}}, "c1", "chart"),
        one({"store": 4}, "c2", "chart"),
    )
    await agent.arun("go")
    assert "frame: Extra inputs are not permitted" in model.told[0]
    assert seen == [(4, "i0")]


async def test_a_function_with_a_schema_of_its_own(db: ActionDB, gate: Gate) -> None:
    seen: list[Any] = []

    async def call_tool(_agno_run_context: RunContext | None = None, **given: Any) -> ToolResult:
        seen.append((_agno_run_context, given))
        return ToolResult(content="sent")

    # As agno makes them of the tools of an MCP server.
    remote = Function(
        name="upload",
        parameters={"type": "object", "properties": {"files": {"type": "array"}}},
        entrypoint=call_tool,
        skip_entrypoint_processing=True,
    )
    agent, model = agent_of([gated(remote, gate)], one({"files": ["a", "b"]}, "c1", "upload"))
    await agent.arun("go")
    assert model.told == ["sent"]
    assert isinstance(seen[0][0], RunContext)
    assert seen[0][1] == {"files": ["a", "b"]}
    (found,) = await db.list_proposals()
    assert found.parameters == {"files": ["a", "b"]}


async def test_a_tool_that_yields_runs_within_its_execution(db: ActionDB, gate: Gate) -> None:
    async def drain(store: int) -> AsyncIterator[str]:
        for part in "abc":
            (found,) = await db.list_proposals([S.EXECUTING])
            yield f"{part}{found.parameters['store']}"

    def drain_slowly(store: int) -> Iterator[str]:
        yield "slowly "
        yield str(store)

    tools = gated_tools([drain, tool(drain_slowly)], gate)
    agent, model = agent_of(tools, one(), one(None, "c2", "drain_slowly"))
    await agent.arun("go")
    assert model.told == ["a4b4c4", "slowly 4"]
    assert await executions(db) == [("completed", 1)] * 2


async def test_media_reach_agno_where_the_tool_has_run(gate: Gate) -> None:
    async def chart(store: int) -> ToolResult:
        return ToolResult(content="a chart", images=[Image(content=b"png", id="i1")])

    pictures: list[int] = []
    for _ in range(2):
        agent, model = agent_of([gated(chart, gate)], one(name="chart"))
        run = await agent.arun("go")
        assert model.told == ["a chart"]
        pictures.append(len(run.images or []))
    assert pictures == [1, 0]


async def test_the_call_id_of_a_stream(db: ActionDB, gate: Gate, store: Store) -> None:
    agent, model = agent_of(
        [gated(store.drain, gate)],
        [("c1", "drain", {"store": 4}), ("c2", "drain", {"store": 5})],
    )
    async for _ in agent.arun("go", stream=True, stream_events=True):
        pass
    assert model.told == ["drained 4", "drained 5"]
    assert {each.call_id for each in await db.list_proposals()} == {"c1", "c2"}


async def test_a_call_without_an_id_is_refused(gate: Gate, store: Store) -> None:
    made = gated(store.drain, gate)
    call = FunctionCall(function=made, arguments={"store": 4})
    with pytest.raises(Exception, match="the call has no id"):
        await call.aexecute()
    assert store.drained == []


# ------ settings of agno


async def test_results_are_not_cached(
    db: ActionDB, gate: Gate, store: Store, tmp_path: Path
) -> None:
    cached = tool(cache_results=True, cache_dir=str(tmp_path))(store.drain)
    made = gated(cached, gate)
    assert (cached.cache_results, made.cache_results) == (True, False)
    agent, model = agent_of([made], one(), one(None, "c2"))
    await agent.arun("go")
    assert model.told == ["drained 4"] * 2
    assert len(store.drained) == 2
    assert await executions(db) == [("completed", 1)] * 2


async def test_a_call_beyond_the_limit_is_not_proposed(
    db: ActionDB, gate: Gate, store: Store
) -> None:
    calls = [(f"c{n}", "drain", {"store": n}) for n in range(2)]
    agent, model = agent_of([gated(store.drain, gate)], calls, tool_call_limit=1)
    await agent.arun("go")
    assert sorted(model.told)[0].startswith("Tool call limit reached")
    assert sorted(model.told)[1] == "drained 0"
    assert len(await db.list_proposals()) == 1
    assert store.drained == [(0, False)]


async def test_a_run_stops_after_a_call(gate: Gate, store: Store) -> None:
    stopping = tool(stop_after_tool_call=True)(store.drain)
    agent, model = agent_of([gated(stopping, gate)], one(), one(None, "c2"))
    await agent.arun("go")
    assert len(model.turns) == 1
    assert store.drained == [(4, False)]


@pytest.mark.parametrize("is_approved", [True, False])
async def test_a_confirmation_of_agno_is_no_approval(
    db: ActionDB, gate: Gate, store: Store, is_approved: bool
) -> None:
    await ruled(db)
    tools = [gated(tool(requires_confirmation=True)(store.drain), gate)]
    agent, model = agent_of(tools, one(), db=InMemoryDb(), session_id="s-1")
    run = await agent.arun("go")
    assert run.is_paused
    (call,) = paused_calls(run, tools)
    assert (call.name, call.arguments) == ("drain", {"store": 4, "fast": False})
    ticket = await gate.propose(call.name, call.arguments, call_id=str(call.call_id))
    for requirement in run.active_requirements:
        requirement.confirm()
    assert paused_calls(run, tools) == []
    going = asyncio.create_task(
        agent.acontinue_run(run_id=run.run_id, requirements=run.requirements)
    )
    (found,) = await waiting(db)
    assert found.id == ticket.proposal_id
    if is_approved:
        await approve(db, found)
    else:
        await db.reject_proposal(found.id, by="maria", reason="not at night")
    await going
    assert store.drained == ([(4, False)] if is_approved else [])
    assert ("drained 4" in model.told[0]) == is_approved
    assert await executions(db) == ([("completed", 1)] if is_approved else [("cancelled", 0)])


async def test_a_call_that_is_not_confirmed_in_agno_does_not_run(
    db: ActionDB, gate: Gate, store: Store
) -> None:
    tools = [gated(tool(requires_confirmation=True)(store.drain), gate)]
    agent, model = agent_of(tools, one(), db=InMemoryDb(), session_id="s-1")
    run = await agent.arun("go")
    for requirement in run.active_requirements:
        requirement.reject("no")
    await agent.acontinue_run(run_id=run.run_id, requirements=run.requirements)
    assert model.told == ["no"]
    assert store.drained == []
    assert await db.list_proposals() == []


async def test_arguments_that_a_person_gives_in_a_pause_are_proposed(
    db: ActionDB, gate: Gate, store: Store
) -> None:
    tools = [gated(tool(requires_user_input=True, user_input_fields=["fast"])(store.drain), gate)]
    agent, model = agent_of(tools, one(), db=InMemoryDb(), session_id="s-1")
    run = await agent.arun("go")
    assert run.is_paused
    assert paused_calls(run, tools) == []
    for requirement in run.active_requirements:
        requirement.provide_user_input({"fast": True})
    await agent.acontinue_run(run_id=run.run_id, requirements=run.requirements)
    assert model.told == ["drained 4"]
    (found,) = await db.list_proposals()
    assert found.parameters == {"store": 4, "fast": True}


async def test_arguments_that_are_edited_in_a_pause_do_not_run(
    db: ActionDB, gate: Gate, store: Store
) -> None:
    await ruled(db)
    tools = [gated(tool(requires_confirmation=True)(store.drain), gate)]
    agent, model = agent_of(tools, one(), db=InMemoryDb(), session_id="s-1")
    run = await agent.arun("go")
    (call,) = paused_calls(run, tools)
    await gate.propose(call.name, call.arguments, call_id=str(call.call_id))
    (found,) = await waiting(db)
    await approve(db, found)
    for requirement in run.active_requirements:
        assert requirement.tool_execution is not None
        requirement.tool_execution.tool_args = {"store": 5}
        requirement.confirm()
    await agent.acontinue_run(run_id=run.run_id, requirements=run.requirements)
    assert "with other arguments" in model.told[0]
    assert store.drained == []


async def test_agno_skips_asynchronous_hooks_in_a_synchronous_run_and_the_gate_is_asked(
    tmp_path: Path, store: Store
) -> None:
    async def no(**_: Any) -> None:
        raise AssertionError("this hook is never called")

    def broken() -> None:
        raise PermissionError("no")

    with SyncActionDB(tmp_path / "a.db") as db:
        await asyncio.to_thread(
            db.add_rule, Rule(name="d", action_name="drain*", effect="deny"), by="lead", reason="4"
        )
        guarded = gated(
            tool(tool_hooks=[no], pre_hook=broken)(store.drain_now), SyncGate(db, run_id="run-1")
        )
        bare = tool(name="bare", tool_hooks=[no], pre_hook=broken)(store.drain_now)
        agent, model = agent_of(
            [guarded, bare], one(name="drain_now"), one({"store": 5}, "c2", "bare")
        )
        await asyncio.to_thread(agent.run, "go")
    assert store.drained == [(5, False)]
    assert model.told[0].startswith("It was not executed.")
    assert model.told[1] == "drained 5"


# ------ synchronous runs


def test_a_synchronous_run_waits_for_its_decision(tmp_path: Path, store: Store) -> None:
    with SyncActionDB(tmp_path / "a.db") as db:
        db.add_rule(Rule(name="drains", action_name="drain*"), by="lead", reason="policy 4")
        gate = SyncGate(db, run_id="run-1")
        agent, model = agent_of([gated(store.drain_now, gate)], one(name="drain_now"))
        run = threading.Thread(target=agent.run, args=("go",))
        run.start()
        while not (found := db.list_proposals([S.PROPOSED])):
            assert run.is_alive()
            time.sleep(0.01)
        assert store.drained == []
        db.approve_proposal(found[0].id, by="maria", digest=found[0].digest)
        run.join(PATIENCE)
        assert model.told == ["drained 4"]
        assert store.drained == [(4, False)]


async def test_a_synchronous_gate_in_an_asynchronous_run(tmp_path: Path, store: Store) -> None:
    with SyncActionDB(tmp_path / "a.db") as db:
        gate = SyncGate(db, run_id="run-1")
        calls = [(f"c{n}", "drain_now", {"store": n}) for n in range(3)]
        agent, model = agent_of([gated(store.drain_now, gate)], calls)
        await agent.arun("go")
    assert model.told == ["drained 0", "drained 1", "drained 2"]


async def test_a_synchronous_run_with_an_asynchronous_gate_does_not_start(
    db: ActionDB, gate: Gate, store: Store
) -> None:
    toolkit = Toolkit(name="stores", tools=[store.drain_now])
    for tools in ([gated(store.drain_now, gate)], gated_tools([toolkit], gate)):
        agent, model = agent_of(tools, one(name="drain_now"))
        run = agent.run("go")
        assert run.status is RunStatus.error
        assert "can't be used with synchronous agent.run" in str(run.content)
        assert model.told == []
    assert store.drained == []


# ------ toolkits, teams, workflows


async def test_the_functions_of_a_toolkit(db: ActionDB, gate: Gate, store: Store) -> None:
    class Stores(Toolkit):
        def __init__(self) -> None:
            super().__init__(
                name="stores",
                tools=[store.drain_now, self.read],
                async_tools=[(self.drain_in_loop, "drain_now")],
                instructions="Drain slowly.",
                add_instructions=True,
            )
            self.seen = 0

        async def drain_in_loop(self, store: int, fast: bool = False) -> str:
            return f"drained {store} in the loop"

        @tool
        def read(self, store: int, run_context: RunContext) -> int:
            """Reads a store."""
            self.seen = store
            assert run_context.run_id
            return store

    toolkit = Stores()
    agent, model = agent_of(
        gated_tools([toolkit], gate), one(name="drain_now"), one(None, "c2", "read")
    )
    await agent.arun("go")
    assert model.told == ["drained 4 in the loop", "4"]
    assert toolkit.seen == 4
    assert "Drain slowly." in str(model.seen[0].content)
    found = {each.action_name: each.parameters for each in await db.list_proposals()}
    assert found == {"drain_now": {"store": 4, "fast": False}, "read": {"store": 4}}


async def test_a_member_of_a_team_waits(db: ActionDB, gate: Gate, store: Store) -> None:
    await ruled(db)
    member, told = agent_of([gated(store.drain, gate)], one(), name="operator")
    leader = Scripted(
        turns=[
            [("t1", "delegate_task_to_member", {"member_id": "operator", "task": "drain"})],
            one({"store": 5}, "t2"),
        ]
    )
    lead_gate = Gate(db, run_id="run-1-lead", agent_id="lead")
    team = Team(
        members=[member], model=leader, tools=[gated(store.drain, lead_gate)], telemetry=False
    )
    run = asyncio.create_task(team.arun("go"))
    for call_id in ("c1", "t2"):
        (found,) = await waiting(db)
        assert found.call_id == call_id
        await approve(db, found)
    await run
    assert told.told == ["drained 4"]
    assert leader.told[1] == "drained 5"
    assert store.drained == [(4, False), (5, False)]


async def test_a_team_in_a_synchronous_run_executes_nothing_with_an_asynchronous_gate(
    db: ActionDB, gate: Gate, store: Store
) -> None:
    leader = Scripted(turns=[one()])
    team = Team(members=[], model=leader, tools=[gated(store.drain, gate)], telemetry=False)
    team.run("go")
    assert leader.told == [
        "It was not executed. Reason: this tool is for asynchronous runs",
    ]
    assert store.drained == []
    assert await db.list_proposals() == []


async def test_a_step_of_a_workflow_waits(db: ActionDB, gate: Gate, store: Store) -> None:
    await ruled(db)
    agent, model = agent_of([gated(store.drain, gate)], one())
    workflow = Workflow(name="nightly", steps=[Step(name="drain", agent=agent)], telemetry=False)
    run: asyncio.Task[Any] = asyncio.create_task(workflow.arun("go"))
    (found,) = await waiting(db)
    await approve(db, found)
    await run
    assert model.told == ["drained 4"]


# ------ what can't be guarded


async def test_what_can_not_be_guarded_is_refused(tmp_path: Path, gate: Gate, store: Store) -> None:
    async def with_positional(store: int, /) -> None: ...

    async def named_as_the_call(fc: int) -> None: ...

    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: gated(tool(external_execution=True)(store.drain), gate), "outside of agno"),
        (lambda: gated(Function(name="x"), gate), "outside of agno"),
        (lambda: gated(gated(store.drain, gate), gate), "is gated already"),
        (lambda: gated({"type": "web_search"}, gate), "the provider"),  # type: ignore[arg-type]
        (lambda: gated(with_positional, gate), "can't be given by name"),
        (lambda: gated(named_as_the_call, gate), "must not be named 'fc'"),
        (lambda: gated_tools([Toolkit(name="empty")], gate), "connect it before"),
    ]
    for make, why in wrong:
        with pytest.raises(InvalidValue, match=why):
            make()
    with (
        SyncActionDB(tmp_path / "a.db") as db,
        pytest.raises(InvalidValue, match="use Gate"),
    ):
        gated(store.drain, SyncGate(db, run_id="run-1"))
