"""One of several processes that start proposals until nothing is left for them; prints the numbers of what they did."""

import asyncio
import json
import random
import sys

from meeting import meet
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from operator_core.actions import ActionError, ActionStatus, ExclusiveBusy, LimitReached
from operator_core.db import ActionDB

S = ActionStatus
IDLE = 5


async def race(place: str, name: str) -> dict[str, int]:
    """Ends when it has started nothing for `IDLE` turns, and nobody is executing."""
    dice = random.Random(name)
    told = {"started": 0, "waited": 0}
    open_: list[int] = []

    async def claim() -> int:
        taken = await db.claim(name, limit=dice.choice((1, 1, 3, 10)))
        open_.extend(each.record.id for each in taken)
        return len(taken)

    async def claim_one() -> int:
        waiting = await db.list_proposals(S.VALIDATED, limit=20)
        if not waiting:
            return 0
        taken = await db.claim_proposal(dice.choice(waiting).id, name)
        open_.append(taken.record.id)
        return 1

    async def move() -> int:
        waiting = await db.list_proposals(S.VALIDATED, limit=20)
        if not waiting:
            return 0
        async with db.transaction() as tx:
            chosen = dice.choice(waiting).id
            await tx.update_proposal_status(chosen, S.EXECUTING)
            await asyncio.sleep(0.002)
            open_.append((await tx.create_record(chosen)).id)
        return 1

    async def by_raw_sql() -> int:
        async with engine.begin() as conn:
            begun = await conn.execute(
                text(
                    "UPDATE action_proposals SET status = 'executing' WHERE status = 'validated' AND id = "
                    "(SELECT min(id) FROM action_proposals WHERE status = 'validated') RETURNING id"
                )
            )
            ids = begun.scalars().all()
        for each in ids:
            await db.update_proposal_status(each, S.FAILED)
        return len(ids)

    deeds = [claim, claim, claim, claim_one, move]
    if "://" in place:
        level = dice.choice(("READ COMMITTED", "REPEATABLE READ"))
        url = place.replace("postgresql://", "postgresql+asyncpg://")
        engine = create_async_engine(url, isolation_level=level)
        deeds.append(by_raw_sql)
    async with ActionDB(place, actor=name, busy_timeout=60) as db:
        meet("ready")
        idle = 0
        while idle < IDLE:
            try:
                begun = await dice.choice(deeds)()
            except (LimitReached, ExclusiveBusy):
                told["waited"] += 1
                begun = 0
            except ActionError:
                begun = 0
            except Exception as error:
                known = ("action_proposals_", "action_limits_", "could not serialize", "deadlock")
                if not any(words in str(error) for words in known):
                    raise
                begun = 0
            told["started"] += begun
            ending = open_[:]
            open_.clear()
            if ending:
                await db.complete_many(ending)
            idle = 0 if begun else idle + 1
        if "://" in place:
            await engine.dispose()
    return told


if __name__ == "__main__":
    place, name = sys.argv[1:]
    print(json.dumps(asyncio.run(race(place, name))))
