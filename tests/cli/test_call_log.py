"""Which lines are tool calls, and what is said of those that are not."""

import io
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from operator_core.actions.types import ActionType
from operator_core.cli.call_log import (
    BrokenLine,
    Entry,
    LoggedCall,
    LoggedResult,
    Outcome,
    Source,
    read_log,
)

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def read(*lines: dict[str, Any] | str | bytes) -> list[Entry]:
    def encoded(line: dict[str, Any] | str | bytes) -> bytes:
        text = json.dumps(line) if isinstance(line, dict) else line
        return text if isinstance(text, bytes) else text.encode()

    stream = io.BytesIO(b"\n".join(map(encoded, lines)))
    return list(read_log(stream, Source.of(stream, "log.jsonl")))


def read_one(line: dict[str, Any] | str | bytes) -> LoggedCall:
    (call,) = read(line)
    assert isinstance(call, LoggedCall), call
    return call


def problem(line: dict[str, Any] | str | bytes) -> str:
    (broken,) = read(line)
    assert isinstance(broken, BrokenLine), broken
    return broken.problem


FORMS = (
    {"name": "transfer_leader", "arguments": {"region_id": 7}},
    {"name": "transfer_leader", "arguments": '{"region_id": 7}'},
    {"type": "function", "function": {"name": "transfer_leader", "arguments": '{"region_id": 7}'}},
    {"function": {"name": "transfer_leader", "arguments": {"region_id": 7}}},
    {"type": "function_call", "name": "transfer_leader", "arguments": '{"region_id":7}'},
)


@pytest.mark.parametrize("line", FORMS)
def test_every_form_of_a_call_is_the_same_proposal(line: dict[str, Any]) -> None:
    proposal = read_one(line).proposal
    assert (proposal.action_name, proposal.parameters) == ("transfer_leader", {"region_id": 7})
    assert proposal.action_type is ActionType.TOOL


@pytest.mark.parametrize("arguments", [{}, "{}", "", "  "])
def test_a_call_without_arguments_has_no_parameters(arguments: Any) -> None:
    assert read_one({"name": "get_stores", "arguments": arguments}).proposal.parameters == {}
    assert read_one({"name": "get_stores"}).proposal.parameters == {}


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, "replayed from log.jsonl line 1"),
        ({"call_id": "call_9"}, "replayed from log.jsonl line 1 (call_9)"),
        ({"id": "call_9"}, "replayed from log.jsonl line 1 (call_9)"),
        ({"id": 9}, "replayed from log.jsonl line 1 (9)"),
        ({"id": None, "reason": ""}, "replayed from log.jsonl line 1"),
        ({"id": "call_9", "reason": "store 2 is hot"}, "store 2 is hot"),
    ],
)
def test_the_reason_is_the_given_one_or_says_where_the_call_stood(
    more: dict[str, Any], reason: str
) -> None:
    assert read_one({"name": "x", **more}).proposal.reason == reason


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        ("Error: no such store", Outcome(False, "Error: no such store")),
        ("Error", Outcome(False, "Error")),
        ("error: in lower case", Outcome(True, None, {"result": "error: in lower case"})),
        (" Error", Outcome(True, None, {"result": " Error"})),
        ("ok", Outcome(True, None, {"result": "ok"})),
        ("", Outcome(True, None, {"result": ""})),
        ({"moved": True}, Outcome(True, None, {"moved": True})),
        ({}, Outcome(True, None, {})),
        ({"Error": 1}, Outcome(True, None, {"Error": 1})),
        ([1, 2], Outcome(True, None, {"result": [1, 2]})),
        (False, Outcome(True, None, {"result": False})),
        (0, Outcome(True, None, {"result": 0})),
        (None, None),
    ],
)
def test_the_recorded_result_is_the_outcome(result: Any, outcome: Outcome | None) -> None:
    assert read_one({"name": "x", "result": result}).outcome == outcome


def test_a_missing_result_is_no_outcome() -> None:
    assert read_one({"name": "x"}).outcome is None


@pytest.mark.parametrize(
    ("content", "is_error", "outcome"),
    [
        (
            "Error: as some tools say",
            False,
            Outcome(True, None, {"result": "Error: as some tools say"}),
        ),
        ("Error: as some tools say", None, Outcome(False, "Error: as some tools say")),
        ("no such store", True, Outcome(False, "no such store")),
        ("", True, Outcome(False, "the tool reported an error")),
        ([{"type": "text", "text": "a"}, "b"], True, Outcome(False, "a\nb")),
        ([{"type": "image"}], True, Outcome(False, '{"result":[{"type":"image"}]}')),
        ({"missing": 3}, True, Outcome(False, '{"result":{"missing":3}}')),
        (
            [{"type": "text", "text": "a"}],
            None,
            Outcome(True, None, {"result": [{"type": "text", "text": "a"}]}),
        ),
    ],
)
def test_a_result_apart_from_its_call_says_itself_whether_it_is_an_error(
    content: Any, is_error: bool | None, outcome: Outcome
) -> None:
    line = {"type": "tool_result", "tool_use_id": "c1", "content": content, "is_error": is_error}
    assert read(line) == [LoggedResult(1, "c1", outcome)]


def test_a_key_is_of_the_whole_file_the_line_and_the_place_on_it() -> None:
    def keys(*lines: dict[str, Any] | str) -> list[str]:
        return [each.key for each in read(*lines) if isinstance(each, LoggedCall)]

    two = {"messages": [{"role": "assistant", "tool_calls": [{"id": "c1", **FORMS[3]}] * 2}]}
    known = keys(two, FORMS[0], FORMS[0])
    assert len(set(known)) == 4
    assert keys(two, FORMS[0], FORMS[0]) == known
    assert not set(keys(two, FORMS[0], FORMS[0], "")) & set(known)
    assert max(map(len, known)) <= 255


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "is not JSON: Expecting property name enclosed in double quotes at column 2"),
        ("transfer_leader", "is not JSON: Expecting value at column 1"),
        ('{"name": "x"} {"name": "y"}', "is not JSON: Extra data at column 15"),
        (b'{"name": "\xff"}', "is not UTF-8 at byte 11"),
        ("[]", "must be a JSON object, not a list"),
        ("null", "must be a JSON object, not null"),
        ('"x"', "must be a JSON object, not text"),
        ("12", "must be a JSON object, not a number"),
        ({}, "name: is missing"),
        ({"name": None}, "name: is missing"),
        ({"function": {}}, "name: is missing"),
        ({"function": "x"}, "function: must be a JSON object, not text"),
        ({"name": " "}, "name: must not be blank"),
        ({"name": 3}, "name: must be text, not a number"),
        ({"name": "a\0b"}, "action_name: must not be blank and must not contain a NUL character"),
        ({"name": "x", "arguments": None}, "arguments: must be a JSON object, not null"),
        ({"name": "x", "arguments": [1]}, "arguments: must be a JSON object, not a list"),
        ({"name": "x", "arguments": "[1]"}, "arguments: must be a JSON object, not a list"),
        ({"name": "x", "arguments": "{'a'"}, "arguments: is not JSON: Expecting property name"),
        ({"name": "x", "arguments": 0}, "arguments: must be a JSON object, not a number"),
        ({"name": "x", "reason": ["why"]}, "reason: must be text, not a list"),
        ({"name": "x", "id": {}}, "id: must be text, not an object"),
        ('{"name": "x", "arguments": {"a": NaN}}', "parameters.a: must be a finite number"),
        ('{"name": "x", "arguments": {"a": [1e400]}}', "parameters.a[0]: must be a finite number"),
        ({"name": "x", "arguments": {"a": "\0"}}, "parameters.a: must not contain a NUL"),
        ('{"name": "x", "result": "\\ud800"}', "result_data.result: must not contain a lone"),
        ('{"name": "x", "result": "Error \\u0000"}', "error_message: must not be blank and"),
        ('{"name": "x", "n": ' + "1" * 5000 + "}", "holds a number with too many digits"),
        ("[" * 100_000, "is nested too deep"),
        ('{"name": "x", "arguments": {"a":' + "[" * 64 + "]" * 64 + "}}", "deeper than 64"),
        ({"name": "x", "arguments": {"a": "y" * (1 << 20)}}, "arguments: must not be larger than"),
        (
            '{"type": "tool_result", "tool_use_id": "c", "is_error": true, "content": {"a": NaN}}',
            "result.a: must be a finite number",
        ),
        ({"name": "x", "result": "y" * (1 << 20)}, "result: must not be larger than 1048576 bytes"),
        ({"name": "x", "result": "Error" + "y" * (1 << 20)}, "error_message: String should have"),
    ],
)
def test_a_broken_line_says_why(line: dict[str, Any] | str | bytes, said: str) -> None:
    assert said in problem(line)


def test_lines_keep_their_numbers_past_blank_and_broken_ones() -> None:
    lines = read('{"name": "a"}', "", "  \t", "{", '{"name": "b"}\r', '{"name": "c"}')
    assert [(each.line, type(each)) for each in lines] == [
        (1, LoggedCall),
        (4, BrokenLine),
        (5, LoggedCall),
        (6, LoggedCall),
    ]


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert read_one(b'\xef\xbb\xbf{"name": "a"}').proposal.action_name == "a"
    assert read(b"\xef\xbb\xbf", b'{"name": "a"}')[0].line == 2


def test_a_line_is_given_before_the_next_one_is_there() -> None:
    out, into = os.pipe()
    with open(out, "rb") as stream:
        lines = read_log(stream, Source("stdin", ""))
        for number in (1, 2):
            os.write(into, b'{"name": "a"}\n')
            assert next(lines).line == number
        os.close(into)
        assert list(lines) == []


def test_a_line_without_end_is_left_out_and_never_held(tmp_path: Path) -> None:
    path = tmp_path / "endless"
    path.touch()
    os.truncate(path, 200 << 20)
    with path.open("ab") as stream:
        stream.write(b'\n{"name": "a"}\n')
    tracemalloc.start()
    try:
        with path.open("rb") as stream:
            endless, after = read_log(stream, Source.of(stream, "endless"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert endless == BrokenLine(1, "is longer than 16 MiB")
    assert (after.line, type(after)) == (2, LoggedCall)
    assert peak < 100 << 20


def test_the_example_is_a_dozen_calls_of_which_one_fails() -> None:
    with (EXAMPLES / "tool_calls.jsonl").open("rb") as stream:
        calls = list(read_log(stream, Source.of(stream, "tool_calls.jsonl")))
    assert len(calls) == 12
    assert all(isinstance(call, LoggedCall) for call in calls)
    outcomes = [call.outcome for call in calls if isinstance(call, LoggedCall)]
    assert [each.success for each in outcomes if each is not None].count(False) == 1
    assert None not in outcomes
