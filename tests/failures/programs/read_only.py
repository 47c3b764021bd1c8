"""Reads and writes a ledger as a user without privileges, and prints what came of it."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable

from operator_core.actions.errors import ActionError
from operator_core.db import ActionDB
from tests.failures.cancelling import OPERATIONS, Bench

NOBODY = 65534


async def outcome(work: Awaitable[object]) -> str:
    try:
        await work
    except ActionError as error:
        return type(error).__name__
    return "done"


async def main(path: str, upgrade: bool) -> None:
    db = ActionDB(path, upgrade=upgrade)
    told = {"open": await outcome(db.open())}
    if told["open"] == "done":
        on = Bench(db)
        on.ids, on.record = [1, 2, 3], 1
        for name, operation in OPERATIONS.items():
            told[name] = await outcome(operation(on))
        await db.close()
    print(json.dumps(told))


if __name__ == "__main__":
    if sys.argv[2] == "nobody" and os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    asyncio.run(main(sys.argv[1], upgrade=sys.argv[3:] != ["unchanged"]))
