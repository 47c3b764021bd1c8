"""What the adapters for agentbarrier's conformance suite have in common, however they execute.

Each call of the suite is a verb, and each of its answers is read from rows. A run is itself a
proposal that is executing as long as the run lasts, and so is the look-up of an unknown outcome:
the history has their beginnings and ends. Each handle opens the ledger anew, so a replay knows only
what is stored. People decide, halt and resolve by the ledger's facade, as the command line does.
Each adapter proposes and executes in its own way.
"""

import asyncio
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from agentbarrier.adapter import AgentAdapter, RunHandle, validate_actions, validate_timeout
from agentbarrier.errors import AdapterContractError
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

from operator_core.actions import ActionStatus, Rule, StoredProposal
from operator_core.db import ActionDB
from tests.peers.agentbarrier_words import LOOKUP, LOOKUP_ENDS, RUN, receipts, to_action

AGENT, USER, OPERATOR, REVIEWER = "agent-1", "user-1", "operator", "reviewer-1"
ROLE = "reviewer"

GATED = Rule(
    name="agentbarrier: gated actions",
    action_name="sentinel_*",
    conditions=[{"path": ["requires_approval"], "op": "eq", "value": True}],
    approvals=1,
    roles=[ROLE],
)

_KNOWN = {ReconciliationStatus.COMMITTED: True, ReconciliationStatus.NOT_COMMITTED: False}

End = Callable[[dict[str, Any]], Awaitable[Any]]
"""Completes an execution with its result."""


class Adapter(AgentAdapter):
    """Has all capabilities, on the ledger `target`, or the one that OPERATOR_DATABASE_URL names.

    A ledger in memory won't do: each handle would have another. In the profile `RUN_WIDE` nothing
    of a run starts while an action of it waits for an approval. In `PER_ACTION` each action waits
    only for its own.
    """

    capabilities = frozenset(Capability)
    run: type["Run"]

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
            run = self.run(self, db, run_id, given, effect, timeout)
            await run.start()
        except BaseException:
            await db.close()
            raise
        return run


class Run(RunHandle):
    """A run of actions: an adapter's own proposes and executes them."""

    def __init__(
        self,
        adapter: Adapter,
        db: ActionDB,
        run_id: str,
        actions: Sequence[ActionRequest],
        effect: EffectProbe,
        timeout_seconds: float | None,
    ) -> None:
        self._adapter, self._db, self._run_id = adapter, db, run_id
        self._actions, self._effect, self._timeout = actions, effect, timeout_seconds
        self._ids: dict[str, int] = {}  # the proposal of each action, which a replacement changes
        self._seen: dict[str, str] = {}  # the digests that `wait_for_pending` has shown
        self._task: asyncio.Task[RunOutcome]

    @abstractmethod
    async def _begin(self, name: str, parameters: dict[str, Any]) -> End:
        """Begins something that the adapter itself does, and returns what ends it."""

    @abstractmethod
    async def _propose_all(self) -> None:
        """Proposes the actions; those of a replay have the proposals of the first run."""

    @abstractmethod
    async def _replace(self, action: ActionRequest) -> str:
        """Proposes an action with other arguments for the pending one; returns its digest."""

    @abstractmethod
    async def _execute_all(self) -> list[str]:
        """Executes each action once it may; returns those whose outcome is unknown."""

    async def start(self) -> None:
        if GATED.name not in {rule.name for rule in await self._db.rules()}:
            await self._db.add_rule(GATED, by=OPERATOR, reason="the suite's gated actions")
        end = await self._begin(RUN, {"actions": [each.action_id for each in self._actions]})
        await self._propose_all()
        self._task = asyncio.create_task(self._drive(end))

    async def wait_for_pending(self, timeout_seconds: float) -> tuple[ActionRequest, ...]:
        # What an action delegates may be proposed only while that is executing.
        async with asyncio.timeout(timeout_seconds), self._db.changes() as changed:
            while True:
                changed.clear()
                inbox = await self._db.pending_approvals(REVIEWER, [ROLE], run_id=self._run_id)
                if inbox:
                    break
                if self._task.done():
                    raise AdapterContractError("no action of this run waits for an approval")
                await changed.wait()
        shown = [(to_action(each.proposal), each.proposal.digest) for each in inbox]
        self._seen.update((action.action_id, digest) for action, digest in shown)
        return tuple(action for action, _ in shown)

    async def approve(self, action_id: str, replacement: ActionRequest | None = None) -> None:
        digest = self._undecided(action_id)
        if replacement is not None:
            original = to_action(await self._proposal_of(action_id))
            if (replacement.action_id, replacement.tool_name) != (action_id, original.tool_name):
                raise AdapterContractError("a replacement keeps the action's id and its tool")
            digest = await self._replace(replacement)
        await self._db.approve_proposal(
            self._ids[action_id], by=REVIEWER, digest=digest, roles=[ROLE]
        )

    async def reject(self, action_id: str, reason: str | None = None) -> None:
        self._undecided(action_id)
        await self._db.reject_proposal(
            self._ids[action_id], by=REVIEWER, reason=reason or "rejected", roles=[ROLE]
        )

    async def cancel(self) -> None:
        if self._task.done():
            return
        # No process starts anything of the run from here on. A worker elsewhere learns of it by its
        # next heartbeat.
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
        end = await self._begin(LOOKUP, {"proposal_id": proposal.id})
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
        await end({"event": event.value})
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

    async def _drive(self, end: End) -> RunOutcome:
        try:
            if self._adapter.profile is ApprovalBarrierProfile.RUN_WIDE:
                await self._until_decided({each.action_id for each in self._actions})
            unknown = await self._execute_all()
            outcome = RunOutcome(RunStatus.COMPLETED)
            if unknown:
                why = f"the outcome of {', '.join(unknown)} is unknown"
                outcome = RunOutcome(RunStatus.UNKNOWN, why)
        except asyncio.CancelledError:
            outcome = RunOutcome(RunStatus.CANCELLED, "the run was cancelled")
        except ExceptionGroup as errors:
            _, others = errors.split(TimeoutError)
            outcome = (
                RunOutcome(RunStatus.TIMED_OUT, "an action exceeded its time")
                if others is None
                else RunOutcome(RunStatus.FAILED, repr(others.exceptions))
            )
        # Whatever became of the run: its own execution has ended.
        await end({"status": outcome.status.value, "detail": outcome.detail})
        return outcome

    async def _until_decided(self, action_ids: Collection[str]) -> None:
        """Waits until none of these actions waits for an approval, whoever decides."""
        async with self._db.changes() as changed:
            while True:
                changed.clear()
                # By the action: a replacement has another proposal.
                inbox = await self._db.pending_approvals(run_id=self._run_id)
                waiting = {to_action(each.proposal).action_id for each in inbox}
                if waiting.isdisjoint(action_ids):
                    return
                await changed.wait()

    async def _retry_if_not_done(self, action_id: str) -> None:
        """Lets an action run again that was surely not done."""
        proposal = await self._proposal_of(action_id)
        if proposal.status is ActionStatus.FAILED and proposal.id not in await self._lost():
            await self._db.retry(proposal.id, actor=OPERATOR, reason="it was not done")

    def _undecided(self, action_id: str) -> str:
        """The digest that was shown; an action is decided once."""
        digest = self._seen.pop(action_id, None)
        if digest is None:
            raise AdapterContractError(f"{action_id!r} does not wait for an approval")
        return digest

    async def _proposal_of(self, action_id: str) -> StoredProposal:
        proposal = await self._db.get_proposal(self._ids[action_id])
        assert proposal is not None
        return proposal

    async def _lost(self) -> set[int]:
        return {record.proposal_id for record in await self._db.unresolved()}
