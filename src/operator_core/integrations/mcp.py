"""A gateway of the Model Context Protocol: a server in front of another one, which takes each tool call through a gate.

The client of the gateway sees the tools, resources and prompts of the upstream server. What the upstream server answers
is stored in the ledger as it is, and a call that is made again is answered from there.
"""

import asyncio
import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from math import inf
from typing import Any, Final, TypeAlias, TypeVar, cast
from uuid import uuid4

import anyio
import mcp_types as types
from mcp.client import ClientSession, Transport
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from mcp_types.methods import MONOLITH_RESULTS
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import RootModel, TypeAdapter

from operator_core import messages
from operator_core.actions.errors import Conflict, InvalidValue, OutcomeUnknown
from operator_core.actions.results import NOT_KEPT
from operator_core.gate import ExecutionFailed, Gate, GateError, Outcome, Pending, Refused, Ticket

__all__ = [
    "CALL_ID",
    "PENDING",
    "PROPOSAL_ID",
    "TOOL_USE_ID",
    "UpstreamError",
    "gateway",
    "watched",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")

CALL_ID: Final = "operator-core/call-id"
"""The key of ``_meta`` with the id of a call: the same id is the same call, also after a restart."""

TOOL_USE_ID: Final = "claudecode/toolUseId"
"""The key of ``_meta`` with the id of the model's call, as Claude Code and others send it."""

PROPOSAL_ID: Final = "operator-core/proposal-id"
"""The key of ``_meta`` of an answer with the id of the proposal."""

PENDING: Final = "operator-core/pending"
"""The key of ``_meta`` of an answer that says that the call is not decided, or can't start yet."""

_WAIT: Final = 50.0
"""Seconds; some clients give a request up after 60."""

_REPORTS_EVERY: Final = 10.0
"""Seconds between two progress notifications while a call waits."""

_UNANSWERED: Final = (
    types.CONNECTION_CLOSED,
    types.REQUEST_TIMEOUT,
    types.PARSE_ERROR,
    types.INVALID_REQUEST,
)
"""The codes of errors that the client of the SDK makes itself if there is no answer, or none that it can read."""

_HTTP_ERROR: Final = (types.INTERNAL_ERROR, "Server returned an error response")
"""What the client of the SDK makes of an HTTP status of 400 or more, which may come from a proxy in between."""

_FORWARDED: Final[Mapping[str, tuple[tuple[str, type[types.RequestParams]], ...]]] = {
    "resources": (
        ("resources/list", types.PaginatedRequestParams),
        ("resources/templates/list", types.PaginatedRequestParams),
        ("resources/read", types.ReadResourceRequestParams),
    ),
    "prompts": (
        ("prompts/list", types.PaginatedRequestParams),
        ("prompts/get", types.GetPromptRequestParams),
    ),
    "completions": (("completion/complete", types.CompleteRequestParams),),
}
"""The requests that are passed on unchanged, by the capability that the upstream server must have."""

_Object: TypeAlias = dict[str, Any]
_Streams: TypeAlias = tuple[Any, Any]
_Context: TypeAlias = ServerRequestContext[Any]


class _Raw(RootModel[dict[str, Any]]):
    """A result as it came."""


class UpstreamError(Exception):
    """The upstream server has answered that a tool failed; the text is that of the answer."""


def gateway(
    gate: Gate,
    session: ClientSession,
    *,
    wait: float | None = _WAIT,
    rerun: bool = False,
    ended: asyncio.Event | None = None,
) -> Server:
    """Returns a server that passes on what `session` offers, and takes each tool call through the gate.

    `session` is connected and initialized. The gate has no tools. A call that is not decided after `wait` seconds (None:
    as long as it takes) is answered as pending; the same call, made again, continues it.

    A call is named by `CALL_ID` in its ``_meta``, else by `TOOL_USE_ID` and its content, else by its content alone: then
    the same call is executed once in a run, and answered again. With `rerun`, a call that is named by its content alone
    is executed again, once the one before it has ended.

    `ended` is set when the upstream server has ended, as `watched` does: no call is proposed or started afterwards.
    """
    proxy = _Proxy(gate, session, wait, rerun, ended)
    info = session.server_info
    server: Server = Server(
        "gateway" if info is None else info.name,
        version="" if info is None else info.version,
        title=None if info is None else info.title,
        instructions=session.instructions,
        on_list_tools=proxy.list_tools,
    )
    server.add_request_handler("tools/call", types.CallToolRequestParams, proxy.call_tool)
    capabilities = session.server_capabilities
    for capability, methods in _FORWARDED.items():
        if getattr(capabilities, capability, None) is not None:
            for method, params in methods:
                server.add_request_handler(method, params, proxy.forward)
    return server


@asynccontextmanager
async def watched(transport: Transport, ended: asyncio.Event) -> AsyncGenerator[_Streams]:
    """The same transport of a client, which sets `ended` when the server has closed the connection."""
    async with transport as (incoming, outgoing):
        send, receive = anyio.create_memory_object_stream[SessionMessage | Exception](0)

        async def relay() -> None:
            # The session may have closed its end before.
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                async with send:
                    async for message in incoming:
                        await send.send(message)
                    # Before the session wakes up the calls that wait for an answer.
                    ended.set()

        async with anyio.create_task_group() as group, receive:
            group.start_soon(relay)
            yield receive, outgoing
            group.cancel_scope.cancel()


class _Proxy:
    """The handlers of a gateway."""

    def __init__(
        self,
        gate: Gate,
        session: ClientSession,
        wait: float | None,
        rerun: bool,
        ended: asyncio.Event | None,
    ) -> None:
        self._gate = gate
        self._session = session
        self._wait = inf if wait is None else wait
        self._rerun = rerun
        self._ended = ended or asyncio.Event()
        self._held: Counter[str] = Counter()
        """The ids of the calls that requests wait for."""

    async def list_tools(
        self, context: _Context, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        # The session keeps what it needs for the headers of calls over HTTP.
        cursor = None if params is None else params.cursor
        return await self._session.list_tools(params=types.PaginatedRequestParams(cursor=cursor))

    async def forward(self, context: _Context, params: types.RequestParams) -> types.Result:
        # What the protocol says in `_meta` is about one connection.
        plain = params.model_copy(update={"meta": None})
        request = types.Request[Any, str](method=context.method, params=plain)
        answer: TypeAdapter[types.Result] = TypeAdapter(cast(Any, MONOLITH_RESULTS[context.method]))
        return await self._session.send_request(request, answer)

    async def call_tool(self, context: _Context, params: types.CallToolRequestParams) -> _Object:
        self._check()
        name, arguments = params.name, params.arguments or {}
        answers: list[_Object] = []
        call_id = await self._call_id(name, arguments, params.meta or {})
        self._held[call_id] += 1
        try:
            outcome = await _apart(self._settled(context, name, arguments, call_id, answers))
        finally:
            self._held[call_id] -= 1
            # Only those that are held take room.
            self._held += Counter()
        answer = _answer(outcome, answers)
        if context.protocol_version in MODERN_PROTOCOL_VERSIONS:
            return {"resultType": "complete", **answer}
        if not isinstance(answer.get("structuredContent", {}), dict):
            # Older clients take only an object; the content has it as text.
            del answer["structuredContent"]
        return answer

    async def _call_id(self, name: str, arguments: _Object, meta: Mapping[str, Any]) -> str:
        """The id of a call in the ledger."""
        given = meta.get(CALL_ID)
        if isinstance(given, str):
            return given
        content = json.dumps([name, arguments], sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()[:32]
        used: object = meta.get(TOOL_USE_ID)
        if not isinstance(used, str) and not self._rerun:
            return digest
        call_id = f"{digest}:{used if isinstance(used, str) else uuid4().hex}"
        if await self._gate.find(call_id) is not None:
            return call_id
        waiting = [
            ticket.call_id
            for ticket in await self._gate.pending()
            if ticket.call_id.startswith(f"{digest}:")
        ]
        # A model that was told to call again does so under another id.
        return next((each for each in waiting if not self._held[each]), call_id)

    async def _settled(
        self,
        context: _Context,
        name: str,
        arguments: _Object,
        call_id: str,
        answers: list[_Object],
    ) -> Outcome:
        """Proposes a call and settles it; `answers` gets what the upstream server answers."""
        try:
            ticket = await self._gate.propose(name, arguments, call_id=call_id)
            return await self._outcome(context, ticket, answers)
        except GateError as error:
            return Outcome(call_id, error=error)
        except Conflict as error:
            refused = Refused(error.id, "this call id was used before, with other arguments")
            return Outcome(call_id, error=refused)
        except InvalidValue as error:
            if error.path != "call_id":
                raise
            raise MCPError(types.INVALID_PARAMS, f"{CALL_ID}: {error.problem}") from error

    async def _outcome(self, context: _Context, ticket: Ticket, answers: list[_Object]) -> Outcome:
        """Settles a call, and reports while it waits."""
        since = time.monotonic()
        # The seconds before it ran, if the client was told that it waits: the progress that it is told must grow.
        before: float | None = None

        async def report(progress: float, total: float | None, message: str | None) -> None:
            if before is not None:
                progress, total = before + progress, None if total is None else before + total
            await context.session.report_progress(progress, total, message)

        async def run(**arguments: Any) -> _Object:
            nonlocal before
            before = None if before is None else time.monotonic() - since
            wanted = "progress_token" in (context.meta or {})
            answer = await self._called(ticket, arguments, report if wanted else None)
            answers.append(answer)
            if answer.get("isError"):
                raise UpstreamError(_text(answer))
            return answer

        outcome = await self._gate.outcome(ticket, timeout=0, handler=run)
        while isinstance(outcome.error, Pending):
            self._check()
            before = time.monotonic() - since
            if before >= self._wait:
                break
            why = f"proposal {ticket.proposal_id} waits: {outcome.error.reason}"
            await context.session.report_progress(before, None, why)
            rest = min(self._wait - before, _REPORTS_EVERY)
            outcome = await self._gate.outcome(ticket, timeout=rest, handler=run)
        return outcome

    async def _called(
        self, ticket: Ticket, arguments: _Object, report: ProgressFnT | None
    ) -> _Object:
        """What the upstream server answers; raises `OutcomeUnknown` if nobody knows whether it was done."""
        if self._ended.is_set():
            raise UpstreamError("the upstream server has ended; nothing was sent")
        meta: Any = {CALL_ID: ticket.call_id}
        params = types.CallToolRequestParams(name=ticket.name, arguments=arguments, _meta=meta)
        request = types.CallToolRequest(params=params)
        try:
            # `ClientSession.call_tool` raises an error for a result that does not fit the tool's schema.
            raw = await self._session.send_request(request, _Raw, progress_callback=report)
        except MCPError as error:
            if error.code in _UNANSWERED or (error.code, error.message) == _HTTP_ERROR:
                raise OutcomeUnknown(f"no answer: {error.message}") from error
            raise UpstreamError(error.message) from error
        except Exception as error:
            # Its text may contain the answer.
            why = f"no answer that can be read: {type(error).__name__}"
            raise OutcomeUnknown(why) from error
        if raw.root.get("resultType", "complete") != "complete":
            raise UpstreamError("it asks for input, which the gateway does not pass on")
        return raw.root

    def _check(self) -> None:
        if self._ended.is_set():
            raise MCPError(types.CONNECTION_CLOSED, "the upstream server has ended")


async def _apart(work: Coroutine[Any, Any, T]) -> T:
    """Awaits `work` in a task of its own: a scope of anyio cancels a task again and again until it has ended.

    If the caller is cancelled, `work` is cancelled once, and ends before the caller goes on.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()):
            logger.warning("a call that was cancelled ended with %s", type(error).__name__)
        raise
    return task.result()


def _answer(outcome: Outcome, answers: list[_Object]) -> _Object:
    """The result of ``tools/call``: what the upstream server has answered, or why it has not."""
    value, error = outcome.value, outcome.error
    found: _Object
    if answers and (error is None or isinstance(error, ExecutionFailed)):
        found = answers[-1]
    elif isinstance(value, dict) and isinstance(cast(_Object, value).get("content"), list):
        found = cast(_Object, value)
    elif isinstance(value, dict) and NOT_KEPT in value:
        why = "It was executed. Its result was too large for the ledger. Do not call it again."
        found = {"content": [{"type": "text", "text": why}], "isError": True}
    elif isinstance(error, Pending):
        why = messages.text(outcome, call_again=True)
        found = {"content": [{"type": "text", "text": why}], "isError": True}
    else:
        found = messages.mcp(outcome)
    meta: _Object = {**(found.get("_meta") or {}), CALL_ID: outcome.call_id}
    proposal_id = outcome.ticket.proposal_id if outcome.ticket else error and error.proposal_id
    if proposal_id is not None:
        meta[PROPOSAL_ID] = proposal_id
    if isinstance(error, Pending):
        meta[PENDING] = True
    return {**found, "_meta": meta}


def _text(answer: _Object) -> str:
    """The text of a result."""
    blocks: list[_Object] = answer.get("content") or []
    return "\n".join(str(each["text"]) for each in blocks if each.get("type") == "text")
