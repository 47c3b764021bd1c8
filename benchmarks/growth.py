"""Measures the cost of an operation in a ledger with 10,000, 100,000 and a million rows."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.report import table, times
from benchmarks.sides import OURS
from operator_core.actions.types import ActionProposal, ActionStatus
from operator_core.db import ActionDB
from operator_core.db.sql.sqlite_library import dbapi

__all__ = [
    "CLAIM",
    "OPERATIONS",
    "QUICK_SIZES",
    "SIZES",
    "Costs",
    "Operation",
    "as_json",
    "behind",
    "cost",
    "costs_table",
    "fill",
    "growth",
    "keep_waiting",
    "report",
]

SIZES = (10_000, 100_000, 1_000_000)
QUICK_SIZES = (1_000, 5_000)
FLAT = 2.0
PENDING = 1000
WAITING = 1000
REPEATS = 20

Costs = dict[str, list[float]]
"""The median seconds of each operation at each size."""

# Like old rows of a ledger in use: most completed, some failed, each with the record of its execution, and none
# pending. The triggers write the events. Statuses and names are spread over all ids.
_FILL = """
WITH RECURSIVE numbers (n) AS (SELECT :first UNION ALL SELECT n + 1 FROM numbers WHERE n < :last)
INSERT INTO action_proposals
    (action_name, parameters, reason, status, proposed_at, proposed_by, status_changed_by)
SELECT
    'action_' || (n % 20), :parameters, :reason,
    CASE WHEN n % 10 = 0 THEN 'failed' WHEN n % 50 = 1 THEN 'cancelled' ELSE 'completed' END,
    strftime('%Y-%m-%d %H:%M:%f000', 'now'), 'agent_' || (n % 5), 'balancer'
FROM numbers
"""
_FILL_RECORDS = """
INSERT INTO action_records
    (proposal_id, started_at, completed_at, success, error_message, started_by, worker, completed_by)
SELECT
    id, created_at, created_at, status = 'completed', iif(status = 'failed', 'store 2 is gone', NULL),
    'worker-1', 'worker-1', 'worker-1'
FROM action_proposals WHERE id > ? AND status IN ('completed', 'failed')
"""


def fill(path: Path, rows: int) -> None:
    """Adds finished proposals until the ledger has `rows` proposals."""
    conn = dbapi.connect(path, isolation_level=None)
    try:
        (first,) = conn.execute("SELECT count(*) + 1 FROM action_proposals").fetchone()
        (before,) = conn.execute("SELECT coalesce(max(id), 0) FROM action_proposals").fetchone()
        proposal = OURS.proposal(0)
        conn.execute(
            _FILL,
            {
                "first": first,
                "last": rows,
                "parameters": json.dumps(proposal.parameters, separators=(",", ":")),
                "reason": proposal.reason,
            },
        )
        conn.execute(_FILL_RECORDS, (before,))
        # So that no operation pays for the log that filling left behind.
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        conn.close()


Operation = Callable[[ActionDB, Random, int], Awaitable[object]]

CLAIM = f"claim(1) of {WAITING:,} waiting"
_CLAIM_FLAT = 1.5

OPERATIONS: dict[str, Operation] = {
    "get": lambda db, random, rows: db.get_proposal(random.randrange(1, rows)),
    "list(limit=50)": lambda db, random, rows: db.list_proposals(limit=50),
    "list(completed, limit=50)": lambda db, random, rows: db.list_proposals(
        ActionStatus.COMPLETED, before=random.randrange(rows // 2, rows), limit=50
    ),
    "list(failed or cancelled, limit=50)": lambda db, random, rows: db.list_proposals(
        [ActionStatus.FAILED, ActionStatus.CANCELLED],
        before=random.randrange(rows // 2, rows),
        limit=50,
    ),
    "list(action_name, limit=50)": lambda db, random, rows: db.list_proposals(
        action_name="action_7", before=random.randrange(rows // 2, rows), limit=50
    ),
    "history(limit=50)": lambda db, random, rows: db.history(
        after=random.randrange(1, rows // 2), limit=50
    ),
    "history(proposal_id)": lambda db, random, rows: db.history(random.randrange(1, rows)),
    "create": lambda db, random, rows: db.create_proposal(OURS.proposal(rows)),
    "update status": lambda db, random, rows: _update(db, random.randrange(1, rows)),
    CLAIM: lambda db, random, rows: _claim(db),
}
_CANCEL = f"cancel_all_pending of {PENDING:,}"


async def _update(db: ActionDB, before: int) -> float:
    """The seconds of one move of a failed proposal somewhere in the ledger."""
    failed = await db.list_proposals(ActionStatus.FAILED, before=before, limit=1)
    id_ = failed[0].id if failed else 10
    assert id_ is not None
    start = time.perf_counter()
    await db.update_proposal_status(id_, ActionStatus.VALIDATED)
    seconds = time.perf_counter() - start
    # Moves it back, so that any number of rounds finds rows to move.
    await db.update_proposal_status(id_, ActionStatus.EXECUTING)
    await db.update_proposal_status(id_, ActionStatus.FAILED)
    return seconds


async def _claim(db: ActionDB) -> float:
    """The seconds of one claim; the number of waiting proposals stays the same."""
    start = time.perf_counter()
    (claim,) = await db.claim("worker-1")
    seconds = time.perf_counter() - start
    await db.complete(claim.record.id)
    await db.create_proposal(_due(0))
    return seconds


async def keep_waiting(db: ActionDB) -> None:
    """Adds proposals until `WAITING` of them wait for a claim."""
    counts = await db.count_proposals()
    await db.create_proposals([_due(n) for n in range(WAITING - counts[ActionStatus.VALIDATED])])


def _due(number: int) -> ActionProposal:
    return OURS.proposal(number).model_copy(update={"status": ActionStatus.VALIDATED})


async def growth(
    folder: Path, sizes: tuple[int, ...], rounds: int, progress: Callable[[str], None]
) -> tuple[Costs, dict[str, float]]:
    """The cost of each operation at each size, and the memory for reading everything."""
    path = folder / "growing.db"
    async with ActionDB(path):
        pass
    costs: Costs = {name: [] for name in (*OPERATIONS, _CANCEL)}
    for rows in sizes:
        progress(f"{rows:,} rows")
        fill(path, rows)
        async with ActionDB(path) as db:
            for name, seconds in (await _measure(db, rows, rounds)).items():
                costs[name].append(seconds)
    progress("reading everything")
    memory = {f"{rows:,}": _memory(path, rows) for rows in (sizes[0], sizes[-1])}
    return costs, memory


async def cost(db: ActionDB, operation: Operation, random: Random, rows: int) -> float:
    """The median seconds of several consecutive calls."""
    each: list[float] = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        seconds = await operation(db, random, rows)
        taken = time.perf_counter() - start
        each.append(seconds if isinstance(seconds, float) else taken)
    return statistics.median(each)


async def _measure(db: ActionDB, rows: int, rounds: int) -> dict[str, float]:
    random = Random(rows)  # the same ids in each run
    found: dict[str, list[float]] = {name: [] for name in (*OPERATIONS, _CANCEL)}
    for number in range(-1, rounds):  # the first round warms the caches and does not count
        await keep_waiting(db)
        for name, operation in OPERATIONS.items():
            seconds = await cost(db, operation, random, rows)
            if number >= 0:
                found[name].append(seconds)
        await db.cancel_all_pending()  # the created and the waiting proposals
        await db.create_proposals([OURS.proposal(index) for index in range(PENDING)])
        start = time.perf_counter()
        cancelled = await db.cancel_all_pending()
        if number >= 0:
            found[_CANCEL].append(time.perf_counter() - start)
        assert cancelled == PENDING
    return {name: statistics.median(each) for name, each in found.items()}


_READ_ALL = """
import asyncio, re, sys
from pathlib import Path
from operator_core.db import ActionDB

def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

async def main(path, rows):
    count = 0
    async with ActionDB(path) as db:
        await db.list_proposals(limit=1)
        before = peak()
        async for _ in db.iter_proposals(before=rows + 1):
            count += 1
    assert count == rows, count
    print(peak() - before)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def _memory(path: Path, rows: int) -> float:
    """MiB by which a process grows while it reads `rows` rows (VmHWM); NaN without /proc."""
    if not Path("/proc/self/status").exists():
        return float("nan")
    done = subprocess.run(
        [sys.executable, "-c", _READ_ALL, str(path), str(rows)],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout)


def _ratio(costs: list[float]) -> float:
    return costs[-1] / costs[0]


def _flat(name: str) -> float:
    return _CLAIM_FLAT if name == CLAIM else FLAT


def behind(costs: Costs) -> list[str]:
    """The operations whose cost grows more than promised."""
    return [name for name, each in costs.items() if _ratio(each) > _flat(name)]


def costs_table(costs: Costs, sizes: tuple[int, ...]) -> str:
    """The cost of each operation at each size, and whether it is flat, as text."""
    late = behind(costs)
    head = (
        "milliseconds a call",
        *(f"{size:,} rows" for size in sizes),
        "last/first",
        "promised",
        "",
    )
    rows = [
        (
            name,
            *(f"{seconds * 1000:.2f}" for seconds in each),
            times(_ratio(each)),
            times(_flat(name)),
            "BEHIND" if name in late else "ok",
        )
        for name, each in costs.items()
    ]
    return f"Cost by the number of finished rows in the ledger, medians\n\n{table(head, rows)}"


def report(costs: Costs, memory: dict[str, float], sizes: tuple[int, ...]) -> str:
    """The result as text."""
    memory_rows = [(f"{rows} rows", f"{size:.1f}") for rows, size in memory.items()]
    more = table(("iter_proposals over", "MiB more than before"), memory_rows)
    return f"{costs_table(costs, sizes)}\n\n{more}"


def as_json(costs: Costs, memory: dict[str, float], sizes: tuple[int, ...]) -> dict[str, Any]:
    """The result as JSON values."""
    return {"sizes": sizes, "seconds": costs, "memory_mib": memory, "behind": behind(costs)}
