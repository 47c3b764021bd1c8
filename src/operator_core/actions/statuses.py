"""The enums of statuses, of event types, and of the types of actions and requesters."""

from enum import StrEnum

__all__ = ["ActionStatus", "ActionType", "EventType", "HaltMode", "RequesterType", "WorkflowStatus"]


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
