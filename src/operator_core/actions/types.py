"""The models of the ledger: frozen, strict, and the same for input and for stored rows."""

from operator_core.actions.events import ActionEvent
from operator_core.actions.halts import Blocker, Halt, HaltReport, RunningExecution
from operator_core.actions.limits import Limit, LimitUse
from operator_core.actions.proposals import ActionProposal, ProposalRequest, StoredProposal
from operator_core.actions.records import (
    ActionRecord,
    Claim,
    OutcomeResolution,
    StoredRecord,
)
from operator_core.actions.statuses import (
    ActionStatus,
    ActionType,
    EndCode,
    EventType,
    HaltMode,
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
    "Blocker",
    "Claim",
    "EndCode",
    "EventType",
    "Halt",
    "HaltMode",
    "HaltReport",
    "Limit",
    "LimitUse",
    "OutcomeResolution",
    "ProposalRequest",
    "RequesterType",
    "RunningExecution",
    "StoredProposal",
    "StoredRecord",
    "Workflow",
    "WorkflowProposal",
    "WorkflowStatus",
]
