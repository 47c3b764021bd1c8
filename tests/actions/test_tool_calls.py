"""The providers' formats of tool calls, read to the letter: a call comes out whole, or the line is refused."""

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from operator_core.actions.errors import InvalidValue
from operator_core.actions.tool_calls import ToolCall, ToolResult, parse_calls, parse_results

ARGUMENTS = {"store_id": 5}
TEXT = json.dumps(ARGUMENTS)
CALL = ToolCall("drain_store", ARGUMENTS, "c1")

TOOL_USE = {"type": "tool_use", "id": "c1", "name": "drain_store", "input": ARGUMENTS}
FUNCTION_CALL = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "c1",
    "name": "drain_store",
    "arguments": TEXT,
    "status": "completed",
}
CHAT_CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "drain_store", "arguments": TEXT},
}
LANGCHAIN_CALL = {"name": "drain_store", "args": ARGUMENTS, "id": "c1", "type": "tool_call"}
FLAT = {"name": "drain_store", "arguments": ARGUMENTS, "call_id": "c1", "task": 1, "step": 2}

MESSAGES: dict[str, dict[str, Any]] = {
    "anthropic block": TOOL_USE,
    "anthropic message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "I drain it."}, TOOL_USE],
        "stop_reason": "tool_use",
    },
    "anthropic message with the provider's own call": {
        "role": "assistant",
        "content": [
            {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "q"}},
            {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []},
            TOOL_USE,
        ],
    },
    "responses item": FUNCTION_CALL,
    "responses response": {
        "id": "resp_1",
        "object": "response",
        "output": [
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text"}]},
            {"type": "web_search_call", "id": "ws_1", "status": "completed"},
            {"type": "mcp_call", "id": "mcp_1", "name": "x", "arguments": "{}", "output": "ok"},
            FUNCTION_CALL,
        ],
    },
    "chat call": CHAT_CALL,
    "chat message": {"role": "assistant", "content": None, "tool_calls": [CHAT_CALL]},
    "chat completion": {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "tool_calls": [CHAT_CALL]}}],
    },
    "conversation": {
        "messages": [
            {"role": "user", "content": "drain store 5"},
            {"role": "assistant", "content": None, "tool_calls": [CHAT_CALL]},
        ]
    },
    "langchain call": LANGCHAIN_CALL,
    "langchain call without a type": {"name": "drain_store", "args": ARGUMENTS, "id": "c1"},
    "langchain message": {
        "type": "ai",
        "content": ["I drain it.", {"type": "text", "text": "now"}, TOOL_USE],
        "additional_kwargs": {},
        "name": None,
        "id": "run-1",
        "tool_calls": [LANGCHAIN_CALL],
        "invalid_tool_calls": [],
    },
    "flat": FLAT,
    "flat with text": {**FLAT, "arguments": TEXT},
    "flat with an id": {"name": "drain_store", "input": ARGUMENTS, "id": "c1"},
}


@pytest.mark.parametrize("key", ["output", "messages", "choices", "content"])
@pytest.mark.parametrize("beside", [[], [{"ok": True}], None])
def test_what_stands_beside_a_call_is_no_message_around_it(key: str, beside: object) -> None:
    for arguments in ("arguments", "args", "input"):
        call = {"name": "drain_store", arguments: {"store_id": 5}, key: beside}
        (found,) = parse_calls(call)
        assert (found.name, found.arguments) == ("drain_store", {"store_id": 5})


def test_langchains_copy_of_a_call_is_read_where_it_is_the_only_one() -> None:
    copied = {"tool_calls": [CHAT_CALL]}
    message = {"type": "ai", "content": "", "tool_calls": [], "additional_kwargs": copied}
    assert parse_calls(message) == [CALL]
    assert parse_calls({**message, "tool_calls": [LANGCHAIN_CALL]}) == [CALL]


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_every_shape_gives_the_same_call(message: dict[str, Any]) -> None:
    before = copy.deepcopy(message)
    assert parse_calls(message) == [CALL]
    assert message == before


def test_an_approval_request_says_whose_server_it_is_for() -> None:
    request = {
        "type": "mcp_approval_request",
        "id": "mcpr_1",
        "server_label": "stores",
        "name": "drain_store",
        "arguments": TEXT,
    }
    wanted = ToolCall("drain_store", ARGUMENTS, "mcpr_1", server_label="stores")
    assert parse_calls(request) == parse_calls({"output": [request]}) == [wanted]


def test_the_calls_of_a_message_keep_their_order() -> None:
    def call(number: int) -> dict[str, Any]:
        return {"type": "tool_use", "id": f"c{number}", "name": "x", "input": {"n": number}}

    calls = parse_calls({"role": "assistant", "content": [call(number) for number in range(9)]})
    assert [(each.call_id, each.arguments["n"]) for each in calls] == [
        (f"c{number}", number) for number in range(9)
    ]


def test_a_legacy_function_call_has_no_id() -> None:
    message = {"role": "assistant", "content": None, "function_call": CHAT_CALL["function"]}
    assert parse_calls(message) == [ToolCall("drain_store", ARGUMENTS)]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "drain store 5"},
        {"role": "assistant", "content": [{"type": "text", "text": "done"}]},
        {"type": "message", "role": "assistant", "content": [], "name": "bob"},
        {"object": "response", "output": []},
        {"choices": []},
        {"role": "assistant", "content": "no", "tool_calls": None, "function_call": None},
        {"role": "assistant", "content": "no", "tool_calls": []},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "q"}},
        {"type": "ai", "content": "no", "tool_calls": [], "invalid_tool_calls": []},
    ],
)
def test_a_message_that_only_talks_has_no_calls(message: dict[str, Any]) -> None:
    assert parse_calls(message) == []
    assert parse_results(message) == []


def test_models_of_a_providers_package_are_read_as_what_they_dump() -> None:
    class Block(BaseModel):
        type: str = "tool_use"
        id: str = "c1"
        name: str = "drain_store"
        input: dict[str, Any] = ARGUMENTS
        cache_control: None = None

    class Message(BaseModel):
        role: str = "assistant"
        content: list[Block] = [Block()]

    assert parse_calls(Block()) == parse_calls(Message()) == [CALL]
    assert parse_calls({"role": "assistant", "content": [Block()]}) == [CALL]


@pytest.mark.parametrize("arguments", [{}, "{}", "", " \n"])
@pytest.mark.parametrize(
    ("message", "key"),
    [(FUNCTION_CALL, "arguments"), (TOOL_USE, "input"), (LANGCHAIN_CALL, "args"), (FLAT, "args")],
)
def test_a_call_says_itself_that_it_has_no_arguments(
    message: dict[str, Any], key: str, arguments: Any
) -> None:
    cleared = {
        each: message[each] for each in message if each not in ("arguments", "input", "args")
    }
    assert parse_calls({**cleared, key: arguments})[0].arguments == {}


def test_a_log_line_without_any_other_key_may_leave_its_arguments_out() -> None:
    for line in ({"name": "x"}, {"name": "x", "id": 9, "result": "ok", "reason": "why"}):
        assert parse_calls(line)[0].arguments == {}
    assert parse_calls({"name": "x", "id": 9, "result": "ok", "reason": "why"}) == [
        ToolCall("x", {}, "9", "why", result="ok")
    ]


def without(message: dict[str, Any], key: str) -> dict[str, Any]:
    return {each: message[each] for each in message if each != key}


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({}, "name: is missing"),
    ({"hello": "world"}, "name: is missing"),
    ({"arguments": {}}, "name: is missing"),
    ({"name": None, "arguments": {}}, "name: is missing"),
    ({"name": 3, "arguments": {}}, "name: must be text, not a number"),
    ({"name": " ", "arguments": {}}, "name: must not be blank"),
    # A misspelt key, in each place where one may stand.
    ({"name": "x", "argument": {}}, "arguments: is missing, and 'argument' is not a known key"),
    ({"name": "x", "parameters": {}}, "arguments: is missing, and 'parameters' is not a known key"),
    ({"name": "x", "task": 1, "trial": 0}, "arguments: is missing, and 'task' is not a known key"),
    ({"name": "x", "input_schema": {}}, "arguments: is missing, and 'input_schema' is no"),
    ({**without(TOOL_USE, "input"), "arguments": ARGUMENTS}, "input: is missing"),
    ({**without(TOOL_USE, "input"), "inputs": ARGUMENTS}, "input: is missing"),
    ({**without(FUNCTION_CALL, "arguments"), "args": ARGUMENTS}, "arguments: is missing"),
    ({"function": {"name": "x", "argument": "{}"}}, "function.arguments: is missing"),
    ({"function": {"name": "x"}}, "function.arguments: is missing"),
    ({"function": {"arguments": "{}"}}, "function.name: is missing"),
    ({"function": "x"}, "function: must be a JSON object, not text"),
    ({"name": "x", "function": {"name": "x", "arguments": "{}"}}, "'function' is not a known key"),
    # Two spellings at once.
    ({**FLAT, "input": ARGUMENTS}, "input: must not stand beside arguments"),
    ({**FLAT, "args": ARGUMENTS}, "args: must not stand beside arguments"),
    ({**TOOL_USE, "arguments": {}}, "arguments: must not stand beside input"),
    ({**FUNCTION_CALL, "input": ""}, "input: must not stand beside arguments"),
    ({**LANGCHAIN_CALL, "input": {}}, "input: must not stand beside args"),
    # Arguments that are no object.
    ({"name": "x", "arguments": None}, "arguments: must be a JSON object, not null"),
    ({"name": "x", "arguments": [1]}, "arguments: must be a JSON object, not a list"),
    ({"name": "x", "arguments": "[1]"}, "arguments: must be a JSON object, not a list"),
    ({"name": "x", "arguments": "null"}, "arguments: must be a JSON object, not null"),
    ({"name": "x", "arguments": 0}, "arguments: must be a JSON object, not a number"),
    ({"name": "x", "args": True}, "args: must be a JSON object, not a truth value"),
    ({"name": "x", "arguments": "{'a'"}, "arguments: is not JSON: Expecting property name"),
    ({**TOOL_USE, "input": None}, "input: must be a JSON object, not null"),
    ({**FUNCTION_CALL, "arguments": '{"store_id": 5'}, "arguments: is not JSON"),
    # Kinds that nobody knows, or that have no JSON arguments.
    (
        {"type": "custom_tool_call", "call_id": "c1", "name": "x", "input": "text"},
        "type: is not a kind",
    ),
    ({"type": "computer_call", "call_id": "c1", "action": {}}, "type: is not a kind"),
    ({"type": "future_call", "name": "x", "arguments": {}}, "type: is not a kind"),
    ({"type": "invalid_tool_call", "name": "x", "args": "{", "id": "c1"}, "type: is not a kind"),
    ({"role": "assistant", "content": [{**TOOL_USE, "type": "tool"}]}, "content[0].type: is no"),
    (
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "custom": {}}]},
        "tool_calls[0].type: is not a kind",
    ),
    # Where it is wrong in something larger.
    (
        {"choices": [{"message": {"tool_calls": [CHAT_CALL, {"function": {"name": "x"}}]}}]},
        "choices[0].message.tool_calls[1].function.arguments: is missing",
    ),
    ({"output": [FUNCTION_CALL, {**FUNCTION_CALL, "name": ""}]}, "output[1].name: must not be"),
    ({"messages": [{"role": "user", "content": "x"}, 3]}, "messages[1]: must be a JSON object"),
    ({"role": "assistant", "content": [1]}, "content[0]: must be a JSON object, not a number"),
    ({"role": "assistant", "content": {"type": "text"}}, "content: must be a list, not an object"),
    ({"role": "assistant", "tool_calls": ["x"]}, "tool_calls[0]: must be a JSON object, not text"),
    ({"tool_calls": [{"name": "x", "id": "c1"}]}, "tool_calls[0].function: is missing"),
    (
        {"type": "ai", "content": "", "tool_calls": [], "invalid_tool_calls": [{"name": "x"}]},
        "invalid_tool_calls[0]: is a call whose arguments",
    ),
    (
        {"content": [TOOL_USE], "tool_calls": [{**LANGCHAIN_CALL, "id": "c2"}]},
        "content[0]: is a call that is missing among",
    ),
    ({**FLAT, "call_id": {}}, "call_id: must be text, not an object"),
    ({**FLAT, "call_id": True}, "call_id: must be text, not a truth value"),
    ({**FLAT, "reason": ["why"]}, "reason: must be text, not a list"),
    ({"type": "tool_result", "content": "ok"}, "tool_use_id: is missing"),
    ({"role": "tool", "content": "ok"}, "tool_call_id: is missing"),
    ({"role": "function", "name": "x", "content": "ok"}, "role: must not be function"),
    ({"type": "tool_result", "tool_use_id": "c", "is_error": "no"}, "is_error: must be true"),
    ({"type": [], "name": "x", "argument": 1}, "arguments: is missing"),
    ({"name": "x", "argument": {}, "content": None}, "arguments: is missing"),
    ({"name": "x", "type": "function", "argument": {}, "content": ""}, "arguments: is missing"),
    ({"role": "assistant", "content": None, "tool_call": [{}]}, "tool_call: is not a known key"),
    (
        {"type": "ai", "content": "", "additional_kwargs": {"tool_calls": [{"function": {}}]}},
        "additional_kwargs.tool_calls[0].function.name: is missing",
    ),
]


@pytest.mark.parametrize(("message", "said"), BROKEN, ids=[said for _, said in BROKEN])
def test_what_is_no_call_is_refused_with_its_path(message: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        parse_calls(message)
    assert said in str(caught.value)
    path, _, problem = str(caught.value).partition(": ")
    assert (caught.value.path, caught.value.problem) == (path, problem)


@pytest.mark.parametrize("message", [None, [TOOL_USE], "x", 3])
def test_a_message_is_an_object(message: Any) -> None:
    with pytest.raises(InvalidValue, match="must be a JSON object, not"):
        parse_calls(message)


RESULTS: list[tuple[dict[str, Any], ToolResult]] = [
    (
        {"type": "tool_result", "tool_use_id": "c1", "content": "no", "is_error": True},
        ToolResult("c1", "no", is_error=True),
    ),
    ({"type": "tool_result", "tool_use_id": "c1"}, ToolResult("c1", "")),
    (
        {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "ok"}]},
        ToolResult("c1", [{"type": "text", "text": "ok"}]),
    ),
    (
        {"type": "function_call_output", "call_id": "c1", "output": '{"ok": 1}'},
        ToolResult("c1", '{"ok": 1}'),
    ),
    (
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text"}]},
        ToolResult("c1", [{"type": "input_text"}]),
    ),
    ({"role": "tool", "tool_call_id": "c1", "content": "ok"}, ToolResult("c1", "ok")),
    (
        {"type": "tool", "tool_call_id": "c1", "name": "x", "content": "no", "status": "error"},
        ToolResult("c1", "no", is_error=True),
    ),
]


@pytest.mark.parametrize(("message", "result"), RESULTS)
def test_a_result_that_comes_later_names_its_call(
    message: dict[str, Any], result: ToolResult
) -> None:
    for each in (message, {"role": "user", "content": [message]}, {"messages": [message]}):
        assert parse_results(each) == [result]
        assert parse_calls(each) == []


def test_a_result_in_the_same_message_is_its_calls_own() -> None:
    output = {"type": "function_call_output", "call_id": "c1", "output": "drained"}
    other = {**output, "call_id": "c9"}
    together = {"output": [FUNCTION_CALL, output, other]}
    assert parse_calls(together) == [ToolCall("drain_store", ARGUMENTS, "c1", result="drained")]
    assert parse_results(together) == [ToolResult("c9", "drained")]


def test_all_real_calls_are_read_and_their_ids_repeat(shared_data: Path) -> None:
    lines = (shared_data / "airline_tool_calls.jsonl").read_text().splitlines()
    calls = [call for line in lines for call in parse_calls(json.loads(line))]
    assert len(calls) == 621
    assert len(Counter(call.call_id for call in calls)) == 117
    for call, line in zip(calls, map(json.loads, lines), strict=True):
        assert (call.name, call.arguments, call.result) == (
            line["name"],
            line["arguments"],
            line["result"],
        )
