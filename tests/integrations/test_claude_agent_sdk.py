"""The hooks of the Claude Agent SDK, tried with its own program; only the provider is played, by a local server."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from claude_agent_sdk import (
    AgentDefinition,
    ClaudeAgentOptions,
    ClaudeSDKClient,
    HookMatcher,
    PermissionResultAllow,
    SdkMcpTool,
    ToolAnnotations,
    create_sdk_mcp_server,
)

from examples.agents.claude_api import ClaudeAPI
from operator_core import Gate
from operator_core.actions import ActionStatus, InvalidValue, OutcomeUnknown
from operator_core.db import ActionDB
from operator_core.gate import Ticket
from operator_core.integrations.claude_agent_sdk import GateHooks
from tests.contract.governed import WHY, now, rule

S = ActionStatus

DRAIN = "mcp__stores__drain"
SCHEMA = {"type": "object", "properties": {"store": {"type": "integer"}}, "required": ["store"]}
FOUR = {"store": 4}

Turn = list[tuple[str, str, dict[str, Any]]]


@pytest.fixture
async def db() -> AsyncIterator[ActionDB]:
    async with ActionDB(":memory:") as db:
        yield db


class Store:
    """A tool that notes with what it was called."""

    def __init__(self, act: Callable[[], Awaitable[Any]] | None = None) -> None:
        self.seen: list[dict[str, Any]] = []
        self.act = act

    def tool(self, **annotations: Any) -> SdkMcpTool[Any]:
        async def drain(arguments: dict[str, Any]) -> dict[str, Any]:
            self.seen.append(dict(arguments))
            if self.act is not None:
                await self.act()
            return {"content": [{"type": "text", "text": f"drained {arguments['store']}"}]}

        known = ToolAnnotations(**annotations)
        return SdkMcpTool("drain", "Drains a store.", SCHEMA, drain, known)


class Agent:
    """A session of the program, in which a scripted model makes calls, turn after turn."""

    def __init__(self, folder: Path, *turns: Turn) -> None:
        self.folder = folder
        self.turns = turns
        self.told: dict[str, str] = {}

    def model(self, history: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for message in history:
            for each in message["content"]:
                if each["type"] == "tool_result":
                    self.told.setdefault(each["tool_use_id"], json.dumps(each["content"]))
        for turn in self.turns:
            if not any(call_id in self.told for call_id, _, _ in turn):
                return [
                    {"type": "tool_use", "id": call_id, "name": name, "input": arguments}
                    for call_id, name, arguments in turn
                ]
        return [{"type": "text", "text": "That is all."}]

    @asynccontextmanager
    async def session(self, hooks: GateHooks, server: Any, /, **more: Any) -> Any:
        async with asyncio.timeout(100), ClaudeAPI(self.model) as api:
            options: dict[str, Any] = {
                "tools": [],
                "mcp_servers": {"stores": server},
                "hooks": hooks.hooks,
                "setting_sources": [],
                "cwd": self.folder,
                "env": api.env(self.folder),
                **more,
            }
            async with ClaudeSDKClient(ClaudeAgentOptions(**options)) as client:
                await client.query("Look after the stores.")
                yield client

    async def run(self, hooks: GateHooks, server: Any, /, **more: Any) -> dict[str, str]:
        """Runs the session to its end, and returns what the model was told about each call."""
        async with hooks, self.session(hooks, server, **more) as client:
            async for _ in client.receive_response():
                pass
        return self.told


def gate_of(db: ActionDB) -> Gate:
    return Gate(db, run_id="run-1", agent_id="planner")


async def approve(db: ActionDB, ticket: Ticket) -> None:
    found = await now(db, ticket.proposal_id)
    await db.approve_proposal(found.id, by="mia", digest=found.digest)


async def only(db: ActionDB) -> Any:
    """The only proposal of the ledger."""
    (found,) = await db.list_proposals()
    return found


async def why(db: ActionDB) -> str:
    """The error of the only execution."""
    (record,) = await db.get_records_for_proposal((await only(db)).id)
    return record.error_message or ""


# ------ decisions


async def test_a_call_is_recorded_with_the_result_of_the_tool(db: ActionDB, tmp_path: Path) -> None:
    store = Store()
    hooks = GateHooks(gate_of(db), action_name=lambda name: name.removeprefix("mcp__stores__"))
    agent = Agent(tmp_path, [("call-1", DRAIN, FOUR)])
    told = await agent.run(hooks, hooks.server("stores", [store.tool()]))
    assert "drained 4" in told["call-1"]
    found = await only(db)
    assert (found.action_name, found.status, found.call_id) == ("drain", S.COMPLETED, "call-1")
    (record,) = await db.get_records_for_proposal(found.id)
    assert record.result_data == {"result": [{"type": "text", "text": "drained 4"}]}
    assert store.seen == [FOUR]


async def test_parallel_calls_wait_each_for_its_own_decision(db: ActionDB, tmp_path: Path) -> None:
    await rule(db, action_name=DRAIN)
    store, waiting, both = Store(), [], asyncio.Event()

    def wait(ticket: Ticket) -> None:
        waiting.append(ticket)
        if len(waiting) == 2:
            both.set()

    async def decide() -> None:
        await both.wait()
        assert store.seen == []
        first, second = sorted(waiting, key=lambda each: each.call_id)
        await approve(db, second)
        await db.reject_proposal(first.proposal_id, by="mia", reason="store 4 is needed")

    hooks = GateHooks(gate_of(db), on_wait=wait)
    agent = Agent(tmp_path, [("call-1", DRAIN, FOUR), ("call-2", DRAIN, {"store": 5})])
    # The program runs only such tools in parallel.
    server = hooks.server("stores", [store.tool(readOnlyHint=True)])
    told, _ = await asyncio.gather(agent.run(hooks, server), decide())
    assert "drained 5" in told["call-2"]
    assert "a person has rejected it" in told["call-1"]
    assert "By mia. Reason: store 4 is needed" in told["call-1"]
    assert store.seen == [{"store": 5}]


async def test_the_same_call_twice_in_a_turn_is_two_calls(db: ActionDB, tmp_path: Path) -> None:
    await rule(db, action_name=DRAIN)
    store, waiting = Store(), list[Ticket]()
    first_waits, both_wait = asyncio.Event(), asyncio.Event()

    class OneByOne(Gate):
        """Where the second call finds the first one open."""

        looks = 0

        async def pending(self) -> list[Ticket]:
            self.looks += 1
            if self.looks == 2:
                await first_waits.wait()
            return await super().pending()

    def wait(ticket: Ticket) -> None:
        waiting.append(ticket)
        (first_waits if len(waiting) == 1 else both_wait).set()

    async def decide() -> None:
        await both_wait.wait()
        for each in await db.list_proposals():
            await db.approve_proposal(each.id, by="mia", digest=each.digest)

    hooks = GateHooks(OneByOne(db, run_id="run-1", agent_id="planner"), on_wait=wait)
    agent = Agent(tmp_path, [("call-1", DRAIN, FOUR), ("call-2", DRAIN, FOUR)])
    server = hooks.server("stores", [store.tool(readOnlyHint=True)])
    told, _ = await asyncio.gather(agent.run(hooks, server), decide())
    assert all("drained 4" in each for each in told.values())
    assert len({each.proposal_id for each in waiting}) == 2
    assert store.seen == [FOUR, FOUR]


async def test_a_halt_is_told(db: ActionDB, tmp_path: Path) -> None:
    await db.halt(**WHY)
    store, hooks = Store(), GateHooks(gate_of(db))
    agent = Agent(tmp_path, [("call-1", DRAIN, FOUR)])
    told = await agent.run(hooks, hooks.server("stores", [store.tool()]))
    assert "agents are stopped" in told["call-1"]
    assert (store.seen, await db.list_proposals()) == ([], [])


async def test_the_same_call_made_again_takes_up_what_was_left_open(
    db: ActionDB, tmp_path: Path
) -> None:
    await rule(db, action_name=DRAIN)
    store, gate = Store(), gate_of(db)
    hooks = GateHooks(gate, timeout=0)
    first = Agent(tmp_path, [("call-1", DRAIN, FOUR)], [("call-2", DRAIN, FOUR)])
    told = await first.run(hooks, hooks.server("stores", [store.tool()]))
    assert "It is not done yet" in told["call-1"]
    assert "It is not done yet" in told["call-2"]
    (ticket,) = await gate.pending()
    await approve(db, ticket)
    hooks = GateHooks(gate_of(db))
    second = Agent(tmp_path, [("call-3", DRAIN, {"store": 5})], [("call-4", DRAIN, FOUR)])
    waits = asyncio.ensure_future(second.run(hooks, hooks.server("stores", [store.tool()])))
    while len(await db.list_proposals()) < 2:
        await asyncio.sleep(0.05)
    (other,) = await db.list_proposals(S.PROPOSED)
    await db.reject_proposal(other.id, by="mia", reason="no")
    told = await waits
    assert "drained 4" in told["call-4"]
    assert store.seen == [FOUR]
    assert (await now(db, ticket.proposal_id)).status is S.COMPLETED


async def test_a_call_that_was_executed_is_answered_and_not_run_again(
    db: ActionDB, tmp_path: Path
) -> None:
    store = Store()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        hooks = GateHooks(gate_of(db))
        agent = Agent(tmp_path / name, [("call-1", DRAIN, FOUR)])
        told = await agent.run(hooks, hooks.server("stores", [store.tool()]))
    assert "executed before" in told["call-1"]
    assert "drained 4" in told["call-1"]
    hooks = GateHooks(gate_of(db))
    agent = Agent(tmp_path, [("call-1", DRAIN, {"store": 5})])
    told = await agent.run(hooks, hooks.server("stores", [store.tool()]))
    assert "with other arguments" in told["call-1"]
    assert store.seen == [FOUR]


async def test_two_sessions_run_the_same_call_once(db: ActionDB, tmp_path: Path) -> None:
    await rule(db, action_name=DRAIN)
    store, waiting = Store(), asyncio.Queue[Ticket]()

    async def session(name: str) -> dict[str, str]:
        (tmp_path / name).mkdir()
        hooks = GateHooks(gate_of(db), on_wait=waiting.put_nowait)
        agent = Agent(tmp_path / name, [("call-1", DRAIN, FOUR)])
        return await agent.run(hooks, hooks.server("stores", [store.tool()]))

    async def decide() -> None:
        first, second = await waiting.get(), await waiting.get()
        assert first == second
        await approve(db, first)

    *told, _ = await asyncio.gather(session("a"), session("b"), decide())
    assert sorted("executed before" in each["call-1"] for each in told) == [False, True]
    assert all("drained 4" in each["call-1"] for each in told)
    assert store.seen == [FOUR]


async def test_the_calls_of_a_subagent_are_guarded(db: ActionDB, tmp_path: Path) -> None:
    await rule(db, action_name=DRAIN, effect="deny")
    store, hooks = Store(), GateHooks(gate_of(db), matcher="mcp__.*")
    prompt = {"description": "drain", "prompt": "Drain store 4.", "subagent_type": "drainer"}

    class Agents(Agent):
        def model(self, history: list[dict[str, Any]]) -> list[dict[str, Any]]:
            is_sub = "Drain store 4." in json.dumps(history[0])
            turn = [("sub-1", DRAIN, FOUR)] if is_sub else [("call-1", "Agent", prompt)]
            self.turns = (turn,)
            if is_sub:
                self.told.pop("call-1", None)
            return super().model(history)

    agents = {"drainer": AgentDefinition("Drains.", "Drain.", tools=[DRAIN], background=False)}
    server = hooks.server("stores", [store.tool()])
    agent = Agents(tmp_path)
    async with hooks, agent.session(hooks, server, tools=["Agent"], agents=agents) as client:
        async for _ in client.receive_messages():
            # The agent itself does not wait for it.
            if "sub-1" in agent.told:
                break
    assert "It was not executed" in agent.told["sub-1"]
    assert store.seen == []


# ------ arguments that somebody changes after the decision


def changing(hooks: GateHooks) -> dict[str, Any]:
    """Options with another hook, which answers later and changes the arguments."""

    async def change(given: Any, tool_use_id: str | None, context: Any) -> Any:
        if tool_use_id != "call-1":
            return {}
        while not hooks._open:
            await asyncio.sleep(0.05)
        # The program takes the last answer; the gate's is on its way.
        await asyncio.sleep(1)
        changed = {"hookEventName": "PreToolUse", "updatedInput": {"store": 5}}
        return {"hookSpecificOutput": changed}

    found = hooks.hooks
    found["PreToolUse"].append(HookMatcher(hooks=[change]))
    return {"hooks": found}


def permitting(hooks: GateHooks) -> dict[str, Any]:
    """Options with a permission handler, which is asked because of a rule and changes the arguments."""

    async def permit(name: str, arguments: dict[str, Any], context: Any) -> Any:
        return PermissionResultAllow(updated_input={"store": 5})

    return {
        "can_use_tool": permit,
        "settings": json.dumps({"permissions": {"ask": [DRAIN]}}),
    }


async def test_what_another_hook_changes_before_the_decision_does_not_count(
    db: ActionDB, tmp_path: Path
) -> None:
    await rule(db, action_name=DRAIN)
    store, waiting = Store(), asyncio.Queue[Ticket]()

    async def change(given: Any, tool_use_id: str | None, context: Any) -> Any:
        changed = {"hookEventName": "PreToolUse", "updatedInput": {"store": 5}}
        return {"hookSpecificOutput": changed}

    async def decide() -> None:
        ticket = await waiting.get()
        # The other hook has answered by then.
        await asyncio.sleep(1)
        await approve(db, ticket)

    hooks = GateHooks(gate_of(db), on_wait=waiting.put_nowait)
    found = hooks.hooks
    found["PreToolUse"].append(HookMatcher(hooks=[change]))
    agent = Agent(tmp_path, [("call-1", DRAIN, FOUR)])
    server = create_sdk_mcp_server("stores", tools=[store.tool()])
    await asyncio.gather(agent.run(hooks, server, hooks=found), decide())
    assert store.seen == [FOUR]
    assert (await only(db)).status is S.COMPLETED


@pytest.mark.parametrize("change", [changing, permitting])
async def test_a_tool_of_the_hooks_does_not_run_with_changed_arguments(
    db: ActionDB, tmp_path: Path, change: Callable[[GateHooks], dict[str, Any]]
) -> None:
    store, hooks = Store(), GateHooks(gate_of(db))
    agent = Agent(tmp_path, [("call-1", DRAIN, FOUR)])
    told = await agent.run(hooks, hooks.server("stores", [store.tool()]), **change(hooks))
    assert "no call with these arguments has begun" in told["call-1"]
    assert store.seen == []
    assert "no call with these arguments" in await why(db)
    (record,) = await db.get_records_for_proposal((await only(db)).id)
    assert record.success is False


@pytest.mark.parametrize("change", [changing, permitting])
async def test_whether_another_tool_did_what_was_approved_is_then_unknown(
    db: ActionDB, tmp_path: Path, change: Callable[[GateHooks], dict[str, Any]]
) -> None:
    store, hooks = Store(), GateHooks(gate_of(db))
    agent = Agent(tmp_path, [("call-1", DRAIN, FOUR)], [("call-2", DRAIN, FOUR)])
    server = create_sdk_mcp_server("stores", tools=[store.tool()])
    told = await agent.run(hooks, server, **change(hooks))
    assert store.seen == [{"store": 5}]
    assert "whether the same call was done before is not known" in told["call-2"]
    first = (await db.list_proposals())[-1]
    (record,) = await db.get_records_for_proposal(first.id)
    assert (record.success, "other arguments" in (record.error_message or "")) == (None, True)


# ------ how a tool ends


async def test_a_tool_that_raises_has_failed(db: ActionDB, tmp_path: Path) -> None:
    async def act() -> None:
        raise OSError("no space left")

    store, hooks = Store(act), GateHooks(gate_of(db))
    agent = Agent(tmp_path, [("call-1", DRAIN, FOUR)])
    told = await agent.run(hooks, hooks.server("stores", [store.tool()]))
    assert "no space left" in told["call-1"]
    assert ((await only(db)).status, await why(db)) == (S.FAILED, "no space left")


@pytest.mark.parametrize("is_ours", [True, False])
@pytest.mark.parametrize("ending", ["interrupt", "leave"])
async def test_a_tool_that_is_cut_off_has_an_unknown_outcome(
    db: ActionDB, tmp_path: Path, ending: str, is_ours: bool
) -> None:
    begun = asyncio.Event()

    async def act() -> None:
        begun.set()
        await asyncio.Event().wait()

    store, gate = Store(act), gate_of(db)
    agent = Agent(tmp_path, [("call-1", DRAIN, FOUR)])
    async with GateHooks(gate) as hooks:
        tools = [store.tool()]
        server = (
            hooks.server("stores", tools)
            if is_ours
            else create_sdk_mcp_server("stores", tools=tools)
        )
        async with agent.session(hooks, server) as client:
            await begun.wait()
            if ending == "interrupt":
                await client.interrupt()
                async for _ in client.receive_response():
                    pass
                if not is_ours:
                    await hooks.close()
                assert not hooks._open
    assert await gate.pending() == []
    (record,) = await db.get_records_for_proposal((await only(db)).id)
    assert (record.success, (await only(db)).status) == (None, S.FAILED)
    again = await gate.propose(DRAIN, FOUR, call_id="call-2")
    assert "is not known" in str((await gate.outcome(again)).error)


async def test_what_an_interrupt_has_cut_off_is_unknown_to_the_next_prompt(
    db: ActionDB, tmp_path: Path
) -> None:
    begun = asyncio.Event()

    async def act() -> None:
        begun.set()
        await asyncio.Event().wait()

    store, hooks = Store(act), GateHooks(gate_of(db))
    agent = Agent(tmp_path, [("call-1", DRAIN, FOUR)], [("call-2", DRAIN, FOUR)])
    server = create_sdk_mcp_server("stores", tools=[store.tool()])
    async with hooks, agent.session(hooks, server) as client:
        await begun.wait()
        await client.interrupt()
        async for _ in client.receive_response():
            pass
        await client.query("Go on.")
        async for _ in client.receive_response():
            pass
    assert "whether the same call was done before is not known" in agent.told["call-2"]
    assert store.seen == [FOUR]


@pytest.mark.parametrize("is_ours", [True, False])
async def test_a_permission_rule_may_stop_what_has_begun(
    db: ActionDB, tmp_path: Path, is_ours: bool
) -> None:
    store, hooks = Store(), GateHooks(gate_of(db))
    tools = [store.tool()]
    server = (
        hooks.server("stores", tools) if is_ours else create_sdk_mcp_server("stores", tools=tools)
    )
    settings = json.dumps({"permissions": {"ask": [DRAIN]}})
    agent = Agent(tmp_path, [("call-1", DRAIN, FOUR)])
    async with hooks, agent.session(hooks, server, settings=settings) as client:
        async for _ in client.receive_response():
            pass
        # Not only at the end of the session.
        assert "no end of the tool" in await why(db)
    (record,) = await db.get_records_for_proposal((await only(db)).id)
    assert record.success is (False if is_ours else None)
    assert store.seen == []


# ------ hooks that do not answer


async def test_a_hook_that_fails_blocks_the_tool(db: ActionDB, tmp_path: Path) -> None:
    def fail(name: str) -> str:
        raise RuntimeError("a bug")

    store, hooks = Store(), GateHooks(gate_of(db), action_name=fail)
    agent = Agent(tmp_path, [("call-1", DRAIN, FOUR)])
    server = create_sdk_mcp_server("stores", tools=[store.tool()])
    told = await agent.run(hooks, server, allowed_tools=[DRAIN])
    assert "hook error" in told["call-1"]
    assert store.seen == []


async def test_a_hook_that_the_program_gives_up_blocks_the_tool(
    db: ActionDB, tmp_path: Path
) -> None:
    await rule(db, action_name=DRAIN)
    store, gate = Store(), gate_of(db)
    hooks = GateHooks(gate)
    found = hooks.hooks
    assert (found["PreToolUse"][0].timeout or 0) > 20 * 86400
    found["PreToolUse"][0].timeout = 1
    agent = Agent(tmp_path, [("call-1", DRAIN, FOUR)])
    server = create_sdk_mcp_server("stores", tools=[store.tool()])
    told = await agent.run(hooks, server, allowed_tools=[DRAIN], hooks=found)
    assert "The tool call was not executed" in told["call-1"]
    assert store.seen == []
    # It can be taken up.
    assert [each.call_id for each in await gate.pending()] == ["call-1"]
    assert hooks._here == set()


async def test_a_tool_of_the_hooks_does_not_run_without_them(db: ActionDB, tmp_path: Path) -> None:
    store, hooks = Store(), GateHooks(gate_of(db))
    agent = Agent(tmp_path, [("call-1", DRAIN, FOUR)])
    server = hooks.server("stores", [store.tool()])
    told = await agent.run(hooks, server, allowed_tools=[DRAIN], hooks=None)
    assert "no call with these arguments has begun" in told["call-1"]
    assert store.seen == []


@pytest.mark.parametrize("timeout", [-1, 21 * 86400, float("nan")])
def test_a_timeout_that_the_program_cannot_keep_is_refused(timeout: float) -> None:
    with pytest.raises(InvalidValue, match="timeout"):
        GateHooks(None, timeout=timeout)  # type: ignore[arg-type]


def _before(call_id: str) -> Any:
    names = {"hook_event_name": "PreToolUse", "session_id": "s", "tool_name": DRAIN}
    return {**names, "tool_use_id": call_id, "tool_input": FOUR}


async def test_a_tool_may_say_that_it_does_not_know(db: ActionDB) -> None:
    async def act() -> None:
        raise OutcomeUnknown("the connection was lost")

    async with GateHooks(Gate(db, run_id="r")) as hooks:
        guarded = hooks._guarded("stores", Store(act).tool())
        await hooks._before(_before("call-1"), "call-1", {"signal": None})
        with pytest.raises(OutcomeUnknown):
            await guarded.handler(FOUR)
        # The program tells of a failure.
        failed: Any = {**_before("call-1"), "hook_event_name": "PostToolUseFailure", "error": "x"}
        await hooks._after(failed, "call-1", {"signal": None})
    (record,) = await db.get_records_for_proposal(1)
    assert (record.success, record.outcome_unknown) == (None, True)
    assert record.error_message == "the connection was lost"


async def test_parallel_equal_calls_are_two_proposals(db: ActionDB) -> None:
    async with GateHooks(Gate(db, run_id="r", repeat="allow")) as hooks:
        ids = [f"call-{number}" for number in range(8)]
        answers = await asyncio.gather(
            *(hooks._before(_before(each), each, {"signal": None}) for each in ids)
        )
    decisions = [answer["hookSpecificOutput"]["permissionDecision"] for answer in answers]  # type: ignore[typeddict-item, index]
    assert decisions == ["allow"] * 8
    assert [each.call_id for each in reversed(await db.list_proposals())] == ids
