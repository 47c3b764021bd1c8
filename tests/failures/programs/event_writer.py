"""One of two processes that write so many events to one file, alone and in transactions; prints how many.

Whoever gets the lock of a file may keep it for long, so they meet for each round of them.
"""

import asyncio
import json
import random
import sys

from meeting import meet

from operator_core.db import ActionDB
from tests.failures.harness import PATIENCE, proposal


async def main(path: str, name: str, rounds: int, wanted: int) -> None:
    dice = random.Random(name)
    async with ActionDB(path, busy_timeout=PATIENCE) as db:
        for _ in range(rounds):
            meet("round")
            written = 0
            while written < wanted:
                some = [proposal(action_name=name) for _ in range(min(wanted - written, 20))]
                if dice.random() < 0.5:
                    await asyncio.gather(*(db.create_proposal(each) for each in some))
                else:
                    async with db.transaction() as tx:
                        for each in some:
                            await tx.create_proposal(each)
                written += len(some)
    print(json.dumps(rounds * written))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
