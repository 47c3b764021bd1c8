"""Measures the ledger's own units with each of the two drivers, in turns, to choose the driver of ``postgresql://``."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.peers.compare import jobs
from benchmarks.peers.databases import Databases
from benchmarks.report import figure, table, times
from operator_core.actions.types import ActionProposal, ActionStatus
from operator_core.db import ActionDB, migrate

__all__ = ["DRIVERS", "drivers", "drivers_table"]

DRIVERS = ("asyncpg", "psycopg")
TASKS = 20

Figures = dict[str, dict[str, list[float]]]
"""For each work and driver, units a second in each round."""


async def _one_by_one(count: int, call: Callable[[int], Awaitable[object]]) -> None:
    for number in range(count):
        await call(number)


async def _by_tasks(count: int, call: Callable[[int], Awaitable[object]]) -> None:
    async def task(first: int) -> None:
        for number in range(first, count, TASKS):
            await call(number)

    await asyncio.gather(*(task(first) for first in range(TASKS)))


async def _turn(url: str, count: int) -> dict[str, float]:
    proposals = [ActionProposal(**job) for job in jobs(count)]
    async with ActionDB(url, pool_size=TASKS) as db:
        # Enough executions for both drivers to prepare their statements on each connection.
        await _by_tasks(TASKS * 12, lambda number: db.create_proposal(proposals[0]))
        await _by_tasks(TASKS * 12, lambda number: db.get_proposal(1))
        first = (await db.create_proposal(proposals[0])).id or 0
        calls: dict[str, tuple[Any, Callable[[int], Awaitable[object]]]] = {
            "create, one after another": (_one_by_one, lambda n: db.create_proposal(proposals[n])),
            "create, 20 tasks": (_by_tasks, lambda n: db.create_proposal(proposals[n])),
            "get, one after another": (_one_by_one, lambda n: db.get_proposal(first + n)),
            "get, 20 tasks": (_by_tasks, lambda n: db.get_proposal(first + n)),
            "update status, one after another": (
                _one_by_one,
                lambda n: db.update_proposal_status(first + 1 + n, ActionStatus.VALIDATED),
            ),
            "update status, 20 tasks": (
                _by_tasks,
                lambda n: db.update_proposal_status(first + 1 + n, ActionStatus.EXECUTING),
            ),
        }
        speeds: dict[str, float] = {}
        for name, (drive, call) in calls.items():
            start = time.perf_counter()
            await drive(count, call)
            speeds[name] = count / (time.perf_counter() - start)
    return speeds


async def drivers(
    made: Databases, count: int, rounds: int, progress: Callable[[str], None]
) -> Figures:
    """Measures each driver once in each round, in a new database."""
    template = await made.new("drivers_template")
    await asyncio.to_thread(migrate.upgrade, template)
    found: Figures = {}
    for number in range(-1, rounds):
        progress(f"drivers, round {number + 1}")
        for driver in DRIVERS if number % 2 else reversed(DRIVERS):
            url = await made.new(f"drivers_{driver}", template)
            # The small round before the first one warms the caches and does not count.
            speeds = await _turn(
                url.replace("://", f"+{driver}://", 1), count if number >= 0 else 20
            )
            await made.drop(url)
            for work, speed in speeds.items() if number >= 0 else ():
                found.setdefault(work, {}).setdefault(driver, []).append(speed)
    return found


def drivers_table(found: Figures) -> str:
    """The result as text."""
    rows = []
    for work, by_driver in found.items():
        ours, theirs = (by_driver[driver] for driver in DRIVERS)
        each = [one / other for one, other in zip(ours, theirs, strict=True)]
        medians = [statistics.median(by_driver[driver]) for driver in DRIVERS]
        rows.append(
            (
                work,
                *(figure(median) for median in medians),
                times(medians[0] / medians[1]),
                f"({min(each):.2f}-{max(each):.2f})",
            )
        )
    head = ("work of the ledger", "asyncpg/s", "psycopg/s", "ratio", "(min-max)")
    return (
        f"The ledger's two drivers, in turns, medians of {len(each)} rounds\n\n{table(head, rows)}"
    )
