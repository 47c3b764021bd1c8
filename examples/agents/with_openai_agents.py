"""An agent of the OpenAI Agents SDK behind the gate; its run is kept as a `RunState` while a call waits for a person.

The model is scripted, so that the example needs no provider.
"""

import asyncio
import json
from typing import Any

import stores
from agents import (
    Agent,
    Model,
    ModelResponse,
    Runner,
    RunResult,
    RunState,
    Usage,
    function_tool,
    set_tracing_disabled,
)
from agents.testing import assistant_message, function_call

from operator_core import Gate
from operator_core.integrations.openai_agents import decide, gated_tools

KEPT = stores.FOLDER / "run_state.json"


class ScriptedModel(Model):
    """Makes the next call of the script, by the number of answers in its input."""

    async def get_response(
        self, system_instructions: Any, input: Any, *rest: Any, **options: Any
    ) -> ModelResponse:
        answers = [each for each in input if each.get("type") == "function_call_output"]
        turn = len(answers)
        if answers:
            stores.told(answers[-1]["output"])
        if turn == len(stores.SCRIPT):
            output = assistant_message("That is all.")
        else:
            name, arguments = stores.SCRIPT[turn]
            output = function_call(name, json.dumps(arguments), call_id=stores.call_id(turn))
        return ModelResponse(output=[output], usage=Usage(), response_id=None)

    def stream_response(self, *arguments: Any, **options: Any) -> Any:
        raise NotImplementedError


async def started(agent: Agent) -> RunResult:
    """Starts the run, or goes on where a process that was killed has stopped."""
    if not KEPT.exists():
        return await Runner.run(agent, "Store 4 is hot.")
    state = await RunState.from_string(agent, KEPT.read_text())
    return await decided(agent, state)


async def decided(agent: Agent, state: RunState[Any, Any]) -> RunResult:
    """Goes on with a run that was interrupted, once the ledger has decided its calls."""
    for ticket in await decide(state, timeout=0):
        stores.waits(ticket.proposal_id)
    await decide(state)
    return await Runner.run(agent, state)


def keep(state: RunState[Any, Any]) -> None:
    """Writes the state, so that a process killed in the middle leaves the one before."""
    part = KEPT.with_suffix(".part")
    part.write_text(state.to_string())
    part.replace(KEPT)


async def main() -> None:
    set_tracing_disabled(True)
    db = await stores.open_ledger()
    gate = Gate(db, run_id=stores.RUN_ID, agent_id="planner", requester="u-17")
    functions = (stores.read_metrics, stores.drain_store, stores.delete_backup)
    tools = gated_tools([function_tool(each) for each in functions], gate)
    agent = Agent(name="planner", model=ScriptedModel(), tools=[*tools])
    result = await started(agent)
    while result.interruptions:
        state = result.to_state()
        keep(state)
        result = await decided(agent, state)
    await db.close()


if __name__ == "__main__":
    asyncio.run(main())
