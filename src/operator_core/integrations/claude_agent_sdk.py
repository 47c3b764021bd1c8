"""The gate as hooks of the Claude Agent SDK.

The program behind the SDK runs the tools. Its hooks are the two phases of the gate: `PreToolUse` proposes a call, waits
for its decision and claims it, and `PostToolUse` or `PostToolUseFailure` records how it ended. The hooks see every call
of a tool, those of subagents too. `can_use_tool` does not: the program asks it only if no rule, permission mode or hook
has settled the call.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Final, Self, cast

import anyio
from claude_agent_sdk import (
    HookContext,
    HookInput,
    HookMatcher,
    McpSdkServerConfig,
    SdkMcpTool,
    create_sdk_mcp_server,
)
from claude_agent_sdk.types import HookEvent, HookJSONOutput

from operator_core import messages
from operator_core.actions.errors import Conflict, InvalidValue, LeaseLost, OutcomeUnknown
from operator_core.gate import Begun, Gate, GateError, Outcome, Pending, Ticket

__all__ = ["GateHooks"]

logger = logging.getLogger(__name__)

_LONGEST_WAIT: Final = 20 * 86400.0
"""Seconds that a call without a timeout waits: the program's own timers take no more than 24 days."""

_SLACK: Final = 600.0
"""Seconds that the program waits for a hook beyond the timeout of the call, so that the hook always answers first."""


@dataclass(eq=False)
class _Call:
    """A call that has begun and has not ended."""

    begun: Begun
    tool_name: str
    agent: tuple[str, str | None]
    """The session, and the subagent if it is one."""
    prompt_id: str | None
    is_ours: bool
    """Whether the tool is on a server of `GateHooks.server`, which tells when it starts."""
    started: bool = False

    @property
    def parameters(self) -> dict[str, Any]:
        return self.begun.claim.proposal.parameters


class GateHooks:
    """Hooks that put a gate between the program and its tools; `hooks` is for `ClaudeAgentOptions`.

    A call is proposed under its `tool_use_id`, as the action `action_name` returns for the tool's name. If it has to
    wait, `on_wait` is called with its ticket. After `timeout` seconds (by default 20 days) it is denied as pending; the
    same call made again takes up the same proposal. `matcher` is the program's pattern of the tools that are guarded,
    by default all.

    Leave the block only after the client is closed: what has begun and not ended is then recorded as unknown.
    """

    def __init__(
        self,
        gate: Gate,
        *,
        timeout: float | None = None,
        action_name: Callable[[str], str] = str,
        matcher: str | None = None,
        on_wait: Callable[[Ticket], object] | None = None,
    ) -> None:
        if timeout is not None and not 0 <= timeout <= _LONGEST_WAIT:
            raise InvalidValue("timeout", "must be a number of seconds from 0 to 20 days")
        self._gate = gate
        self._timeout = _LONGEST_WAIT if timeout is None else timeout
        self._action_name = action_name
        self._matcher = matcher
        self._on_wait = on_wait
        self._here: set[int] = set()
        """The proposals that this object waits for or has begun."""
        self._open: dict[str, _Call] = {}
        self._taking = asyncio.Lock()
        """Held while a call looks for its ticket, so that two parallel ones don't take the same."""
        self._ours: set[str] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def hooks(self) -> dict[HookEvent, list[HookMatcher]]:
        """The hooks for `ClaudeAgentOptions`."""
        # Without "block", the program runs the tool if the hook fails.
        before = HookMatcher(
            self._matcher, [self._before], timeout=self._timeout + _SLACK, on_failure="block"
        )
        after = HookMatcher(self._matcher, [self._after])
        # The SDK's type does not name this event.
        batch = cast("HookEvent", "PostToolBatch")
        return {
            "PreToolUse": [before],
            "PostToolUse": [after],
            "PostToolUseFailure": [after],
            batch: [HookMatcher(None, [self._after_all])],
        }

    def server(
        self, name: str, tools: Iterable[SdkMcpTool[Any]], *, version: str = "1.0.0"
    ) -> McpSdkServerConfig:
        """Makes an in-process MCP server, as `create_sdk_mcp_server`; its key in `mcp_servers` must be `name`.

        Its tools run only for a call that has begun, and with the arguments that are in the ledger. If somebody changes
        the arguments after the decision, the tool does not run.
        """
        return create_sdk_mcp_server(name, version, [self._guarded(name, each) for each in tools])

    async def close(self, why: str = "the session ended before the tool did") -> None:
        """Records as unknown what has begun and not ended; for the end of a session.

        It may be called after an interrupt, which otherwise counts when the next call begins.
        """
        for call_id in list(self._open):
            await self._end(call_id, lambda call: call.begun.unknown(why))

    # ------ the hooks

    async def _before(
        self, given: HookInput, tool_use_id: str | None, context: HookContext
    ) -> HookJSONOutput:
        if given["hook_event_name"] != "PreToolUse":
            return {}
        call_id, tool_name = given["tool_use_id"], given["tool_name"]
        agent, prompt_id = (given["session_id"], given.get("agent_id")), given.get("prompt_id")
        await self._end_cut_off(agent, prompt_id)
        try:
            async with self._taking:
                ticket = await self._ticket(call_id, tool_name, given["tool_input"])
        except GateError as error:
            return _denied(messages.text(Outcome(call_id, error=error)))
        except Conflict as error:
            return _denied(f"It was not executed. Reason: {error}")
        try:
            begun = await self._begin(ticket)
            is_ours = tool_name in self._ours
            call = self._open[call_id] = _Call(begun, tool_name, agent, prompt_id, is_ours)
        except GateError as error:
            # The same call, made again under another id, takes up this proposal.
            outcome = Outcome(call_id, error=error, ticket=ticket)
            return _denied(messages.text(outcome, call_again=True))
        except Conflict:
            result = messages.text(await self._gate.outcome(ticket))
            return _denied(f"It was executed before, and is not executed again. Result: {result}")
        finally:
            if call_id not in self._open:
                self._here.discard(ticket.proposal_id)
        return {
            "hookSpecificOutput": {
                "hookEventName": "PreToolUse",
                "permissionDecision": "allow",
                "updatedInput": call.parameters,
            }
        }

    async def _after(
        self, given: HookInput, tool_use_id: str | None, context: HookContext
    ) -> HookJSONOutput:
        async def end(call: _Call) -> None:
            if given["hook_event_name"] == "PostToolUse" and given["tool_input"] == call.parameters:
                await call.begun.done(given["tool_response"])
            elif given["hook_event_name"] == "PostToolUseFailure" and (
                given["tool_input"] == call.parameters or not _may_have_run(call)
            ):
                is_cut = given.get("is_interrupt", False) and _may_have_run(call)
                await (call.begun.unknown if is_cut else call.begun.failed)(given["error"])
            else:
                await call.begun.unknown("the tool ran with other arguments than are in the ledger")

        if given["hook_event_name"] in ("PostToolUse", "PostToolUseFailure"):
            await self._end(tool_use_id or "", end)
        return {}

    async def _after_all(
        self, given: HookInput, tool_use_id: str | None, context: HookContext
    ) -> HookJSONOutput:
        """Ends the calls of which no other hook has told: a permission rule or a mode has stopped them."""

        async def end(call: _Call) -> None:
            why = "the program told of no end of the tool"
            await (call.begun.unknown if _may_have_run(call) else call.begun.failed)(why)

        for each in cast("dict[str, Any]", given)["tool_calls"]:
            await self._end(each["tool_use_id"], end)
        return {}

    # ------ calls

    async def _ticket(self, call_id: str, tool_name: str, arguments: dict[str, Any]) -> Ticket:
        """The ticket of a call: that of the same call that was left open, by a program that died or after a timeout.

        The model makes that call again under another id, because the program answers for the tool when it is resumed.
        """
        name = self._action_name(tool_name)
        pending = await self._gate.pending()
        for left in sorted(pending, key=lambda each: each.call_id != call_id):
            if left.name != name:
                continue
            with suppress(Conflict):
                # It raises if the arguments are others.
                await self._gate.propose(name, arguments, call_id=left.call_id)
                if left.proposal_id not in self._here:
                    self._here.add(left.proposal_id)
                    return left
        ticket = await self._gate.propose(name, arguments, call_id=call_id)
        self._here.add(ticket.proposal_id)
        return ticket

    async def _begin(self, ticket: Ticket) -> Begun:
        try:
            return await self._gate.begin(ticket, timeout=0)
        except Pending:
            if self._on_wait is not None:
                self._on_wait(ticket)
            return await self._gate.begin(ticket, timeout=self._timeout)

    async def _end_cut_off(self, agent: tuple[str, str | None], prompt_id: str | None) -> None:
        """Ends the calls of an earlier prompt: the program tells no hook of an interrupt."""
        why = "the prompt ended before the tool did"
        for call_id, call in list(self._open.items()):
            if call.agent == agent and call.prompt_id != prompt_id:
                await self._end(call_id, lambda call: call.begun.unknown(why))

    async def _end(self, call_id: str, end: Callable[[_Call], Any]) -> None:
        call = self._open.pop(call_id, None)
        if call is None:
            return
        try:
            await end(call)
        except LeaseLost as error:
            # It is in the ledger as unknown.
            logger.warning("the end of proposal %s: %s", call.begun.claim.proposal.id, error)
        finally:
            self._here.discard(call.begun.claim.proposal.id)

    def _guarded(self, server: str, tool: SdkMcpTool[Any]) -> SdkMcpTool[Any]:
        tool_name = f"mcp__{server}__{tool.name}"
        self._ours.add(tool_name)

        async def handler(arguments: dict[str, Any]) -> dict[str, Any]:
            found = self._unstarted(tool_name, arguments)
            if found is None:
                text = "It was not executed: no call with these arguments has begun."
                return {"content": [{"type": "text", "text": text}], "is_error": True}
            call_id, call = found
            call.started = True
            try:
                return await tool.handler(deepcopy(call.parameters))
            except OutcomeUnknown as error:
                # The program only hears of a failure.
                why = error.why
                await self._end(call_id, lambda call: call.begun.unknown(why))
                raise
            except asyncio.CancelledError:
                # The program tells no hook of it.
                with anyio.CancelScope(shield=True):
                    why = "the tool was cancelled in the middle"
                    await self._end(call_id, lambda call: call.begun.unknown(why))
                raise

        return replace(tool, handler=handler)

    def _unstarted(self, tool_name: str, arguments: dict[str, Any]) -> tuple[str, _Call] | None:
        for call_id, call in self._open.items():
            if call.tool_name == tool_name and not call.started and call.parameters == arguments:
                return call_id, call
        return None


def _may_have_run(call: _Call) -> bool:
    return call.started or not call.is_ours


def _denied(reason: str) -> HookJSONOutput:
    return {
        "hookSpecificOutput": {
            "hookEventName": "PreToolUse",
            "permissionDecision": "deny",
            "permissionDecisionReason": reason,
        }
    }
