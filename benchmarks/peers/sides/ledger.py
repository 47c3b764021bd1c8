"""operator-core, as its guide says: `ActionDB` with a pool, its verbs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.peers import works
from benchmarks.peers.worker import Answer, Job, serve, versions
from operator_core.actions.types import ActionProposal
from operator_core.db import ActionDB, migrate


class _Client:
    def __init__(self, db: ActionDB) -> None:
        self.create = db.create_proposal
        self.create_many = db.create_proposals

    def prepare(self, job: Job) -> ActionProposal:
        return ActionProposal(**job)


@asynccontextmanager
async def _open(url: str, connections: int) -> AsyncIterator[_Client]:
    async with ActionDB(url, pool_size=connections) as db:
        yield _Client(db)


async def _install(url: str, _: list[Job]) -> Answer:
    await asyncio.to_thread(migrate.upgrade, url)
    return versions("operator-core", "sqlalchemy", "asyncpg")


if __name__ == "__main__":
    serve({"install": _install, **works.of(_open)})
