"""Reads a log of tool calls line by line; a line is checked completely before any of its calls is written."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, NamedTuple, TypeAlias, cast

from operator_core.actions.errors import InvalidValue
from operator_core.actions.tool_calls import ToolCall, parse_calls, parse_object, parse_results
from operator_core.actions.types import ActionProposal, ActionRecord, ActionType
from operator_core.actions.values import MAX_JSON_BYTES, to_json_object
from operator_core.db.sql.base import encode_json

__all__ = ["BrokenLine", "Entry", "LoggedCall", "LoggedResult", "Outcome", "Source", "read_log"]

MAX_LINE: Final = 16 << 20
"""Limit of a line, in bytes: enough for parameters and a result at their limits, all escaped."""

_CHUNK: Final = 1 << 20


class Source(NamedTuple):
    """A log: its name for people, and the SHA-256 of its content in hexadecimal."""

    name: str
    digest: str

    @classmethod
    def of(cls, stream: BinaryIO, name: str) -> "Source":
        """Reads all of `stream` to compute the digest, and rewinds it."""
        digest = hashlib.sha256()
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
        stream.seek(0)
        return cls(name, digest.hexdigest())


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a call, according to the log."""

    success: bool
    error_message: str | None = None
    result_data: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class LoggedCall:
    """A call that an agent made: its proposal, and its outcome if the line contains one.

    `key` consists of the file's digest, the line and the call's position in the line, so it is the same each time
    the file is read. The provider's `call_id` can't be the key, because ids repeat between runs.
    """

    line: int
    key: str
    call_id: str | None
    proposal: ActionProposal
    outcome: Outcome | None


@dataclass(frozen=True, slots=True)
class LoggedResult:
    """The outcome of the latest call before this line whose id is `call_id`."""

    line: int
    call_id: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class BrokenLine:
    """A line that is not a tool call, or that the ledger can't store."""

    line: int
    problem: str


Entry: TypeAlias = LoggedCall | LoggedResult | BrokenLine


def read_log(stream: BinaryIO, source: Source) -> Iterator[Entry]:
    """Yields the calls and results of the lines of `stream`; blank lines are skipped.

    If any part of a line is broken, the whole line is one `BrokenLine`.
    """
    for number, line in _lines(stream):
        if line is None:
            yield BrokenLine(number, f"is longer than {MAX_LINE >> 20} MiB")
        elif not line.isspace():
            try:
                entries = _entries(_parse(line), number, source)
            except InvalidValue as error:
                yield BrokenLine(number, str(error))
            else:
                yield from entries


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Yields each line with its number; None for a line that exceeds the limit."""
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
    return parse_object(text)


def _entries(data: dict[str, Any], number: int, source: Source) -> list[Entry]:
    calls = [
        _logged(call, number, position, source) for position, call in enumerate(parse_calls(data))
    ]
    results = [
        LoggedResult(number, each.call_id, _checked(_outcome(each.content, each.is_error)))
        for each in parse_results(data)
    ]
    # A result of an earlier message's call comes before the calls of this message.
    return [*results, *calls]


def _logged(call: ToolCall, number: int, position: int, source: Source) -> LoggedCall:
    known = "" if call.call_id is None else f" ({call.call_id})"
    proposal = ActionProposal(
        action_name=call.name,
        action_type=ActionType.TOOL,
        parameters=call.arguments,
        reason=call.reason or f"replayed from {source.name} line {number}{known}",
    )
    encode_json(proposal.parameters, "arguments", MAX_JSON_BYTES)
    outcome = None if call.result is None else _checked(_outcome(call.result, call.is_error))
    key = f"replay:{source.digest}:{number}:{position}"
    return LoggedCall(number, key, call.call_id, proposal, outcome)


def _checked(outcome: Outcome) -> Outcome:
    """Validates `outcome` as the ledger does, so that the ledger does not refuse it after it has written the call."""
    record = ActionRecord(
        proposal_id=1,
        success=outcome.success,
        error_message=outcome.error_message,
        result_data=outcome.result_data,
    )
    if record.result_data is not None:
        encode_json(record.result_data, "result", MAX_JSON_BYTES)
    return Outcome(outcome.success, record.error_message, record.result_data)


def _outcome(result: object, is_error: bool | None) -> Outcome:
    """The outcome of a result; if the format does not tell, text that begins with Error is a failure."""
    if is_error is None:
        is_error = isinstance(result, str) and result.startswith("Error")
    if is_error:
        text = _text(result)
        return Outcome(success=False, error_message=text or "the tool reported an error")
    if isinstance(result, dict):
        return Outcome(success=True, result_data=cast("dict[str, Any]", result))
    return Outcome(success=True, result_data={"result": result})


def _text(result: object) -> str:
    """Returns a result as text; for content blocks, the text in them."""
    if isinstance(result, str):
        return result
    if isinstance(result, list):
        texts = [_block_text(each) for each in cast("list[object]", result)]
        if texts and None not in texts:
            return "\n".join(filter(None, texts))
    return encode_json(to_json_object({"result": result}), "result", MAX_JSON_BYTES)


def _block_text(block: object) -> str | None:
    text = cast("dict[str, Any]", block).get("text") if isinstance(block, dict) else block
    return text if isinstance(text, str) else None
