"""Where a proposal or a workflow stands, and of what kind an action or an event is."""

from enum import StrEnum

__all__ = ["ActionStatus", "ActionType", "EventType", "WorkflowStatus"]


class ActionStatus(StrEnum):
    """Where a proposal stands; `operator_core.actions.lifecycle.TRANSITIONS` says what may follow."""

    PROPOSED = "proposed"
    VALIDATED = "validated"
    EXECUTING = "executing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ActionType(StrEnum):
    """What kind of thing an action is carried out by."""

    SUBJECT = "subject"
    """A method of the system that is operated, such as ``transfer_leader``."""
    TOOL = "tool"
    """A general tool of the agent."""
    WORKFLOW = "workflow"
    """A chain of other actions."""


class EventType(StrEnum):
    """What an event in the history reports."""

    PROPOSAL_CREATED = "proposal_created"
    STATUS_CHANGED = "status_changed"
    RETRY_SCHEDULED = "retry_scheduled"
    """The time of a failed proposal's next retry was changed, and its status was not."""
    RETRY_CANCELLED = "retry_cancelled"
    """A failed proposal is not run again by itself any more."""
    RECORD_STARTED = "record_started"
    RECORD_FINISHED = "record_finished"


class WorkflowStatus(StrEnum):
    """How far a workflow is, as its actions tell."""

    PENDING = "pending"
    """Nothing of it has started."""
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    """Everything of it has ended, and something has failed for good."""
    CANCELLED = "cancelled"
    """Everything of it has ended, nothing has failed, and something was cancelled."""
