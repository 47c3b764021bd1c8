"""Makes writes and prints how often the process told the disk to keep what it has.

Runs with a preloaded library that counts fsync and fdatasync.
"""

import asyncio
import ctypes
import json
import sys

from operator_core.db import ActionDB
from operator_core.db.sql.sqlite_library import dbapi
from tests.failures.harness import proposal

counter = ctypes.CDLL(None).syncs
counter.restype = ctypes.c_long


async def one_after_another(db: ActionDB, writes: int) -> int:
    before = counter()
    for _ in range(writes):
        await db.create_proposal(proposal())
    return counter() - before


async def at_once(db: ActionDB, writes: int) -> tuple[int, int]:
    """How many in all, and how many there had been when the first caller was answered."""
    before = counter()
    seen_by_callers: list[int] = []

    async def create() -> None:
        await db.create_proposal(proposal())
        seen_by_callers.append(counter() - before)

    await asyncio.gather(*(create() for _ in range(writes)))
    return counter() - before, min(seen_by_callers)


async def main(path: str, writes: int) -> None:
    async with ActionDB(path) as db:
        await db.create_proposal(proposal())
        alone = await one_after_another(db, writes)
        together, first = await at_once(db, writes)
    print(json.dumps({"alone": alone, "together": together, "before the first answer": first}))


def naive(path: str, writes: int, synchronous: str) -> None:
    """The planted bug: a commit that leaves it to the system when the disk gets to know."""
    connection = dbapi.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("CREATE TABLE t (x)")
    before = counter()
    for _ in range(writes):
        connection.execute("INSERT INTO t VALUES (1)")
    alone = counter() - before
    connection.close()
    print(json.dumps({"alone": alone, "together": 0, "before the first answer": 0}))


if __name__ == "__main__":
    if sys.argv[3] == "ledger":
        asyncio.run(main(sys.argv[1], int(sys.argv[2])))
    else:
        naive(sys.argv[1], int(sys.argv[2]), sys.argv[3])
