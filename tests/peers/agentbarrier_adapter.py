"""The adapter by which agentbarrier's conformance suite drives the ledger's facade.

    export OPERATOR_DATABASE_URL=ledger.db
    agentbarrier verify tests.peers.agentbarrier_adapter:LedgerAdapter --strict-skips

How it proposes and executes; `agentbarrier_runs` has the rest.
"""

import asyncio
from functools import partial
from typing import Any

from agentbarrier.errors import AmbiguousEffectError
from agentbarrier.models import ActionRequest

from operator_core.actions import ActionProposal, ActionStatus, ActionType, Claim
from tests.peers.agentbarrier_runs import AGENT, USER, Adapter, End, Run
from tests.peers.agentbarrier_words import to_action, to_parameters

WORKER = "worker-1"


class _Run(Run):
    async def _begin(self, name: str, parameters: dict[str, Any]) -> End:
        proposal = await self._db.create_proposal(self._proposal(name, parameters))
        await self._db.update_proposal_status(proposal.id, ActionStatus.VALIDATED)
        claim = await self._db.claim_proposal(proposal.id, WORKER)
        return partial(self._db.complete, claim.record.id)

    async def _propose_all(self) -> None:
        for action in self._parents_first():
            parent = self._ids.get(action.parent_action_id or "")
            proposal = self._proposal(
                action.tool_name,
                to_parameters(action),
                call_id=action.action_id,
                parent_id=parent,
                # The ledger cancels what depends on a rejected proposal.
                depends_on=() if parent is None else (parent,),
            )
            stored = await self._db.create_proposal(proposal, idempotency_key=action.action_id)
            self._ids[action.action_id] = stored.id

    async def _replace(self, action: ActionRequest) -> str:
        # By the agent, on the reviewer's behalf: who amends may not approve.
        amended = await self._db.amend_proposal(
            self._ids[action.action_id],
            parameters=to_parameters(action),
            by=AGENT,
            reason="the reviewer replaced the arguments",
        )
        self._ids[action.action_id] = amended.id
        return amended.digest or ""

    async def _execute_all(self) -> list[str]:
        ended: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            for action in self._parents_first():
                parent = ended.get(action.parent_action_id or "")
                ended[action.action_id] = group.create_task(self._execute(action.action_id, parent))
        lost = await self._lost()
        return [action_id for action_id, id_ in self._ids.items() if id_ in lost]

    async def _execute(self, action_id: str, parent: asyncio.Task[None] | None) -> None:
        if parent is not None:
            await asyncio.wait({parent})
        await self._until_decided({action_id})
        await self._retry_if_not_done(action_id)
        proposal = await self._proposal_of(action_id)
        if proposal.status is ActionStatus.PROPOSED:
            await self._db.update_proposal_status(proposal.id, ActionStatus.VALIDATED)
        elif proposal.status is not ActionStatus.VALIDATED:
            return  # rejected, completed or of unknown outcome
        await self._carry_out(await self._db.claim_proposal(proposal.id, WORKER))

    async def _carry_out(self, claim: Claim) -> None:
        record_id = claim.record.id
        try:
            # The time is the tool's; the ledger's own is no part of it.
            async with asyncio.timeout(self._timeout):
                # What the claim has handed out, not what this program remembers.
                result = await self._effect(to_action(claim.proposal))
        except AmbiguousEffectError as error:
            await self._db.fail(record_id, str(error), outcome_unknown=True)
        except (asyncio.CancelledError, TimeoutError):
            # It may have done its work.
            await self._db.fail(record_id, "interrupted", outcome_unknown=True)
            raise
        except Exception as error:
            await self._db.fail(record_id, repr(error))
            raise
        else:
            await self._db.complete(record_id, {"result": result})

    def _proposal(self, name: str, parameters: dict[str, Any], **fields: Any) -> ActionProposal:
        return ActionProposal(
            action_name=name,
            action_type=ActionType.TOOL,
            parameters=parameters,
            reason="agentbarrier's suite",
            agent_id=AGENT,
            requester_id=USER,
            run_id=self._run_id,
            **fields,
        )

    def _parents_first(self) -> list[ActionRequest]:
        by_id = {each.action_id: each for each in self._actions}

        def depth(action: ActionRequest) -> int:
            parent = action.parent_action_id
            return 0 if parent is None else 1 + depth(by_id[parent])

        return sorted(self._actions, key=depth)


class LedgerAdapter(Adapter):
    """Proposes, claims and ends executions by the verbs of `ActionDB`."""

    name = "operator-core"
    run = _Run
