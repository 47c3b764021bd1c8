"""Two workers in one process, whose executions go on when they have been told to stop; prints how many each ran."""

import asyncio
import logging
import sys

from operator_core.actions.types import ActionProposal
from operator_core.db import ActionDB
from operator_core.worker import run_worker


async def main(path: str) -> None:
    told = asyncio.Semaphore(0)

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "stops after" in record.getMessage():
                told.release()

    logger = logging.getLogger("operator_core.worker")
    logger.addHandler(Told())
    logger.setLevel(logging.INFO)

    async def slow(_: ActionProposal) -> dict[str, bool]:
        # Both are stopping: what is running then is not done yet.
        await told.acquire()
        await asyncio.sleep(0.1)
        return {"done": True}

    async with ActionDB(path, busy_timeout=60) as db:
        print(
            *await asyncio.gather(
                *(run_worker(db, {"slow": slow}, worker=f"w-{n}") for n in range(2))
            )
        )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
