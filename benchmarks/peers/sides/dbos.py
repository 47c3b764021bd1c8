"""DBOS, used as its guide shows: a workflow of one step, awaited. One call stores, runs and ends it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from dbos import DBOS, DBOSConfig

from benchmarks.peers import works
from benchmarks.peers.worker import Answer, Job, serve, versions


@DBOS.step()
async def _step(job: Job) -> str:
    return job["action_name"]


@DBOS.workflow()
async def _workflow(job: Job) -> str:
    return await _step(job)


class _Client:
    def prepare(self, job: Job) -> Job:
        return job

    prepare_due = prepare

    async def create(self, prepared: Job) -> str:
        return await _workflow(prepared)


@asynccontextmanager
async def _open(url: str, connections: int) -> AsyncIterator[_Client]:
    config: DBOSConfig = {
        "name": "benchmark",
        "system_database_url": url,
        "log_level": "ERROR",
    }
    DBOS(config=config)
    DBOS.launch()
    try:
        yield _Client()
    finally:
        DBOS.destroy()


async def _install(url: str, _: list[Job]) -> Answer:
    async with _open(url, 1):
        pass
    return versions("dbos", "psycopg")


if __name__ == "__main__":
    # One call is the whole workflow; there is no way to call a part.
    whole = works.of(_open)["create"]
    serve({"install": _install, "create": whole, "cycle": whole, "create_and_cycle": whole})
