"""The gate for LangGraph: for its `ToolNode`, and for the agents of LangChain, which run their tools in one.

`guard` makes a gate the wrapper of every tool call. For LangChain, ``wrap_tool_call(guard(gate))`` is a middleware; for
LangGraph, ``tool_node(tools, guard(gate))`` is a node. A call that is not decided interrupts the graph, which is run
again with ``ainvoke(None, config)``. What it is resumed with does not matter: the ledger decides.
"""

import asyncio
import base64
import inspect
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeAlias, cast

from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool, ToolException
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.errors import GraphBubbleUp
from langgraph.prebuilt import ToolNode
from langgraph.prebuilt.tool_node import ToolCallRequest
from langgraph.types import Command, interrupt

from operator_core.actions.errors import Conflict, InvalidValue
from operator_core.gate import Gate, GateError, Outcome, Pending, Refused, SyncGate
from operator_core.messages import text

__all__ = ["guard", "guard_sync", "tool_node"]

Answer: TypeAlias = ToolMessage | Command[Any]
AsyncExecute: TypeAlias = Callable[[ToolCallRequest], Awaitable[Answer]]
AsyncGuard: TypeAlias = Callable[[ToolCallRequest, AsyncExecute], Awaitable[Answer]]
SyncExecute: TypeAlias = Callable[[ToolCallRequest], Answer]
SyncGuard: TypeAlias = Callable[[ToolCallRequest, SyncExecute], Answer]

_SERIALIZER: Final = JsonPlusSerializer(allowed_msgpack_modules=None)
"""Reads messages, commands and plain values: the ledger's results must not name other classes to create."""

_STORED: Final = {"text", "langgraph"}
"""The keys of an answer that is more than the content of a message."""


def guard(
    gate: Gate | Callable[[ToolCallRequest], Gate], *, wait: float | None = 0.0
) -> AsyncGuard:
    """Returns a wrapper that takes every tool call through the gate, for a graph in an event loop.

    `gate` is the gate of one thread, or a function that returns the gate for a request. A call that is not decided
    after `wait` seconds interrupts the graph, which needs a checkpointer for that. With None, it waits in the node as
    long as it takes. The value of the interrupt has `proposal_id`, `call_id`, `name`, `arguments` and `reason`.

    The wrapper raises `InvalidValue` for a call without an id.
    """
    asking: dict[str, set[asyncio.Future[None]]] = {}

    async def guarded(request: ToolCallRequest, execute: AsyncExecute) -> Answer:
        found = gate if isinstance(gate, Gate) else gate(request)
        call = _Call(request)

        async def run(**arguments: Any) -> Any:
            with _running():
                return call.ran(await execute(call.with_arguments(arguments)))

        async def settled() -> Outcome:
            try:
                ticket = await found.propose(call.name, call.arguments, call_id=call.id)
            except (GateError, Conflict) as error:
                return call.refused(error)
            return await found.outcome(ticket, timeout=wait, handler=run)

        beside = asking.setdefault(call.task, set())
        mine = asyncio.get_running_loop().create_future()
        beside.add(mine)
        try:
            outcome = await settled()
        finally:
            mine.set_result(None)
            beside.discard(mine)
            if not beside:
                asking.pop(call.task, None)
        if isinstance(outcome.error, Pending) and beside:
            # An interrupt ends the node, but not the other calls in it: they would run unattended.
            await asyncio.wait(set(beside))
        return call.answer(outcome)

    return guarded


def guard_sync(
    gate: SyncGate | Callable[[ToolCallRequest], SyncGate], *, wait: float | None = 0.0
) -> SyncGuard:
    """As `guard`, for a graph without an event loop: for ``invoke`` and ``stream``."""

    def guarded(request: ToolCallRequest, execute: SyncExecute) -> Answer:
        found = gate if isinstance(gate, SyncGate) else gate(request)
        call = _Call(request)

        def run(**arguments: Any) -> Any:
            with _running():
                return call.ran(execute(call.with_arguments(arguments)))

        try:
            ticket = found.propose(call.name, call.arguments, call_id=call.id)
        except (GateError, Conflict) as error:
            return call.answer(call.refused(error))
        return call.answer(found.outcome(ticket, timeout=wait, handler=run))

    return guarded


def tool_node(
    tools: Sequence[BaseTool | Callable[..., Any]],
    guarded: AsyncGuard | SyncGuard,
    **options: Any,
) -> ToolNode:
    """Returns a `ToolNode` all of whose calls go through the wrapper of `guard` or `guard_sync`.

    `options` are those of `ToolNode`. The other way of running the graph raises `InvalidValue`: a `ToolNode` with only
    one wrapper would run the tools without it.
    """
    if inspect.iscoroutinefunction(guarded):
        return ToolNode(tools, awrap_tool_call=guarded, wrap_tool_call=_only_async, **options)
    plain = cast("SyncGuard", guarded)
    return ToolNode(tools, wrap_tool_call=plain, awrap_tool_call=_only_sync, **options)


def _only_async(request: ToolCallRequest, execute: object) -> Answer:
    raise InvalidValue("guarded", "is for ainvoke and astream; use guard_sync and a SyncGate")


async def _only_sync(request: ToolCallRequest, execute: object) -> Answer:
    raise InvalidValue("guarded", "is for invoke and stream; use guard and a Gate")


@contextmanager
def _running() -> Generator[None]:
    """A block in which a tool runs; raises `ToolException` if the tool interrupts the graph."""
    with suppress(GraphBubbleUp):
        while True:
            # What the graph was resumed with was for the gate: the tool must not take it for an answer to itself.
            interrupt(None)
    try:
        yield
    except GraphBubbleUp as error:
        # The graph would start it again from its beginning.
        why = "the tool interrupted the graph, and is not started a second time"
        raise ToolException(why) from error


class _Call:
    """One call of the model: what the ledger gets of it, and what the model gets of the ledger."""

    def __init__(self, request: ToolCallRequest) -> None:
        call = request.tool_call
        # The gate refuses a call without an id.
        self.id = cast("str", call["id"])
        self.name = call["name"]
        self.arguments = call["args"]
        node = cast("Any", request).runtime.execution_info
        self.task: str = "" if node is None else node.task_id
        """The run of the node in which the call is made; other calls may be made in the same one."""
        self._request = request
        self._answer: Answer | None = None

    def with_arguments(self, arguments: dict[str, Any]) -> ToolCallRequest:
        """The request with the arguments that are in the ledger."""
        return self._request.override(tool_call={**self._request.tool_call, "args": arguments})

    def ran(self, answer: Answer) -> Any:
        """What the ledger stores of the answer of the tool; raises `ToolException` if it has failed."""
        if isinstance(answer, ToolMessage) and answer.status == "error":
            # The node has caught the exception of the tool.
            raise ToolException(str(answer.content))
        self._answer = answer
        content = answer.text if isinstance(answer, ToolMessage) else repr(answer)
        if answer == self._message(content):
            return content
        try:
            _, stored = _SERIALIZER.dumps_typed(answer)
        except TypeError:
            # An object that no checkpoint can hold either.
            return content
        return {"text": content, "langgraph": base64.b64encode(stored).decode()}

    def refused(self, error: GateError | Conflict) -> Outcome:
        """The outcome of a call that was not proposed."""
        if isinstance(error, Conflict):
            # Its arguments were changed in the state of the graph.
            error = Refused(error.id, "its id is the one of a call with other arguments")
        return Outcome(self.id, error=error)

    def answer(self, outcome: Outcome) -> Answer:
        """The answer to the model; interrupts the graph if there is none yet."""
        while isinstance(outcome.error, Pending):
            # What it is resumed with decides nothing: the ledger was asked since. It raises after the last such value.
            interrupt(
                {
                    "proposal_id": outcome.error.proposal_id,
                    "call_id": self.id,
                    "name": self.name,
                    "arguments": self.arguments,
                    "reason": outcome.error.reason,
                }
            )
        if outcome.error is not None:
            return self._message(text(outcome), status="error")
        if self._answer is not None:
            return self._answer
        # It was executed before: the node runs again, or another process has run it.
        value = outcome.value
        if isinstance(value, dict) and cast("dict[str, Any]", value).keys() == _STORED:
            stored = base64.b64decode(cast("dict[str, str]", value)["langgraph"])
            return _SERIALIZER.loads_typed(("msgpack", stored))
        return self._message(text(outcome))

    def _message(self, content: str, **more: Any) -> ToolMessage:
        return ToolMessage(content=content, name=self.name, tool_call_id=self.id, **more)
