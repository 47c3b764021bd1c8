"""The gate in LangGraph's `ToolNode` and in the agents of LangChain: interrupts, nodes that run again, calls side by side."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, NamedTuple

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    HumanInTheLoopMiddleware,
    ToolRetryMiddleware,
    wrap_tool_call,
)
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolCall, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import tools_condition
from langgraph.types import Command, interrupt

from operator_core.actions import ActionStatus, InvalidValue, Rule
from operator_core.db import ActionDB, SyncActionDB
from operator_core.gate import Gate, SyncGate
from operator_core.integrations.langgraph import guard, guard_sync, tool_node
from tests.clocks import PATIENCE

S = ActionStatus
THREAD: Any = {"configurable": {"thread_id": "thread-1"}}
ASKED: Any = {"messages": [HumanMessage("Store 4 is full.")]}


class Scripted(BaseChatModel):
    """Makes these calls in its first turn, and then says that it is done."""

    calls: list[Any]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **options: Any) -> "Scripted":
        return self

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> Any:
        calls = [] if isinstance(messages[-1], ToolMessage) else self.calls
        answer = AIMessage("" if calls else "done", tool_calls=calls)
        return ChatResult(generations=[ChatGeneration(message=answer)])


def called(name: str, number: int = 1, **arguments: Any) -> ToolCall:
    return ToolCall(name=name, args=arguments, id=f"call-{number}", type="tool_call")


def agent(calls: Any, tools: Any, guarded: Any, *, before: Any = (), **_: Any) -> Any:
    return create_agent(
        Scripted(calls=calls),
        tools,
        middleware=[*before, wrap_tool_call(guarded)],
        checkpointer=InMemorySaver(),
    )


def node(calls: Any, tools: Any, guarded: Any, **options: Any) -> Any:
    """All calls of a turn are made in one run of one node."""
    model = Scripted(calls=calls)
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_node("tools", tool_node(tools, guarded, **options))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    return graph.compile(checkpointer=InMemorySaver())


class Stores:
    """Tools that note what they did."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.error: Exception | None = None

    @property
    def tools(self) -> list[Callable[..., Any]]:
        return [self.drain_store, self.read_metrics, self.copy_store]

    async def drain_store(self, store: int) -> str:
        """Drains a store, which needs an approval."""
        self.seen.append(("drain", store))
        if self.error is not None:
            raise self.error
        return f"store {store} is drained"

    async def read_metrics(self, store: int) -> str:
        """Reads how full a store is."""
        self.seen.append(("read", store))
        if self.error is not None:
            raise self.error
        return "97 %"

    async def copy_store(self, store: int) -> str:
        """Takes its time."""
        self.begun.set()
        await self.go_on.wait()
        self.seen.append(("copy", store))
        return "copied"


@pytest.fixture
async def db() -> AsyncIterator[ActionDB]:
    async with ActionDB(":memory:") as db:
        await db.add_rule(Rule(name="drains", action_name="drain_*"), by="lead", reason="policy 4")
        yield db


@pytest.fixture
def gate(db: ActionDB) -> Gate:
    return Gate(db, run_id="thread-1", agent_id="planner")


@pytest.fixture
def stores() -> Stores:
    return Stores()


@pytest.fixture(params=[agent, node])
def graph_of(request: pytest.FixtureRequest) -> Any:
    return request.param


def waiting(result: Any) -> list[Any]:
    """The values of the interrupts."""
    return [each.value for each in result.get("__interrupt__", ())]


def told(result: Any) -> list[str]:
    return [each.text for each in result["messages"] if isinstance(each, ToolMessage)]


async def approve(db: ActionDB, proposal_id: int) -> None:
    proposal = await db.get_proposal(proposal_id)
    assert proposal is not None
    await db.approve_proposal(proposal_id, by="maria", digest=proposal.digest)


async def statuses(db: ActionDB) -> list[ActionStatus]:
    return [each.status for each in reversed(await db.list_proposals())]


# ------ a call that waits


async def test_a_call_interrupts_the_graph_until_the_ledger_has_a_decision(
    db: ActionDB, gate: Gate, stores: Stores, graph_of: Any
) -> None:
    graph = graph_of([called("drain_store", store=4)], stores.tools, guard(gate))
    (value,) = waiting(await graph.ainvoke(ASKED, THREAD))
    assert value == {
        "proposal_id": 1,
        "call_id": "call-1",
        "name": "drain_store",
        "arguments": {"store": 4},
        "reason": "it is proposed",
    }
    assert waiting(await graph.ainvoke(None, THREAD)) == [value]
    assert stores.seen == []
    await approve(db, value["proposal_id"])
    result = await graph.ainvoke(None, THREAD)
    assert told(result) == ["store 4 is drained"]
    assert result["messages"][-1].text == "done"
    assert stores.seen == [("drain", 4)]
    assert await statuses(db) == [S.COMPLETED]
    await graph.ainvoke(None, THREAD)
    assert stores.seen == [("drain", 4)]


@pytest.mark.parametrize("answer", ["approved", True, {"type": "approve"}, {"decisions": []}])
async def test_what_the_graph_is_resumed_with_decides_nothing(
    db: ActionDB, gate: Gate, stores: Stores, graph_of: Any, answer: Any
) -> None:
    graph = graph_of([called("drain_store", store=4)], stores.tools, guard(gate))
    await graph.ainvoke(ASKED, THREAD)
    for _ in range(3):
        (value,) = waiting(await graph.ainvoke(Command(resume=answer), THREAD))
        assert value["proposal_id"] == 1
    assert stores.seen == []
    assert await statuses(db) == [S.PROPOSED]
    await approve(db, 1)
    assert told(await graph.ainvoke(Command(resume="no"), THREAD)) == ["store 4 is drained"]
    assert stores.seen == [("drain", 4)]


async def test_a_call_can_wait_in_the_node(
    db: ActionDB, gate: Gate, stores: Stores, graph_of: Any
) -> None:
    graph = graph_of([called("drain_store", store=4)], stores.tools, guard(gate, wait=None))
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        running = group.create_task(graph.ainvoke(ASKED, THREAD))
        while not await db.list_proposals():
            await asyncio.sleep(0.01)
        await approve(db, 1)
    assert told(running.result()) == ["store 4 is drained"]
    assert waiting(running.result()) == []


async def test_a_rejected_call_is_not_executed(
    db: ActionDB, gate: Gate, stores: Stores, graph_of: Any
) -> None:
    graph = graph_of([called("drain_store", store=4)], stores.tools, guard(gate))
    await graph.ainvoke(ASKED, THREAD)
    await db.reject_proposal(1, by="maria", reason="store 4 is needed")
    result = await graph.ainvoke(Command(resume="approved"), THREAD)
    (text,) = told(result)
    assert "store 4 is needed" in text
    assert "maria" in text
    assert result["messages"][-2].status == "error"
    assert stores.seen == []


async def test_a_halted_call_is_not_proposed(
    db: ActionDB, gate: Gate, stores: Stores, graph_of: Any
) -> None:
    await db.halt(by="maria", reason="an incident")
    graph = graph_of([called("read_metrics", store=4)], stores.tools, guard(gate))
    (text,) = told(await graph.ainvoke(ASKED, THREAD))
    assert "agents are stopped" in text
    assert stores.seen == []
    assert await statuses(db) == []


async def test_a_halt_ends_a_call_that_waits(
    db: ActionDB, gate: Gate, stores: Stores, graph_of: Any
) -> None:
    graph = graph_of([called("drain_store", store=4)], stores.tools, guard(gate))
    await graph.ainvoke(ASKED, THREAD)
    await approve(db, 1)
    await db.halt(by="maria", reason="an incident")
    (text,) = told(await graph.ainvoke(Command(resume="approved"), THREAD))
    assert "agents are stopped" in text
    assert stores.seen == []


async def test_an_approved_call_that_a_halt_holds_back_interrupts_again(
    db: ActionDB, gate: Gate, stores: Stores, graph_of: Any
) -> None:
    graph = graph_of([called("drain_store", store=4)], stores.tools, guard(gate))
    await graph.ainvoke(ASKED, THREAD)
    await approve(db, 1)
    await db.halt(by="maria", reason="an incident", cancel=False)
    (value,) = waiting(await graph.ainvoke(None, THREAD))
    assert "halted" in value["reason"]
    assert stores.seen == []
    await db.resume(by="maria", reason="it is over")
    assert told(await graph.ainvoke(None, THREAD)) == ["store 4 is drained"]
    assert stores.seen == [("drain", 4)]


# ------ several calls in one turn


async def test_calls_of_one_turn_are_decided_in_any_order(
    db: ActionDB, gate: Gate, stores: Stores, graph_of: Any
) -> None:
    calls = [
        called("drain_store", 1, store=1),
        called("drain_store", 2, store=2),
        called("read_metrics", 3, store=3),
    ]
    graph = graph_of(calls, stores.tools, guard(gate))
    seen = waiting(await graph.ainvoke(ASKED, THREAD))
    # The one node tells of the first call only.
    assert len(seen) == (2 if graph_of is agent else 1)
    by_call = {each.call_id: each.id for each in await db.list_proposals()}
    assert all(by_call[each["call_id"]] == each["proposal_id"] for each in seen)
    await approve(db, by_call["call-2"])
    (value,) = waiting(await graph.ainvoke(None, THREAD))
    assert value["call_id"] == "call-1"
    assert sorted(stores.seen) == [("drain", 2), ("read", 3)]
    await approve(db, by_call["call-1"])
    result = await graph.ainvoke(None, THREAD)
    assert told(result) == ["store 1 is drained", "store 2 is drained", "97 %"]
    assert sorted(stores.seen) == [("drain", 1), ("drain", 2), ("read", 3)]
    assert await statuses(db) == [S.COMPLETED] * 3


async def test_an_interrupt_waits_for_the_calls_beside_it(
    db: ActionDB, gate: Gate, stores: Stores, graph_of: Any
) -> None:
    calls = [called("drain_store", 1, store=1), called("copy_store", 2, store=2)]
    graph = graph_of(calls, stores.tools, guard(gate))
    running = asyncio.ensure_future(graph.ainvoke(ASKED, THREAD))
    async with asyncio.timeout(PATIENCE):
        await stores.begun.wait()
        assert await asyncio.wait({running}, timeout=1) == (set(), {running})
        stores.go_on.set()
        (value,) = waiting(await running)
    assert value["call_id"] == "call-1"
    assert stores.seen == [("copy", 2)]


class Answered(NamedTuple):
    content: str
    artifact: Any


@tool(response_format="content_and_artifact")
async def export_store(store: int) -> Answered:
    """Returns an artifact with its text."""
    return Answered("exported", {"rows": [store]})


@tool
async def choose_store(store: int, call_id: Annotated[str, InjectedToolCallId]) -> Command[Any]:
    """Changes the state of the graph."""
    message = ToolMessage("chosen", tool_call_id=call_id)
    return Command(update={"messages": [message, HumanMessage("A note.", id="note")]})


async def test_a_node_that_runs_again_gets_the_same_answers_from_the_ledger(
    db: ActionDB, gate: Gate, stores: Stores
) -> None:
    calls = [
        called("export_store", 1, store=1),
        called("choose_store", 2, store=2),
        called("drain_store", 3, store=3),
    ]
    graph = node(calls, [export_store, choose_store, *stores.tools], guard(gate))
    await graph.ainvoke(ASKED, THREAD)
    await approve(db, 3)
    result = await graph.ainvoke(None, THREAD)
    assert told(result) == ["exported", "chosen", "store 3 is drained"]
    (exported,) = [each for each in result["messages"] if each.text == "exported"]
    assert exported.artifact == {"rows": [1]}
    assert "note" in [each.id for each in result["messages"]]
    for proposal in await db.list_proposals():
        assert len(await db.get_records_for_proposal(proposal.id)) == 1


async def test_a_result_that_no_checkpoint_can_hold_is_kept_as_text(
    db: ActionDB, gate: Gate, stores: Stores
) -> None:
    @tool(response_format="content_and_artifact")
    async def open_store(store: int) -> Answered:
        """Returns what can't be stored."""
        return Answered("opened", object())

    calls = [called("open_store", 1, store=1), called("drain_store", 2, store=2)]
    graph = node(calls, [open_store, *stores.tools], guard(gate))
    await graph.ainvoke(ASKED, THREAD)
    await approve(db, 2)
    assert told(await graph.ainvoke(None, THREAD)) == ["opened", "store 2 is drained"]


# ------ a call is executed once, with the arguments that were approved


async def test_a_thread_that_starts_again_executes_nothing_twice(
    db: ActionDB, gate: Gate, stores: Stores, graph_of: Any
) -> None:
    for _ in range(2):
        # Its checkpoints are lost.
        graph = graph_of([called("read_metrics", store=4)], stores.tools, guard(gate))
        assert told(await graph.ainvoke(ASKED, THREAD)) == ["97 %"]
    assert stores.seen == [("read", 4)]


async def test_two_runs_of_one_call_execute_it_once(
    db: ActionDB, gate: Gate, stores: Stores, graph_of: Any
) -> None:
    def run(one: Gate) -> Any:
        graph = graph_of([called("copy_store", store=4)], stores.tools, guard(one, wait=None))
        return asyncio.ensure_future(graph.ainvoke(ASKED, THREAD))

    other = Gate(db, run_id="thread-1", agent_id="planner", worker="another process")
    running = [run(gate), run(other)]
    async with asyncio.timeout(PATIENCE):
        await stores.begun.wait()
        stores.go_on.set()
        assert [told(await each) for each in running] == [["copied"], ["copied"]]
    assert stores.seen == [("copy", 4)]


async def test_arguments_that_are_changed_in_the_state_are_not_executed(
    db: ActionDB, gate: Gate, stores: Stores, graph_of: Any
) -> None:
    graph = graph_of([called("drain_store", store=4)], stores.tools, guard(gate))
    await graph.ainvoke(ASKED, THREAD)
    await approve(db, 1)
    message = (await graph.aget_state(THREAD)).values["messages"][-1]
    changed = message.model_copy(update={"tool_calls": [called("drain_store", store=5)]})
    await graph.aupdate_state(THREAD, {"messages": [changed]}, as_node="model")
    (text,) = told(await graph.ainvoke(None, THREAD))
    assert "It was not executed" in text
    assert "other arguments" in text
    assert stores.seen == []
    assert await statuses(db) == [S.VALIDATED]


async def test_the_tool_gets_the_arguments_of_the_ledger(
    db: ActionDB, stores: Stores, graph_of: Any
) -> None:
    gate = Gate(db, run_id="thread-1", tools=stores.tools)
    calls = [called("drain_store", 1, store="4"), called("drain_store", 2, stor=4)]
    graph = graph_of(calls, stores.tools, guard(gate))
    (value,) = waiting(await graph.ainvoke(ASKED, THREAD))
    proposal = await db.get_proposal(value["proposal_id"])
    assert proposal is not None
    assert proposal.parameters == {"store": 4}
    await approve(db, value["proposal_id"])
    good, bad = told(await graph.ainvoke(None, THREAD))
    assert good == "store 4 is drained"
    assert "store: Field required" in bad
    assert stores.seen == [("drain", 4)]


async def test_an_argument_that_the_approver_saw_is_the_one_of_the_tool(
    db: ActionDB, graph_of: Any
) -> None:
    async def drain_store(store: int, slowly: bool = True) -> str:
        raise AssertionError("the tool of the graph runs in its place")

    @tool("drain_store")
    async def drain(store: int, slowly: bool = False) -> str:
        """Has another default."""
        return "slowly" if slowly else "fast"

    gate = Gate(db, run_id="thread-1", tools=[drain_store])
    graph = graph_of([called("drain_store", store=4)], [drain], guard(gate))
    await graph.ainvoke(ASKED, THREAD)
    await approve(db, 1)
    assert told(await graph.ainvoke(None, THREAD)) == ["slowly"]


async def test_a_call_without_an_id_is_not_executed(
    db: ActionDB, gate: Gate, stores: Stores, graph_of: Any
) -> None:
    call = ToolCall(name="read_metrics", args={"store": 4}, id=None)
    graph = graph_of([call], stores.tools, guard(gate))
    with pytest.raises(InvalidValue):
        await graph.ainvoke(ASKED, THREAD)
    assert stores.seen == []


async def test_threads_with_a_gate_each_may_have_the_same_call_ids(
    db: ActionDB, stores: Stores, graph_of: Any
) -> None:
    def gate_of(request: Any) -> Gate:
        return Gate(db, run_id=request.runtime.execution_info.thread_id, agent_id="planner")

    graph = graph_of([called("read_metrics", store=4)], stores.tools, guard(gate_of))
    for thread in ("a", "b"):
        await graph.ainvoke(ASKED, {"configurable": {"thread_id": thread}})
    assert stores.seen == [("read", 4), ("read", 4)]
    assert sorted(each.run_id or "" for each in await db.list_proposals()) == ["a", "b"]


# ------ tools that fail


async def test_a_tool_that_fails_is_not_tried_again(
    db: ActionDB, gate: Gate, stores: Stores, graph_of: Any
) -> None:
    stores.error = OSError("the store does not answer")
    for _ in range(2):
        graph = graph_of([called("read_metrics", store=4)], stores.tools, guard(gate))
        (text,) = told(await graph.ainvoke(ASKED, THREAD))
        assert "It was executed and failed" in text
        assert "the store does not answer" in text
    assert stores.seen == [("read", 4)]
    assert await statuses(db) == [S.FAILED]


async def test_an_error_that_the_node_has_caught_is_a_failure(
    db: ActionDB, gate: Gate, stores: Stores
) -> None:
    stores.error = OSError("the store does not answer")
    calls = [called("read_metrics", store=4)]
    graph = node(calls, stores.tools, guard(gate), handle_tool_errors=True)
    (text,) = told(await graph.ainvoke(ASKED, THREAD))
    assert "the store does not answer" in text
    assert await statuses(db) == [S.FAILED]


async def test_a_middleware_that_retries_executes_nothing_twice(
    db: ActionDB, gate: Gate, stores: Stores
) -> None:
    stores.error = OSError("the store does not answer")
    retries = ToolRetryMiddleware(initial_delay=0.0, jitter=False)
    calls = [called("read_metrics", store=4)]
    graph = agent(calls, stores.tools, guard(gate), before=[retries])
    (text,) = told(await graph.ainvoke(ASKED, THREAD))
    assert "the store does not answer" in text
    assert stores.seen == [("read", 4)]


async def test_a_tool_that_does_not_exist_is_a_failure(
    db: ActionDB, gate: Gate, stores: Stores, graph_of: Any
) -> None:
    graph = graph_of([called("read_metric", store=4)], stores.tools, guard(gate))
    (text,) = told(await graph.ainvoke(ASKED, THREAD))
    assert "read_metric is not a valid tool" in text
    assert await statuses(db) == [S.FAILED]


async def test_a_call_that_is_cancelled_in_the_middle_is_unknown_and_not_repeated(
    db: ActionDB, gate: Gate, stores: Stores, graph_of: Any
) -> None:
    graph = graph_of([called("copy_store", store=4)], stores.tools, guard(gate))
    running = asyncio.ensure_future(graph.ainvoke(ASKED, THREAD))
    async with asyncio.timeout(PATIENCE):
        await stores.begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    stores.go_on.set()
    (text,) = told(await graph.ainvoke(None, THREAD))
    assert "It is not known whether it happened" in text
    assert stores.seen == []


@pytest.mark.parametrize("answer", [None, Command(resume="yes")])
async def test_a_tool_that_interrupts_the_graph_itself_has_failed(
    db: ActionDB, gate: Gate, graph_of: Any, answer: Any
) -> None:
    seen: list[str] = []

    async def drain_store(store: int) -> str:
        """Asks a person in the middle."""
        seen.append("begun")
        # What the graph was resumed with before is not the answer to this.
        seen.append(interrupt("are you sure?"))
        return "drained"

    graph = graph_of([called("drain_store", store=4)], [drain_store], guard(gate))
    await graph.ainvoke(ASKED, THREAD)
    await graph.ainvoke(answer, THREAD)
    await approve(db, 1)
    result = await graph.ainvoke(answer, THREAD)
    assert waiting(result) == []
    assert "the tool interrupted the graph" in told(result)[0]
    assert seen == ["begun"]
    assert await statuses(db) == [S.FAILED]


# ------ other approvals of the framework


async def test_an_approval_of_the_framework_is_none_in_the_ledger(
    db: ActionDB, gate: Gate, stores: Stores
) -> None:
    people = HumanInTheLoopMiddleware({"drain_store": True})
    calls = [called("drain_store", store=4)]
    graph = agent(calls, stores.tools, guard(gate), before=[people])
    await graph.ainvoke(ASKED, THREAD)
    assert await statuses(db) == []
    edited = {"name": "drain_store", "args": {"store": 5}}
    decision = {"type": "edit", "edited_action": edited}
    (value,) = waiting(await graph.ainvoke(Command(resume={"decisions": [decision]}), THREAD))
    assert value["arguments"] == {"store": 5}
    assert stores.seen == []
    await approve(db, value["proposal_id"])
    assert "store 5 is drained" in told(await graph.ainvoke(None, THREAD))[-1]
    assert stores.seen == [("drain", 5)]


# ------ without an event loop


class SyncStores:
    def __init__(self) -> None:
        self.seen: list[int] = []

    def drain_store(self, store: int) -> str:
        """Drains a store."""
        self.seen.append(store)
        return f"store {store} is drained"


def sync_approve(db: SyncActionDB, proposal_id: int) -> None:
    proposal = db.get_proposal(proposal_id)
    assert proposal is not None
    db.approve_proposal(proposal_id, by="maria", digest=proposal.digest)


def test_a_graph_without_an_event_loop_has_its_own_guard(graph_of: Any) -> None:
    with SyncActionDB(":memory:") as db:
        db.add_rule(Rule(name="drains", action_name="drain_*"), by="lead", reason="policy 4")
        stores = SyncStores()
        calls = [called("drain_store", 1, store=1), called("drain_store", 2, store=2)]
        guarded = guard_sync(SyncGate(db, run_id="thread-1"))
        graph = graph_of(calls, [stores.drain_store], guarded)
        assert waiting(graph.invoke(ASKED, THREAD))
        by_call = {each.call_id: each.id for each in db.list_proposals()}
        sync_approve(db, by_call["call-2"])
        (value,) = waiting(graph.invoke(None, THREAD))
        assert (value["call_id"], stores.seen) == ("call-1", [2])
        sync_approve(db, by_call["call-1"])
        result = graph.invoke(None, THREAD)
        assert told(result) == ["store 1 is drained", "store 2 is drained"]
        assert stores.seen == [2, 1]


async def test_the_guard_of_an_event_loop_lets_no_synchronous_call_through(
    db: ActionDB, gate: Gate, graph_of: Any
) -> None:
    stores = SyncStores()
    graph = graph_of([called("drain_store", store=4)], [stores.drain_store], guard(gate))
    with pytest.raises((InvalidValue, NotImplementedError), match="astream"):
        await asyncio.to_thread(graph.invoke, ASKED, THREAD)
    assert stores.seen == []
    assert await statuses(db) == []


async def test_the_synchronous_guard_lets_no_asynchronous_call_through(graph_of: Any) -> None:
    with SyncActionDB(":memory:") as db:
        stores = SyncStores()
        guarded = guard_sync(SyncGate(db, run_id="thread-1"))
        graph = graph_of([called("drain_store", store=4)], [stores.drain_store], guarded)
        with pytest.raises((InvalidValue, NotImplementedError), match=r"stream"):
            await graph.ainvoke(ASKED, THREAD)
        assert stores.seen == []


def test_the_module_needs_no_langchain() -> None:
    code = (
        "import sys; sys.modules['langchain'] = None; import operator_core.integrations.langgraph"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
