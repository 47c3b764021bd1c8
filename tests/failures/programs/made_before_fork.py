"""Makes a ledger, forks, and opens it in the child only, as a preloading server does."""

import asyncio
import json
import os
import sys

from operator_core.db import ActionDB
from tests.failures.harness import proposal

db = ActionDB(sys.argv[1])


async def use() -> int | None:
    async with db:
        return (await db.create_proposal(proposal())).id


if __name__ == "__main__":
    child = os.fork()
    if child == 0:
        print(json.dumps({"child": asyncio.run(use())}), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
