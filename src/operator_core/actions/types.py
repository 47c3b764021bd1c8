"""The models of the ledger: frozen, strict, and the same for input and for stored rows."""

from operator_core.actions.approvals import (
    Approvals,
    Decision,
    Grant,
    PendingApproval,
    Requirement,
    RequirementState,
    RuleMatch,
    StoredRule,
)
from operator_core.actions.conditions import Condition
from operator_core.actions.events import ActionEvent
from operator_core.actions.halts import Blocker, Halt, HaltReport, RunningExecution
from operator_core.actions.limits import Limit, LimitUse
from operator_core.actions.policies import Deny, Policy, Require
from operator_core.actions.proposals import ActionProposal, ProposalRequest, StoredProposal
from operator_core.actions.records import (
    ActionRecord,
    Claim,
    OutcomeResolution,
    StoredRecord,
)
from operator_core.actions.rules import Rule
from operator_core.actions.statuses import (
    ActionStatus,
    ActionType,
    ApprovalStatus,
    DecisionKind,
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
    "ApprovalStatus",
    "Approvals",
    "Blocker",
    "Claim",
    "Condition",
    "Decision",
    "DecisionKind",
    "Deny",
    "EndCode",
    "EventType",
    "Grant",
    "Halt",
    "HaltMode",
    "HaltReport",
    "Limit",
    "LimitUse",
    "OutcomeResolution",
    "PendingApproval",
    "Policy",
    "ProposalRequest",
    "RequesterType",
    "Require",
    "Requirement",
    "RequirementState",
    "Rule",
    "RuleMatch",
    "RunningExecution",
    "StoredProposal",
    "StoredRecord",
    "StoredRule",
    "Workflow",
    "WorkflowProposal",
    "WorkflowStatus",
]
