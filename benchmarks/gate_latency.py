"""Measures a waiting gate: from a decision in another process to executed and recorded."""

import asyncio
import random
import statistics
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.report import table
from operator_core import Gate
from operator_core.actions.types import Rule
from operator_core.db import ActionDB

__all__ = [
    "CALLS",
    "NAME",
    "POSTGRESQL",
    "QUICK_CALLS",
    "SQLITE",
    "as_json",
    "behind",
    "gate_latency",
    "report",
]

NAME: Final = "from a decision elsewhere to executed and recorded"

SQLITE: Final = "SQLite"
POSTGRESQL: Final = "PostgreSQL"
_PROMISED: Final = {SQLITE: 0.030, POSTGRESQL: 0.015}
"""Median seconds."""

_ROOT: Final = Path(__file__).parents[1]

_SETTLED: Final = 0.2
"""Seconds after which the gate has read once and waits."""

_SPREAD: Final = 0.02
"""The longest additional wait: the decision comes at any time between two looks at a file."""

_PATIENCE: Final = 60.0
"""Seconds after which a call or the other process hangs."""

CALLS: Final = 20
QUICK_CALLS: Final = 2
"""The calls of a round, one after another."""


async def gate_latency(
    target: Path | str, calls: int, rounds: int, progress: Callable[[str], None]
) -> list[float]:
    """The median seconds of each round on the ledger at `target`, which is empty at first."""
    progress(NAME)
    found: list[float] = []
    async with ActionDB(target) as db, _approver(target) as approver:
        await db.add_rule(Rule(name="people", action_name="drain_*"), by="lead", reason="benchmark")
        gate = Gate(db, run_id="benchmark", agent_id="planner", requester="ann")
        gate.tool()(drain_store)
        for number in range(-1, rounds):  # the first round warms the caches and does not count
            each = [await _settled(gate, db, approver) for _ in range(calls)]
            if number >= 0:
                found.append(statistics.median(each))
    return found


async def drain_store(store: int) -> str:
    return f"store {store} is drained"


async def _settled(gate: Gate, db: ActionDB, approver: Process) -> float:
    """The seconds from the return of the other process's approval to the return of `settle`."""
    store = random.randrange(10**9)
    ticket = await gate.propose("drain_store", {"store": store}, call_id=f"call-{store}")
    proposal = await db.get_proposal(ticket.proposal_id)
    assert proposal is not None

    async def settled() -> int:
        await gate.settle(ticket)
        return time.monotonic_ns()

    assert approver.stdin is not None
    assert approver.stdout is not None
    async with asyncio.timeout(_PATIENCE), asyncio.TaskGroup() as group:
        settling = group.create_task(settled())
        await asyncio.sleep(_SETTLED + random.uniform(0, _SPREAD))
        approver.stdin.write(f"{proposal.id} {proposal.digest}\n".encode())
        until = await settling
        since = int(await approver.stdout.readline())
    # Both processes read the machine's one monotonic clock.
    return (until - since) / 1e9


@asynccontextmanager
async def _approver(target: Path | str) -> AsyncIterator[Process]:
    """Another process, which approves what it reads from its stdin."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __spec__.name, str(target), cwd=_ROOT, stdin=PIPE, stdout=PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_PATIENCE):
            assert await process.stdout.readline() == b"open\n"
        yield process
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(_PATIENCE):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def _approve(target: str) -> None:
    """Approves each proposal that stdin names, and answers with the time after its commit."""
    async with ActionDB(target) as db:
        print("open", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            proposal_id, digest = line.split()
            await db.approve_proposal(int(proposal_id), by="maria", digest=digest)
            print(time.monotonic_ns(), flush=True)


def behind(found: dict[str, list[float]]) -> list[str]:
    """The places where it takes longer than promised."""
    return [
        f"{NAME} ({place})"
        for place, rounds in found.items()
        if statistics.median(rounds) > _PROMISED[place]
    ]


def report(found: dict[str, list[float]], calls: int) -> str:
    """The result as text."""
    late = behind(found)
    rows = [
        (
            place,
            f"{statistics.median(rounds) * 1000:.1f}",
            f"{min(rounds) * 1000:.1f}-{max(rounds) * 1000:.1f}",
            f"{_PROMISED[place] * 1000:.0f}",
            "BEHIND" if f"{NAME} ({place})" in late else "ok",
        )
        for place, rounds in found.items()
    ]
    head = (NAME, "median, ms", "of rounds", "promised", "")
    title = f"A waiting gate, medians of rounds of {calls} calls"
    return f"{title}\n\n{table(head, rows)}"


def as_json(found: dict[str, list[float]]) -> dict[str, Any]:
    """The result as JSON values."""
    return {"seconds": found, "behind": behind(found)}


if __name__ == "__main__":
    asyncio.run(_approve(sys.argv[1]))
