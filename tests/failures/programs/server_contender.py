"""One of several processes whose transactions read a few proposals and write what follows; prints the outcome."""

import asyncio
import json
import random
import sys
from collections import Counter

from meeting import meet

from operator_core.actions.errors import ActionError
from operator_core.actions.types import ActionRecord, ActionStatus
from operator_core.db import ActionDB
from operator_core.db.verbs.ledger import ActionLedger
from tests.failures.harness import PATIENCE, proposal

NEXT = {
    ActionStatus.PROPOSED: ActionStatus.VALIDATED,
    ActionStatus.VALIDATED: ActionStatus.EXECUTING,
    ActionStatus.EXECUTING: ActionStatus.FAILED,
    ActionStatus.FAILED: ActionStatus.VALIDATED,
}


async def follow_up(tx: ActionLedger, id: int) -> None:
    """Decides by what it has read, which another process may be changing at that moment."""
    seen = await tx.get_proposal(id)
    assert seen is not None
    await tx.update_proposal_status(id, NEXT[seen.status])
    await tx.create_record(ActionRecord(proposal_id=id))
    await tx.create_proposal(proposal(parameters={"after": id}))


async def main(url: str, proposals: int, units: int, name: str) -> None:
    dice = random.Random(name)
    told: Counter[str] = Counter()
    async with ActionDB(url, actor=name, busy_timeout=PATIENCE) as db:
        meet("ready")

        async def work() -> None:
            for _ in range(units // 4):
                try:
                    async with db.transaction() as tx:
                        await follow_up(tx, dice.randint(1, proposals))
                except ActionError as error:
                    told[type(error).__name__] += 1
                else:
                    told["done"] += 1

        await asyncio.gather(*(work() for _ in range(4)))
    print(json.dumps(told))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
