"""An agent of pydantic-ai behind the gate: what waits for a person ends the run, and a resumed run goes on.

The messages and the deferred calls are kept in a file. Killed while it waits and started again, the agent resumes from
there, and the ledger tells what became of each call. The model is scripted.
"""

import asyncio
from typing import Final

import stores
from pydantic import BaseModel
from pydantic_ai import Agent, DeferredToolRequests, FunctionToolset
from pydantic_ai.messages import (
    ModelMessage,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel

from operator_core import Gate
from operator_core.integrations.pydantic_ai import GatedToolset, deferred_results

STATE: Final = stores.FOLDER / "pydantic-ai.json"


class State(BaseModel):
    """What a start of the agent needs of the last one."""

    messages: list[ModelMessage] = []
    waiting: DeferredToolRequests | None = None

    def save(self) -> None:
        written = STATE.with_suffix(".new")
        written.write_text(self.model_dump_json())
        written.replace(STATE)


def model(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Plays the script, and prints what the model is told about its last call."""
    for part in messages[-1].parts:
        if isinstance(part, ToolReturnPart):
            stores.told(part.model_response_str())
    turn = sum(isinstance(message, ModelResponse) for message in messages)
    if turn == len(stores.SCRIPT):
        return ModelResponse([TextPart("I am done.")])
    name, arguments = stores.SCRIPT[turn]
    return ModelResponse([ToolCallPart(name, arguments, tool_call_id=stores.call_id(turn))])


async def main() -> None:
    async with await stores.open_ledger() as db:
        gate = Gate(db, run_id=stores.RUN_ID, agent_id="planner", requester="u-17")
        tools = FunctionToolset([stores.read_metrics, stores.drain_store, stores.delete_backup])
        agent = Agent(
            FunctionModel(model),
            output_type=[str, DeferredToolRequests],
            toolsets=[GatedToolset(tools, gate, wait=0)],
        )
        state = State.model_validate_json(STATE.read_bytes()) if STATE.exists() else State()
        if not state.messages:
            result = await agent.run("Take store 4 out of service.")
            state = keep(result.all_messages(), result.output)
        while state.waiting is not None:
            for call in state.waiting.metadata.values():
                stores.waits(call["proposal_id"])
            result = await agent.run(
                message_history=state.messages,
                deferred_tool_results=deferred_results(state.waiting),
            )
            state = keep(result.all_messages(), result.output)


def keep(messages: list[ModelMessage], output: str | DeferredToolRequests) -> State:
    waiting = output if isinstance(output, DeferredToolRequests) else None
    state = State(messages=messages, waiting=waiting)
    state.save()
    return state


if __name__ == "__main__":
    asyncio.run(main())
