"""The tools of an agent: functions, and the arguments that their signatures take."""

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar, cast, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import to_jsonable_python

from operator_core.actions.errors import InvalidValue
from operator_core.actions.tool_calls import parse_object
from operator_core.actions.types import ActionProposal
from operator_core.actions.values import to_json_object

__all__ = ["Arguments", "Call", "OnCancel", "Tool", "Tools"]

F = TypeVar("F", bound=Callable[..., Any])

Arguments: TypeAlias = Mapping[str, Any] | BaseModel | str
"""The arguments of a call: an object, or its JSON, as some providers send it."""

OnCancel: TypeAlias = Literal["unknown", "not done"]
"""What a cancellation in the middle of a tool means: nobody knows how far it came, or surely nothing was done."""

_NOT_BY_NAME: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that an agent may call."""

    name: str
    function: Callable[..., Any]
    expires_in: timedelta | None
    max_retries: int
    on_cancel: OnCancel
    arguments: type[BaseModel]
    """The model of its arguments."""

    def stops(self, function: Callable[..., Any]) -> bool:
        """Whether a cancellation means that nothing was done; a handler in place of the tool does not say so."""
        return self.function is function and self.on_cancel == "not done"

    def read(self, parameters: Mapping[str, Any]) -> BaseModel:
        """The arguments; raises `ValidationError`."""
        return self.arguments.model_validate(parameters)

    def values(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments for the function, of what the ledger has stored; raises `ValidationError`."""
        read = self.read(parameters)
        fields = self.arguments.model_fields.items()
        named = {field.alias or name: getattr(read, name) for name, field in fields}
        return named | (read.model_extra or {})


class Call(NamedTuple):
    """A call as it is proposed: `problem` says why it can't be executed."""

    name: str
    parameters: dict[str, Any]
    tool: Tool | None
    problem: str | None = None

    def is_of(self, name: str, parameters: Mapping[str, Any]) -> bool:
        """Whether a proposal is for the same call: for the tool, the arguments are equal."""
        if name != self.name:
            return False
        # Python takes 1, 1.0 and True for equal.
        if _text(parameters) == _text(self.parameters):
            return True
        if self.tool is None or self.problem is not None:
            return False
        try:
            # A set has no order.
            return _unordered(self.tool.read(parameters)) == _unordered(
                self.tool.read(self.parameters)
            )
        except Exception:
            return False


class Tools:
    """Tools by name. Several gates may share them."""

    def __init__(self, functions: Iterable[Callable[..., Any]] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        for function in functions:
            self.add(function)

    def add(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        expires_in: timedelta | None = None,
        max_retries: int = 0,
        on_cancel: OnCancel = "unknown",
    ) -> None:
        """Adds a function under `name`, by default its own; raises `InvalidValue` if it can't be called by name."""
        known = name or getattr(function, "__name__", "")
        if not known or known in self._tools:
            raise InvalidValue("name", f"must be a new name of a tool, not {known!r}")
        if on_cancel not in ("unknown", "not done"):
            raise InvalidValue("on_cancel", "must be 'unknown' or 'not done'")
        if expires_in is not None and expires_in <= timedelta(0):
            raise InvalidValue("expires_in", "must be more than nothing")
        # Raises for a number that no proposal may have.
        ActionProposal(action_name=known, reason="a tool", max_retries=max_retries)
        model = _model(function, known)
        self._tools[known] = Tool(known, function, expires_in, max_retries, on_cancel, model)

    def get(self, name: str) -> Tool | None:
        """The tool of this name, if there is one."""
        return self._tools.get(name)

    def function(self, name: str) -> Callable[..., Any] | None:
        """The function of this tool, if there is one."""
        tool = self._tools.get(name)
        return None if tool is None else tool.function

    def read(self, name: str, arguments: Arguments) -> Call:
        """Checks a call of a model. Its parameters are complete: they have the defaults of the function.

        Where there are no tools at all, somebody else knows them: every call is taken as it is.
        """
        tool = self._tools.get(name)
        try:
            given = _object(arguments)
        except InvalidValue as error:
            text = arguments if isinstance(arguments, str) else repr(arguments)
            return Call(
                name, {"arguments": text[:10_000]}, tool, f"the arguments can't be read: {error}"
            )
        if not self._tools:
            return Call(name, given, None)
        if tool is None:
            known = ", ".join(sorted(self._tools))
            return Call(name, given, None, f"there is no tool {name!r}; there are: {known}")
        try:
            read = tool.read(given)
            parameters = to_json_object(read.model_dump(mode="json", by_alias=True))
            # What is approved is what the tool gets: it is read again before it runs.
            if tool.read(parameters) != read:
                why = "they change when they are stored as JSON and read again"
                return Call(name, parameters, tool, f"the arguments can't be approved: {why}")
            return Call(name, parameters, tool)
        except Exception as error:
            # A validator of the tool may raise anything.
            return Call(name, given, tool, f"the arguments don't fit: {_problems(error)}")


def _object(arguments: Arguments) -> dict[str, Any]:
    if isinstance(arguments, str):
        # A model that has nothing to say sends an empty text.
        return parse_object(arguments) if arguments.strip() else {}
    return to_json_object(dict(arguments) if isinstance(arguments, Mapping) else arguments)


def _problems(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    found = error.errors(include_url=False, include_context=False, include_input=False)
    parts = [f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg']}" for each in found]
    return "; ".join(parts[:10])


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


def _open(kind: Any) -> type[BaseModel]:
    """A model that takes any other argument of this type."""
    return type(
        "_Open",
        (BaseModel,),
        {
            "__module__": __name__,
            "__annotations__": {"__pydantic_extra__": dict[str, kind]},
            "model_config": ConfigDict(extra="allow", validate_default=True),
        },
    )


def _model(function: Callable[..., Any], name: str) -> type[BaseModel]:
    """The model of what a function takes."""
    if not inspect.isfunction(function) and not inspect.ismethod(function):
        raise InvalidValue("function", f"{name}: must be a function or a method")
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    base: type[BaseModel] = _Closed
    for number, parameter in enumerate(inspect.signature(function).parameters.values()):
        if parameter.kind in _NOT_BY_NAME:
            raise InvalidValue("function", f"{name}: {parameter} can't be given by name")
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            # The values of the others have this type too.
            base = _open(hints.get(parameter.name, Any))
            continue
        kind, default = hints.get(parameter.name, Any), parameter.default
        if default is inspect.Parameter.empty:
            default = ...
        elif default is None:
            # As in `note: str = None`.
            kind = kind | None if kind is not Any else kind
        # A parameter may have a name that a model has for itself, such as `json`.
        field = Field(default, alias=parameter.name)
        fields[f"argument_{number}"] = (kind, field)
    return create_model(f"{name}_arguments", __base__=base, **fields)


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _unordered(read: BaseModel) -> str:
    """The arguments as text, in which sets are sorted, and 1, 1.0 and True differ."""

    def plain(value: object) -> object:
        if isinstance(value, dict):
            members = cast("dict[object, object]", value)
            return {str(key): plain(item) for key, item in members.items()}
        if isinstance(value, set | frozenset):
            return sorted(_text(plain(item)) for item in cast("set[object]", value))
        if isinstance(value, list | tuple):
            return [plain(item) for item in cast("list[object]", value)]
        return to_jsonable_python(value)

    return _text(plain(read.model_dump(by_alias=True)))
