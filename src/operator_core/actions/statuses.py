"""The enums of statuses, of event types, and of the types of actions and requesters."""

from enum import StrEnum

__all__ = [
    "ActionStatus",
    "ActionType",
    "ApprovalStatus",
    "DecisionKind",
    "EndCode",
    "EventType",
    "HaltMode",
    "RequesterType",
    "WorkflowStatus",
]


class ActionStatus(StrEnum):
    """The status of a proposal; `operator_core.actions.lifecycle.TRANSITIONS` defines the moves."""

    PROPOSED = "proposed"
    VALIDATED = "validated"
    EXECUTING = "executing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ActionType(StrEnum):
    """The kind of component that performs an action."""

    SUBJECT = "subject"
    """A method of the operated system, such as ``transfer_leader``."""
    TOOL = "tool"
    """A general tool of the agent."""
    WORKFLOW = "workflow"
    """A chain of other actions."""


class RequesterType(StrEnum):
    """The kind of requester: the one for whom an action is proposed."""

    USER = "user"
    SYSTEM = "system"
    AGENT = "agent"


class EndCode(StrEnum):
    """How a cancelled or failed proposal has ended."""

    DENIED = "denied"
    """A rule denies it."""
    REJECTED = "rejected"
    """A person has rejected it."""
    WITHDRAWN = "withdrawn"
    """Its proposer or its requester has cancelled it."""
    UNDECIDED = "undecided"
    """It was not approved in time."""
    EXPIRED = "expired"
    """It was not started before its `expires_at`."""
    APPROVAL_EXPIRED = "approval_expired"
    """It was approved and not started in time."""
    HALTED = "halted"
    """A halt has cancelled it."""
    SUPERSEDED = "superseded"
    """Another proposal has taken its place."""
    DEPENDENCY = "dependency"
    """A proposal that it depends on has failed or was cancelled."""
    CANCELLED = "cancelled"
    """Somebody has cancelled it."""
    FAILED = "failed"
    """Its execution has failed."""
    OUTCOME_UNKNOWN = "outcome_unknown"
    """Its execution has ended, and whether the action was done is not known."""
    LIMIT = "limit"
    """A limit does not allow it."""
    NOT_BEGUN = "not_begun"
    """It was claimed, and its execution was surely not begun."""
    TAMPERED = "tampered"
    """Its content does not fit its digest."""


class EventType(StrEnum):
    """The kind of change that an event describes."""

    PROPOSAL_CREATED = "proposal_created"
    STATUS_CHANGED = "status_changed"
    RETRY_SCHEDULED = "retry_scheduled"
    """The time of a failed proposal's next retry changed; its status did not."""
    RETRY_CANCELLED = "retry_cancelled"
    """The scheduled retry of a failed proposal was cancelled."""
    RECORD_STARTED = "record_started"
    RECORD_FINISHED = "record_finished"
    OUTCOME_RESOLVED = "outcome_resolved"
    """Somebody has found out what became of an execution whose outcome was unknown."""
    HALTED = "halted"
    """A halt began; it is about no proposal."""
    RESUMED = "resumed"
    """A halt ended; it is about no proposal."""
    LIMIT_SET = "limit_set"
    """A limit was set; it is about no proposal."""
    LIMIT_REMOVED = "limit_removed"
    """A limit was removed, or replaced; it is about no proposal."""
    RULE_ADDED = "rule_added"
    RULE_REVOKED = "rule_revoked"
    """These two are about no proposal."""
    APPROVAL_REQUIRED = "approval_required"
    """A rule, or the policy of a service, requires approvals of a proposal."""
    APPROVED = "approved"
    REJECTED = "rejected"
    APPROVAL_WITHDRAWN = "approval_withdrawn"
    GRANT_ADDED = "grant_added"
    GRANT_REVOKED = "grant_revoked"
    """These two are about no proposal."""


class ApprovalStatus(StrEnum):
    """What the requirements and decisions of a proposal came to when they last changed."""

    NEEDED = "needed"
    """An approval is missing."""
    GIVEN = "given"
    HELD = "held"
    """They were given while a halt covered it, and it moves when it is resumed."""


class DecisionKind(StrEnum):
    """What a person decided."""

    APPROVED = "approved"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"
    """Of an approval by the same person."""


class HaltMode(StrEnum):
    """What is allowed: everything, or what a halt leaves."""

    EXECUTE = "execute"
    """No halt is open."""
    OBSERVE = "observe"
    """Actions can be proposed. Nothing is validated, and nothing starts."""
    HALTED = "halted"
    """Nothing is proposed, validated or started."""


class WorkflowStatus(StrEnum):
    """The status of a workflow, derived from its proposals."""

    PENDING = "pending"
    """None of its proposals has started."""
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    """All its proposals have ended, and at least one has failed and has no scheduled retry."""
    CANCELLED = "cancelled"
    """All its proposals have ended; none has failed, and at least one was cancelled."""
