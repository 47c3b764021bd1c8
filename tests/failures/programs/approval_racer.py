"""One of several processes that decide about the same proposals at once; prints what each deed came to.

Its arguments are the ledger, its name, its deed, and the ids of the proposals, about each of which all begin together;
to propose, how many.
"""

import asyncio
import json
import sys
from typing import Any

from meeting import meet

from operator_core.actions import ActionError, ActionProposal
from operator_core.db import ActionDB


async def do(db: ActionDB, deed: str, name: str, of: int, digest: str) -> Any:
    if deed == "approve":
        decision = await db.approve_proposal(of, by=name, digest=digest)
        return "repeated" if decision.repeated else decision.id
    if deed == "reject":
        return (await db.reject_proposal(of, by=name, reason="no")).id
    if deed == "withdraw":
        return (await db.withdraw_approval(of, by=name, reason="too soon")).id
    if deed == "claim":
        return (await db.claim_proposal(of, name)).record.id
    if deed == "amend":
        return (await db.amend_proposal(of, parameters={"n": 2}, by=name, reason="fewer")).id
    return (await db.create_proposal(ActionProposal(action_name="race", reason="r"))).status


async def race(place: str, name: str, deed: str, ids: list[int]) -> list[list[Any]]:
    told: list[list[Any]] = []
    async with ActionDB(place, busy_timeout=60) as db:
        found = [await db.get_proposal(each) for each in ids]
        for of, known in zip(ids, found, strict=True):
            if deed != "propose" or not told:
                meet(str(of))
            try:
                told.append([of, await do(db, deed, name, of, known.digest if known else "")])
            except ActionError as error:
                told.append([of, type(error).__name__])
    return told


if __name__ == "__main__":
    place, name, deed, ids = sys.argv[1:]
    print(json.dumps(asyncio.run(race(place, name, deed, json.loads(ids)))))
