"""What a model is told about each outcome, in the shape of each provider."""

from typing import Any

import pytest

import operator_core
from operator_core import Gate, SyncGate, messages
from operator_core.actions.tool_calls import parse_results
from operator_core.gate import (
    EffectUnknown,
    ExecutionFailed,
    Halted,
    Outcome,
    Pending,
    Refused,
    Rejected,
    Superseded,
    Undecided,
)


def failed(kind: Any, **more: Any) -> Outcome:
    return Outcome("call-1", error=kind(3, "the reason", **more))


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "null"), (3, "3"), ("as it is", "as it is"), ({"a": "é"}, '{"a":"é"}'), ([1], "[1]")],
)
def test_a_result(value: Any, text: str) -> None:
    outcome = Outcome("call-1", value)
    assert messages.openai_responses(outcome) == {
        "type": "function_call_output",
        "call_id": "call-1",
        "output": text,
    }
    chat = {"role": "tool", "tool_call_id": "call-1", "content": text}
    assert messages.openai_chat(outcome) == chat
    assert messages.anthropic(outcome) == {
        "type": "tool_result",
        "tool_use_id": "call-1",
        "content": text,
    }
    answer = messages.mcp(outcome)
    assert answer["content"] == [{"type": "text", "text": text}]
    assert answer["isError"] is False
    assert answer.get("structuredContent") == (value if isinstance(value, dict) else None)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (EffectUnknown, "It is not known whether it happened. Do not call it again"),
        (ExecutionFailed, "It was executed and failed."),
        (Pending, "It is not done yet."),
        (Rejected, "a person has rejected it. Do not make the same call again. By mia."),
        (Halted, "agents are stopped"),
        (Superseded, "replaced it"),
        (Undecided, "It was not executed."),
        (Refused, "It was not executed."),
    ],
)
def test_what_has_no_result(kind: Any, said: str) -> None:
    outcome = failed(kind, by="mia")
    text = messages.text(outcome)
    assert said in text
    assert text.endswith("Reason: the reason")
    assert messages.anthropic(outcome)["is_error"] is True
    assert messages.mcp(outcome)["isError"] is True
    assert messages.openai_chat(outcome)["content"] == text


def test_who_has_to_ask_again_is_told_so() -> None:
    waits = failed(Pending)
    assert "it is answered later" in messages.text(waits)
    again = messages.text(waits, call_again=True)
    assert "Make the same call again later" in again
    assert "Proposal 3: the reason" in again
    rejected = failed(Rejected)
    assert messages.text(rejected, call_again=True) == messages.text(rejected)


def test_the_parser_of_results_reads_them() -> None:
    for outcome in (Outcome("call-1", {"a": 1}), failed(Rejected)):
        for shape in (messages.openai_responses, messages.openai_chat):
            (read,) = parse_results(shape(outcome))
            assert read.call_id == "call-1"
        message = {"role": "user", "content": [messages.anthropic(outcome)]}
        assert parse_results(message)[0].call_id == "call-1"


def test_they_are_imported_from_the_package() -> None:
    assert (Gate.__name__, SyncGate.__name__) == ("Gate", "SyncGate")
    with pytest.raises(AttributeError, match="no attribute 'Gates'"):
        operator_core.Gates  # type: ignore[attr-defined]  # noqa: B018
