"""Forks with a ledger on a server open and in use, and prints what all of them were told."""

import asyncio
import json
import os
import signal
import sys
from typing import Any

from forking import drive, try_all

from operator_core.actions.types import ActionProposal
from operator_core.db import ActionDB
from tests.failures.cancelling import OPERATIONS, Bench
from tests.failures.harness import proposal

CHILDREN = 4
CALLS = 50


async def call(db: ActionDB, who: str, number: int) -> bool:
    """Whether the answers are those to what was asked."""
    marker = {"who": who, "number": number}
    made = await db.create_proposal(proposal(parameters=marker))
    async with db.transaction() as tx:
        inside: ActionProposal | None = await tx.get_proposal(made.id)
    after = await db.get_proposal(made.id)
    return [each and each.parameters for each in (made, inside, after)] == [marker] * 3


async def calls(db: ActionDB, who: str) -> int:
    """How many of the answers were somebody else's."""
    right = await asyncio.gather(*(call(db, who, number) for number in range(CALLS)))
    return right.count(False)


async def own(url: str, who: str) -> int:
    async with ActionDB(url) as db:
        return await calls(db, who)


def child(on: Bench, url: str, who: str) -> dict[str, Any]:
    told = drive(try_all(on))
    return {"told": told, "wrong answers": asyncio.run(own(url, who))}


async def main(url: str) -> None:
    async with ActionDB(url) as db:
        on = Bench(db)
        await on.prepare()
        # Every connection of the pool is there, and some are in use.
        await calls(db, "before")
        under_way = asyncio.create_task(calls(db, "meanwhile"))
        await asyncio.sleep(0)
        pipes: list[int] = []
        for number in range(CHILDREN):
            receive, send = os.pipe()
            if os.fork() == 0:
                signal.alarm(60)
                os.write(send, json.dumps(child(on, url, f"child-{number}")).encode())
                os._exit(0)
            os.close(send)
            pipes.append(receive)
        wrong = await under_way + await calls(db, "after")
        # They tried while this went on, and have left.
        children = [await asyncio.to_thread(read_all, pipe) for pipe in pipes]
        wrong += await calls(db, "in the end")
    print(json.dumps({"children": children, "operations": len(OPERATIONS), "wrong answers": wrong}))


def read_all(pipe: int) -> Any:
    with open(pipe, "rb") as file:
        return json.loads(file.read())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
