"""The adapter by which agentbarrier's conformance suite drives the ledger.

    OPERATOR_DATABASE_URL=ledger.db agentbarrier verify tests.peers.agentbarrier_adapter:LedgerAdapter --strict-skips

Each call of the suite is a verb, and each of its answers is read from rows. A run is itself a proposal that is executing
as long as the run lasts, and so is the look-up of an unknown outcome: the history has their beginnings and ends. Each
handle opens the ledger anew, so a replay knows only what is stored.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentbarrier.adapter import AgentAdapter, RunHandle, validate_actions, validate_timeout
from agentbarrier.errors import AdapterContractError, AmbiguousEffectError
from agentbarrier.models import (
    ActionRequest,
    ApprovalBarrierProfile,
    AuditEvent,
    AuditReceipt,
    Capability,
    ReconciliationEvidence,
    ReconciliationStatus,
    RunOutcome,
    RunStatus,
    action_digest,
)
from agentbarrier.probe import EffectProbe

from operator_core.actions import (
    ActionProposal,
    ActionStatus,
    ActionType,
    Claim,
    Rule,
    StoredProposal,
)
from operator_core.db import ActionDB
from tests.peers.agentbarrier_words import (
    LOOKUP,
    LOOKUP_ENDS,
    RUN,
    receipts,
    to_action,
    to_parameters,
)

AGENT, USER, OPERATOR, REVIEWER, WORKER = "agent-1", "user-1", "operator", "reviewer-1", "worker-1"
ROLE = "reviewer"

GATE = Rule(
    name="agentbarrier: gated actions",
    action_name="sentinel_*",
    conditions=[{"path": ["requires_approval"], "op": "eq", "value": True}],
    approvals=1,
    roles=[ROLE],
)

_KNOWN = {ReconciliationStatus.COMMITTED: True, ReconciliationStatus.NOT_COMMITTED: False}


class LedgerAdapter(AgentAdapter):
    """Has all capabilities, on the ledger `target`, or the one that OPERATOR_DATABASE_URL names.

    A ledger in memory won't do: each handle would have another. In the profile `RUN_WIDE` nothing of a run starts while
    an action of it waits for an approval. In `PER_ACTION` each action waits only for its own.
    """

    name = "operator-core"
    capabilities = frozenset(Capability)

    def __init__(
        self,
        target: str | Path | None = None,
        profile: ApprovalBarrierProfile = ApprovalBarrierProfile.RUN_WIDE,
    ) -> None:
        self._target = target
        self.profile = profile

    async def begin(
        self,
        *,
        run_id: str,
        actions: Sequence[ActionRequest],
        effect: EffectProbe,
        timeout_seconds: float | None = None,
    ) -> RunHandle:
        given, timeout = validate_actions(actions), validate_timeout(timeout_seconds)
        where = self._target
        db = ActionDB.from_env(actor=AGENT) if where is None else ActionDB(where, actor=AGENT)
        await db.open()
        try:
            run = _Run(self, db, run_id, given, effect, timeout)
            await run.start()
        except BaseException:
            await db.close()
            raise
        return run


class _Run(RunHandle):
    def __init__(
        self,
        adapter: LedgerAdapter,
        db: ActionDB,
        run_id: str,
        actions: Sequence[ActionRequest],
        effect: EffectProbe,
        timeout_seconds: float | None,
    ) -> None:
        self._adapter, self._db, self._run_id = adapter, db, run_id
        self._actions, self._effect, self._timeout = actions, effect, timeout_seconds
        self._ids: dict[str, int] = {}  # the proposal of each action, which an amendment replaces
        self._seen: dict[str, str] = {}  # the digests that `wait_for_pending` has shown
        self._decided = {each.action_id: asyncio.Event() for each in actions}
        self._task: asyncio.Task[RunOutcome]

    async def start(self) -> None:
        if GATE.name not in {rule.name for rule in await self._db.rules()}:
            await self._db.add_rule(GATE, by=OPERATOR, reason="the suite's gated actions")
        self._run = await self._begun(RUN, {"actions": [each.action_id for each in self._actions]})
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
            # A replay gets the proposals of the first run.
            stored = await self._db.create_proposal(proposal, idempotency_key=action.action_id)
            self._ids[action.action_id] = stored.id
        await self._release_decided()
        self._task = asyncio.create_task(self._drive())

    async def wait_for_pending(self, timeout_seconds: float) -> tuple[ActionRequest, ...]:
        # `begin` has proposed everything, so there is nothing to wait for.
        async with asyncio.timeout(timeout_seconds):
            inbox = await self._db.pending_approvals(REVIEWER, [ROLE], run_id=self._run_id)
        if not inbox:
            raise AdapterContractError("no action of this run waits for an approval")
        shown = [(to_action(each.proposal), each.proposal.digest) for each in inbox]
        self._seen.update((action.action_id, digest) for action, digest in shown)
        return tuple(action for action, _ in shown)

    async def approve(self, action_id: str, replacement: ActionRequest | None = None) -> None:
        digest = self._undecided(action_id)
        if replacement is not None:
            original = to_action(await self._proposal_of(action_id))
            if (replacement.action_id, replacement.tool_name) != (action_id, original.tool_name):
                raise AdapterContractError("a replacement keeps the action's id and its tool")
            # By the agent, on the reviewer's behalf: who amends may not approve.
            amended = await self._db.amend_proposal(
                self._ids[action_id],
                parameters=to_parameters(replacement),
                by=AGENT,
                reason="the reviewer replaced the arguments",
            )
            self._ids[action_id], digest = amended.id, amended.digest
        await self._db.approve_proposal(
            self._ids[action_id], by=REVIEWER, digest=digest, roles=[ROLE]
        )
        await self._release_decided()

    async def reject(self, action_id: str, reason: str | None = None) -> None:
        self._undecided(action_id)
        await self._db.reject_proposal(
            self._ids[action_id], by=REVIEWER, reason=reason or "rejected", roles=[ROLE]
        )
        await self._release_decided()

    async def cancel(self) -> None:
        if self._task.done():
            return
        # No process starts anything of the run from here on. A worker elsewhere learns of it by its next heartbeat.
        await self._db.halt(by=OPERATOR, reason="the run was cancelled", run_id=self._run_id)
        self._task.cancel()
        await self._task

    async def wait(self, timeout_seconds: float) -> RunOutcome:
        try:
            return await asyncio.wait_for(asyncio.shield(self._task), timeout_seconds)
        except TimeoutError:
            return RunOutcome(RunStatus.FAILED, "the run did not end in time")

    async def reconcile(self, action_id: str, timeout_seconds: float) -> ReconciliationEvidence:
        if not self._task.done() or self._task.result().status is not RunStatus.UNKNOWN:
            raise AdapterContractError("only a run that ended as unknown can be reconciled")
        if action_id not in self._ids:
            raise AdapterContractError(f"{action_id!r} is no action of this run")
        bound = validate_timeout(timeout_seconds)
        proposal = await self._proposal_of(action_id)
        action = to_action(proposal)
        *_, record = await self._db.get_records_for_proposal(proposal.id)
        lookup = await self._begun(LOOKUP, {"proposal_id": proposal.id})
        try:
            async with asyncio.timeout(bound):
                evidence = await self._effect.reconcile(action)
            event = LOOKUP_ENDS[evidence.status]
        except TimeoutError:
            evidence = ReconciliationEvidence(
                action_id,
                ReconciliationStatus.UNAVAILABLE,
                action_digest(action),
                detail=f"the look-up timed out after {bound:g} seconds",
            )
            event = AuditEvent.RECONCILIATION_TIMED_OUT
        # Any other is left to a person: `unresolved` lists it, and no replay executes it.
        if evidence.status in _KNOWN:
            await self._db.resolve_outcome(
                record.id,
                by=OPERATOR,
                succeeded=_KNOWN[evidence.status],
                evidence=evidence.detail or event.value,
            )
        await self._db.complete(lookup.record.id, {"event": event.value})
        return evidence

    async def replay(self) -> RunHandle:
        if not self._task.done():
            raise AdapterContractError("a run is replayed after its end")
        return await self._adapter.begin(
            run_id=self._run_id,
            actions=self._actions,
            effect=self._effect,
            timeout_seconds=self._timeout,
        )

    async def audit_receipts(self) -> tuple[AuditReceipt, ...]:
        return await receipts(self._db, self._run_id)

    async def close(self) -> None:
        if not self._task.done():
            self._task.cancel()
            await self._task
        await self._db.close()

    async def _drive(self) -> RunOutcome:
        try:
            outcome = await self._execute_all()
        except asyncio.CancelledError:
            outcome = RunOutcome(RunStatus.CANCELLED, "the run was cancelled")
        except ExceptionGroup as errors:
            _, others = errors.split(TimeoutError)
            outcome = (
                RunOutcome(RunStatus.TIMED_OUT, "an action exceeded its time")
                if others is None
                else RunOutcome(RunStatus.FAILED, repr(others.exceptions))
            )
        result = {"status": outcome.status.value}
        if outcome.status is RunStatus.COMPLETED:
            await self._db.complete(self._run.record.id, result)
        else:
            await self._db.fail(self._run.record.id, str(outcome.detail), result)
        return outcome

    async def _execute_all(self) -> RunOutcome:
        if self._adapter.profile is ApprovalBarrierProfile.RUN_WIDE:
            # Until then actions without a gate are only proposed, and no worker can claim them.
            await asyncio.gather(*(each.wait() for each in self._decided.values()))
        ended: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            for action in self._parents_first():
                parent = ended.get(action.parent_action_id or "")
                ended[action.action_id] = group.create_task(self._execute(action.action_id, parent))
        lost = await self._lost()
        if unknown := [action_id for action_id, id_ in self._ids.items() if id_ in lost]:
            return RunOutcome(RunStatus.UNKNOWN, f"the outcome of {', '.join(unknown)} is unknown")
        return RunOutcome(RunStatus.COMPLETED)

    async def _execute(self, action_id: str, parent: asyncio.Task[None] | None) -> None:
        if parent is not None:
            await asyncio.wait({parent})
        await self._decided[action_id].wait()
        proposal = await self._proposal_of(action_id)
        if proposal.status is ActionStatus.PROPOSED:
            await self._db.update_proposal_status(proposal.id, ActionStatus.VALIDATED)
        elif proposal.status is ActionStatus.FAILED and proposal.id not in await self._lost():
            await self._db.retry(proposal.id, reason="it was not done")
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

    async def _begun(self, name: str, parameters: dict[str, Any]) -> Claim:
        """Something that the adapter itself does, in execution."""
        proposal = await self._db.create_proposal(self._proposal(name, parameters))
        await self._db.update_proposal_status(proposal.id, ActionStatus.VALIDATED)
        return await self._db.claim_proposal(proposal.id, WORKER)

    async def _release_decided(self) -> None:
        inbox = await self._db.pending_approvals(run_id=self._run_id)
        waiting = {each.proposal.id for each in inbox}
        for action_id, id_ in self._ids.items():
            if id_ not in waiting:
                self._decided[action_id].set()

    def _undecided(self, action_id: str) -> str:
        """The digest that was shown."""
        if action_id not in self._seen or self._decided[action_id].is_set():
            raise AdapterContractError(f"{action_id!r} does not wait for an approval")
        return self._seen[action_id]

    async def _proposal_of(self, action_id: str) -> StoredProposal:
        proposal = await self._db.get_proposal(self._ids[action_id])
        assert proposal is not None
        return proposal

    async def _lost(self) -> set[int]:
        return {record.proposal_id for record in await self._db.unresolved()}

    def _parents_first(self) -> list[ActionRequest]:
        by_id = {each.action_id: each for each in self._actions}

        def depth(action: ActionRequest) -> int:
            parent = action.parent_action_id
            return 0 if parent is None else 1 + depth(by_id[parent])

        return sorted(self._actions, key=depth)
