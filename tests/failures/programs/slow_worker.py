"""A worker whose executions, two at a time, go on when it has been told to stop; prints how many it ran."""

import asyncio
import sys

from operator_core.actions.types import ActionProposal
from operator_core.db import ActionDB
from operator_core.worker import run_worker


async def main(path: str) -> None:
    stop = asyncio.Event()

    async def slow(_: ActionProposal) -> dict[str, bool]:
        # A signal sets it: what is running then is not done yet.
        await stop.wait()
        await asyncio.sleep(0.1)
        return {"done": True}

    async with ActionDB(path, busy_timeout=60) as db:
        print(await run_worker(db, {"slow": slow}, concurrency=2, stop=stop))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
