"""One of several processes that claim, create and move in one ledger until their input ends; prints what they did."""

import asyncio
import json
import random
import sys
import threading

from meeting import meet
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from operator_core.actions import ActionError, ActionProposal, ActionStatus, Halted
from operator_core.db import ActionDB

S = ActionStatus


def one(status: ActionStatus) -> ActionProposal:
    return ActionProposal(action_name="race", reason="to be first", status=status)


async def race(place: str, name: str) -> dict[str, int]:
    dice = random.Random(name)
    told = {"done": 0, "halted": 0, "refused": 0}
    over = threading.Event()

    async def create() -> None:
        await db.create_proposals([one(S.VALIDATED), one(S.PROPOSED), one(S.VALIDATED)])

    async def move() -> None:
        for each in await db.list_proposals(S.PROPOSED, limit=3):
            await db.update_proposal_status(each.id, S.VALIDATED)

    async def claim() -> None:
        for each in await db.claim(name, limit=3):
            await db.complete(each.record.id)

    async def open_for_long() -> None:
        async with db.transaction() as tx:
            made = await tx.create_proposal(one(S.PROPOSED))
            await asyncio.sleep(0.03)
            if dice.random() < 0.5:
                # It has begun something, and only its COMMIT is to come.
                return
            await tx.update_proposal_status(made.id, S.VALIDATED)
            await asyncio.sleep(0.03)
            await tx.update_proposal_status(made.id, S.EXECUTING)

    async def by_an_old_snapshot() -> None:
        async with snapshots.connect() as conn:
            await conn.execute(text("SELECT count(*) FROM action_halts"))
            await asyncio.sleep(0.02)
            await conn.execute(
                text(
                    "UPDATE action_proposals SET status = 'executing' WHERE id = "
                    "(SELECT max(id) FROM action_proposals WHERE status = 'validated')"
                )
            )
            await conn.commit()

    deeds = [create, move, claim, claim, open_for_long]
    async with ActionDB(place, actor=name, busy_timeout=60) as db:
        if "://" in place:
            url = place.replace("postgresql://", "postgresql+asyncpg://")
            snapshots = create_async_engine(url, isolation_level="REPEATABLE READ")
            deeds.append(by_an_old_snapshot)
        meet("ready")
        threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
        while not over.is_set():
            try:
                await dice.choice(deeds)()
                told["done"] += 1
            except Halted:
                told["halted"] += 1
            except ActionError:
                # Another process was first.
                told["refused"] += 1
            except Exception as error:
                known = ("action_halts", "could not serialize", "action_proposals_")
                if not any(words in str(error) for words in known):
                    raise
                told["halted"] += 1
        if "://" in place:
            await snapshots.dispose()
    return told


if __name__ == "__main__":
    place, name = sys.argv[1:]
    print(json.dumps(asyncio.run(race(place, name))))
