"""A gateway of MCP: calls pass the gate, what the server behind it answers comes back as it was."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import mcp_types as types
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import Context, MCPServer

from operator_core import Gate
from operator_core.actions import ActionStatus, Rule
from operator_core.db import ActionDB
from operator_core.integrations.mcp import (
    CALL_ID,
    PENDING,
    PROPOSAL_ID,
    TOOL_USE_ID,
    gateway,
    watched,
)
from tests.clocks import PATIENCE

S = ActionStatus

ANSWER: dict[str, Any] = {
    "content": [
        {"type": "text", "text": "drained"},
        {"type": "image", "data": "AAAA", "mimeType": "image/png"},
    ],
    "structuredContent": {"moved": None, "left": [{"size": None}]},
    "isError": False,
}


class Upstream:
    """A server whose tools a test decides about."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.meta: list[dict[str, Any]] = []
        self.started = asyncio.Event()
        self.answer: Callable[[Any], Awaitable[Any]] = self._answer
        self.server: Server = Server("stores", instructions="be careful")
        add = self.server.add_request_handler
        add("tools/list", types.PaginatedRequestParams, self._tools)
        add("tools/call", types.CallToolRequestParams, self._called)
        add("resources/list", types.PaginatedRequestParams, self._resources)
        add("resources/read", types.ReadResourceRequestParams, self._read)
        add("prompts/list", types.PaginatedRequestParams, self._prompts)
        add("prompts/get", types.GetPromptRequestParams, self._prompt)

    async def _tools(self, _: Any, params: Any) -> Any:
        return types.ListToolsResult(
            tools=[
                types.Tool(
                    name=name,
                    input_schema={"type": "object"},
                    output_schema={"type": "object", "required": ["never"]},
                    annotations=types.ToolAnnotations(read_only_hint=True),
                )
                for name in ("drain", "read")
            ]
        )

    async def _called(self, context: Any, params: types.CallToolRequestParams) -> Any:
        self.seen.append({"name": params.name, **(params.arguments or {})})
        self.meta.append(dict(params.meta or {}))
        self.started.set()
        return await self.answer(context)

    async def _answer(self, context: Any) -> Any:
        return {**ANSWER, "resultType": "complete"}

    async def _resources(self, _: Any, params: Any) -> Any:
        return types.ListResourcesResult(resources=[types.Resource(name="log", uri="log://4")])

    async def _read(self, _: Any, params: Any) -> Any:
        text = types.TextResourceContents(uri=params.uri, text="all is well")
        return types.ReadResourceResult(contents=[text])

    async def _prompts(self, _: Any, params: Any) -> Any:
        return types.ListPromptsResult(prompts=[types.Prompt(name="plan")])

    async def _prompt(self, _: Any, params: Any) -> Any:
        text = types.TextContent(text=f"plan {params.arguments['what']}")
        return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=text)])


@pytest.fixture
async def db() -> AsyncGenerator[ActionDB]:
    async with ActionDB(":memory:") as db:
        yield db


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture(params=["auto", "legacy"])
def mode(request: pytest.FixtureRequest) -> str:
    """The protocol between the client and the gateway: of 2026, or before."""
    return request.param


@asynccontextmanager
async def agent(
    db: ActionDB, behind: Any, *, mode: str = "legacy", run_id: str = "run-1", **options: Any
) -> AsyncGenerator[Client]:
    """A client of a gateway in front of `behind`."""
    gate = Gate(db, run_id=run_id, agent_id="planner", requester="u-17")
    known = {"wait": 0.0, **options}
    async with (
        Client(behind) as session,
        Client(gateway(gate, session.session, **known), mode=mode) as client,
    ):
        yield client


async def call(client: Client, name: str, arguments: Any, **meta: Any) -> types.CallToolResult:
    """As `Client.call_tool`, which refuses what does not fit the schema of a tool."""
    params = types.CallToolRequestParams(name=name, arguments=arguments, _meta=meta or None)
    request = types.CallToolRequest(params=params)
    return await client.session.send_request(request, types.CallToolResult)


async def waiting(client: Client, **meta: Any) -> asyncio.Task[types.CallToolResult]:
    """A call that drains store 4, once its request waits for a decision."""
    reported = asyncio.Event()

    async def report(done: float, total: float | None, message: str | None) -> None:
        assert message is not None
        assert "waits" in message
        reported.set()

    params = types.CallToolRequestParams(name="drain", arguments={"store": 4}, _meta=meta or None)
    request = types.CallToolRequest(params=params)
    sent = client.session.send_request(request, types.CallToolResult, progress_callback=report)
    task = asyncio.create_task(sent)
    await asyncio.wait_for(reported.wait(), PATIENCE)
    return task


def named(call_id: str) -> dict[str, Any]:
    return {CALL_ID: call_id}


def said(result: types.CallToolResult) -> str:
    return "\n".join(each.text for each in result.content if isinstance(each, types.TextContent))


def is_pending(result: types.CallToolResult) -> bool:
    return PENDING in (result.meta or {})


async def drains_need_an_approval(db: ActionDB) -> None:
    await db.add_rule(Rule(name="drains", action_name="drain"), by="lead", reason="policy 4")


async def approve(db: ActionDB, result: types.CallToolResult) -> None:
    proposal = await db.get_proposal((result.meta or {})[PROPOSAL_ID])
    assert proposal is not None
    await db.approve_proposal(proposal.id, by="maria", digest=proposal.digest)


def plain(result: types.CallToolResult) -> dict[str, Any]:
    """A result without what belongs to the connection."""
    shown = result.model_dump(by_alias=True, mode="json", exclude={"meta", "result_type"})
    shown["content"] = [
        {key: value for key, value in each.items() if value is not None}
        for each in shown["content"]
    ]
    return shown


# ------ what passes


async def test_all_but_the_calls_of_tools_is_passed_on(
    db: ActionDB, upstream: Upstream, mode: str
) -> None:
    async with Client(upstream.server) as direct, agent(db, upstream.server, mode=mode) as client:
        assert (await client.list_tools()).tools == (await direct.list_tools()).tools
        assert (await client.list_resources()).resources[0].uri == "log://4"
        read = await client.read_resource("log://4")
        assert read.contents == (await direct.read_resource("log://4")).contents
        assert (await client.list_prompts()).prompts[0].name == "plan"
        prompt = await client.get_prompt("plan", {"what": "less"})
        assert prompt.messages == (await direct.get_prompt("plan", {"what": "less"})).messages
        assert client.instructions == "be careful"
        capabilities = client.server_capabilities
        assert capabilities.completions is None
        assert capabilities.prompts is not None
    assert await db.list_proposals() == []


async def test_a_result_comes_back_as_it_was_and_is_answered_again(
    db: ActionDB, upstream: Upstream, mode: str
) -> None:
    async with agent(db, upstream.server, mode=mode) as client:
        first = await call(client, "drain", {"store": 4, "note": None}, **named("call-1"))
        assert plain(first) == ANSWER
        assert await call(client, "drain", {"store": 4, "note": None}, **named("call-1")) == first
    # Another gateway in the same run, as after a restart.
    async with agent(db, upstream.server, mode=mode) as client:
        again = await call(client, "drain", {"store": 4, "note": None}, **named("call-1"))
        assert plain(again) == ANSWER
    assert upstream.seen == [{"name": "drain", "store": 4, "note": None}]
    (row,) = await db.list_proposals()
    assert (row.status, row.call_id) == (S.COMPLETED, "call-1")
    assert (row.agent_id, row.requester_id) == ("planner", "u-17")
    assert row.parameters == {"store": 4, "note": None}


async def test_what_the_client_says_besides_the_arguments_does_not_reach_the_tool(
    db: ActionDB, upstream: Upstream
) -> None:
    async with agent(db, upstream.server) as client:
        await call(client, "drain", {"store": 4}, **named("call-1"), user="root")
    (meta,) = upstream.meta
    assert meta[CALL_ID] == "call-1"
    assert "user" not in meta


async def test_a_call_waits_and_runs_once(db: ActionDB, upstream: Upstream, mode: str) -> None:
    await drains_need_an_approval(db)
    async with agent(db, upstream.server, mode=mode) as client:
        waits = await call(client, "drain", {"store": 4}, **named("call-1"))
        assert is_pending(waits)
        assert waits.is_error
        assert "Make the same call again later" in said(waits)
        assert upstream.seen == []
        await approve(db, waits)
        done = await call(client, "drain", {"store": 4}, **named("call-1"))
        assert plain(done) == ANSWER
        assert not is_pending(done)
    assert len(upstream.seen) == 1


async def test_a_request_waits_for_the_decision(db: ActionDB, upstream: Upstream) -> None:
    await drains_need_an_approval(db)
    waiting = asyncio.Event()
    shown: list[float] = []

    async def reports(context: Any) -> Any:
        await context.session.report_progress(0, 2, "begun")
        await context.session.report_progress(1, 2, "half")
        return {**ANSWER, "resultType": "complete"}

    async def progress(done: float, total: float | None, message: str | None) -> None:
        shown.append(done)
        if message is not None and "waits" in message:
            waiting.set()

    upstream.answer = reports
    async with agent(db, upstream.server, wait=None) as client:
        request = types.CallToolRequest(
            params=types.CallToolRequestParams(name="drain", arguments={"store": 4})
        )
        task = asyncio.create_task(
            client.session.send_request(request, types.CallToolResult, progress_callback=progress)
        )
        await asyncio.wait_for(waiting.wait(), PATIENCE)
        (row,) = await db.list_proposals()
        await db.approve_proposal(row.id, by="maria", digest=row.digest)
        assert plain(await asyncio.wait_for(task, PATIENCE)) == ANSWER
        # What the server behind reports comes after it.
        assert len(shown) == 3
        assert shown == sorted(set(shown))


async def test_a_hint_of_the_server_loosens_no_rule(db: ActionDB, upstream: Upstream) -> None:
    await drains_need_an_approval(db)
    async with agent(db, upstream.server) as client:
        (tool, _) = (await client.list_tools()).tools
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint
        assert is_pending(await call(client, "drain", {"store": 4}))
        await call(client, "read", {"store": 4})
    assert [row.action_name for row in await db.list_proposals()] == ["read", "drain"]


# ------ what does not run


async def test_other_arguments_under_the_same_id_are_refused(
    db: ActionDB, upstream: Upstream, mode: str
) -> None:
    await drains_need_an_approval(db)
    async with agent(db, upstream.server, mode=mode) as client:
        await approve(db, await call(client, "drain", {"store": 4}, **named("call-1")))
        for arguments in ({"store": 5}, {"store": 4.0}, {}):
            refused = await call(client, "drain", arguments, **named("call-1"))
            assert refused.is_error
            assert "with other arguments" in said(refused)
        refused = await call(client, "read", {"store": 4}, **named("call-1"))
        assert "with other arguments" in said(refused)
    assert upstream.seen == []


async def test_a_rejection_and_a_halt_are_told(db: ActionDB, upstream: Upstream, mode: str) -> None:
    await drains_need_an_approval(db)
    async with agent(db, upstream.server, mode=mode) as client:
        waits = await call(client, "drain", {"store": 4})
        await db.reject_proposal((waits.meta or {})[PROPOSAL_ID], by="maria", reason="at night")
        told = await call(client, "drain", {"store": 4})
        assert told.is_error
        assert "By maria. Reason: at night" in said(told)
        assert not is_pending(told)
        await db.halt(by="maria", reason="backups are frozen", action_name="drain")
        halted = await call(client, "drain", {"store": 5})
        assert "agents are stopped" in said(halted)
        assert PROPOSAL_ID not in (halted.meta or {})
    assert upstream.seen == []


@pytest.mark.parametrize("wrong", ["", "x" * 300])
async def test_an_id_that_can_not_be_stored_is_an_error_of_the_client(
    db: ActionDB, upstream: Upstream, wrong: str
) -> None:
    async with agent(db, upstream.server) as client:
        with pytest.raises(MCPError) as error:
            await call(client, "drain", {}, **named(wrong))
    assert error.value.code == types.INVALID_PARAMS
    assert upstream.seen == []


# ------ how a call ends


async def test_an_error_of_the_tool_is_a_failure(
    db: ActionDB, upstream: Upstream, mode: str
) -> None:
    failed = {**ANSWER, "isError": True}

    async def fails(_: Any) -> Any:
        return {**failed, "resultType": "complete"}

    upstream.answer = fails
    async with agent(db, upstream.server, mode=mode) as client:
        assert plain(await call(client, "drain", {"store": 4})) == failed
        again = await call(client, "drain", {"store": 4})
        assert again.is_error
        assert "It was executed and failed. Reason: UpstreamError: drained" in said(again)
    assert len(upstream.seen) == 1


async def test_an_error_of_the_protocol_is_a_failure(db: ActionDB, upstream: Upstream) -> None:
    async def refuses(_: Any) -> Any:
        raise MCPError(types.INVALID_PARAMS, "no such tool")

    upstream.answer = refuses
    async with agent(db, upstream.server) as client:
        assert "Reason: UpstreamError: no such tool" in said(await call(client, "drain", {}))
    (row,) = await db.list_proposals()
    (record,) = await db.get_records_for_proposal(row.id)
    assert (row.status, record.outcome_unknown) == (S.FAILED, False)


async def test_a_question_of_the_server_is_a_failure(db: ActionDB, upstream: Upstream) -> None:
    async def asks(_: Any) -> Any:
        return types.InputRequiredResult(request_state="1")

    upstream.answer = asks
    async with agent(db, upstream.server) as client:
        assert "asks for input" in said(await call(client, "drain", {}))


async def test_a_result_that_the_ledger_can_not_hold_is_given_once(
    db: ActionDB, upstream: Upstream
) -> None:
    large = {"content": [{"type": "text", "text": "x" * 1_100_000}], "isError": False}

    async def answers(_: Any) -> Any:
        return {**large, "resultType": "complete"}

    upstream.answer = answers
    async with agent(db, upstream.server) as client:
        assert said(await call(client, "drain", {})) == "x" * 1_100_000
        again = await call(client, "drain", {})
        assert again.is_error
        assert "It was executed. Its result was too large" in said(again)
    assert len(upstream.seen) == 1


async def test_what_an_older_client_can_not_take_costs_no_result(
    db: ActionDB, upstream: Upstream, mode: str
) -> None:
    async def answers(_: Any) -> Any:
        return {**ANSWER, "structuredContent": [1, 2], "resultType": "complete"}

    upstream.answer = answers
    async with agent(db, upstream.server, mode=mode) as client:
        result = await call(client, "drain", {})
        assert said(result) == "drained"
        assert result.structured_content == (None if mode == "legacy" else [1, 2])


async def test_a_call_that_is_cancelled_in_the_middle_has_an_unknown_outcome(
    db: ActionDB, upstream: Upstream, mode: str
) -> None:
    async def hangs(_: Any) -> Any:
        await asyncio.Event().wait()

    upstream.answer = hangs
    async with agent(db, upstream.server, mode=mode, wait=PATIENCE) as client:
        task = asyncio.create_task(call(client, "drain", {"store": 4}, **named("call-1")))
        await asyncio.wait_for(upstream.started.wait(), PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # The connection is not lost.
        told = await call(client, "drain", {"store": 4}, **named("call-1"))
        assert "It is not known whether it happened" in said(told)
        again = await call(client, "drain", {"store": 4}, **named("call-2"))
        assert "whether the same call was done before is not known" in said(again)
    assert len(upstream.seen) == 1


async def test_a_halt_in_the_middle_stops_the_call(db: ActionDB, upstream: Upstream) -> None:
    stopped = asyncio.Event()

    async def hangs(_: Any) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    upstream.answer = hangs
    gate = Gate(db, run_id="run-1", lease=timedelta(seconds=3))
    async with (
        Client(upstream.server) as behind,
        Client(gateway(gate, behind.session), mode="legacy") as client,
    ):
        task = asyncio.create_task(call(client, "drain", {"store": 4}))
        await asyncio.wait_for(upstream.started.wait(), PATIENCE)
        await db.halt(by="maria", reason="enough")
        told = await asyncio.wait_for(task, PATIENCE)
        assert "It is not known whether it happened" in said(told)
        await asyncio.wait_for(stopped.wait(), PATIENCE)


# ------ which calls are the same


async def test_a_call_without_an_id_is_the_same_if_its_content_is(
    db: ActionDB, upstream: Upstream
) -> None:
    async with agent(db, upstream.server) as client:
        await asyncio.gather(*(call(client, "drain", {"store": 4}) for _ in range(3)))
        await call(client, "drain", {"store": 5})
        await call(client, "read", {"store": 4})
        await call(client, "drain", {"store": 4})
    seen = sorted((each["name"], each["store"]) for each in upstream.seen)
    assert seen == [("drain", 4), ("drain", 5), ("read", 4)]


async def test_with_rerun_it_runs_again_once_the_one_before_has_ended(
    db: ActionDB, upstream: Upstream
) -> None:
    await drains_need_an_approval(db)
    async with agent(db, upstream.server, rerun=True) as client:
        first = await call(client, "drain", {"store": 4})
        again = await call(client, "drain", {"store": 4})
        assert (first.meta or {})[PROPOSAL_ID] == (again.meta or {})[PROPOSAL_ID]
        await approve(db, first)
        assert plain(await call(client, "drain", {"store": 4})) == ANSWER
        second = await call(client, "drain", {"store": 4})
        assert is_pending(second)
        assert (second.meta or {})[PROPOSAL_ID] != (first.meta or {})[PROPOSAL_ID]
    assert len(upstream.seen) == 1


async def test_the_id_of_the_model_s_call_names_it(db: ActionDB, upstream: Upstream) -> None:
    async with agent(db, upstream.server) as client:
        for used in ("toolu_1", "toolu_1", "toolu_2"):
            await call(client, "read", {"store": 4}, **{TOOL_USE_ID: used})
    assert len(upstream.seen) == 2


async def test_a_model_that_calls_again_under_another_id_continues_its_call(
    db: ActionDB, upstream: Upstream
) -> None:
    await drains_need_an_approval(db)
    async with agent(db, upstream.server) as client:
        waits = await call(client, "drain", {"store": 4}, **{TOOL_USE_ID: "toolu_1"})
    async with agent(db, upstream.server) as client:
        await approve(db, waits)
        other = await call(client, "drain", {"store": 5}, **{TOOL_USE_ID: "toolu_2"})
        assert is_pending(other)
        done = await call(client, "drain", {"store": 4}, **{TOOL_USE_ID: "toolu_3"})
        assert plain(done) == ANSWER
        new = await call(client, "drain", {"store": 4}, **{TOOL_USE_ID: "toolu_4"})
        assert is_pending(new)
    assert len(upstream.seen) == 1


async def test_two_calls_of_the_same_in_one_turn_are_two(db: ActionDB, upstream: Upstream) -> None:
    await drains_need_an_approval(db)
    async with agent(db, upstream.server, wait=None) as client:
        tasks = [await waiting(client, **{TOOL_USE_ID: used}) for used in ("toolu_1", "toolu_2")]
        rows = await db.list_proposals()
        assert len(rows) == 2
        for row in rows:
            await db.approve_proposal(row.id, by="maria", digest=row.digest)
        for result in await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE):
            assert plain(result) == ANSWER
    assert len(upstream.seen) == 2


async def test_parallel_calls_do_not_mix(db: ActionDB) -> None:
    server = MCPServer("stores")
    both = asyncio.Barrier(2)

    @server.tool()
    async def drain(store: int) -> str:
        await both.wait()
        return f"drained {store}"

    async with agent(db, server) as client:
        tasks = (client.call_tool("drain", {"store": store}) for store in (4, 5))
        results = await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
        assert [said(each) for each in results] == ["drained 4", "drained 5"]


async def test_two_gateways_run_a_call_once(db: ActionDB, upstream: Upstream) -> None:
    await drains_need_an_approval(db)
    async with (
        agent(db, upstream.server, wait=None) as one,
        agent(db, upstream.server, wait=None) as other,
    ):
        tasks = [await waiting(each, **named("call-1")) for each in (one, other)]
        rows = await db.list_proposals()
        await db.approve_proposal(rows[0].id, by="maria", digest=rows[0].digest)
        for result in await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE):
            assert plain(result) == ANSWER
    assert len(upstream.seen) == 1


# ------ the connection to the server behind


DIES = """
import os
from mcp.server.mcpserver import MCPServer

server = MCPServer("stores")

@server.tool()
def drain() -> str:
    os._exit(1)

server.run("stdio")
"""


async def test_a_server_that_dies_in_the_middle_leaves_an_unknown_outcome(
    db: ActionDB, tmp_path: Path
) -> None:
    program = tmp_path / "server.py"
    program.write_text(DIES)
    ended = asyncio.Event()
    process = StdioServerParameters(command=sys.executable, args=[str(program)])
    async with agent(db, watched(stdio_client(process), ended), ended=ended) as client:
        told = await client.call_tool("drain", {})
        assert "It is not known whether it happened" in said(told)
        assert "no answer: Connection closed" in said(told)
        with pytest.raises(MCPError, match="the upstream server has ended"):
            await client.call_tool("drain", {"again": True})
    assert len(await db.list_proposals()) == 1


async def test_a_server_that_has_ended_gets_no_call_that_waited(
    db: ActionDB, upstream: Upstream
) -> None:
    await drains_need_an_approval(db)
    ended = asyncio.Event()
    async with agent(db, upstream.server, ended=ended, wait=PATIENCE) as client:
        task = await waiting(client)
        rows = await db.list_proposals()
        ended.set()
        await db.approve_proposal(rows[0].id, by="maria", digest=rows[0].digest)
        told = await asyncio.wait_for(task, PATIENCE)
        assert "nothing was sent" in said(told)
    assert upstream.seen == []


@pytest.mark.parametrize(
    ("status", "why"),
    [(502, "It is not known whether it happened"), (404, "UpstreamError: Not Found")],
)
async def test_an_http_error_leaves_an_unknown_outcome_unless_it_says_that_nothing_was_done(
    db: ActionDB, status: int, why: str
) -> None:
    server = MCPServer("stores")

    @server.tool()
    def drain(context: Context) -> str:
        return "drained"

    app: Any = server.streamable_http_app(host="stores")
    fails = False

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        if not fails:
            await app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"bad gateway"})

    async with (
        server.session_manager.run(),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(proxy)) as http,
    ):
        transport = streamable_http_client("http://stores/mcp", http_client=http)
        async with agent(db, transport) as client:
            assert said(await client.call_tool("drain", {})) == "drained"
            fails = True
            told = await client.call_tool("drain", {}, meta=named("call-1"))
            assert why in said(told)
            fails = False
