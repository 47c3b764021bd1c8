"""Writes to a ledger until it is killed, and prints each write that was acknowledged, as it is."""

import asyncio
import os
import sys

from operator_core.actions.types import ActionRecord, ActionStatus
from operator_core.db import ActionDB
from operator_core.db.sql.sqlite_library import dbapi
from tests.failures.harness import proposal


def say(line: str) -> None:
    # One system call a line: what was said stays said when the process dies.
    os.write(1, f"{line}\n".encode())


async def live(db: ActionDB) -> None:
    """Proposals, one after another, through their whole life."""
    while True:
        created = await db.create_proposal(proposal(parameters={"region": 7, "text": "x" * 200}))
        assert created.id is not None
        say(f"proposal {created.id}")
        for status in (ActionStatus.VALIDATED, ActionStatus.EXECUTING):
            await db.update_proposal_status(created.id, status)
            say(f"status {created.id} {status}")
        record = await db.create_record(ActionRecord(proposal_id=created.id))
        assert record.id is not None
        say(f"record {record.id}")
        async with db.transaction() as tx:
            await tx.update_record(record.id, True, result_data={"moved": 1})
            await tx.update_proposal_status(created.id, ActionStatus.COMPLETED)
        say(f"outcome {record.id}")
        say(f"status {created.id} completed")


async def write(path: str) -> None:
    async with ActionDB(path, busy_timeout=60) as db:
        # Several at once, so that their writes share commits.
        await asyncio.gather(*(live(db) for _ in range(4)))


def write_early(path: str) -> None:
    """The planted bug: acknowledges what it will commit later, so late that it is killed before."""
    connection = dbapi.connect(path, timeout=60, isolation_level=None)
    while True:
        connection.execute("BEGIN IMMEDIATE")
        for _ in range(1_000_000):
            (number,) = connection.execute(
                "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at)"
                " VALUES ('naive', '{}', 'no', '2026-01-01 00:00:00.000000') RETURNING id"
            ).fetchone()
            say(f"proposal {number}")
        connection.execute("COMMIT")


if __name__ == "__main__":
    if sys.argv[2] == "early":
        write_early(sys.argv[1])
    asyncio.run(write(sys.argv[1]))
