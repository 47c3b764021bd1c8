"""The answers to a model about its tool calls, in the shapes of the providers.

Each takes an `Outcome` of a gate. A call without a result is answered too: the text says what happened, and whether the
model may call the tool again.
"""

from typing import Any, Final, cast

from pydantic_core import to_json

from operator_core.gate.errors import (
    EffectUnknown,
    ExecutionFailed,
    GateError,
    Halted,
    Pending,
    Rejected,
    Superseded,
)
from operator_core.gate.tickets import Outcome

__all__ = ["anthropic", "mcp", "openai_chat", "openai_responses", "text"]

_ADVICE: tuple[tuple[type[GateError], str], ...] = (
    (
        EffectUnknown,
        "It is not known whether it happened. Do not call it again; a person has to look.",
    ),
    (ExecutionFailed, "It was executed and failed."),
    (
        Pending,
        "It is not done yet. Do not call it again: it is answered later.",
    ),
    (Rejected, "It was not executed: a person has rejected it. Do not make the same call again."),
    (Halted, "It was not executed: agents are stopped. Do not call it again."),
    (Superseded, "It was not executed: somebody has replaced it by another call."),
    (GateError, "It was not executed."),
)


_CALL_AGAIN: Final = (
    "It is not done yet. Make the same call again later to get its result: it is executed once."
)


def text(outcome: Outcome, *, call_again: bool = False) -> str:
    """The answer as text: the result as JSON (a text as it is), or a sentence that says why there is none.

    A call that is not decided is answered later. With `call_again`, the model has to ask for that answer by the same
    call.
    """
    error = outcome.error
    if error is None:
        return outcome.value if isinstance(outcome.value, str) else to_json(outcome.value).decode()
    if call_again and isinstance(error, Pending):
        return f"{_CALL_AGAIN} Proposal {error.proposal_id}: {error.reason}"
    advice = next(said for kind, said in _ADVICE if isinstance(error, kind))
    who = f" By {error.by}." if error.by and not isinstance(error, ExecutionFailed) else ""
    why = f" Reason: {error.reason}" if error.reason else ""
    return f"{advice}{who}{why}"


def openai_responses(outcome: Outcome) -> dict[str, Any]:
    """An input item of OpenAI's Responses API."""
    call_id = outcome.call_id
    return {"type": "function_call_output", "call_id": call_id, "output": text(outcome)}


def openai_chat(outcome: Outcome) -> dict[str, Any]:
    """A message of OpenAI's Chat Completions API, and of the APIs that follow it."""
    return {"role": "tool", "tool_call_id": outcome.call_id, "content": text(outcome)}


def anthropic(outcome: Outcome) -> dict[str, Any]:
    """A content block of a user's message of Anthropic's Messages API."""
    answer: dict[str, Any] = {
        "type": "tool_result",
        "tool_use_id": outcome.call_id,
        "content": text(outcome),
    }
    return answer if outcome.ok else {**answer, "is_error": True}


def mcp(outcome: Outcome) -> dict[str, Any]:
    """A result of ``tools/call`` of the Model Context Protocol."""
    answer: dict[str, Any] = {
        "content": [{"type": "text", "text": text(outcome)}],
        "isError": not outcome.ok,
    }
    value: object = outcome.value
    if outcome.ok and isinstance(value, dict):
        answer["structuredContent"] = cast("dict[str, Any]", value)
    return answer
