"""One of several processes that claim what is due in one ledger; prints what it got."""

import asyncio
import json
import random
import sys

from meeting import meet

from operator_core.db import ActionDB
from tests.failures.harness import PATIENCE

MOST = 10


async def claim(place: str, name: str) -> list[tuple[int, int]]:
    """Claims until nothing is left, and ends what it claimed: most in one round, some one by one."""
    dice = random.Random(name)
    got: list[tuple[int, int]] = []

    async def take() -> bool:
        taken = await db.claim(name, limit=dice.randint(1, MOST))
        got.extend((each.proposal.id or 0, each.record.id or 0) for each in taken)
        ids = [each.record.id for each in taken]
        if ids and dice.random() < 0.3:
            await db.fail(ids.pop(), "as the dice say")
        assert await db.complete_many({id: {"by": name} for id in ids if id}) == []
        return bool(taken)

    async def take_all() -> None:
        while await take():
            pass

    async with ActionDB(place, actor=name, busy_timeout=PATIENCE) as db:
        # Whoever had to connect first would come last.
        await asyncio.gather(*(db.get_proposal(1) for _ in range(2)))
        meet("ready")
        await take()
        # Whoever is ahead could take all the rest.
        meet("first")
        await asyncio.gather(take_all(), take_all())
    return got


if __name__ == "__main__":
    place, name = sys.argv[1:]
    print(json.dumps({"name": name, "claimed": asyncio.run(claim(place, name))}))
