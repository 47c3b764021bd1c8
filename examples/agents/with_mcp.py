"""An agent whose MCP server is behind the gate, in this process; `operator-core mcp-gateway` is the same as a program.

The client names each call, so that it gets the same answer when the agent starts again: the ledger keeps its state. The
rule and the halt are in the ledger, and the server in `mcp_server.py` knows nothing of them.
"""

import asyncio
import sys
from pathlib import Path

import stores
from mcp import Client, StdioServerParameters
from mcp_types import CallToolResult, TextContent

from operator_core import Gate
from operator_core.integrations.mcp import CALL_ID, PENDING, PROPOSAL_ID, gateway


async def main() -> None:
    server = Path(__file__).with_name("mcp_server.py")
    upstream = StdioServerParameters(command=sys.executable, args=[str(server), str(stores.FOLDER)])
    async with await stores.open_ledger() as db, Client(upstream) as behind:
        gate = Gate(db, run_id=stores.RUN_ID, agent_id="planner", requester="u-17")
        async with Client(gateway(gate, behind.session, wait=0.5)) as client:
            for turn in range(len(stores.SCRIPT)):
                stores.told(await called(client, turn))


async def called(client: Client, turn: int) -> str:
    """What the model is told about its call of this turn."""
    name, arguments = stores.SCRIPT[turn]
    result = CallToolResult(content=[], _meta={PENDING: True})
    is_shown = False
    while is_pending(result):
        # The same id is the same call: it is executed once.
        result = await client.call_tool(name, arguments, meta={CALL_ID: stores.call_id(turn)})
        if is_pending(result) and not is_shown:
            stores.waits((result.meta or {})[PROPOSAL_ID])
            is_shown = True
    text = " ".join(each.text for each in result.content if isinstance(each, TextContent))
    # A server may answer with JSON in several lines.
    return " ".join(text.split())


def is_pending(result: CallToolResult) -> bool:
    return PENDING in (result.meta or {})


if __name__ == "__main__":
    asyncio.run(main())
