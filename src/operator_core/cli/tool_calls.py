"""Lines of a log of tool calls, read one at a time and checked whole before any becomes a proposal."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, cast

from operator_core.actions.errors import InvalidValue
from operator_core.actions.types import ActionProposal, ActionRecord, ActionType
from operator_core.actions.values import MAX_JSON_BYTES
from operator_core.db.base import encode_json

__all__ = ["BrokenLine", "ToolCall", "parse_object", "read_tool_calls"]

MAX_LINE: Final = 16 << 20
"""Bytes of the longest line that is read: parameters and a result at their limits, all escaped."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that an agent made: what it asked for, and the outcome that was recorded, if one was."""

    line: int
    proposal: ActionProposal
    success: bool | None
    error_message: str | None
    result_data: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class BrokenLine:
    """A line that is no tool call, or one that the ledger can't keep."""

    line: int
    problem: str


def read_tool_calls(stream: BinaryIO, source: str) -> Iterator[ToolCall | BrokenLine]:
    """The lines of `stream`, which people know as `source`; blank ones are passed over."""
    for number, line in _lines(stream):
        if line is None:
            yield BrokenLine(number, f"is longer than {MAX_LINE >> 20} MiB")
        elif not line.isspace():
            try:
                yield _tool_call(_parse(line), number, source)
            except InvalidValue as error:
                yield BrokenLine(number, str(error))


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Each line with its number; None for one that is too long to be held."""
    number = 0
    while line := stream.readline(MAX_LINE):
        number += 1
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf") or b"\n"
        if len(line) < MAX_LINE or line.endswith(b"\n"):
            yield number, line
            continue
        while (rest := stream.readline(MAX_LINE)) and not rest.endswith(b"\n"):
            pass
        yield number, None


def _parse(line: bytes) -> dict[str, Any]:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise InvalidValue("", f"is not UTF-8 at byte {error.start + 1}") from None
    return parse_object(text, "")


def parse_object(text: str, path: str) -> dict[str, Any]:
    """A JSON object; raises `InvalidValue`, which says of the value at `path` what is wrong with it."""
    return _object(_json(text, path), path)


def _json(text: str, path: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidValue(path, f"is not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise InvalidValue(path, "is nested too deep") from None
    except ValueError:
        raise InvalidValue(path, "holds a number with too many digits") from None


def _object(value: object, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidValue(path, f"must be a JSON object, not {_kind(value)}")
    return cast(dict[str, Any], value)


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {"list": "a list", "str": "text", "bool": "a truth value", "dict": "an object"}
    return names.get(type(value).__name__, "a number")


def _tool_call(data: dict[str, Any], number: int, source: str) -> ToolCall:
    # OpenAI's chat completions wrap the name and the arguments once more.
    call = _object(data["function"], "function") if _is_wrapped(data) else data
    if call.get("name") is None:
        raise InvalidValue("name", "is missing")
    proposal = ActionProposal(
        action_name=call["name"],
        action_type=ActionType.TOOL,
        parameters=_arguments(call.get("arguments")),
        reason=data.get("reason") or _default_reason(data, number, source),
    )
    success, error_message, result_data = _outcome(data.get("result"))
    # Checked here, so that no call gets half-way into the ledger and is refused there.
    outcome = ActionRecord(
        proposal_id=1, success=success, error_message=error_message, result_data=result_data
    )
    encode_json(proposal.parameters, "arguments", MAX_JSON_BYTES)
    if outcome.result_data is not None:
        encode_json(outcome.result_data, "result", MAX_JSON_BYTES)
    return ToolCall(number, proposal, success, outcome.error_message, outcome.result_data)


def _is_wrapped(data: dict[str, Any]) -> bool:
    return "name" not in data and "function" in data


def _arguments(value: object) -> dict[str, Any]:
    """An object as it is or as JSON text; a call without any may leave them out, or blank."""
    if isinstance(value, str):
        value = _json(value, "arguments") if value.strip() else None
    return {} if value is None else _object(value, "arguments")


def _default_reason(data: dict[str, Any], number: int, source: str) -> str:
    reason = f"replayed from {source} line {number}"
    for key in ("call_id", "id"):
        if data.get(key) is not None:
            if type(data[key]) not in (str, int):
                raise InvalidValue(key, f"must be text, not {_kind(data[key])}")
            return f"{reason} ({data[key]})"
    return reason


def _outcome(result: object) -> tuple[bool | None, str | None, dict[str, Any] | None]:
    """Success, error message and result data; a tool tells of failure by text that begins so.

    A call without a result was not carried out, as far as the log tells: its success is None.
    """
    if isinstance(result, str) and result.startswith("Error"):
        return False, result, None
    if result is None:
        return None, None, None
    if isinstance(result, dict):
        return True, None, cast("dict[str, Any]", result)
    return True, None, {"result": result}
