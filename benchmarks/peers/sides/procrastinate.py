"""procrastinate, as its documentation says: a PsycopgConnector, the app open, a task that is deferred."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from procrastinate import App, PsycopgConnector
from procrastinate.tasks import Task

from benchmarks.peers import works
from benchmarks.peers.worker import Answer, Job, serve, versions


class _Client:
    def __init__(self, task: Task) -> None:
        self._task = task

    def prepare(self, job: Job) -> dict[str, Any]:
        return {name: value for name, value in job.items() if name != "action_name"}

    async def create(self, prepared: dict[str, Any]) -> int:
        return await self._task.defer_async(**prepared)

    async def create_many(self, prepared: list[dict[str, Any]]) -> list[int]:
        return await self._task.batch_defer_async(*prepared)


def _app(url: str, connections: int) -> App:
    pool = {"min_size": connections, "max_size": connections}
    return App(connector=PsycopgConnector(conninfo=url, **pool))


@asynccontextmanager
async def _open(url: str, connections: int) -> AsyncIterator[_Client]:
    app = _app(url, connections)

    @app.task(queue="actions", name="transfer_leader")
    async def act(parameters: dict[str, Any], reason: str, proposed_by: str) -> None: ...

    async with app.open_async():
        yield _Client(act)


async def _install(url: str, _: list[Job]) -> Answer:
    async with _app(url, 1).open_async() as app:
        await app.schema_manager.apply_schema_async()
    return versions("procrastinate", "psycopg")


if __name__ == "__main__":
    serve({"install": _install, **works.of(_open)})
