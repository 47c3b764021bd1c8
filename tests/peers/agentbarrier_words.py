"""The ledger's rows in the words of agentbarrier, and the other way round."""

from typing import Any

from agentbarrier.models import (
    ActionRequest,
    AuditEvent,
    AuditReceipt,
    ReconciliationStatus,
    RunStatus,
    action_digest,
)

from operator_core.actions import ActionEvent, EventType, StoredProposal
from operator_core.db import ActionDB

# What the adapter itself does: the names of its proposals.
RUN, LOOKUP = "agentbarrier.run", "agentbarrier.lookup"

_RUN_ENDS = {
    RunStatus.COMPLETED: AuditEvent.RUN_COMPLETED,
    RunStatus.CANCELLED: AuditEvent.RUN_CANCELLED,
    RunStatus.TIMED_OUT: AuditEvent.RUN_TIMED_OUT,
    RunStatus.UNKNOWN: AuditEvent.RUN_UNKNOWN,
    RunStatus.FAILED: AuditEvent.RUN_FAILED,
}
LOOKUP_ENDS = {
    ReconciliationStatus.COMMITTED: AuditEvent.RECONCILIATION_COMMITTED,
    ReconciliationStatus.NOT_COMMITTED: AuditEvent.RECONCILIATION_NOT_COMMITTED,
    ReconciliationStatus.CONFLICT: AuditEvent.RECONCILIATION_CONFLICT,
    ReconciliationStatus.UNAVAILABLE: AuditEvent.RECONCILIATION_UNAVAILABLE,
}
_DECISIONS = {
    EventType.APPROVAL_REQUIRED: AuditEvent.APPROVAL_REQUESTED,
    EventType.APPROVED: AuditEvent.APPROVED,
    EventType.REJECTED: AuditEvent.REJECTED,
}


def to_parameters(action: ActionRequest) -> dict[str, Any]:
    return {
        "action_id": action.action_id,
        "parent_action_id": action.parent_action_id,
        "requires_approval": action.requires_approval,
        "arguments": dict(action.arguments),
    }


def to_action(proposal: StoredProposal) -> ActionRequest:
    """The action as the ledger has it: what is reviewed, executed and named in receipts."""
    return ActionRequest(tool_name=proposal.action_name, **proposal.parameters)


async def receipts(db: ActionDB, run_id: str) -> tuple[AuditReceipt, ...]:
    """The receipts of a run: those events of its history for which agentbarrier has a word, oldest first."""
    found: list[AuditReceipt] = []
    for proposal in await db.list_proposals(run_id=run_id):
        found += await _receipts_of(db, proposal)
    return tuple(sorted(found, key=lambda each: each.sequence))


async def _receipts_of(db: ActionDB, proposal: StoredProposal) -> list[AuditReceipt]:
    action = None if proposal.action_name == RUN else proposal
    if proposal.action_name == LOOKUP:
        action = await db.get_proposal(proposal.parameters["proposal_id"])
    about = None if action is None else to_action(action)
    records = await db.get_records_for_proposal(proposal.id)
    results = {record.id: record.result_data or {} for record in records}
    return [
        AuditReceipt(
            sequence=event.id,
            run_id=str(proposal.run_id),
            event=said,
            timestamp_ns=int(event.occurred_at.timestamp() * 1_000_000) * 1000,
            action_id=about and about.action_id,
            action_digest=about and action_digest(about),
            detail=event.reason or results.get(event.record_id or 0, {}).get("detail"),
        )
        for event in await db.history(proposal.id)
        if (said := _said(proposal, event, results.get(event.record_id or 0, {})))
    ]


def _said(proposal: StoredProposal, event: ActionEvent, result: Any) -> AuditEvent | None:
    """The event in agentbarrier's words; None if it has none."""
    begins = event.event_type is EventType.RECORD_STARTED
    ends = event.event_type is EventType.RECORD_FINISHED
    if proposal.action_name == RUN:
        if ends:
            return _RUN_ENDS[RunStatus(result["status"])]
        return AuditEvent.RUN_STARTED if begins else None
    if proposal.action_name == LOOKUP:
        if ends:
            return AuditEvent(result["event"])
        return AuditEvent.RECONCILIATION_STARTED if begins else None
    return _DECISIONS.get(event.event_type)
