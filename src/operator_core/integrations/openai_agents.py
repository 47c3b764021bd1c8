"""The gate for the OpenAI Agents SDK: function tools that only run as the ledger decides.

`gated_tools` replaces what the framework invokes of each tool: the call is proposed, waits, is executed once, and is
recorded. The run is interrupted before each call, so that its `RunState` can be stored while a person decides, and
`decide` carries the decisions of the ledger into that state. The state is no permission: an approval in it lets the
framework invoke the tool, which asks the ledger again.
"""

import copy
import time
from collections.abc import Iterable
from contextlib import suppress
from math import inf
from typing import Any, Final

from agents import (
    FunctionTool,
    MCPToolCancellationError,
    RunState,
    ToolApprovalItem,
    ToolTimeoutError,
)
from agents.tool import invoke_function_tool, set_function_tool_failure_error_function
from agents.tool_context import ToolContext
from pydantic_core import to_json, to_jsonable_python

from operator_core import messages
from operator_core.actions import Conflict, InvalidValue, OutcomeUnknown
from operator_core.gate import Executed, Gate, GateError, Outcome, Pending, Refused, Ticket

__all__ = ["decide", "gated_tools"]

_NO_RESULT: Final = "_function_tool_default_failure_handled"
"""The mark on a `ToolContext` by which the framework knows an answer that need not fit the output schema of the tool."""


def gated_tools(
    tools: Iterable[FunctionTool], gate: Gate, *, interrupt: bool = True
) -> list[FunctionTool]:
    """Returns copies of the tools whose calls go through the gate; give an agent these only.

    With `interrupt`, the run is interrupted before each call: see `decide`. Without, a call waits in place until it is
    decided. The ledger knows a tool by its qualified name. A timeout of the tool counts while it runs, not while it
    waits; after it, the outcome is unknown. What the model is told about a failure is the text of `messages.text`, in
    place of `failure_error_function` and `timeout_error_function`.

    Raises `InvalidValue` for a tool that can't be guarded: one that is no `FunctionTool`, is guarded already, or is an
    agent. For an agent as a tool, guard the tools of that agent.
    """
    return [_guarded(tool, gate, interrupt) for tool in tools]


async def decide(
    state: RunState[Any, Any],
    *,
    timeout: float | None = None,  # noqa: ASYNC109 - several calls wait at once
) -> list[Ticket]:
    """Proposes the calls that have interrupted a run, waits for the ledger, and decides them in the state.

    Returns the tickets of the calls that are not decided after `timeout` seconds; without it, waits as long as it takes.
    Run the state then: the calls that are decided go on, the others interrupt the run again. A call that will not be
    executed is rejected in the state, with the reason for the model. Any other is approved, and what becomes of it is
    settled when the framework invokes the tool.

    The interruptions of other tools stay as they are: approve or reject them in the state before you run it.
    """
    gates = [(item, found) for item in state.get_interruptions() if (found := _gate_of(item))]
    # All are proposed before one is waited for, so that a person sees them together.
    calls = [(item, gate, await _proposed_item(item, gate)) for item, gate in gates]
    until = inf if timeout is None else time.monotonic() + timeout
    open_calls: list[Ticket] = []
    for item, gate, call in calls:
        end = call
        if isinstance(call, Ticket):
            end = await gate.decided(call, timeout=None if until == inf else _rest(until))
        if end is None or isinstance(end.error, Executed) or end.ok:
            state.approve(item)
        elif isinstance(call, Ticket) and isinstance(end.error, Pending):
            open_calls.append(call)
        else:
            state.reject(item, rejection_message=messages.text(end))
    return open_calls


class _Invocation:
    """What a guarded tool does when the framework invokes it, whatever the framework has been told about approvals."""

    def __init__(self, tool: FunctionTool, gate: Gate) -> None:
        self.gate = gate
        self._tool = tool

    async def __call__(self, context: ToolContext[Any], arguments: str) -> Any:
        async def run(**values: Any) -> Any:
            # What is in the ledger, not what the framework has.
            context.tool_arguments = to_json(values).decode()
            return await _run(self._tool, context)

        name, call_id = context.qualified_tool_name, context.tool_call_id
        call = await _proposed(self.gate, name, arguments, call_id)
        outcome = call
        if isinstance(call, Ticket):
            outcome = await self.gate.outcome(call, handler=run)
        assert isinstance(outcome, Outcome)
        if outcome.ok:
            return outcome.value
        setattr(context, _NO_RESULT, True)
        return messages.text(outcome)


def _guarded(tool: FunctionTool, gate: Gate, interrupt: bool) -> FunctionTool:
    if not isinstance(tool, FunctionTool):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidValue("tools", f"{type(tool).__name__} is no function tool")
    if isinstance(tool.on_invoke_tool, _Invocation):
        raise InvalidValue("tools", f"{tool.name} is guarded already")
    if tool._is_agent_tool:  # pyright: ignore[reportPrivateUsage]
        raise InvalidValue("tools", f"{tool.name} is an agent: guard the tools of that agent")
    # Errors and timeouts have to reach the gate, which would take a text about them for a result.
    inner = set_function_tool_failure_error_function(copy.copy(tool), None)
    inner.timeout_behavior = "raise_exception"
    outer = copy.copy(inner)
    outer.timeout_seconds = None
    outer.on_invoke_tool = _Invocation(inner, gate)
    outer.needs_approval = interrupt
    return outer


async def _run(tool: FunctionTool, context: ToolContext[Any]) -> Any:
    """Runs the tool itself with the arguments of the context; returns what JSON can hold of its result."""
    try:
        result = await invoke_function_tool(
            function_tool=tool, context=context, arguments=context.tool_arguments
        )
    except (ToolTimeoutError, MCPToolCancellationError) as error:
        # It was cancelled in the middle: nobody knows how far it came.
        raise OutcomeUnknown(str(error)) from error
    with suppress(Exception):
        # The framework would tell the model the text of any other object.
        return to_jsonable_python(result, fallback=str)
    return result


async def _proposed(gate: Gate, name: str, arguments: str, call_id: str) -> Ticket | Outcome:
    try:
        return await gate.propose(name, arguments, call_id=call_id)
    except Conflict as error:
        why = "the arguments of the call were changed after it was proposed"
        return Outcome(call_id, error=Refused(error.id, why))
    except GateError as error:
        return Outcome(call_id, error=error)


async def _proposed_item(item: ToolApprovalItem, gate: Gate) -> Ticket | Outcome:
    name, call_id = item.qualified_name, item.call_id
    # The framework interrupts no call without these.
    assert name is not None
    assert call_id is not None
    return await _proposed(gate, name, item.arguments or "", call_id)


def _rest(until: float) -> float:
    return max(0, until - time.monotonic())


def _gate_of(item: ToolApprovalItem) -> Gate | None:
    """The gate of the tool that an interruption is for, if it is guarded."""
    for tool in item.agent.tools:
        if not isinstance(tool, FunctionTool) or tool.qualified_name != item.qualified_name:
            continue
        if isinstance(tool.on_invoke_tool, _Invocation):
            return tool.on_invoke_tool.gate
    return None
