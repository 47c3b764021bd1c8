"""Measures the cost of an operation on PostgreSQL in a growing ledger, without peers."""

import json
import statistics
from collections.abc import Callable
from random import Random

import asyncpg

from benchmarks.growth import CLAIM, OPERATIONS, Costs, cost, keep_waiting
from benchmarks.sides import OURS
from operator_core.db import ActionDB

__all__ = ["PROMISED", "fill", "growing", "settle"]

PROMISED = ("get", "list(limit=50)", "update status", CLAIM)

_CHUNK = 100_000

# As in `benchmarks.growth`: old rows of a ledger in use, and the records of their executions. Triggers write the
# events.
_FILL = """
WITH proposed AS (
    INSERT INTO action_proposals
        (action_name, parameters, reason, status, proposed_at, proposed_by, status_changed_by)
    SELECT
        'action_' || (n % 20), $3::json, $4,
        CASE WHEN n % 10 = 0 THEN 'failed' WHEN n % 50 = 1 THEN 'cancelled' ELSE 'completed' END,
        clock_timestamp(), 'agent_' || (n % 5), 'balancer'
    FROM generate_series($1::bigint, $2::bigint) AS numbers (n)
    RETURNING id, status, created_at
)
INSERT INTO action_records
    (proposal_id, started_at, completed_at, success, error_message, started_by, worker, completed_by)
SELECT
    id, created_at, created_at, status = 'completed',
    CASE status WHEN 'failed' THEN 'store 2 is gone' END, 'worker-1', 'worker-1', 'worker-1'
FROM proposed WHERE status <> 'cancelled'
"""


async def fill(url: str, filled: int, rows: int) -> None:
    """Adds `rows` - `filled` finished proposals."""
    proposal = OURS.proposal(0)
    values = (json.dumps(proposal.parameters, separators=(",", ":")), proposal.reason)
    conn = await asyncpg.connect(url)
    try:
        for first in range(filled + 1, rows + 1, _CHUNK):
            await conn.execute(_FILL, first, min(first + _CHUNK - 1, rows), *values)
    finally:
        await conn.close()


async def settle(url: str) -> None:
    """Vacuums and checkpoints, so that no operation pays for the filling."""
    conn = await asyncpg.connect(url)
    try:
        await conn.execute("VACUUM ANALYZE")
        await conn.execute("CHECKPOINT")
    finally:
        await conn.close()


async def growing(
    url: str, sizes: tuple[int, ...], rounds: int, progress: Callable[[str], None]
) -> Costs:
    """The median seconds of the operations with a promise, at each size; the ledger is empty at first."""
    costs: Costs = {name: [] for name in PROMISED}
    filled = 0
    for rows in sizes:
        progress(f"{rows:,} rows")
        await fill(url, filled, rows)
        filled = rows
        async with ActionDB(url) as db:
            await keep_waiting(db)
            await settle(url)
            for name, seconds in (await _measure(db, rows, rounds)).items():
                costs[name].append(seconds)
    return costs


async def _measure(db: ActionDB, rows: int, rounds: int) -> dict[str, float]:
    random = Random(rows)  # the same ids in each run
    found: dict[str, list[float]] = {name: [] for name in PROMISED}
    for number in range(-1, rounds):  # the first round warms the caches and does not count
        for name, each in found.items():
            seconds = await cost(db, OPERATIONS[name], random, rows)
            if number >= 0:
                each.append(seconds)
    return {name: statistics.median(each) for name, each in found.items()}
