"""A worker that may be killed or stopped at any moment.

It keeps a diary, a file that knows nothing of the ledger, of what it does and of what it is told, and
prints the same. It ends when its input does.
"""

import asyncio
import os
import random
import sys
from contextlib import suppress
from datetime import timedelta

from clocks import TAKE, Jump
from meeting import meet

from operator_core.actions.errors import InvalidTransition, LeaseLost
from operator_core.actions.types import ActionStatus, Claim
from operator_core.db import ActionDB
from tests.failures.harness import PATIENCE

PAUSE = 0.03
JUMPS = (-6 * 3600.0, 0.0, 6 * 3600.0)


class Worker:
    def __init__(
        self, db: ActionDB, diary: str, name: str, lease: timedelta, habit: str, jump: Jump
    ) -> None:
        self.db, self.name, self.lease, self.habit, self.jump = db, name, lease, habit, jump
        self.diary = os.open(diary, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.dice = random.Random(name)
        self.stop = asyncio.Event()

    def note(self, what: str, claim: Claim) -> None:
        # One system call a line: what was written stays written when the process dies.
        line = f"{what} {claim.record.id} {claim.proposal.id} {self.name}\n".encode()
        os.write(self.diary, line)
        os.fsync(self.diary)
        os.write(1, line)

    async def live(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(0, self.stop.set)
        while not self.stop.is_set():
            self.jump(self.dice.choice(JUMPS))
            if self.habit == "requeues":
                await self.requeue()
            claims = await self.db.claim(self.name, limit=self.dice.randint(1, 3), lease=self.lease)
            for claim in claims:
                await self.execute(claim)
            if not claims:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.stop.wait(), PAUSE)
        loop.remove_reader(0)

    async def execute(self, claim: Claim) -> None:
        try:
            outcome = await (self.hold(claim) if self.dice.random() < 0.5 else self.run(claim))
        except LeaseLost:
            self.note("lost", claim)
            if self.habit == "insists":
                await self.insist(claim)
        else:
            self.note(outcome, claim)

    async def work(self, claim: Claim) -> dict[str, str]:
        self.note("start", claim)
        await asyncio.sleep(self.dice.uniform(0.005, 0.04))
        self.jump(self.dice.choice(JUMPS))
        return {"by": self.name}

    async def hold(self, claim: Claim) -> str:
        async with self.db.holding(claim, lease=self.lease) as execution:
            execution.result_data = await self.work(claim)
        return "done"

    async def run(self, claim: Claim) -> str:
        # Others of the same round may have taken long.
        await self.db.heartbeat(claim.record.id, self.lease)
        result = await self.work(claim)
        if self.dice.random() < 0.15:
            await self.db.fail(claim.record.id, "as the dice say", result)
            return "failed"
        await self.db.complete(claim.record.id, result)
        return "done"

    async def requeue(self) -> None:
        """The planted bug: what nobody has ended is taken for not done."""
        for record in await self.db.recover_expired():
            await self.db.retry(record.proposal_id)

    async def insist(self, claim: Claim) -> None:
        """The planted bug: who has lost its lease writes down all the same what it did."""
        executed = (ActionStatus.EXECUTING, ActionStatus.COMPLETED)
        with suppress(InvalidTransition):
            async with self.db.transaction() as tx:
                await tx.retry(claim.proposal.id, actor=self.name)
                for status in executed:
                    await tx.update_proposal_status(claim.proposal.id, status, actor=self.name)


async def main(place: str, diary: str, lease: str, habit: str, clock: str, name: str) -> None:
    jump = TAKE[clock]()
    async with ActionDB(place, actor=name, busy_timeout=PATIENCE) as db:
        meet("ready")
        await Worker(db, diary, name, timedelta(seconds=float(lease)), habit, jump).live()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
