"""pgqueuer, as its documentation says: one asyncpg connection, or for many tasks its driver over a pool.

The advised `pgq autovac` is part of the installation.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.queries import Queries

from benchmarks.peers import works
from benchmarks.peers.worker import Answer, Job, serve, versions

_Prepared = tuple[str, bytes]


class _Client:
    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    def prepare(self, job: Job) -> _Prepared:
        payload = {name: value for name, value in job.items() if name != "action_name"}
        return job["action_name"], json.dumps(payload).encode()

    async def create(self, prepared: _Prepared) -> object:
        return await self._queries.enqueue(*prepared)

    async def create_many(self, prepared: list[_Prepared]) -> object:
        names, payloads = zip(*prepared, strict=True)
        return await self._queries.enqueue(list(names), list(payloads), [0] * len(prepared))


@asynccontextmanager
async def _open(url: str, connections: int) -> AsyncIterator[_Client]:
    if connections > 1:
        async with asyncpg.create_pool(url, min_size=connections, max_size=connections) as pool:
            yield _Client(Queries(AsyncpgPoolDriver(pool)))
        return
    conn = await asyncpg.connect(url)
    try:
        yield _Client(Queries(AsyncpgDriver(conn)))
    finally:
        await conn.close()


async def _install(url: str, _: list[Job]) -> Answer:
    conn = await asyncpg.connect(url)
    try:
        queries = Queries(AsyncpgDriver(conn))
        await queries.install()
        await queries.optimize_autovacuum()
    finally:
        await conn.close()
    return versions("pgqueuer", "asyncpg")


if __name__ == "__main__":
    serve({"install": _install, **works.of(_open)})
