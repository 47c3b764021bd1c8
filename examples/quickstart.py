"""The life of one tool call: proposed, validated, executed, recorded, and what the ledger says of it."""

import asyncio
import sys
from pathlib import Path

from pydantic import BaseModel

from operator_core.actions.types import ActionProposal, ActionRecord, ActionStatus
from operator_core.db import ActionDB


class TransferLeader(BaseModel):
    region_id: int
    to_store_id: int


async def main(path: Path) -> None:
    async with ActionDB(path, actor="tikv-operator") as db:
        proposal = await db.create_proposal(
            ActionProposal(
                action_name="transfer_leader",
                parameters=TransferLeader(region_id=4711, to_store_id=3),
                reason="store 1 serves 80 % of the reads",
            )
        )
        await db.update_proposal_status(proposal.id, ActionStatus.VALIDATED, actor="policy")
        await db.update_proposal_status(proposal.id, ActionStatus.EXECUTING)
        record = await db.create_record(ActionRecord(proposal_id=proposal.id))

        call = proposal.parameters_as(TransferLeader)
        outcome = {"leader": call.to_store_id}  # here the real thing happens

        async with db.transaction() as tx:  # the outcome and the status, both or neither
            await tx.update_record(record.id, success=True, result_data=outcome)
            await tx.update_proposal_status(proposal.id, ActionStatus.COMPLETED)

        for event in await db.history(proposal.id):
            print(event.occurred_at, event.actor, event.event_type, event.to_status or "")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1] if len(sys.argv) > 1 else "ledger.db")))
