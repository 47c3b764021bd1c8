"""Proposes a call through a gate, says its ticket, and waits: for a decision, or with "run" in the tool."""

import asyncio
import sys
from datetime import timedelta

from operator_core.actions import Rule
from operator_core.db import ActionDB
from operator_core.gate import Gate

path, *how = sys.argv[1:]


async def drain(store: int, fast: bool = False) -> None:
    print("begun", flush=True)
    await asyncio.Event().wait()


async def main() -> None:
    async with ActionDB(path) as db:
        if not how:
            await db.add_rule(Rule(name="r", action_name="drain"), by="lead", reason="policy")
        gate = Gate(db, run_id="run-1", tools=[drain], lease=timedelta(seconds=1))
        ticket = await gate.propose("drain", {"store": 4}, call_id="call-1")
        print(ticket.to_json(), flush=True)
        await gate.settle(ticket)


asyncio.run(main())
