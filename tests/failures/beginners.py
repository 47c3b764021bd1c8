"""Tasks that begin something in a ledger as often as it lets them, and note what they were told."""

import asyncio
from collections import Counter
from itertools import count
from typing import Any, Final, Self

from operator_core.actions.errors import (
    Busy,
    CommitOutcomeUnknown,
    Halted,
    InvalidTransition,
    StorageUnavailable,
)
from operator_core.actions.types import ActionStatus
from operator_core.db import ActionDB
from tests.failures.harness import PATIENCE, proposal
from tests.failures.server_harness import PAUSE

BEGUN: Final = """
    SELECT count(*) FROM action_events WHERE to_status IN ('executing', 'validated')
        OR event_type = 'proposal_created' AND to_status NOT IN ('completed', 'cancelled')"""
"""How often anything has begun that a halt would have refused."""


class Beginners:
    """In the block of ``async with`` they are at work. Any other error than a refusal ends the block.

    `hold`: for how many seconds they leave transactions open.
    """

    def __init__(self, *ledgers: ActionDB, tasks: int = 4, hold: float = 0.02) -> None:
        self._ledgers = ledgers
        self._hold = hold
        self._tasks = tasks
        self._group = asyncio.TaskGroup()
        self._news = asyncio.Event()
        self._stopped = False
        self.told: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        for number in range(self._tasks):
            for db in self._ledgers:
                self._group.create_task(self._work(db, number))
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._stopped = True
        await self._group.__aexit__(*error)

    async def more(self, what: str, more: int) -> None:
        """Waits until they were told this so many times more: `begun`, `halted`, `nothing` (of a claim) or `away`."""
        wanted = self.told[what] + more
        async with asyncio.timeout(PATIENCE):
            while self.told[what] < wanted:
                self._news.clear()
                await self._news.wait()

    async def _work(self, db: ActionDB, number: int) -> None:
        deeds = [self._create, self._claim, self._together]
        for turn in count(number):
            if self._stopped:
                return
            try:
                told = await deeds[turn % len(deeds)](db)
            except Halted:
                told = "halted"
            except InvalidTransition:
                # Another one was first.
                told = "late"
            except (StorageUnavailable, CommitOutcomeUnknown, Busy):
                told = "away"
                await asyncio.sleep(PAUSE)
            self.told[told] += 1
            self._news.set()

    async def _create(self, db: ActionDB) -> str:
        await db.create_proposals([proposal(status=ActionStatus.VALIDATED)] * 2)
        return "begun"

    async def _claim(self, db: ActionDB) -> str:
        claims = await db.claim("beginner", limit=2)
        for each in claims:
            await db.complete(each.record.id)
        return "begun" if claims else "nothing"

    async def _together(self, db: ActionDB) -> str:
        async with db.transaction() as tx:
            made = await tx.create_proposal(proposal())
            await tx.update_proposal_status(made.id, ActionStatus.VALIDATED)
            # A halt may come between, or find that only the COMMIT is to come.
            await asyncio.sleep(self._hold)
            if (made.id or 0) % 2:
                await tx.update_proposal_status(made.id, ActionStatus.EXECUTING)
                await tx.update_proposal_status(made.id, ActionStatus.COMPLETED)
        return "begun"
