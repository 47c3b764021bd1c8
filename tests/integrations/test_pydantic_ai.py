"""The gate behind an agent of pydantic-ai: the ledger decides, whatever the framework retries, resumes or overrides."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr
from pydantic_ai import (
    Agent,
    BinaryContent,
    CallDeferred,
    DeferredToolRequests,
    DeferredToolResults,
    FunctionToolset,
    ModelRetry,
    RunContext,
    ToolApproved,
    ToolDenied,
    ToolReturn,
    UnexpectedModelBehavior,
    UserError,
)
from pydantic_ai.capabilities import HandleDeferredToolCalls
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.run import AgentRunResult
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset

from operator_core import Gate
from operator_core.actions import ActionStatus, Rule
from operator_core.db import ActionDB
from operator_core.gate import Outcome, Ticket
from operator_core.integrations.pydantic_ai import GatedTools, GatedToolset, deferred_results

S = ActionStatus
Turn = list[tuple[str, dict[str, Any]]]
Output = str | DeferredToolRequests


def model(*turns: Turn) -> FunctionModel:
    """Plays the turns; the id of a call names its turn and its place in it."""

    def play(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        turn = sum(isinstance(message, ModelResponse) for message in messages)
        if turn == len(turns):
            return ModelResponse([TextPart("done")])
        calls = [
            ToolCallPart(name, arguments, tool_call_id=f"call-{turn}-{place}")
            for place, (name, arguments) in enumerate(turns[turn])
        ]
        return ModelResponse(calls)

    return FunctionModel(play)


def agent_of(toolset: AbstractToolset[None], *turns: Turn, **settings: Any) -> Agent[None, Output]:
    return Agent(
        model(*turns), output_type=[str, DeferredToolRequests], toolsets=[toolset], **settings
    )


def told(result: AgentRunResult[Any]) -> dict[str, tuple[str, Any]]:
    """What the model is told about each call: its outcome for the framework, and its content."""
    return {
        part.tool_call_id: (part.outcome, part.content)
        for message in result.all_messages()
        for part in message.parts
        if isinstance(part, ToolReturnPart)
    }


def waiting(result: AgentRunResult[Output]) -> DeferredToolRequests:
    assert isinstance(result.output, DeferredToolRequests)
    return result.output


async def resumed(
    agent: Agent[None, Output],
    result: AgentRunResult[Output],
    results: DeferredToolResults | None = None,
) -> AgentRunResult[Output]:
    """Goes on as after a restart: with the messages and the deferred calls as they were saved."""
    return await agent.run(
        message_history=ModelMessagesTypeAdapter.validate_json(result.all_messages_json()),
        deferred_tool_results=results or deferred_results(waiting(result)),
    )


@pytest.fixture
async def db() -> AsyncIterator[ActionDB]:
    async with ActionDB(":memory:") as db:
        await db.add_rule(Rule(name="drains", action_name="drain*"), by="lead", reason="policy 4")
        yield db


@pytest.fixture
def gate(db: ActionDB) -> Gate:
    return Gate(db, run_id="run-1", agent_id="planner")


async def approve(db: ActionDB, proposal_id: int = 1) -> None:
    seen = await db.get_proposal(proposal_id)
    assert seen is not None
    await db.approve_proposal(proposal_id, by="maria", digest=seen.digest)


async def statuses(db: ActionDB) -> list[ActionStatus]:
    return [each.status for each in reversed(await db.list_proposals())]


async def proposed(db: ActionDB, number: int) -> None:
    """Waits until there are so many proposals."""
    while len(await db.list_proposals()) < number:
        await asyncio.sleep(0.01)


class Stores:
    """Tools that note what they did."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.begun = asyncio.Event()

    @property
    def toolset(self) -> FunctionToolset[None]:
        return FunctionToolset([self.read, self.drain, self.stuck, self.drain_all])

    async def read(self, store: int) -> dict[str, float]:
        self.done.append(("read", store))
        return {"disk_used": 0.97}

    def drain(self, store: int, slowly: bool = True) -> str:
        self.done.append((store, slowly))
        return f"store {store} is drained"

    async def stuck(self) -> None:
        self.begun.set()
        await asyncio.Event().wait()

    async def drain_all(self, stores: list[int]) -> str:
        self.done.append(stores)
        return "drained"


@pytest.fixture
def stores() -> Stores:
    return Stores()


# ------ waiting


async def test_a_call_waits_in_the_run(db: ActionDB, gate: Gate, stores: Stores) -> None:
    agent = agent_of(GatedToolset(stores.toolset, gate), [("drain", {"store": 4})])
    running = asyncio.create_task(agent.run("drain it"))
    await proposed(db, 1)
    seen = await db.get_proposal(1)
    assert seen is not None
    assert (seen.run_id, seen.call_id) == ("run-1", "call-0-0")
    assert seen.parameters == {"store": 4, "slowly": True}
    assert stores.done == []
    await approve(db)
    result = await running
    assert result.output == "done"
    assert told(result) == {"call-0-0": ("success", "store 4 is drained")}
    assert stores.done == [(4, True)]


async def test_a_call_is_deferred_and_the_ledger_decides(
    db: ActionDB, gate: Gate, stores: Stores
) -> None:
    agent = agent_of(GatedToolset(stores.toolset, gate, wait=0), [("drain", {"store": 4})])
    first = await agent.run("drain it")
    assert waiting(first).metadata == {"call-0-0": {"proposal_id": 1}}
    # An approval of the framework is not one of the ledger.
    again = await resumed(agent, first, waiting(first).build_results(approve_all=True))
    assert waiting(again).metadata == {"call-0-0": {"proposal_id": 1}}
    assert await statuses(db) == [S.PROPOSED]
    await approve(db)
    for result in (await resumed(agent, first), await resumed(agent, again)):
        assert told(result) == {"call-0-0": ("success", "store 4 is drained")}
    assert stores.done == [(4, True)]


class Waits(Gate):
    """Notes for how long calls are to wait."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.seconds: list[float | None] = []

    async def outcome(
        self, ticket: Ticket, *, timeout: float | None = None, **rest: Any
    ) -> Outcome:
        self.seconds.append(timeout)
        return await super().outcome(ticket, timeout=timeout, **rest)


async def test_a_resumed_call_waits_as_long_as_it_is_asked_to(db: ActionDB, stores: Stores) -> None:
    gate = Waits(db, run_id="run-1")
    agent = agent_of(GatedToolset(stores.toolset, gate, wait=0), [("drain", {"store": 4})])
    first = await agent.run("drain it")
    again = await resumed(agent, first, deferred_results(waiting(first), timeout=0.5))
    assert waiting(again).metadata == waiting(first).metadata
    await approve(db)
    await resumed(agent, again)
    assert gate.seconds == [0, 0.5, None]
    assert stores.done == [(4, True)]


async def test_three_runs_settle_the_same_call_and_it_runs_once(
    db: ActionDB, gate: Gate, stores: Stores
) -> None:
    agent = agent_of(GatedToolset(stores.toolset, gate, wait=0), [("drain", {"store": 4})])
    first = await agent.run("drain it")
    running = [asyncio.create_task(resumed(agent, first)) for _ in range(3)]
    await approve(db)
    for result in await asyncio.gather(*running):
        assert told(result) == {"call-0-0": ("success", "store 4 is drained")}
    assert stores.done == [(4, True)]


async def test_parallel_calls_wait_for_themselves(db: ActionDB, gate: Gate, stores: Stores) -> None:
    turn: Turn = [("drain", {"store": store}) for store in (1, 2, 3)]
    agent = agent_of(GatedToolset(stores.toolset, gate, wait=0), [*turn, ("read", {"store": 4})])
    first = await agent.run("drain them")
    assert list(waiting(first).metadata) == ["call-0-0", "call-0-1", "call-0-2"]
    assert stores.done == [("read", 4)]
    await approve(db, 2)
    second = await resumed(agent, first, deferred_results(waiting(first), timeout=0))
    assert list(waiting(second).metadata) == ["call-0-0", "call-0-2"]
    await db.reject_proposal(3, by="maria", reason="store 3 is needed")
    third = await resumed(agent, second, deferred_results(waiting(second), timeout=0))
    assert list(waiting(third).metadata) == ["call-0-0"]
    await approve(db, 1)
    last = told(await resumed(agent, third))
    assert last["call-0-0"] == ("success", "store 1 is drained")
    assert last["call-0-1"] == ("success", "store 2 is drained")
    assert last["call-0-2"][0] == "failed"
    assert "store 3 is needed" in last["call-0-2"][1]
    assert stores.done == [("read", 4), (2, True), (1, True)]


async def test_a_run_that_was_killed_goes_on_from_its_messages(
    db: ActionDB, gate: Gate, stores: Stores
) -> None:
    agent = agent_of(
        GatedToolset(stores.toolset, gate), [("read", {"store": 4}), ("read", {"store": 5})]
    )
    saved: list[bytes] = []
    async with agent.iter("read them") as run:
        async for _ in run:
            saved.append(ModelMessagesTypeAdapter.dump_json(run.all_messages()))
    of_the_calls = [
        messages
        for each in saved
        if (messages := ModelMessagesTypeAdapter.validate_json(each))
        if isinstance(messages[-1], ModelResponse) and messages[-1].tool_calls
    ]
    assert of_the_calls
    for messages in of_the_calls:
        result = await agent.run(message_history=messages)
        assert told(result)["call-0-1"] == ("success", {"disk_used": 0.97})
    assert sorted(stores.done) == [("read", 4), ("read", 5)]


async def test_a_worker_executes_the_call(db: ActionDB, stores: Stores) -> None:
    gate = Gate(db, run_id="run-1", execute="worker")
    agent = agent_of(GatedToolset(stores.toolset, gate), [("read", {"store": 4})])
    running = asyncio.create_task(agent.run("read it"))
    await proposed(db, 1)
    await db.wait_until(1, S.VALIDATED)
    claim = await db.claim_proposal(1, "a worker")
    await db.complete(claim.record.id, {"disk_used": 0.5}, actor="a worker")
    assert told(await running) == {"call-0-0": ("success", {"disk_used": 0.5})}
    assert stores.done == []


# ------ what is executed


async def test_overridden_arguments_are_refused(db: ActionDB, gate: Gate, stores: Stores) -> None:
    agent = agent_of(GatedToolset(stores.toolset, gate, wait=0), [("drain", {"store": 4})])
    first = await agent.run("drain it")
    await approve(db)
    others = ToolApproved(override_args={"store": 5})
    result = await resumed(agent, first, DeferredToolResults(approvals={"call-0-0": others}))
    outcome, content = told(result)["call-0-0"]
    assert outcome == "failed"
    assert "not those that were proposed" in content
    assert stores.done == []
    same = ToolApproved(override_args={"slowly": True, "store": "4"})
    result = await resumed(agent, first, DeferredToolResults(approvals={"call-0-0": same}))
    assert told(result) == {"call-0-0": ("success", "store 4 is drained")}
    assert stores.done == [(4, True)]


class Changes(WrapperToolset[None]):
    """Changes the arguments of a call while it waits."""

    async def call_tool(
        self,
        name: str,
        tool_args: dict[str, Any],
        ctx: RunContext[None],
        tool: ToolsetTool[None],
    ) -> Any:
        running = asyncio.create_task(super().call_tool(name, tool_args, ctx, tool))
        gated = self.wrapped
        assert isinstance(gated, GatedToolset)
        while not (tickets := await gated.gate.pending()):
            await asyncio.sleep(0.01)
        tool_args["stores"].append(5)
        await self.approves(tickets[0].proposal_id)
        return await running

    approves: Callable[[int], Awaitable[None]]


async def test_what_runs_is_what_the_ledger_has(db: ActionDB, gate: Gate, stores: Stores) -> None:
    changes = Changes(GatedToolset(stores.toolset, gate))
    changes.approves = lambda proposal_id: approve(db, proposal_id)
    agent = agent_of(changes, [("drain_all", {"stores": [4]})])
    assert told(await agent.run("drain it")) == {"call-0-0": ("success", "drained")}
    assert stores.done == [[4]]


class Where(BaseModel):
    store: int
    since: date = date(2026, 1, 1)
    racks: set[int] = set()


async def test_a_tool_gets_the_values_of_its_types(db: ActionDB, gate: Gate) -> None:
    seen: list[Any] = []

    async def one(where: Where) -> None:
        seen.append(where)

    async def several(when: datetime, names: frozenset[str], raw: bytes = b"raw") -> None:
        seen.append((when, names, raw))

    agent = agent_of(
        GatedToolset(FunctionToolset[None]([one, several]), gate),
        [("one", {"store": 4})],
        [("several", {"when": "2026-01-01T00:00:00Z", "names": ["b", "a"]})],
    )
    await agent.run("call them")
    when = datetime(2026, 1, 1, tzinfo=UTC)
    assert seen == [Where(store=4), (when, frozenset("ab"), b"raw")]
    shown = [each.parameters for each in reversed(await db.list_proposals())]
    assert shown[0] == {"where": {"store": 4, "since": "2026-01-01", "racks": []}}
    assert shown[1] == {"when": "2026-01-01T00:00:00Z", "names": ["a", "b"], "raw": "raw"}


async def test_a_set_has_no_order(db: ActionDB, gate: Gate) -> None:
    seen: list[set[int]] = []

    async def drain_set(where: Where) -> None:
        seen.append(where.racks)

    toolset = GatedToolset(FunctionToolset[None]([drain_set]), gate, wait=0)
    # They have the same place in the table of a set, so the first one that comes gets it.
    first = await agent_of(toolset, [("drain_set", {"store": 4, "racks": [8, 0]})]).run(
        "drain them"
    )
    await approve(db)
    again = await agent_of(toolset, [("drain_set", {"store": 4, "racks": [0, 8]})]).run(
        "drain them"
    )
    assert told(again) == {"call-0-0": ("success", None)}
    assert waiting(first).metadata == {"call-0-0": {"proposal_id": 1}}
    assert seen == [{0, 8}]


async def test_arguments_that_can_not_be_stored_are_refused(db: ActionDB, gate: Gate) -> None:
    async def login(password: SecretStr) -> None:
        raise AssertionError

    toolset = GatedToolset(FunctionToolset[None]([login]), gate)
    agent = agent_of(toolset, [("login", {"password": "x"})])
    outcome, content = told(await agent.run("log in"))["call-0-0"]
    assert outcome == "failed"
    assert "can't be approved" in content
    assert await db.list_proposals() == []


# ------ what the model is told


async def test_a_halt(db: ActionDB, gate: Gate, stores: Stores) -> None:
    await db.halt(by="maria", reason="backups are frozen", action_name="read")
    agent = agent_of(GatedToolset(stores.toolset, gate), [("read", {"store": 4})])
    outcome, content = told(await agent.run("read it"))["call-0-0"]
    assert outcome == "failed"
    assert "agents are stopped" in content
    assert stores.done == []


async def test_a_rejection_while_it_waits(db: ActionDB, gate: Gate, stores: Stores) -> None:
    calls: Turn = [("drain", {"store": 4})]
    agent = agent_of(GatedToolset(stores.toolset, gate), calls, calls)
    running = asyncio.create_task(agent.run("drain it"))
    await proposed(db, 1)
    await db.reject_proposal(1, by="maria", reason="not at night")
    answers = told(await running)
    assert answers["call-0-0"][0] == "failed"
    assert "By maria. Reason: not at night" in answers["call-0-0"][1]
    # The model repeats itself.
    assert "rejected before" in answers["call-1-0"][1]
    assert stores.done == []


async def test_an_exception_of_the_tool_is_an_answer(db: ActionDB, gate: Gate) -> None:
    seen: list[int] = []

    async def fails(store: int) -> None:
        seen.append(store)
        raise ValueError("no such store")

    agent = agent_of(GatedToolset(FunctionToolset[None]([fails]), gate), [("fails", {"store": 4})])
    for _ in range(2):
        outcome, content = told(await agent.run("do it"))["call-0-0"]
        assert outcome == "failed"
        assert "ValueError: no such store" in content
    assert seen == [4]


async def test_a_retry_that_the_tool_asks_for_is_another_call(db: ActionDB, gate: Gate) -> None:
    seen: list[int] = []

    async def move(store: int) -> str:
        seen.append(store)
        if store == 4:
            raise ModelRetry("store 4 is full")
        return "moved"

    toolset = GatedToolset(FunctionToolset[None]([move]), gate)
    agent = agent_of(toolset, [("move", {"store": 4})], [("move", {"store": 5})])
    answers = told(await agent.run("move it"))
    assert answers["call-0-0"] == ("retried", "store 4 is full")
    assert answers["call-1-0"] == ("success", "moved")
    # The ledger does not know a retry.
    answers = told(await agent.run("move it"))
    assert answers["call-0-0"][0] == "failed"
    assert seen == [4, 5]
    assert await statuses(db) == [S.FAILED, S.COMPLETED]


@pytest.mark.parametrize("in_a_thread", [False, True])
async def test_after_a_timeout_of_the_framework_nobody_knows(
    db: ActionDB, gate: Gate, in_a_thread: bool
) -> None:
    goes_on = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def in_loop() -> None:
        await goes_on.wait()

    def drained() -> None:
        asyncio.run_coroutine_threadsafe(goes_on.wait(), loop).result()

    toolset = FunctionToolset[None](timeout=0.05)
    toolset.add_function(drained if in_a_thread else in_loop, name="backup")
    agent = agent_of(GatedToolset(toolset, gate), [("backup", {})], [("backup", {})])
    answers = told(await agent.run("make a backup"))
    goes_on.set()
    assert answers["call-0-0"][0] == "failed"
    assert "It is not known whether it happened" in answers["call-0-0"][1]
    assert "Timed out after 0.05 seconds" in answers["call-0-0"][1]
    assert "is not known (proposal 1)" in answers["call-1-0"][1]
    assert await statuses(db) == [S.FAILED, S.CANCELLED]


async def test_a_timeout_that_the_tool_reports_is_its_own(db: ActionDB, gate: Gate) -> None:
    async def fetch() -> None:
        try:
            raise TimeoutError
        except TimeoutError:
            raise ModelRetry("the store did not answer") from None

    toolset = GatedToolset(FunctionToolset[None]([fetch]), gate)
    answers = told(await agent_of(toolset, [("fetch", {})]).run("fetch it"))
    assert answers["call-0-0"] == ("retried", "the store did not answer")


async def test_a_run_that_is_cancelled_in_the_middle(
    db: ActionDB, gate: Gate, stores: Stores
) -> None:
    agent = agent_of(GatedToolset(stores.toolset, gate), [("stuck", {})])
    running = asyncio.create_task(agent.run("do it"))
    await stores.begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    outcome, content = told(await agent.run("do it"))["call-0-0"]
    assert outcome == "failed"
    assert "It is not known whether it happened" in content


async def test_a_call_that_the_framework_cancels_because_of_another_one(
    db: ActionDB, gate: Gate, stores: Stores
) -> None:
    async def gives_up() -> None:
        await stores.begun.wait()
        raise ModelRetry("never")

    toolset = stores.toolset
    toolset.add_function(gives_up, retries=0)
    agent = agent_of(GatedToolset(toolset, gate), [("gives_up", {}), ("stuck", {})])
    with pytest.raises(UnexpectedModelBehavior):
        await agent.run("do both")
    ended = {each.action_name: each.end_code for each in await db.list_proposals()}
    assert ended == {"gives_up": "failed", "stuck": "outcome_unknown"}


@dataclass
class Report:
    disk_used: float
    at: date


async def test_results_are_those_of_the_tool(db: ActionDB, gate: Gate) -> None:
    picture = BinaryContent(b"\x89\xff", media_type="image/png")

    async def report() -> Report:
        return Report(0.97, date(2026, 1, 1))

    async def draw() -> BinaryContent:
        return picture

    async def both() -> ToolReturn[Any]:
        return ToolReturn({"stores": 2}, content=["as a picture", picture])

    agent = agent_of(
        GatedToolset(FunctionToolset[None]([report, draw, both]), gate),
        [("report", {}), ("draw", {}), ("both", {})],
    )
    result = await agent.run("draw it")
    assert told(result)["call-0-0"] == ("success", Report(0.97, date(2026, 1, 1)))
    assert told(result)["call-0-1"][1] == picture
    assert told(result)["call-0-2"] == ("success", {"stores": 2})
    parts = [part for each in result.all_messages() for part in each.parts]
    prompts = [part.content for part in parts if isinstance(part, UserPromptPart)]
    assert prompts == ["draw it", ["as a picture", picture]]
    # Again, it is what the ledger has stored.
    again = await agent.run("draw it")
    assert told(again)["call-0-0"] == ("success", {"disk_used": 0.97, "at": "2026-01-01"})
    seen = told(again)["call-0-1"][1]
    assert isinstance(seen, BinaryContent)
    assert seen.data == picture.data
    assert told(again)["call-0-2"] == ("success", {"stores": 2})


# ------ the rest of the framework


async def test_the_capability_guards_the_functions_of_the_agent(
    db: ActionDB, gate: Gate, stores: Stores
) -> None:
    agent = agent_of(stores.toolset, [("own", {}), ("read", {"store": 4})])

    @agent.tool_plain
    async def own() -> str:
        return "own"

    result = await agent.run("call them", capabilities=[GatedTools(gate, wait=0)])
    assert told(result)["call-0-0"] == ("success", "own")
    assert await statuses(db) == [S.COMPLETED, S.COMPLETED]


async def test_a_call_that_is_gated_twice_does_not_wait_for_itself(
    db: ActionDB, gate: Gate, stores: Stores
) -> None:
    agent = agent_of(GatedToolset(stores.toolset, gate), [("read", {"store": 4})])
    answers = told(await agent.run("read it", capabilities=[GatedTools(gate)]))
    assert answers["call-0-0"][0] == "failed"
    assert "goes through its gate twice" in answers["call-0-0"][1]
    assert stores.done == []


async def test_a_call_inside_a_call_is_guarded(db: ActionDB, gate: Gate, stores: Stores) -> None:
    async def both(ctx: RunContext[None]) -> Any:
        assert ctx.tool_manager is not None
        call = ToolCallPart("its_read", {"store": 4}, tool_call_id="inner")
        return await ctx.tool_manager.handle_call(call)

    toolsets = [stores.toolset.prefixed("its"), FunctionToolset[None]([both])]
    agent = Agent(model([("both", {})]), toolsets=toolsets, capabilities=[GatedTools(gate)])
    assert told(await agent.run("read it")) == {"call-0-0": ("success", {"disk_used": 0.97})}
    rows = reversed(await db.list_proposals())
    assert [(each.action_name, each.call_id) for each in rows] == [
        ("both", "call-0-0"),
        ("its_read", "inner"),
    ]


async def test_a_handler_that_approves_everything_decides_nothing(
    db: ActionDB, gate: Gate, stores: Stores
) -> None:
    yes = HandleDeferredToolCalls[None](
        handler=lambda ctx, requests: requests.build_results(approve_all=True)
    )
    toolset = GatedToolset(stores.toolset, gate, wait=0)
    agent = agent_of(toolset, [("drain", {"store": 4})], capabilities=[yes])
    assert waiting(await agent.run("drain it")).metadata == {"call-0-0": {"proposal_id": 1}}
    assert stores.done == []


async def test_a_denial_of_the_framework_leaves_the_proposal_open(
    db: ActionDB, gate: Gate, stores: Stores
) -> None:
    agent = agent_of(GatedToolset(stores.toolset, gate, wait=0), [("drain", {"store": 4})])
    first = await agent.run("drain it")
    denied = DeferredToolResults(approvals={"call-0-0": ToolDenied("no")})
    assert told(await resumed(agent, first, denied)) == {"call-0-0": ("denied", "no")}
    assert stores.done == []
    assert [each.call_id for each in await gate.pending()] == ["call-0-0"]


async def test_a_tool_of_which_the_framework_wants_an_approval_needs_both(
    db: ActionDB, gate: Gate
) -> None:
    seen: list[int] = []
    inner = FunctionToolset[None]()

    @inner.tool_plain(requires_approval=True)
    async def drain(store: int) -> None:
        seen.append(store)

    agent = agent_of(GatedToolset(inner, gate, wait=0), [("drain", {"store": 4})])
    first = await agent.run("drain it")
    assert deferred_results(waiting(first)).approvals == {}
    second = await resumed(agent, first, waiting(first).build_results(approve_all=True))
    assert waiting(second).metadata == {"call-0-0": {"proposal_id": 1}}
    await approve(db)
    await resumed(agent, second)
    assert seen == [4]


@pytest.mark.parametrize("wants", ["an approval", "a deferral"])
async def test_a_tool_that_defers_itself_has_failed(
    db: ActionDB, gate: Gate, stores: Stores, wants: str
) -> None:
    async def queued() -> None:
        raise CallDeferred

    by_name: dict[str, tuple[AbstractToolset[None], Turn]] = {
        "an approval": (stores.toolset.approval_required(), [("read", {"store": 4})]),
        "a deferral": (FunctionToolset[None]([queued]), [("queued", {})]),
    }
    inner, turn = by_name[wants]
    agent = agent_of(GatedToolset(inner, gate), turn)
    for _ in range(2):
        assert told(await agent.run("do it"))["call-0-0"][0] == "failed"
    assert stores.done == []
    assert await statuses(db) == [S.FAILED]


async def test_an_agent_that_takes_no_deferred_calls_has_to_wait(
    db: ActionDB, gate: Gate, stores: Stores
) -> None:
    toolset = GatedToolset(stores.toolset, gate, wait=0)
    agent = Agent(model([("drain", {"store": 4})]), toolsets=[toolset])
    with pytest.raises(UserError, match="DeferredToolRequests"):
        await agent.run("drain it")
    assert stores.done == []


@pytest.fixture(params=["", "I drain it. "])
def stream(request: pytest.FixtureRequest) -> FunctionModel:
    async def play(
        messages: list[ModelMessage], info: AgentInfo
    ) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        if any(isinstance(message, ModelResponse) for message in messages):
            yield "done"
            return
        if request.param:
            yield request.param
        yield {0: DeltaToolCall("drain", '{"store": 4}', tool_call_id="call-0-0")}

    return FunctionModel(stream_function=play)


async def test_a_stream_that_begins_with_text_hides_the_deferred_call(
    db: ActionDB, gate: Gate, stores: Stores, stream: FunctionModel
) -> None:
    toolset = GatedToolset(stores.toolset, gate, wait=0)
    agent = Agent(stream, output_type=[str, DeferredToolRequests], toolsets=[toolset])
    async with agent.run_stream("drain it") as result:
        output = await result.get_output()
    assert await statuses(db) == [S.PROPOSED]
    await approve(db)
    messages = result.all_messages()
    if isinstance(output, DeferredToolRequests):
        results = deferred_results(output)
        async with agent.run_stream(
            message_history=messages, deferred_tool_results=results
        ) as result:
            assert await result.get_output() == "done"
    else:
        # The messages lead on all the same.
        async with agent.run_stream(message_history=messages) as result:
            assert await result.get_output() == "done"
    assert stores.done == [(4, True)]
