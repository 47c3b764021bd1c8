"""Two worker processes on one ledger; each proposal is executed once, by one of them."""

import asyncio
import logging
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

from operator_core.actions.types import ActionProposal, ActionStatus
from operator_core.db import ActionDB
from operator_core.worker import run_worker


async def restart(proposal: ActionProposal) -> dict[str, str]:
    await asyncio.sleep(0.05)  # here a worker performs the action
    return {"restarted": proposal.parameters["host"]}


def drain(proposal: ActionProposal) -> None:
    """A plain function runs in a thread; its exception fails the execution."""
    raise ConnectionError(f"{proposal.parameters['host']} does not answer")


async def work(ledger: str, name: str) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    async with ActionDB(ledger) as db:
        # Runs until SIGTERM; running handlers finish first.
        await run_worker(db, {"restart": restart, "drain": drain}, worker=name, concurrency=2)


async def main(ledger: str) -> None:
    async with ActionDB(ledger, actor="on-call") as db:
        requests = [
            ActionProposal(action_name="restart", parameters={"host": f"web-{n}"}, reason="example")
            for n in range(10)
        ]
        requests.append(
            ActionProposal(action_name="drain", parameters={"host": "db-1"}, reason="example")
        )
        proposals = await db.create_proposals(requests)
        for proposal in proposals:
            await db.update_proposal_status(proposal.id, ActionStatus.VALIDATED)

        workers = [
            await asyncio.create_subprocess_exec(sys.executable, __file__, ledger, name)
            for name in ("worker-1", "worker-2")
        ]
        ended = [await db.wait_for(proposal.id, timeout=60) for proposal in proposals]
        for process in workers:
            process.send_signal(signal.SIGTERM)
            await process.wait()

        print(dict(Counter(proposal.status.value for proposal in ended)))
        print("the failed one:", ended[-1].last_error)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        asyncio.run(work(*sys.argv[1:]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else str(Path(folder) / "ledger.db")))
