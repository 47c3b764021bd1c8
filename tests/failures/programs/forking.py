"""Forks with a ledger open, and prints what the child was told and what the parent could still do."""

import asyncio
import json
import os
import signal
import sys
from typing import Any

from operator_core.db import ActionDB
from tests.engines import engine_on
from tests.failures.cancelling import OPERATIONS, Bench
from tests.failures.harness import proposal


async def try_all(on: Bench) -> dict[str, str]:
    """What each operation says in the child."""
    told = {}
    for name, operation in OPERATIONS.items():
        try:
            await operation(on)
        except Exception as error:
            told[name] = type(error).__name__
        else:
            told[name] = "an answer"
    return told


def drive(work: Any) -> dict[str, str]:
    """Runs a coroutine that must not wait: the loop here is a copy of the parent's."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value
    return {"waits for": "a thread that only the parent has"}


async def main(kind: str, path: str) -> None:
    engine = engine_on(path)
    target: Any = {"memory": ":memory:", "file": path, "engine": engine}[kind]
    async with ActionDB(target) as db:
        on = Bench(db)
        await on.prepare()
        receive, send = os.pipe()
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            os.write(send, json.dumps(drive(try_all(on))).encode())
            os._exit(0)
        os.close(send)
        os.waitpid(pid, 0)
        with open(receive, "rb") as pipe:
            told = json.loads(pipe.read())
        await db.create_proposals([proposal(action_name="later") for _ in range(3)])
        wrote = len(await db.list_proposals(action_name="later"))
    await engine.dispose()
    print(json.dumps({"child": told, "operations": len(OPERATIONS), "parent wrote": wrote}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
