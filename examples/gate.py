"""An agent loop behind the gate: one tool runs at once, one waits for a person at another terminal, one is halted.

The model is scripted, so that the example needs no provider. It needs the extra `cli`, because the person approves by
the command line, in a process of its own.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from operator_core import Gate, messages
from operator_core.actions import Rule
from operator_core.actions.tool_calls import parse_calls
from operator_core.db import ActionDB
from operator_core.gate import GateError, Outcome, Pending

SCRIPT: list[list[tuple[str, dict[str, Any]]]] = [
    [("read_metrics", {"store": 4})],
    [("drain_store", {"store": 4})],
    [("delete_backup", {"store": 4}), ("drain_store", {"stor": 4})],
]
"""What the model calls in each turn: the last call has a misspelt argument."""


def model(turn: int) -> dict[str, Any]:
    """What a model answers, as a message of OpenAI's Chat Completions API."""
    calls = [
        {
            "id": f"call-{turn}-{number}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        for number, (name, arguments) in enumerate(SCRIPT[turn])
    ]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def tools_of(gate: Gate) -> None:
    @gate.tool()
    async def read_metrics(store: int) -> dict[str, float]:
        return {"disk_used": 0.97}

    @gate.tool()
    async def drain_store(store: int, slowly: bool = True) -> str:
        return f"store {store} is drained"

    @gate.tool()
    async def delete_backup(store: int) -> None:
        raise AssertionError("this is never executed")


async def answered(gate: Gate, call: Any, ledger: Path) -> dict[str, Any]:
    """The message that answers a call of the model."""
    try:
        ticket = await gate.propose(call.name, call.arguments, call_id=call.call_id)
    except GateError as error:
        # Nothing is proposed while the ledger is halted.
        return messages.openai_chat(Outcome(call.call_id, error=error))
    outcome = await gate.outcome(ticket, timeout=0)
    if isinstance(outcome.error, Pending):
        print(f"  proposal {ticket.proposal_id} waits; somebody approves it at another terminal")
        await asyncio.to_thread(approve, ticket.proposal_id, ledger)
        outcome = await gate.outcome(ticket)
    return messages.openai_chat(outcome)


def approve(proposal_id: int, ledger: Path) -> None:
    """What a person types at another terminal, where the command shows the call and asks first."""
    shown = cli("show", str(proposal_id), "--json", "--db-path", str(ledger))
    digest = json.loads(shown)["proposal"]["content_digest"]
    seen = ("--by", "maria", "--digest", digest)
    cli("approve", str(proposal_id), *seen, "--db-path", str(ledger))


def cli(*arguments: str) -> str:
    program = Path(sys.executable).with_name("operator-core")
    command = [program, "actions", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603


async def main(ledger: Path) -> None:
    async with ActionDB(ledger) as db:
        await db.add_rule(
            Rule(name="drains", action_name="drain_*"), by="lead", reason="change policy 4"
        )
        await db.halt(by="maria", reason="backups are frozen", action_name="delete_*")
        gate = Gate(db, run_id="run-1", agent_id="planner", requester="u-17")
        tools_of(gate)
        for turn in range(len(SCRIPT)):
            for call in parse_calls(model(turn)):
                print(f"model: {call.name}({json.dumps(call.arguments)})")
                answer = await answered(gate, call, ledger)
                print(f"told:  {answer['content']}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder) / "ledger.db"
        asyncio.run(main(path))
