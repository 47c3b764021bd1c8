"""pgqueuer, used as its documentation shows: one asyncpg connection, or for many tasks its driver over a pool.

A QueueManager always has its own connection, and drains as in pgqueuer's own benchmark. The installation
includes the recommended `pgq autovac`.
"""

import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job as Taken
from pgqueuer.queries import EntrypointExecutionParameter, Queries
from pgqueuer.types import QueueEntrypoint, QueueExecutionMode, QueueManagerId

from benchmarks.peers import works
from benchmarks.peers.worker import Answer, Job, serve, versions

_Prepared = tuple[str, bytes]


_NAME = "transfer_leader"
_ENTRYPOINTS = {QueueEntrypoint(_NAME): EntrypointExecutionParameter(concurrency_limit=0)}
_MANAGER = QueueManagerId(uuid.uuid4())
# QueueManager.run's own default.
_HEARTBEAT = timedelta(seconds=30)


class _Clocked(Queries):
    """Notes when the first job is taken and the last has ended: a manager's start and end also take time."""

    first: float | None = None
    last: float = 0.0

    async def dequeue(self, *arguments: Any, **named: Any) -> list[Taken]:
        if self.first is None:
            self.first = time.perf_counter()
        return await super().dequeue(*arguments, **named)

    async def log_jobs(self, job_status: Any) -> None:
        await super().log_jobs(job_status)
        self.last = time.perf_counter()


class _Client:
    def __init__(self, queries: Queries, driver: AsyncpgDriver) -> None:
        self._queries = queries
        self._driver = driver

    def prepare(self, job: Job) -> _Prepared:
        payload = {name: value for name, value in job.items() if name != "action_name"}
        return job["action_name"], json.dumps(payload).encode()

    prepare_due = prepare

    async def create(self, prepared: _Prepared) -> object:
        return await self._queries.enqueue(*prepared)

    async def create_many(self, prepared: list[_Prepared]) -> object:
        names, payloads = zip(*prepared, strict=True)
        return await self._queries.enqueue(list(names), list(payloads), [0] * len(prepared))

    async def cycle(self) -> None:
        (job,) = await self._queries.dequeue(1, _ENTRYPOINTS, _MANAGER, None, _HEARTBEAT)
        await self._queries.log_jobs([(job, "successful", None)])

    async def drain(self, batch: int) -> works.Drained:
        count = 0
        queries = _Clocked(self._driver)
        pgq = PgQueuer(self._driver, queries=queries)

        @pgq.entrypoint(_NAME)
        async def act(job: Taken) -> None:
            nonlocal count
            count += 1

        await pgq.qm.run(batch_size=batch, mode=QueueExecutionMode.drain)
        assert queries.first is not None
        return count, queries.last - queries.first

    async def unfinished(self) -> int:
        # Jobs that end move from the queue to the log.
        return sum(each.count for each in await self._queries.queue_size())


@asynccontextmanager
async def _open(url: str, connections: int) -> AsyncIterator[_Client]:
    async with AsyncExitStack() as stack:
        conn = await asyncpg.connect(url)
        stack.push_async_callback(conn.close)
        driver = AsyncpgDriver(conn)
        if connections == 1:
            yield _Client(Queries(driver), driver)
            return
        pool = asyncpg.create_pool(url, min_size=connections, max_size=connections)
        yield _Client(Queries(AsyncpgPoolDriver(await stack.enter_async_context(pool))), driver)


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
