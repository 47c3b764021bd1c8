"""Puts the gate between the agents of agno and their tools, in the entrypoint of each tool.

agno's own hooks fail open, and are not used. A synchronous run leaves out the coroutine functions in `tool_hooks` and
does not await a `pre_hook`. An error in a `pre_hook` is logged, and then the tool runs.
"""

import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any, Final, Protocol, TypeAlias, cast, get_type_hints

from agno.exceptions import AgentRunException, RunCancelledException
from agno.run.requirement import RunRequirement
from agno.tools import Function, Toolkit
from agno.tools import tool as made_by_agno
from agno.tools.function import FunctionCall, ToolResult
from agno.utils.schema import (
    IDENTITY_INJECTED_PARAMS,
    MEDIA_INJECTED_PARAMS,
    is_schema_excluded,
)

from operator_core import messages
from operator_core.actions.errors import Conflict, InvalidValue
from operator_core.actions.tool_calls import ToolCall
from operator_core.gate import Gate, GateError, Outcome, Refused, SyncGate, Tools

__all__ = ["gated", "gated_tools", "paused_calls"]

Entrypoint: TypeAlias = Callable[..., Any]

_CALL: Final = "fc"
"""The parameter in which agno gives an entrypoint its `FunctionCall`."""
_IS_GATED: Final = "_operator_core_gated"


class _Paused(Protocol):
    """What a run of an agent, and one of a team, have in common."""

    @property
    def active_requirements(self) -> list[RunRequirement]: ...


def gated_tools(
    tools: Iterable[Function | Toolkit | Entrypoint], gate: Gate | SyncGate
) -> list[Function]:
    """Puts the gate before tools and before all functions of toolkits.

    The functions of a toolkit are those that it has at this moment: connect it before. With a `Gate`, its asynchronous
    variants come first. Raises `InvalidValue` for a toolkit without functions, and as `gated` does.
    """
    found: list[Function] = []
    for tool in tools:
        if not isinstance(tool, Toolkit):
            found.append(gated(tool, gate))
            continue
        has = tool.get_async_functions() if isinstance(gate, Gate) else tool.get_functions()
        if not has:
            raise InvalidValue("tools", f"{tool.name}: has no functions; connect it before")
        for function in has.values():
            made = gated(function, gate)
            # agno takes the toolkit's instructions from it.
            made.source_toolkit = tool
            found.append(made)
    return found


def gated(tool: Function | Entrypoint, gate: Gate | SyncGate) -> Function:
    """Returns a copy of a tool that is called through the gate, under the call id of the model.

    With a `Gate`, it is for asynchronous runs: a synchronous run of an agent ends with an error, and one of a team
    tells the model that nothing was executed. With a `SyncGate`, it is for both. What agno gives the tool besides the
    arguments of the model, such as `run_context`, reaches the tool and not the ledger. agno does not cache its results.

    Raises `InvalidValue` for what agno does not execute itself, a tool that is gated already, a coroutine function with
    a `SyncGate`, and a tool whose arguments can't be given by name.
    """
    if not isinstance(tool, Function) and not callable(cast(object, tool)):
        raise InvalidValue(
            "tool", "must be a function: the provider executes what is described by an object"
        )
    function = _copy_of(tool)
    if function.entrypoint is None or function.external_execution:
        raise InvalidValue("tool", f"{function.name}: is executed outside of agno")
    if hasattr(function.entrypoint, _IS_GATED):
        raise InvalidValue("tool", f"{function.name}: is gated already")
    # As agno does itself: it derives what the model is shown, and converts the arguments of the tool.
    function.process_entrypoint()
    guarded = _Guarded(function)
    if isinstance(gate, SyncGate) and guarded.in_loop:
        raise InvalidValue("tool", f"{function.name}: is a coroutine function: use Gate")

    async def settled(*, fc: FunctionCall, **given: Any) -> Any:
        assert isinstance(gate, Gate)
        call = guarded.call(fc, given)
        try:
            ticket = await gate.propose(call.name, call.arguments(), call_id=call.call_id)
        except (GateError, Conflict) as error:
            return call.refused(error)
        return call.answer(await gate.outcome(ticket, handler=call.handler))

    def settled_here(*, fc: FunctionCall, **given: Any) -> Any:
        assert isinstance(gate, SyncGate)
        call = guarded.call(fc, given)
        try:
            ticket = gate.propose(call.name, call.arguments(), call_id=call.call_id)
        except (GateError, Conflict) as error:
            return call.refused(error)
        return call.answer(gate.outcome(ticket, handler=call.handler))

    entrypoint = settled if isinstance(gate, Gate) else settled_here
    guarded.dress(entrypoint)
    if isinstance(gate, Gate) and function.post_hook is None:
        function.post_hook = _is_awaited
    function.entrypoint = entrypoint
    function.skip_entrypoint_processing = True
    # A cached result would answer without the gate, and a refusal would be cached.
    function.cache_results = False
    return function


def paused_calls(run: _Paused, tools: Iterable[Function]) -> list[ToolCall]:
    """Returns the calls at which a run has paused for a confirmation, as the gate gets them when the run goes on.

    Proposed meanwhile, they can be decided while no program waits. `tools` are those of `gated`. A call of another tool
    is left out, and one whose arguments don't fit.
    """
    known = {each.name: _Guarded(each) for each in tools}
    found: list[ToolCall] = []
    for requirement in run.active_requirements:
        paused = requirement.tool_execution
        if paused is None or not requirement.needs_confirmation:
            continue
        guarded = known.get(paused.tool_name or "")
        if guarded is None or not paused.tool_call_id:
            continue
        read = guarded.tools.read(guarded.name, paused.tool_args or {})
        if read.problem is None:
            found.append(ToolCall(guarded.name, read.parameters, paused.tool_call_id))
    return found


def _is_awaited(fc: FunctionCall) -> None:
    """Tells the model that a synchronous run has executed nothing; a team starts one with coroutine functions."""
    if inspect.iscoroutine(fc.result):
        fc.result.close()
        refused = Refused(None, "this tool is for asynchronous runs")
        raise AgentRunException(messages.text(Outcome(fc.call_id or "", error=refused)))


def _copy_of(tool: Function | Entrypoint) -> Function:
    if isinstance(tool, Function):
        return tool.model_copy(deep=True)
    return made_by_agno(tool)


class _Guarded:
    """A tool: which of its arguments are the model's, and what agno gives it besides."""

    def __init__(self, function: Function) -> None:
        assert function.entrypoint is not None
        self.name = function.name
        self.entrypoint: Entrypoint = function.entrypoint
        self.in_loop = inspect.iscoroutinefunction(self.entrypoint) or inspect.isasyncgenfunction(
            self.entrypoint
        )
        self.signature = inspect.signature(self.entrypoint)
        self.hints = get_type_hints(self.entrypoint, include_extras=True)
        self.injected = self._injected(function)
        self.tools = Tools()
        self.tools.add(self._shape(), name=self.name)

    def _injected(self, function: Function) -> set[str]:
        """The parameters that agno fills, by name or by type."""
        hints = get_type_hints(self.entrypoint)
        by_type = {name for name, hint in hints.items() if is_schema_excluded(hint)}
        shown = function.parameters.get("properties")
        shown = set(cast("dict[str, Any]", shown)) if isinstance(shown, dict) else set[str]()
        if _CALL in shown:
            raise InvalidValue("tool", f"{self.name}: an argument must not be named {_CALL!r}")
        # A schema may claim the names of media for the model, and no others.
        media = set(MEDIA_INJECTED_PARAMS) - shown
        return {_CALL, *IDENTITY_INJECTED_PARAMS, *media, *(by_type - {"return"})}

    def _shape(self) -> Entrypoint:
        """A function that takes what the model gives, for the gate's check of arguments."""

        def shape(**_: Any) -> None:
            raise NotImplementedError

        parameters = self.signature.parameters.values()
        seen = [each for each in parameters if each.name not in self.injected]
        names = {each.name for each in seen}
        shape.__annotations__ = {n: hint for n, hint in self.hints.items() if n in names}
        shape.__signature__ = self.signature.replace(parameters=seen)  # pyright: ignore[reportFunctionMemberAccess]
        return shape

    def dress(self, entrypoint: Any) -> None:
        """Lets agno see the parameters of the tool, and the one for its call."""
        own = inspect.Parameter(_CALL, inspect.Parameter.KEYWORD_ONLY)
        others = [each for each in self.signature.parameters.values() if each.name != _CALL]
        last = [each for each in others if each.kind is inspect.Parameter.VAR_KEYWORD]
        first = [each for each in others if each.kind is not inspect.Parameter.VAR_KEYWORD]
        entrypoint.__signature__ = self.signature.replace(parameters=[*first, own, *last])
        hints = {name: hint for name, hint in self.hints.items() if name != _CALL}
        entrypoint.__annotations__ = hints
        entrypoint.__name__ = entrypoint.__qualname__ = self.name
        entrypoint.__doc__ = self.entrypoint.__doc__
        setattr(entrypoint, _IS_GATED, True)

    def call(self, fc: FunctionCall, given: dict[str, Any]) -> "_Call":
        from_model = fc.arguments or {}
        injected = {n: v for n, v in given.items() if n in self.injected and n not in from_model}
        arguments = {name: value for name, value in given.items() if name not in injected}
        if _CALL in self.signature.parameters:
            injected[_CALL] = fc
        return _Call(self, fc, arguments, injected)


class _Call:
    """One call of the model."""

    def __init__(
        self,
        guarded: _Guarded,
        fc: FunctionCall,
        given: dict[str, Any],
        injected: dict[str, Any],
    ) -> None:
        # As the model has called it.
        self.name = fc.function.name
        self.call_id = fc.call_id or ""
        self.handler = self._in_loop if guarded.in_loop else self._here
        self._guarded = guarded
        self._given = given
        self._injected = injected
        self._result: ToolResult | None = None

    def arguments(self) -> dict[str, Any]:
        """The arguments for the ledger, those by default included; raises `Refused`."""
        if not self.call_id:
            raise Refused(None, "the call has no id")
        read = self._guarded.tools.read(self._guarded.name, self._given)
        if read.problem is not None:
            raise Refused(None, read.problem)
        return read.parameters

    async def _in_loop(self, **arguments: Any) -> Any:
        made = self._guarded.entrypoint(**self._injected, **arguments)
        result = await made if inspect.isawaitable(made) else made
        if inspect.isasyncgen(result):
            parts = [str(part) async for part in cast("AsyncIterator[object]", result)]
            return "".join(parts)
        return self._kept(result)

    def _here(self, **arguments: Any) -> Any:
        return self._kept(self._guarded.entrypoint(**self._injected, **arguments))

    def _kept(self, result: Any) -> Any:
        """What the ledger keeps of a result."""
        if inspect.isgenerator(result):
            # Its effects belong to the execution.
            return "".join(str(part) for part in cast("Iterator[object]", result))
        if isinstance(result, ToolResult):
            self._result = result
            return result.content
        return result

    def refused(self, error: GateError | Conflict) -> Any:
        """The answer to a call that was not proposed."""
        if isinstance(error, Conflict):
            error = Refused(error.id, str(error))
        return self.answer(Outcome(self.call_id, error=error))

    def answer(self, outcome: Outcome) -> Any:
        """The result for agno; raises what agno tells the model as an error."""
        said = messages.text(outcome)
        if outcome.error is None:
            return (
                said if self._result is None else self._result.model_copy(update={"content": said})
            )
        cause = outcome.error.__cause__
        if isinstance(cause, AgentRunException | RunCancelledException):
            # The tool speaks to agno: it stops the run, or adds messages.
            raise cause
        raise AgentRunException(said) from outcome.error
