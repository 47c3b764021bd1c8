"""The lifecycle of one tool call: proposed, validated, executed and recorded, with its history."""

import asyncio
import sys
from pathlib import Path

from pydantic import BaseModel

from operator_core.actions import ActionStatus, ProposalRequest
from operator_core.db import ActionDB


class TransferLeader(BaseModel):
    region_id: int
    to_store_id: int


async def main(path: Path) -> None:
    async with ActionDB(path, actor="gateway") as db:
        proposal = await db.create_proposal(
            ProposalRequest(
                action_name="transfer_leader",
                parameters=TransferLeader(region_id=4711, to_store_id=3),
                reason="store 1 serves 80 % of the reads",
            ),
            proposed_by="tikv-operator",
        )
        await db.update_proposal_status(proposal.id, ActionStatus.VALIDATED, actor="policy")

        async with db.claimed("worker-1", action_names="transfer_leader") as execution:
            if execution is not None:  # None: nothing is due
                call = execution.proposal.parameters_as(TransferLeader)
                # Here the worker performs the action. If its process crashes, the lease expires, and the
                # outcome is unknown.
                execution.result_data = {"leader": call.to_store_id}

        for event in await db.history(proposal.id):
            print(event.occurred_at, event.actor, event.event_type, event.to_status or "")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1] if len(sys.argv) > 1 else "ledger.db")))
