"""The models of the ledger: frozen, strict, and the same for input and for stored rows."""

from operator_core.actions.events import ActionEvent
from operator_core.actions.proposals import ActionProposal, ProposalRequest, StoredProposal
from operator_core.actions.records import ActionRecord, Claim, StoredRecord
from operator_core.actions.statuses import (
    ActionStatus,
    ActionType,
    EventType,
    RequesterType,
    WorkflowStatus,
)
from operator_core.actions.workflows import Workflow, WorkflowProposal

__all__ = [
    "ActionEvent",
    "ActionProposal",
    "ActionRecord",
    "ActionStatus",
    "ActionType",
    "Claim",
    "EventType",
    "ProposalRequest",
    "RequesterType",
    "StoredProposal",
    "StoredRecord",
    "Workflow",
    "WorkflowProposal",
    "WorkflowStatus",
]
