"""One of several processes that want the same thing from one ledger; prints what it got."""

import asyncio
import json
import sys

from meeting import meet

from operator_core.actions.errors import Busy, InvalidTransition
from operator_core.actions.types import ActionStatus
from operator_core.db import ActionDB
from tests.failures.harness import PATIENCE, proposal


async def read_then_write(path: str, units: int) -> None:
    """Each unit writes what it read; if units ever overlap, two write the same."""
    busy = 0
    async with ActionDB(path, busy_timeout=PATIENCE) as db:
        meet("ready")
        for _ in range(units):
            try:
                async with db.transaction() as tx:
                    seen = sum((await tx.count_proposals()).values())
                    await tx.create_proposal(proposal(parameters={"seen": seen}))
            except Busy:
                busy += 1
    print(json.dumps({"busy": busy}))


async def claim(path: str, name: str, proposals: int) -> None:
    """Tries to be the one who executes each of the proposals."""
    won: list[int] = []

    async def attempt(id: int) -> None:
        try:
            await db.update_proposal_status(id, ActionStatus.EXECUTING, actor=name)
        except InvalidTransition:
            return
        won.append(id)

    async with ActionDB(path, busy_timeout=PATIENCE) as db:
        meet("ready")
        for first in range(1, proposals + 1, 8):
            ids = range(first, min(first + 8, proposals + 1))
            await asyncio.gather(*(attempt(each) for each in ids))
    print(json.dumps({"name": name, "won": won}))


if __name__ == "__main__":
    mode, path, name, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    asyncio.run(read_then_write(path, count) if mode == "serial" else claim(path, name, count))
