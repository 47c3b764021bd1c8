"""An agent of LangChain behind the gate; its checkpoints are in a file, so it goes on after a kill."""

import asyncio
from typing import Any

import stores
from langchain.agents import create_agent  # pyright: ignore[reportUnknownVariableType]
from langchain.agents.middleware import wrap_tool_call
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolCall, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from operator_core import Gate
from operator_core.actions import ActionStatus
from operator_core.integrations.langgraph import guard

TOOLS = [stores.read_metrics, stores.drain_store, stores.delete_backup]
DECIDED = [status for status in ActionStatus if status is not ActionStatus.PROPOSED]


class ScriptedModel(BaseChatModel):
    """Calls what the script says, one call in each turn."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **options: Any) -> "ScriptedModel":
        return self

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **options: Any
    ) -> ChatResult:
        if isinstance(messages[-1], ToolMessage):
            stores.told(messages[-1].text)
        turn = sum(isinstance(each, AIMessage) for each in messages)
        calls = [
            ToolCall(name=name, args=arguments, id=stores.call_id(turn))
            for name, arguments in stores.SCRIPT[turn : turn + 1]
        ]
        answer = AIMessage("" if calls else "That is all.", tool_calls=calls)
        return ChatResult(generations=[ChatGeneration(message=answer)])


async def main() -> None:
    async with (
        await stores.open_ledger() as db,
        AsyncSqliteSaver.from_conn_string(str(stores.FOLDER / "checkpoints.db")) as saver,
    ):
        # The gate has the tools too: it checks the arguments before a person sees them.
        gate = Gate(db, run_id=stores.RUN_ID, agent_id="planner", requester="u-17", tools=TOOLS)
        guarded = wrap_tool_call(guard(gate))
        agent: Any = create_agent(ScriptedModel(), TOOLS, middleware=[guarded], checkpointer=saver)
        # The thread of the graph and the run of the ledger are the same conversation.
        thread: RunnableConfig = {"configurable": {"thread_id": stores.RUN_ID}}
        known = (await agent.aget_state(thread)).values
        given = None if known else {"messages": [HumanMessage("Store 4 is full.")]}
        while True:
            # The model's call is on disk before it is proposed: a model asked twice makes two calls.
            result = await agent.ainvoke(given, thread, durability="sync")
            given = None
            waiting = result.get("__interrupt__")
            if not waiting:
                break
            for each in waiting:
                stores.waits(each.value["proposal_id"])
                await db.wait_until(each.value["proposal_id"], *DECIDED)


if __name__ == "__main__":
    asyncio.run(main())
