"""The history."""

from pydantic import Field

from operator_core.actions.model import Model
from operator_core.actions.statuses import ActionStatus, EventType
from operator_core.actions.values import Identifier, UtcDatetime, Version

__all__ = ["ActionEvent"]


class ActionEvent(Model):
    """One line of the history, written by the database itself and never changed."""

    id: Identifier = Field(description="Grows with each event. A gap is no sign of tampering.")
    proposal_id: Identifier = Field(description="The proposal that the event is about.")
    record_id: Identifier | None = Field(
        default=None, description="The execution record, where the event is about one."
    )
    event_type: EventType = Field(description="What happened.")
    from_status: ActionStatus | None = Field(
        default=None, description="The proposal's status before; None where it had none."
    )
    to_status: ActionStatus | None = Field(
        default=None, description="The proposal's status after; None for events of a record."
    )
    success: bool | None = Field(
        default=None, description="The outcome, where a record was finished."
    )
    version: Version | None = Field(
        default=None,
        description="The proposal's version after it; None for events of a record, which change no proposal.",
    )
    actor: str = Field(description="Who did it. 'raw SQL' where the writer did not say.")
    worker: str | None = Field(
        default=None, description="Whose execution it is, where the event is about a claimed one."
    )
    reason: str | None = Field(default=None, description="Why, in the words of the actor.")
    occurred_at: UtcDatetime = Field(description="When, by the database's clock.")
