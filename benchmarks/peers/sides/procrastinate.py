"""procrastinate, used as its documentation shows: a PsycopgConnector, an open app, a deferred task, a worker."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from procrastinate import App, PsycopgConnector
from procrastinate.jobs import Status
from procrastinate.tasks import Task

from benchmarks.peers import works
from benchmarks.peers.worker import Answer, Job, serve, versions


class _Client:
    def __init__(self, app: App, task: Task, worker_id: int) -> None:
        self._app = app
        self._task = task
        self._worker_id = worker_id
        self.ended = 0

    def prepare(self, job: Job) -> dict[str, Any]:
        return {name: value for name, value in job.items() if name != "action_name"}

    prepare_due = prepare

    async def create(self, prepared: dict[str, Any]) -> int:
        return await self._task.defer_async(**prepared)

    async def create_many(self, prepared: list[dict[str, Any]]) -> list[int]:
        return await self._task.batch_defer_async(*prepared)

    async def cycle(self) -> None:
        job = await self._app.job_manager.fetch_job(None, self._worker_id)
        assert job is not None
        await self._app.job_manager.finish_job(job, Status.SUCCEEDED, delete_job=False)

    async def drain(self, batch: int) -> works.Drained:
        # A worker takes jobs one by one, and runs as many at once as it has connections.
        self.ended = 0
        start = time.perf_counter()
        await self._app.run_worker_async(
            concurrency=works.POOL, wait=False, install_signal_handlers=False
        )
        return self.ended, time.perf_counter() - start

    async def unfinished(self) -> int:
        queues = await self._app.job_manager.list_queues_async()
        return sum(each["jobs_count"] - each["succeeded"] for each in queues)


def _app(url: str, connections: int) -> App:
    pool = {"min_size": connections, "max_size": connections}
    return App(connector=PsycopgConnector(conninfo=url, **pool))


@asynccontextmanager
async def _open(url: str, connections: int) -> AsyncIterator[_Client]:
    app = _app(url, connections)

    @app.task(queue="actions", name="transfer_leader")
    async def act(parameters: dict[str, Any], reason: str, proposed_by: str) -> None:
        client.ended += 1

    async with app.open_async():
        client = _Client(app, act, await app.job_manager.register_worker())
        yield client


async def _install(url: str, _: list[Job]) -> Answer:
    async with _app(url, 1).open_async() as app:
        await app.schema_manager.apply_schema_async()
    return versions("procrastinate", "psycopg")


if __name__ == "__main__":
    serve({"install": _install, **works.of(_open)})
