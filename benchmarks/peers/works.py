"""The works, written once and driven against every side, so that each is given the same."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Protocol

from benchmarks.peers.worker import Answer, Job, Work

__all__ = ["BATCH", "POOL", "TASKS", "WORKS", "Client", "Open", "of"]

TASKS = 64
POOL = 20
BATCH = 1000

# Past the executions after which psycopg prepares a statement (5) and PostgreSQL may settle for a
# generic plan (5 more), on each connection of the pool.
_WARM = 30
_WARM_EACH = 6


class Client(Protocol):
    """A side, open. `prepare` is never timed: what a caller holds when it makes its call."""

    def prepare(self, job: Job) -> Any: ...

    async def create(self, prepared: Any) -> object: ...

    async def create_many(self, prepared: list[Any]) -> object: ...


Open = Callable[[str, int], AbstractAsyncContextManager[Client]]
"""Connects to the URL, with so many connections."""

_Do = Callable[[list[Any]], Awaitable[None]]


async def _measured(do: _Do, warm: list[Any], prepared: list[Any]) -> Answer:
    await do(warm)
    gc.collect()
    start = time.perf_counter()
    await do(prepared)
    seconds = time.perf_counter() - start
    return {"per_second": len(prepared) / seconds, "creates": len(warm) + len(prepared)}


async def _create(open_: Open, url: str, jobs: list[Job]) -> Answer:
    async with open_(url, 1) as client:

        async def do(these: list[Any]) -> None:
            for each in these:
                await client.create(each)

        prepared = [client.prepare(job) for job in jobs]
        return await _measured(do, prepared[:1] * _WARM, prepared)


async def _create_by_tasks(open_: Open, url: str, jobs: list[Job]) -> Answer:
    async with open_(url, POOL) as client:

        async def task(these: list[Any]) -> None:
            for each in these:
                await client.create(each)

        async def do(these: list[Any]) -> None:
            await asyncio.gather(*(task(these[number::TASKS]) for number in range(TASKS)))

        prepared = [client.prepare(job) for job in jobs]
        return await _measured(do, prepared[:1] * _WARM_EACH * TASKS, prepared)


async def _create_in_bulk(open_: Open, url: str, jobs: list[Job]) -> Answer:
    async with open_(url, 1) as client:

        async def do(these: list[Any]) -> None:
            for start in range(0, len(these), BATCH):
                await client.create_many(these[start : start + BATCH])

        prepared = [client.prepare(job) for job in jobs]
        return await _measured(do, prepared[:BATCH], prepared)


WORKS: dict[str, Callable[[Open, str, list[Job]], Awaitable[Answer]]] = {
    "create": _create,
    "create_by_tasks": _create_by_tasks,
    "create_in_bulk": _create_in_bulk,
}


def of(open_: Open) -> dict[str, Work]:
    """All works, with a side's way of opening."""
    return {name: partial(work, open_) for name, work in WORKS.items()}
