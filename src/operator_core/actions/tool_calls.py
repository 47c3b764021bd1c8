"""Parses tool calls in the formats of the model providers, without I/O and without a provider's package.

`parse_calls` reads one message, response or log line and returns the calls that it requests. `parse_results`
returns the results that it contains. The formats and the documents that define them:

- Anthropic Messages API, content blocks ``tool_use`` (``id``, ``name``, ``input``) and ``tool_result``:
  "Tool use with Claude" and "Create a Message" in the API reference.
- OpenAI Responses API, items ``function_call`` (``call_id``, ``name``, ``arguments`` as JSON text),
  ``function_call_output`` and ``mcp_approval_request``: "Function calling" and "The response object".
- OpenAI Chat Completions API, ``tool_calls[]`` (``id``, ``function.name``, ``function.arguments`` as JSON text)
  and messages of the role ``tool``: "The chat completion object".
- LangChain, ``ToolCall`` (``name``, ``args``, ``id``), ``AIMessage.tool_calls`` and ``ToolMessage``: the
  reference of ``langchain_core.messages``.
- A flat log line: ``name``, one of ``arguments``, ``args`` and ``input``, and optionally ``call_id`` or ``id``,
  ``reason`` and ``result``. Only in this format the arguments may be absent, if no unknown key is present.

Calls that the provider executes itself (``server_tool_use``, ``mcp_call``, ``web_search_call`` and others) are
not returned. The parser does not guess: an unknown kind of call, an absent or misspelt key, and arguments that
are not a JSON object raise `InvalidValue` with the path of the problem.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, cast

from pydantic import BaseModel

from operator_core.actions.errors import InvalidValue
from operator_core.actions.values import join_paths

__all__ = ["ToolCall", "ToolResult", "parse_calls", "parse_object", "parse_results"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model requests."""

    name: str
    arguments: dict[str, Any]
    """The arguments; the same object as in the message, not a copy, if the message holds an object."""
    call_id: str | None = None
    """The provider's id of the call. Providers repeat ids between runs."""
    reason: str | None = None
    """The reason, if the line has one."""
    server_label: str | None = None
    """The MCP server that an ``mcp_approval_request`` names."""
    result: Any = None
    """The result of the call, if the same message or line contains it; otherwise None."""
    is_error: bool | None = None
    """Whether `result` is a failure; None if the format does not tell."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The result of a call in an earlier message."""

    call_id: str
    content: Any
    """Text, a list of content blocks or another JSON value; never None."""
    is_error: bool | None = None
    """Whether the call failed; None if the format does not tell."""


def parse_calls(message: Mapping[str, Any] | BaseModel) -> list[ToolCall]:
    """Returns the calls that `message` requests, in order; an empty list for a message without calls.

    `message` is a call, a message, a whole response, or a conversation (an object with ``messages``). It may be a
    JSON object or a model of the provider's package. If `message` contains the result of one of its own calls,
    that is the call's `result`. Raises `InvalidValue`.
    """
    calls: list[ToolCall] = []
    for part in _parts(_mapping(message, ""), ""):
        if isinstance(part, ToolCall):
            calls.append(part)
            continue
        for index in reversed(range(len(calls))):
            if calls[index].call_id == part.call_id:
                calls[index] = replace(calls[index], result=part.content, is_error=part.is_error)
                break
    return calls


def parse_results(message: Mapping[str, Any] | BaseModel) -> list[ToolResult]:
    """Returns the results in `message` of calls in earlier messages, in order. Raises `InvalidValue`."""
    results: list[ToolResult] = []
    own: set[str | None] = set()
    for part in _parts(_mapping(message, ""), ""):
        if isinstance(part, ToolCall):
            own.add(part.call_id)
        elif part.call_id not in own:
            results.append(part)
    return results


def parse_object(text: str, path: str = "") -> dict[str, Any]:
    """Parses `text` as a JSON object; raises `InvalidValue` with `path`."""
    return _object(_json(text, path), path)


_ARGUMENTS: Final = ("arguments", "args", "input")
"""The keys that the formats use for a call's arguments."""

_TYPED: Final = {
    "tool_use": ("id", "input"),
    "function_call": ("call_id", "arguments"),
    "mcp_approval_request": ("id", "arguments"),
}
"""The types of calls, each with the keys of the call's id and arguments."""

_RESULTS: Final = {
    "tool_result": ("tool_use_id", "content"),
    "function_call_output": ("call_id", "output"),
    "tool": ("tool_call_id", "content"),
}
"""The types of results, each with the keys of the call's id and the content."""

_PROVIDERS_OWN: Final = frozenset(
    {
        "code_interpreter_call",
        "file_search_call",
        "image_generation_call",
        "mcp_call",
        "mcp_tool_use",
        "server_tool_call",
        "server_tool_use",
        "tool_search_call",
        "web_search_call",
    }
)
"""Calls that the provider executes itself."""

_IGNORED: Final = ("reasoning", "mcp_list_tools")
"""Items of a response that are neither calls, results nor messages."""

_MESSAGES: Final = ("message", "ai", "AIMessageChunk", "human", "system", "chat")
"""The types of messages, as Anthropic, OpenAI and LangChain name them."""

_FLAT: Final = frozenset({"name", "type", "call_id", "id", "reason", "result", *_ARGUMENTS})

_NO_KIND: Final = "is not a kind of call with JSON arguments"

_Part: TypeAlias = ToolCall | ToolResult


def _parts(value: Mapping[str, Any], path: str) -> Iterator[_Part]:
    """Yields the calls and results of an object in any known format."""
    if _is_call(value):
        yield from _item(value, path)
    elif value.get("choices") is not None:
        for choice, at in _items(value, "choices", path):
            yield from _item(_member(choice, "message", at), join_paths(at, "message"))
    elif value.get("messages") is not None:
        for each, at in _items(value, "messages", path):
            yield from _item(each, at)
    elif isinstance(value.get("output"), list) and not _is_part(value):
        for part, _ in _blocks(value, "output", path):
            yield part
    else:
        yield from _item(value, path)


def _item(value: Mapping[str, Any], path: str) -> Iterator[_Part]:
    """Yields the parts of a call, a result or a message."""
    kind = value.get("type")
    if _is_part(value):
        yield from _part(value, path)
    elif _is_message(value):
        yield from _message(value, path)
    elif "function" in value and "name" not in value:
        yield _chat_call(value, path)
    elif kind not in _IGNORED:
        yield _flat(value, path)


def _is_call(value: Mapping[str, Any]) -> bool:
    """Whether it has a name and arguments; other keys don't matter."""
    return value.get("name") is not None and any(key in value for key in _ARGUMENTS)


def _is_message(value: Mapping[str, Any]) -> bool:
    if value.get("tool_calls") is not None or value.get("function_call") is not None:
        return True
    if "content" not in value or any(key in value for key in _ARGUMENTS):
        return False
    # An object with a name may be a call whose key of the arguments is misspelt.
    return value.get("name") is None or "role" in value or value.get("type") in _MESSAGES


def _is_part(value: Mapping[str, Any]) -> bool:
    """Whether its type or role marks it as a call or a result."""
    return _is_result(value) or _is_typed(value.get("type"))


def _is_result(value: Mapping[str, Any]) -> bool:
    kind = value.get("type")
    if kind == "tool":
        return "tool_call_id" in value
    return value.get("role") == "tool" or (isinstance(kind, str) and kind in _RESULTS)


def _is_typed(kind: object) -> bool:
    suffixes = ("_call", "_use", "_approval_request")
    return isinstance(kind, str) and kind.endswith(suffixes)


def _part(value: Mapping[str, Any], path: str) -> Iterator[_Part]:
    if _is_result(value):
        yield _result(value, path)
    else:
        yield from _typed(value, value["type"], path)


def _typed(value: Mapping[str, Any], kind: str, path: str) -> Iterator[ToolCall]:
    if kind in _PROVIDERS_OWN:
        return
    if kind == "tool_call":
        # The type that LangChain and many logs use.
        yield _flat(value, path)
    elif kind in _TYPED:
        id_key, key = _TYPED[kind]
        yield ToolCall(
            name=_name(value, path),
            arguments=_arguments(value, key, path),
            call_id=_call_id(value, (id_key,), path),
            reason=_optional_text(value, "reason", path),
            server_label=_optional_text(value, "server_label", path),
            result=value.get("result"),
        )
    else:
        raise InvalidValue(join_paths(path, "type"), _NO_KIND)


def _message(value: Mapping[str, Any], path: str) -> Iterator[_Part]:
    """Yields the parts of a message: its content blocks, and the lists of calls beside them."""
    if value.get("invalid_tool_calls"):
        at = join_paths(path, "invalid_tool_calls[0]")
        raise InvalidValue(at, "is a call whose arguments could not be read")
    if value.get("role") == "function":
        at = join_paths(path, "role")
        raise InvalidValue(at, "must not be function: such a result does not name its call")
    listed = [
        _chat_call(each, at) if each.get("function") is not None else _listed(each, at)
        for each, at in _items(value, "tool_calls", path)
    ]
    if "tool_call" in value:
        raise InvalidValue(
            join_paths(path, "tool_call"), "is not a known key; did you mean tool_calls?"
        )
    extra = value.get("additional_kwargs")
    if not listed and isinstance(extra, Mapping):
        # LangChain keeps OpenAI's calls here and derives its list from them.
        beside, at = cast(Mapping[str, Any], extra), join_paths(path, "additional_kwargs")
        listed = [_chat_call(each, where) for each, where in _items(beside, "tool_calls", at)]
    if value.get("function_call") is not None:
        call, at = _member(value, "function_call", path), join_paths(path, "function_call")
        listed.append(ToolCall(_name(call, at), _arguments(call, "arguments", at)))
    content = value.get("content")
    blocks = [] if isinstance(content, str) else list(_blocks(value, "content", path))
    # LangChain repeats the calls of Anthropic's content blocks in its list.
    known = {call.call_id for call in listed}
    for block, at in blocks:
        if not isinstance(block, ToolCall) or not listed:
            yield block
        elif block.call_id not in known:
            raise InvalidValue(at, "is a call that is missing among the message's tool_calls")
    yield from listed


def _listed(value: Mapping[str, Any], path: str) -> ToolCall:
    if value.get("type") not in (None, "function", "tool_call"):
        raise InvalidValue(join_paths(path, "type"), _NO_KIND)
    if "args" not in value:
        raise InvalidValue(join_paths(path, "function"), "is missing")
    return _flat(value, path)


def _blocks(value: Mapping[str, Any], key: str, path: str) -> Iterator[tuple[_Part, str]]:
    """Yields the calls and results among the content blocks or items under `key`, with their paths."""
    for block, at in _items(value, key, path):
        if _is_part(block):
            for part in _part(block, at):
                yield part, at
        elif "name" in block and any(each in block for each in _ARGUMENTS):
            raise InvalidValue(join_paths(at, "type"), "is not a known kind of call")


def _chat_call(value: Mapping[str, Any], path: str) -> ToolCall:
    """Parses a call of Chat Completions; a log line's own keys stand beside ``function``."""
    function, at = _member(value, "function", path), join_paths(path, "function")
    return ToolCall(
        name=_name(function, at),
        arguments=_arguments(function, "arguments", at),
        call_id=_call_id(value, ("call_id", "id"), path),
        reason=_optional_text(value, "reason", path),
        result=value.get("result"),
    )


def _flat(value: Mapping[str, Any], path: str) -> ToolCall:
    name = _name(value, path)
    present = [key for key in _ARGUMENTS if key in value]
    if present:
        arguments = _arguments(value, present[0], path)
    else:
        arguments = {}
        # An unknown key may be a misspelt key of the arguments.
        for key in value:
            if key not in _FLAT:
                raise InvalidValue(
                    join_paths(path, "arguments"), f"is missing, and {key!a} is not a known key"
                )
    return ToolCall(
        name=name,
        arguments=arguments,
        call_id=_call_id(value, ("call_id", "id"), path),
        reason=_optional_text(value, "reason", path),
        result=value.get("result"),
    )


def _result(value: Mapping[str, Any], path: str) -> ToolResult:
    id_key, key = _RESULTS["tool" if value.get("role") == "tool" else value["type"]]
    call_id = _call_id(value, (id_key,), path)
    if call_id is None:
        raise InvalidValue(join_paths(path, id_key), "is missing")
    content, failed = value.get(key), value.get("is_error")
    if failed is None and value.get("status") in ("error", "success"):
        failed = value["status"] == "error"
    if failed is not None and type(failed) is not bool:
        raise InvalidValue(join_paths(path, "is_error"), "must be true or false")
    return ToolResult(call_id, "" if content is None else content, failed)


def _name(value: Mapping[str, Any], path: str) -> str:
    name, at = value.get("name"), join_paths(path, "name")
    if name is None:
        raise InvalidValue(at, "is missing")
    if not isinstance(name, str):
        raise InvalidValue(at, f"must be text, not {_kind(name)}")
    if not name.strip():
        raise InvalidValue(at, "must not be blank")
    return name


def _arguments(value: Mapping[str, Any], key: str, path: str) -> dict[str, Any]:
    """Returns the arguments from an object or from JSON text; blank text means no arguments."""
    for other in _ARGUMENTS:
        if other != key and other in value and key in value:
            raise InvalidValue(join_paths(path, other), f"must not stand beside {key}")
    at = join_paths(path, key)
    if key not in value:
        raise InvalidValue(at, "is missing")
    arguments = value[key]
    if isinstance(arguments, str):
        return parse_object(arguments, at) if arguments.strip() else {}
    return _object(arguments, at)


def _call_id(value: Mapping[str, Any], keys: Sequence[str], path: str) -> str | None:
    for key in keys:
        known = value.get(key)
        if known is None:
            continue
        if type(known) not in (str, int):
            raise InvalidValue(join_paths(path, key), f"must be text, not {_kind(known)}")
        return str(known)
    return None


def _optional_text(value: Mapping[str, Any], key: str, path: str) -> str | None:
    text = value.get(key)
    if text is not None and not isinstance(text, str):
        raise InvalidValue(join_paths(path, key), f"must be text, not {_kind(text)}")
    return text or None


def _items(
    value: Mapping[str, Any], key: str, path: str
) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Yields the objects of the list under `key`, with their paths; nothing if the list is absent."""
    items, at = value.get(key), join_paths(path, key)
    if items is None:
        return
    if not isinstance(items, list | tuple):
        raise InvalidValue(at, f"must be a list, not {_kind(items)}")
    for index, item in enumerate(cast(Sequence[object], items)):
        # LangChain's content may mix text and blocks.
        if not (key == "content" and isinstance(item, str)):
            yield _mapping(item, f"{at}[{index}]"), f"{at}[{index}]"


def _member(value: Mapping[str, Any], key: str, path: str) -> Mapping[str, Any]:
    return _mapping(value.get(key), join_paths(path, key))


def _mapping(value: object, path: str) -> Mapping[str, Any]:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return cast(Mapping[str, Any], value)
    raise InvalidValue(path, f"must be a JSON object, not {_kind(value)}")


def _object(value: object, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidValue(path, f"must be a JSON object, not {_kind(value)}")
    return cast(dict[str, Any], value)


def _json(text: str, path: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidValue(path, f"is not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise InvalidValue(path, "is nested too deep") from None
    except ValueError:
        raise InvalidValue(path, "holds a number with too many digits") from None


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {"list": "a list", "str": "text", "bool": "a truth value", "dict": "an object"}
    names |= {"int": "a number", "float": "a number"}
    return names.get(type(value).__name__, type(value).__name__)
