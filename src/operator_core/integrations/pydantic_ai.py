"""The gate for agents of pydantic-ai 2: the calls of a toolset, or of a whole agent, go through it.

A call that is not decided waits in the run, or ends the run with `DeferredToolRequests`. The run that is resumed with
`deferred_results` asks the ledger again: an approval of the framework decides nothing.
"""

from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

from pydantic import ConfigDict, TypeAdapter
from pydantic_ai import RunContext
from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
from pydantic_ai.exceptions import ApprovalRequired, ModelRetry, ToolFailed, UserError
from pydantic_ai.messages import ToolReturn, ToolReturnContent
from pydantic_ai.tools import (
    AgentDepsT,
    DeferredToolRequests,
    DeferredToolResults,
    ToolApproved,
)
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from operator_core.actions.errors import Conflict, OutcomeUnknown
from operator_core.gate import Gate, GateError, Outcome, Pending, Refused, Ticket
from operator_core.messages import text

__all__ = ["GatedTools", "GatedToolset", "deferred_results"]

_BYTES: Final = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
_ANY: Final[TypeAdapter[Any]] = TypeAdapter(Any, config=_BYTES)
_CONTENT: Final[TypeAdapter[Any]] = TypeAdapter(ToolReturnContent, config=_BYTES)

_PROPOSAL: Final = "proposal_id"
"""The key of the proposal in the metadata of a deferred call."""

_WAIT: Final = "wait"
"""The key of the seconds in the metadata of a resumed call."""

_Values: TypeAlias = dict[str, Any]

_inside: ContextVar[tuple[Ticket, ...]] = ContextVar("operator_core_pydantic_ai", default=())
"""The calls in whose executions this code runs."""


@contextmanager
def _executing(ticket: Ticket) -> Generator[None]:
    token = _inside.set((*_inside.get(), ticket))
    try:
        yield
    finally:
        _inside.reset(token)


@dataclass
class GatedToolset(WrapperToolset[AgentDepsT]):
    """A toolset whose calls go through a gate.

    `wait` is the number of seconds for which a call waits in the run until it is decided and can start: None for as
    long as it takes, 0 to look once. Then the call is deferred: the run ends with `DeferredToolRequests`, whose
    `metadata` has the `proposal_id`.

    The ids of the calls are those of the model. The gate needs no tools: what runs is the wrapped toolset, with the
    arguments that the ledger has stored, and a toolset that is wrapped twice by one gate runs nothing. A call without a result is answered by `ToolFailed`, with the text of
    `operator_core.messages`; a `ModelRetry` of the tool reaches the model as one.
    """

    gate: Gate
    wait: float | None = None

    async def call_tool(
        self,
        name: str,
        tool_args: dict[str, Any],
        ctx: RunContext[AgentDepsT],
        tool: ToolsetTool[AgentDepsT],
    ) -> Any:
        call_id = ctx.tool_call_id or ""
        returned: list[Any] = []

        async def handler(**arguments: Any) -> Any:
            values = _read(arguments, ctx, tool)
            with _executing(ticket):
                returned.append(await _in_time(self.wrapped.call_tool(name, values, ctx, tool)))
            return _storable(returned[0])

        try:
            ticket = await self._proposed(name, tool_args, ctx, tool)
            if ticket in _inside.get():
                # It would wait for itself.
                raise UserError(f"the call of {name!r} goes through its gate twice")
            outcome = await self.gate.outcome(ticket, timeout=self._seconds(ctx), handler=handler)
        except GateError as error:
            outcome = Outcome(call_id, error=error)
        error = outcome.error
        if error is None:
            return returned[0] if returned else _restored(outcome.value)
        if isinstance(error, Pending):
            raise ApprovalRequired({_PROPOSAL: error.proposal_id}) from error
        if isinstance(error.__cause__, ModelRetry):
            raise ModelRetry(error.__cause__.message) from error
        raise ToolFailed(text(outcome)) from error

    async def _proposed(
        self, name: str, values: _Values, ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Ticket:
        parameters = _jsonable(values, ctx, tool)
        try:
            return await self.gate.propose(name, parameters, call_id=ctx.tool_call_id or "")
        except Conflict as error:
            why = "its arguments are not those that were proposed under its id"
            raise Refused(error.id, why) from error

    def _seconds(self, ctx: RunContext[Any]) -> float | None:
        said: object = ctx.tool_call_metadata
        if isinstance(said, dict) and _WAIT in said:
            return cast("dict[str, float | None]", said)[_WAIT]
        return self.wait


@dataclass
class GatedTools(AbstractCapability[AgentDepsT]):
    """A capability that sends the calls of all the agent's toolsets through a gate, its own functions included.

    It is the innermost wrapper, so that the calls of a tool that calls others are guarded too. `wait` is as for
    `GatedToolset`.
    """

    gate: Gate
    wait: float | None = None

    def get_wrapper_toolset(
        self, toolset: AbstractToolset[AgentDepsT]
    ) -> AbstractToolset[AgentDepsT]:
        return GatedToolset(toolset, self.gate, self.wait)

    def get_ordering(self) -> CapabilityOrdering:
        return CapabilityOrdering(position="innermost")

    @classmethod
    def get_serialization_name(cls) -> str | None:
        return None


def deferred_results(
    requests: DeferredToolRequests,
    *,
    timeout: float | None = None,
) -> DeferredToolResults:
    """Returns what resumes a run whose calls a gate has deferred: each call asks the ledger again, and runs or not.

    `timeout` is the number of seconds for which the resumed calls wait in the run: None for as long as it takes, 0 to
    look once. A call that is not decided by then is deferred again. Other deferred calls are left to the caller.
    """
    ids = [
        call.tool_call_id
        for call in requests.approvals
        if _PROPOSAL in requests.metadata.get(call.tool_call_id, {})
    ]
    return DeferredToolResults(
        approvals={call_id: ToolApproved() for call_id in ids},
        metadata={call_id: {_WAIT: timeout} for call_id in ids},
    )


def _jsonable(values: _Values, ctx: RunContext[Any], tool: ToolsetTool[Any]) -> _Values:
    """The arguments as JSON; raises `Refused` if the tool would not get them back."""
    try:
        parameters = _ordered(_ANY.dump_python(values), to_jsonable_python(values))
        if _read(parameters, ctx, tool) == values:
            return parameters
        why = "they change when they are stored as JSON and read again"
    except ValueError as error:
        why = f"they can't be stored as JSON and read again: {type(error).__name__}"
    raise Refused(None, f"the arguments can't be approved: {why}")


def _ordered(values: Any, as_json: Any) -> Any:
    """JSON in which sets are sorted: their order is another one in each process."""
    if isinstance(values, set | frozenset):
        return sorted(as_json, key=to_json)
    if isinstance(values, dict) and isinstance(as_json, dict):
        items = cast(_Values, values).values(), cast(_Values, as_json).values()
        return dict(zip(cast(_Values, as_json), map(_ordered, *items), strict=True))
    if isinstance(values, list | tuple) and isinstance(as_json, list):
        return list(map(_ordered, cast("list[Any]", values), cast("list[Any]", as_json)))
    return as_json


def _read(arguments: _Values, ctx: RunContext[Any], tool: ToolsetTool[Any]) -> _Values:
    """The arguments as the tool gets them."""
    return tool.args_validator.validate_json(to_json(arguments), context=ctx.validation_context)


async def _in_time(call: Coroutine[Any, Any, Any]) -> Any:
    """What a call returns; raises `OutcomeUnknown` if the framework has ended it, because of its `timeout`."""
    try:
        return await call
    except ModelRetry as error:
        by_framework = error.__suppress_context__ and error.message.startswith("Timed out after ")
        if by_framework and isinstance(error.__context__, TimeoutError):
            # Nobody knows how far it came, and a thread goes on.
            raise OutcomeUnknown(error.message) from error
        raise


def _restored(value: Any) -> Any:
    """The result that the ledger has stored of a call executed before, or elsewhere; files are files again."""
    return _CONTENT.validate_json(_ANY.dump_json(value))


def _storable(result: Any) -> Any:
    """The result as JSON, if it can be; otherwise the gate stores a note."""
    value = result.return_value if isinstance(result, ToolReturn) else result
    try:
        return _ANY.dump_python(value, mode="json", by_alias=True)
    except PydanticSerializationError:
        return value
