"""Writes until there is no room, then makes room and goes on; prints what was acknowledged."""

import asyncio
import json
import os
import resource
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from operator_core.actions.errors import ActionError
from operator_core.db import ActionDB
from operator_core.db.verbs.ledger import ActionLedger
from tests.engines import engine_on
from tests.failures.harness import proposal

LIMIT = 1_500_000


def limit_files() -> Callable[[], None]:
    """Forbids files above `LIMIT` bytes; Python ignores SIGXFSZ, so that writes fail with EFBIG."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


class Log:
    """What was acknowledged, and what was told instead."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []
        self.told: Counter[str] = Counter()

    async def create(self, db: ActionDB, size: int) -> bool:
        try:
            created = await db.create_proposal(proposal(parameters={"text": "x" * size}))
        except ActionError as error:
            self.told[type(error).__name__] += 1
            return False
        assert created.id is not None
        self.acknowledged.append(created.id)
        return True


async def fill(path: str, make_room: Callable[[], None], swallow: bool) -> None:
    log = Log()

    async def write() -> None:
        # Goes on after the first failure: there may be room for smaller ones, or again.
        failed = 0
        while failed < 5:
            if not await log.create(db, 20_000):
                failed += 1
                if swallow:
                    log.acknowledged.append(0)

    async with ActionDB(path) as db:
        await log.create(db, 10)
        # Several at once, so that groups fail and their units are tried one by one.
        await asyncio.gather(*(write() for _ in range(8)))
        full = len(log.acknowledged)
        readable = len(await db.list_proposals())
        make_room()
        again = [await log.create(db, 20_000) for _ in range(20)]
    print(
        json.dumps(
            {
                "acknowledged": log.acknowledged,
                "when full": full,
                "readable when full": readable,
                "told": log.told,
                "afterwards": all(again),
            }
        )
    )


@asynccontextmanager
async def transaction_on(kind: str, path: str) -> AsyncIterator[ActionLedger]:
    """A transaction of the ledger's own, on a borrowed engine, or one that is joined."""
    engine = engine_on(path)
    try:
        if kind == "session":
            session = AsyncSession(engine)
            async with session, session.begin(), ActionDB(session) as joined:
                yield joined
        else:
            async with ActionDB(engine if kind == "engine" else path) as db, db.transaction() as tx:
                yield tx
    finally:
        await engine.dispose()


async def fill_in_transaction(path: str, make_room: Callable[[], None], kind: str) -> None:
    """A transaction that runs out of room, whose caller goes on as if nothing had happened."""
    first = "nothing"
    outcome = "committed"
    async with ActionDB(path) as db:
        try:
            async with transaction_on(kind, path) as tx:
                try:
                    while True:
                        await tx.create_proposal(proposal(parameters={"text": "x" * 900_000}))
                except ActionError as error:
                    first = type(error).__name__
                make_room()
                with suppress(ActionError):
                    await tx.create_proposal(proposal(action_name="later"))
        except (ActionError, SQLAlchemyError) as error:
            outcome = type(error).__name__
        await db.create_proposal(proposal(action_name="afterwards"))
    print(json.dumps({"first": first, "outcome": outcome}))


def main(path: str, mode: str, ballast: str) -> None:
    make_room = (lambda: os.remove(ballast)) if ballast else limit_files()
    if mode.startswith("transaction"):
        asyncio.run(fill_in_transaction(path, make_room, mode.split()[-1]))
    else:
        asyncio.run(fill(path, make_room, mode == "swallow"))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3])
