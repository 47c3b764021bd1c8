"""The two compared sides with one interface, so that the same code gives both the same work."""

import sqlite3
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.baseline_aiosqlite import (
    INSERT,
    SCHEMA,
    PlainProposal,
    PlainRecord,
    PlainRepository,
    insert_values,
)
from operator_core.actions.types import ActionProposal, ActionRecord
from operator_core.db import ActionDB

__all__ = ["BASELINE", "OURS", "Side", "parameters"]


def parameters(number: int) -> dict[str, Any]:
    """The arguments of a realistic tool call, about 150 bytes as JSON."""
    return {
        "region_id": 40_000 + number,
        "from_store": 2,
        "to_store": number % 7 + 3,
        "keyspace": "orders/eu-central/shard-0017",
        "limits": {"max_retries": 3, "timeout_s": 12.5},
        "labels": ["hot", "rebalance"],
    }


def _fields(number: int) -> dict[str, Any]:
    return {
        "action_name": "transfer_leader",
        "parameters": parameters(number),
        "reason": "store 2 holds 61 % of the leaders and answers slowly",
        "proposed_by": "balancer",
    }


@dataclass(frozen=True)
class Side:
    """One of the two: how to open it, and its own kinds of proposal and record."""

    name: str
    open: Callable[[Path], AbstractAsyncContextManager[Any]]
    """Opens a file from `make`."""
    make: Callable[[Path, int], Any]
    """Makes a file with the specified number of proposals; never timed."""
    proposal: Callable[[int], Any]
    record: Callable[[int], Any]


async def _make_ours(path: Path, rows: int) -> None:
    async with ActionDB(path) as db:
        await db.create_proposals([OURS.proposal(number) for number in range(rows)])


async def _make_baseline(path: Path, rows: int) -> None:
    conn = sqlite3.connect(path)
    conn.executescript(SCHEMA)
    proposals = (BASELINE.proposal(number) for number in range(rows))
    conn.executemany(INSERT, (insert_values(proposal) for proposal in proposals))
    conn.commit()
    conn.close()


OURS = Side(
    "operator-core",
    ActionDB,
    _make_ours,
    lambda number: ActionProposal(**_fields(number)),
    lambda proposal_id: ActionRecord(proposal_id=proposal_id),
)
BASELINE = Side(
    "baseline",
    PlainRepository,
    _make_baseline,
    lambda number: PlainProposal(**_fields(number)),
    lambda proposal_id: PlainRecord(proposal_id=proposal_id),
)
