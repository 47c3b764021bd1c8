"""One of several processes that want to execute the same proposals; prints which it thinks that it got."""

import asyncio
import json
import random
import sys

import psycopg
from meeting import meet

from operator_core.actions.errors import InvalidTransition
from operator_core.actions.types import ActionStatus
from operator_core.db import ActionDB
from tests.failures.harness import PATIENCE

ROUND = 30
WIDTH = 6


async def claim(url: str, proposals: int, name: str) -> list[int]:
    won: list[int] = []
    dice = random.Random(name)

    async def attempt(id: int) -> None:
        try:
            await db.update_proposal_status(id, ActionStatus.EXECUTING)
        except InvalidTransition:
            return
        won.append(id)

    async with ActionDB(url, actor=name, busy_timeout=PATIENCE) as db:
        # Whoever had to connect first would come last.
        await asyncio.gather(*(db.get_proposal(1) for _ in range(WIDTH)))
        for first in range(1, proposals + 1, ROUND):
            ids = list(range(first, min(first + ROUND, proposals + 1)))
            dice.shuffle(ids)
            # Whoever is ahead would win all the rest.
            meet(f"from {first}")
            for start in range(0, ROUND, WIDTH):
                await asyncio.gather(*(attempt(each) for each in ids[start : start + WIDTH]))
    return won


def claim_naively(url: str, proposals: int, name: str) -> list[int]:
    """The planted bug: looks whether it may, then does, and what it saw may be over by then."""
    won: list[int] = []
    with psycopg.connect(url, autocommit=True) as connection:
        meet("ready")
        for number in range(1, proposals + 1):
            status = connection.execute(
                "SELECT status FROM action_proposals WHERE id = %s", [number]
            ).fetchone()
            if number == 1:
                # A moment that comes by itself too, but not in every run.
                meet("read")
            if status == ("validated",):
                connection.execute(
                    "UPDATE action_proposals SET status = 'executing' WHERE id = %s", [number]
                )
                won.append(number)
    return won


if __name__ == "__main__":
    mode, url, proposals, name = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    if mode == "naive":
        won = claim_naively(url, proposals, name)
    else:
        won = asyncio.run(claim(url, proposals, name))
    print(json.dumps({"name": name, "won": won}))
