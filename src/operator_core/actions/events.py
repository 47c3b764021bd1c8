"""The model of an event."""

from pydantic import Field

from operator_core.actions.model import Model
from operator_core.actions.statuses import ActionStatus, EventType
from operator_core.actions.values import Identifier, JsonObject, UtcDatetime, Version

__all__ = ["ActionEvent"]


class ActionEvent(Model):
    """One row of the history; the database writes it and never changes it."""

    id: Identifier = Field(
        description="Grows with each event. Gaps are normal and no sign of tampering."
    )
    proposal_id: Identifier | None = Field(
        default=None,
        description="The proposal that the event belongs to; None for events of a halt or a limit.",
    )
    record_id: Identifier | None = Field(
        default=None, description="The record, if the event belongs to an execution."
    )
    event_type: EventType = Field(description="The kind of change.")
    from_status: ActionStatus | None = Field(
        default=None, description="The proposal's status before the event; None if it had none."
    )
    to_status: ActionStatus | None = Field(
        default=None,
        description="The proposal's status after the event; None for events of a record.",
    )
    success: bool | None = Field(
        default=None, description="The outcome, if the event ends a record."
    )
    version: Version | None = Field(
        default=None,
        description="The proposal's version after the event; None for events of a record, which change no proposal.",
    )
    actor: str = Field(description="The actor; 'raw SQL' if the writer named none.")
    worker: str | None = Field(
        default=None, description="The worker, if the event belongs to a claimed execution."
    )
    reason: str | None = Field(default=None, description="The reason, as the actor stated it.")
    details: JsonObject | None = Field(
        default=None, description="What else the event names, such as the halt and its scope."
    )
    occurred_at: UtcDatetime = Field(description="The time of the event, by the database's clock.")
