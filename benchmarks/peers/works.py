"""The works, written once and run on every side, so that each side does the same."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Protocol

from benchmarks.peers.worker import Answer, Job, Work

__all__ = [
    "ACTORS",
    "BATCH",
    "POOL",
    "TASKS",
    "WORKS",
    "Client",
    "Drained",
    "Open",
    "in_tasks",
    "in_threads",
    "of",
]

TASKS = 64
ACTORS = 16
"""The tasks or threads that act at once."""
POOL = 20
BATCH = 1000

# More than the executions after which psycopg prepares a statement (5) and PostgreSQL may choose a generic plan
# (5 more), on each connection of the pool.
_WARM = 30
_WARM_EACH = 6
_WARM_BATCHES = 12

Drained = tuple[int, float]
"""The number of jobs, and the seconds from taking the first to the end of the last."""


class Client(Protocol):
    """An open side. Preparing the arguments of a call is never timed."""

    def prepare(self, job: Job) -> Any: ...

    def prepare_due(self, job: Job) -> Any:
        """Like `prepare`, for a job that a worker may take as soon as it is created."""

    async def create(self, prepared: Any) -> object: ...

    async def create_many(self, prepared: list[Any]) -> object: ...

    async def cycle(self) -> object:
        """Takes the first due job and ends it with success."""

    async def act(self, prepared: Any) -> object:
        """Creates a job that needs an approval, approves it, takes a due job, and ends it with success."""

    async def act_by_tasks(self, shares: Sequence[Sequence[Any]]) -> object:
        """Does `act` with each prepared job, each share in its own task or thread."""

    async def drain(self, batch: int) -> Drained:
        """Takes all due jobs, `batch` at a time, and ends them with success."""

    async def unfinished(self) -> int:
        """The number of jobs in the database that did not end with success."""


Open = Callable[[str, int], AbstractAsyncContextManager[Client]]
"""Connects to the URL with the specified number of connections."""

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
        # A session keeps the plans of single creates, and bulk creates must not use them.
        for _ in range(_WARM):
            await client.create(prepared[0])
        answer = await _measured(do, prepared[:BATCH], prepared)
        return {**answer, "creates": answer["creates"] + _WARM}


async def _fill(client: Client, prepared: list[Any]) -> None:
    for start in range(0, len(prepared), BATCH):
        await client.create_many(prepared[start : start + BATCH])


async def _cycle(open_: Open, url: str, jobs: list[Job]) -> Answer:
    async with open_(url, 1) as client:
        due = [client.prepare_due(job) for job in jobs]
        await _fill(client, due[:1] * _WARM + due)
        for _ in range(_WARM):
            await client.cycle()
        gc.collect()
        start = time.perf_counter()
        for _ in due:
            await client.cycle()
        seconds = time.perf_counter() - start
        return await _finished(client, len(due), seconds)


async def _create_and_cycle(open_: Open, url: str, jobs: list[Job]) -> Answer:
    async with open_(url, 1) as client:

        async def do(these: list[Any]) -> None:
            for each in these:
                await client.create(each)
                await client.cycle()

        due = [client.prepare_due(job) for job in jobs]
        answer = await _measured(do, due[:1] * _WARM, due)
        assert await client.unfinished() == 0
        return answer


async def in_tasks(
    act: Callable[[Any], Awaitable[object]], shares: Sequence[Sequence[Any]]
) -> None:
    """Calls `act` with each prepared job, each share in its own task: `act_by_tasks` of an asynchronous side."""

    async def task(share: Sequence[Any]) -> None:
        for prepared in share:
            await act(prepared)

    await asyncio.gather(*(task(share) for share in shares))


def in_threads(act: Callable[[Any], object], shares: Sequence[Sequence[Any]]) -> None:
    """Calls `act` with each prepared job, each share in its own thread: `act_by_tasks` of a synchronous side."""

    def thread(share: Sequence[Any]) -> None:
        for prepared in share:
            act(prepared)

    with ThreadPoolExecutor(len(shares)) as threads:
        for _ in threads.map(thread, shares):
            pass


async def _act(open_: Open, url: str, jobs: list[Job]) -> Answer:
    async with open_(url, 1) as client:
        # Each is a job of its own, also for a side that takes equal jobs for one.
        warm = [client.prepare(jobs[0]) for _ in range(_WARM)]
        prepared = [client.prepare(job) for job in jobs]
        for each in warm:
            await client.act(each)
        gc.collect()
        start = time.perf_counter()
        for each in prepared:
            await client.act(each)
        return await _finished(client, len(prepared), time.perf_counter() - start)


async def _act_by_tasks(open_: Open, url: str, jobs: list[Job]) -> Answer:
    async with open_(url, ACTORS) as client:
        warm = [[client.prepare(jobs[0]) for _ in range(_WARM_EACH)] for _ in range(ACTORS)]
        prepared = [client.prepare(job) for job in jobs]
        await client.act_by_tasks(warm)
        shares = [prepared[number::ACTORS] for number in range(ACTORS)]
        gc.collect()
        start = time.perf_counter()
        await client.act_by_tasks(shares)
        return await _finished(client, len(prepared), time.perf_counter() - start)


async def _drain(open_: Open, url: str, jobs: list[Job], *, batch: int) -> Answer:
    async with open_(url, POOL) as client:
        due = [client.prepare_due(job) for job in jobs]
        for _ in range(_WARM):
            await client.create(due[0])
            await client.cycle()
        await _fill(client, due[:1] * batch * _WARM_BATCHES)
        await client.drain(batch)
        await _fill(client, due)
        gc.collect()
        count, seconds = await client.drain(batch)
        assert count == len(due), f"{count} of {len(due)} were taken"
        return await _finished(client, count, seconds)


async def _finished(client: Client, count: int, seconds: float) -> Answer:
    assert await client.unfinished() == 0, "not all jobs that were taken have ended"
    return {"per_second": count / seconds}


WORKS: dict[str, Callable[[Open, str, list[Job]], Awaitable[Answer]]] = {
    "create": _create,
    "create_by_tasks": _create_by_tasks,
    "create_in_bulk": _create_in_bulk,
    "cycle": _cycle,
    "create_and_cycle": _create_and_cycle,
    "act": _act,
    "act_by_tasks": _act_by_tasks,
    "drain_by_10": partial(_drain, batch=10),
    "drain_by_100": partial(_drain, batch=100),
}


def of(open_: Open) -> dict[str, Work]:
    """All works on a side, which `open_` opens."""
    return {name: partial(work, open_) for name, work in WORKS.items()}
