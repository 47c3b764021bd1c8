"""An agent of the Claude Agent SDK behind the gate.

The program of the SDK is the real one; `claude_api` plays the provider. Started again, the agent resumes its session.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import stores
from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient, ResultMessage, SdkMcpTool
from claude_api import ClaudeAPI

from operator_core import Gate, messages
from operator_core.gate import Outcome
from operator_core.integrations.claude_agent_sdk import GateHooks

SESSION = "6d0a8f0e-5a5b-4f0e-9d5c-0c1a4f3b7e21"
PREFIX = "mcp__stores__"
PROMPT = "Look after store 4."
DONE = "That is all."


def tool(function: Callable[..., Awaitable[Any]]) -> SdkMcpTool[Any]:
    """A tool of the SDK that calls a function by name and returns its result as text."""

    async def handler(arguments: dict[str, Any]) -> dict[str, Any]:
        text = messages.text(Outcome("", await function(**arguments)))
        return {"content": [{"type": "text", "text": text}]}

    return SdkMcpTool(function.__name__, function.__doc__ or "", {"store": int}, handler)


def model(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the scripted model answers: the next call, or again the one that has no result after a restart."""
    blocks = [each for message in history for each in message["content"]]
    called = [each["id"] for each in blocks if each["type"] == "tool_use"]
    last = history[-1]["content"]
    answers = [each for each in last if each["type"] == "tool_result"]
    if any(each.get("text") == PROMPT for each in last):
        # At first, or after a restart: then the program has answered for a call that it did not finish.
        results = [each for each in blocks if each["type"] == "tool_result"]
        good = [turn_of(each["tool_use_id"]) for each in results if not each.get("is_error")]
        is_over = any(each.get("text") == DONE for each in blocks)
        turn = len(stores.SCRIPT) if is_over else max(good, default=-1) + 1
    else:
        stores.told(text_of(answers[-1]["content"]))
        turn = turn_of(answers[-1]["tool_use_id"]) + 1
    if turn == len(stores.SCRIPT):
        return [{"type": "text", "text": DONE}]
    name, arguments = stores.SCRIPT[turn]
    # A provider never uses an id twice.
    again = sum(turn_of(each) == turn for each in called)
    call_id = f"{stores.call_id(turn)}-{again}" if again else stores.call_id(turn)
    return [{"type": "tool_use", "id": call_id, "name": PREFIX + name, "input": arguments}]


def turn_of(call_id: str) -> int:
    return int(call_id.split("-")[1])


def text_of(content: str | list[dict[str, str]]) -> str:
    """The text of a tool's answer, without what the program adds for the model."""
    text = content if isinstance(content, str) else "\n".join(each["text"] for each in content)
    return text.partition("<system-reminder>")[0].strip()


async def main() -> None:
    async with await stores.open_ledger() as db, ClaudeAPI(model) as api:
        gate = Gate(db, run_id=stores.RUN_ID, agent_id="planner", requester="u-17")
        async with GateHooks(
            gate,
            action_name=lambda name: name.removeprefix(PREFIX),
            on_wait=lambda ticket: stores.waits(ticket.proposal_id),
        ) as hooks:
            functions = [stores.read_metrics, stores.drain_store, stores.delete_backup]
            env = api.env(stores.FOLDER.resolve())
            is_known = any(stores.FOLDER.glob(f"claude/projects/*/{SESSION}.jsonl"))
            options = ClaudeAgentOptions(
                tools=[],  # none of the program's own
                mcp_servers={"stores": hooks.server("stores", map(tool, functions))},
                hooks=hooks.hooks,
                setting_sources=[],
                cwd=stores.FOLDER,
                env=env,
                **{"resume" if is_known else "session_id": SESSION},
            )
            async with ClaudeSDKClient(options) as client:
                await client.query(PROMPT)
                async for message in client.receive_response():
                    if isinstance(message, ResultMessage) and message.is_error:
                        raise SystemExit(message.result)


if __name__ == "__main__":
    asyncio.run(main())
