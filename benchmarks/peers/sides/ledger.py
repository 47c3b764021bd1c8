"""operator-core, used as its guide shows: `ActionDB` with a pool, and its verbs."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from benchmarks.peers import works
from benchmarks.peers.worker import Answer, Job, serve, versions
from operator_core.actions.types import ActionProposal, ActionStatus
from operator_core.db import ActionDB, Claim, migrate

_WORKER = "worker-1"
_LOOPS = 4
"""Concurrent tasks that claim and end executions, as docs/work.md recommends for high load."""


class _Client:
    def __init__(self, db: ActionDB) -> None:
        self._db = db
        self.create = db.create_proposal
        self.create_many = db.create_proposals

    def prepare(self, job: Job) -> ActionProposal:
        return ActionProposal(**job)

    def prepare_due(self, job: Job) -> ActionProposal:
        return ActionProposal(**job, status=ActionStatus.VALIDATED)

    async def cycle(self) -> None:
        (claim,) = await self._db.claim(_WORKER)
        await self._db.complete(claim.record.id)

    async def act(self, prepared: ActionProposal) -> None:
        created = await self._db.create_proposal(prepared)
        await self._db.update_proposal_status(created.id, ActionStatus.VALIDATED)
        claims: list[Claim] = []
        while not claims:
            # For a moment, other tasks may have locked all proposals that this claim sees.
            claims = await self._db.claim(_WORKER)
        await self._db.complete(claims[0].record.id)

    async def act_by_tasks(self, shares: Sequence[Sequence[ActionProposal]]) -> None:
        await works.in_tasks(self.act, shares)

    async def drain(self, batch: int) -> works.Drained:
        async def loop() -> int:
            count = 0
            while claims := await self._db.claim(_WORKER, limit=batch):
                lost = await self._db.complete_many([claim.record.id for claim in claims])
                assert not lost
                count += len(claims)
            return count

        start = time.perf_counter()
        counts = await asyncio.gather(*(loop() for _ in range(_LOOPS)))
        return sum(counts), time.perf_counter() - start

    async def unfinished(self) -> int:
        counts = await self._db.count_proposals()
        return sum(counts.values()) - counts[ActionStatus.COMPLETED]


@asynccontextmanager
async def _open(url: str, connections: int) -> AsyncIterator[_Client]:
    async with ActionDB(url, pool_size=connections) as db:
        yield _Client(db)


async def _install(url: str, _: list[Job]) -> Answer:
    await asyncio.to_thread(migrate.upgrade, url)
    return versions("operator-core", "sqlalchemy", "asyncpg")


if __name__ == "__main__":
    serve({"install": _install, **works.of(_open)})
