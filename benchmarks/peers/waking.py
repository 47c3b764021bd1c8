"""Measures how soon a caller that waits for a proposal on one connection sees a change from another."""

import asyncio
import statistics
import time
from contextlib import suppress

from benchmarks.peers.compare import jobs
from benchmarks.report import table
from operator_core.actions.types import ActionProposal, ActionStatus
from operator_core.db import ActionDB

__all__ = ["NAME", "PROMISED", "waking", "waking_table"]

NAME = "NOTIFY to wake-up"
PROMISED = 0.010
"""Median seconds from the call that makes the change, its commit included, to the wake-up of the waiting caller."""

_SETTLED = 0.02
"""Seconds after which the waiting caller has read once and listens; without a change it sleeps for five."""


async def waking(url: str, times: int) -> list[float]:
    """The seconds of each of `times` changes, one after another."""
    job = jobs(1)[0]
    found: list[float] = []
    async with ActionDB(url) as db, ActionDB(url) as other:

        async def woken(id_: int) -> float:
            await db.wait_for(id_)
            return time.perf_counter()

        async def follow() -> None:
            async for _ in db.events(follow=True):
                pass

        # Keeps the listening connection open, as a service does.
        following = asyncio.create_task(follow())
        try:
            async with asyncio.timeout(10 + times):
                for _ in range(times):
                    made = (await other.create_proposal(ActionProposal(**job))).id or 0
                    waiting = asyncio.create_task(woken(made))
                    await asyncio.sleep(_SETTLED)
                    start = time.perf_counter()
                    await other.update_proposal_status(made, ActionStatus.CANCELLED)
                    found.append(await waiting - start)
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
    return found


def waking_table(found: list[float]) -> str:
    """The result as text."""
    median, slowest = statistics.median(found), max(found)
    row = (
        NAME,
        f"{median * 1000:.1f}",
        f"{slowest * 1000:.1f}",
        f"{PROMISED * 1000:.0f}",
        "ok" if median < PROMISED else "BEHIND",
    )
    head = ("from a change to the waiting caller", "median, ms", "slowest, ms", "promised", "")
    return f"Waking, {len(found)} times\n\n{table(head, [row])}"
