"""An agent of agno behind the gate: its run pauses before each tool, and agno keeps it, so that it survives a restart.

The model is scripted, so that the example needs no provider.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import stores
from agno.agent import Agent
from agno.db.sqlite import SqliteDb
from agno.models.base import Model
from agno.models.message import Message
from agno.models.response import ModelResponse
from agno.run.agent import RunOutput
from agno.tools import tool

from operator_core.actions import ActionStatus
from operator_core.db import ActionDB
from operator_core.gate import Gate, GateError
from operator_core.integrations.agno import gated_tools, paused_calls


@dataclass
class Scripted(Model):
    """Calls the tools of the script, one in each turn."""

    id: str = "scripted"

    def invoke(self, messages: list[Message], **_: Any) -> ModelResponse:
        results = [each for each in messages if each.role == "tool"]
        if results:
            stores.told(str(results[-1].content))
        turn = len(results)
        if turn == len(stores.SCRIPT):
            return ModelResponse(role="assistant", content="that is all")
        name, arguments = stores.SCRIPT[turn]
        function = {"name": name, "arguments": json.dumps(arguments)}
        call = {"id": stores.call_id(turn), "type": "function", "function": function}
        return ModelResponse(role="assistant", tool_calls=[call])

    async def ainvoke(self, messages: list[Message], **_: Any) -> ModelResponse:
        return self.invoke(messages)

    def invoke_stream(self, *_: Any, **__: Any) -> Iterator[ModelResponse]:
        raise NotImplementedError

    def ainvoke_stream(self, *_: Any, **__: Any) -> AsyncIterator[ModelResponse]:
        raise NotImplementedError

    def _parse_provider_response(self, response: Any, **_: Any) -> ModelResponse:
        raise NotImplementedError

    def _parse_provider_response_delta(self, response: Any) -> ModelResponse:
        raise NotImplementedError


async def propose(run: RunOutput, agent: Agent, gate: Gate, db: ActionDB) -> None:
    """Proposes the calls at which the run has paused, so that a person can decide while nobody waits."""
    assert isinstance(agent.tools, list)
    for call in paused_calls(run, agent.tools):
        try:
            ticket = await gate.propose(call.name, call.arguments, call_id=call.call_id or "")
        except GateError:
            # The model is told when the run goes on.
            continue
        found = await db.get_proposal(ticket.proposal_id)
        if found is not None and found.status is ActionStatus.PROPOSED:
            stores.waits(ticket.proposal_id)


async def main() -> None:
    async with await stores.open_ledger() as db:
        gate = Gate(db, run_id=stores.RUN_ID, agent_id="planner", requester="u-17")
        pausing = tool(requires_confirmation=True)
        tools = [stores.read_metrics, stores.drain_store, stores.delete_backup]
        agent = Agent(
            model=Scripted(),
            tools=gated_tools(map(pausing, tools), gate),
            db=SqliteDb(db_file=str(stores.FOLDER / "agno.db")),
            session_id=stores.RUN_ID,
            telemetry=False,
        )
        run = agent.get_last_run_output(stores.RUN_ID)
        if run is None:
            run = await agent.arun("Store 4 is nearly full.")
        while run.is_paused:
            await propose(run, agent, gate, db)
            for requirement in run.active_requirements:
                # Only a knock on the door: the ledger decides.
                requirement.confirm()
            run = await agent.acontinue_run(run_id=run.run_id, requirements=run.requirements)


if __name__ == "__main__":
    asyncio.run(main())
