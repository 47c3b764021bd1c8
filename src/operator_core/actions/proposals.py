"""Proposals: what a caller asks for, what is proposed, and what is in the ledger."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

from pydantic import BaseModel, Field

from operator_core.actions.model import KEPT, Model
from operator_core.actions.statuses import ActionStatus, ActionType
from operator_core.actions.values import (
    Dependencies,
    Identifier,
    JsonObject,
    LongText,
    Name,
    Priority,
    Reason,
    Retries,
    Seconds,
    UtcDatetime,
    Version,
)

__all__ = ["ActionProposal", "ProposalRequest", "StoredProposal"]

ModelT = TypeVar("ModelT", bound=BaseModel)

_REPLAYED = "_replayed"


def _now() -> datetime:
    return datetime.now(UTC)


class ProposalRequest(Model):
    """What a caller may say of a tool call that it proposes: the model for the body of an API's request.

    Who proposes it, its status and its times are not the caller's to say: `create_proposal` takes
    `proposed_by`, and the ledger gives the rest.
    """

    ticket_id: Identifier | None = Field(
        default=None, description="The ticket that this action is meant to help with, if any."
    )
    action_name: Name = Field(description="What is to be done, such as transfer_leader.")
    action_type: ActionType = Field(
        default=ActionType.SUBJECT, description="What kind of thing carries the action out."
    )
    parameters: JsonObject = Field(
        default_factory=dict,
        description="The arguments of the call: a JSON object, or a Pydantic model that becomes one.",
    )
    reason: Reason = Field(description="Why this is proposed, for the person who reads it later.")
    priority: Priority = Field(
        default=0, description="The higher, the earlier it is claimed; -32768 to 32767."
    )
    scheduled_at: UtcDatetime | None = Field(
        default=None, description="Not to be started before; None: as soon as it is validated."
    )
    expires_at: UtcDatetime | None = Field(
        default=None, description="If it is not started by then, it is cancelled."
    )
    max_retries: Retries = Field(
        default=0,
        description="How often it may be run again by itself after a failure or an unknown outcome: "
        "0, the default, is never. More says that it is safe to repeat.",
    )
    retry_delay: Seconds = Field(
        default=1.0,
        description="Seconds that the first retry waits at the most; each further one twice as long.",
    )
    max_retry_delay: Seconds = Field(
        default=300.0, description="Seconds that any retry waits at the most."
    )
    depends_on: Dependencies = Field(
        default=(), description="The proposals that must be completed before it may start, by id."
    )
    wait_on_failure: bool = Field(
        default=False,
        strict=True,
        description="If one of them fails or is cancelled: False, and it is cancelled too; True, and it "
        "waits, for somebody to retry what failed.",
    )

    if TYPE_CHECKING:
        # What the validators above take is more than what the fields hold; type checkers see only
        # the fields. A test compares the names.
        def __init__(
            self,
            *,
            action_name: str,
            reason: str,
            ticket_id: int | None = None,
            action_type: ActionType = ActionType.SUBJECT,
            parameters: Mapping[str, Any] | BaseModel = ...,
            priority: int = 0,
            scheduled_at: datetime | None = None,
            expires_at: datetime | None = None,
            max_retries: int = 0,
            retry_delay: float = 1.0,
            max_retry_delay: float = 300.0,
            depends_on: Sequence[int] = (),
            wait_on_failure: bool = False,
        ) -> None: ...

    def parameters_as(self, model: type[ModelT]) -> ModelT:
        """The parameters as an instance of the caller's own `model`.

        Raises pydantic's `ValidationError`, the model's own, if they don't fit it.
        """
        # As JSON, so that a strict model takes the text of a date, as it does from an API.
        return model.model_validate_json(json.dumps(self.parameters))


class ActionProposal(ProposalRequest):
    """A tool call that an agent or a person proposes, and what became of it."""

    id: Annotated[Identifier | None, KEPT] = Field(
        default=None, description="Given by the ledger; None until the proposal is in it."
    )
    status: ActionStatus = Field(
        default=ActionStatus.PROPOSED, description="Where the proposal stands in its lifecycle."
    )
    proposed_at: UtcDatetime = Field(
        default_factory=_now, description="When it was proposed. A naive time is local time."
    )
    proposed_by: Name = Field(default="agent", description="Who proposes it.")
    validated_at: UtcDatetime | None = Field(
        default=None, description="When it was last validated. Kept by the ledger."
    )
    cancelled_at: UtcDatetime | None = Field(
        default=None, description="When it was cancelled. Kept by the ledger."
    )
    created_at: Annotated[UtcDatetime | None, KEPT] = Field(
        default=None, description="When the row was written, by the database's clock."
    )
    updated_at: Annotated[UtcDatetime | None, KEPT] = Field(
        default=None, description="When the row last changed, by the database's clock."
    )
    retry_count: Annotated[Retries, KEPT] = Field(
        default=0, description="How often it was run again by itself. Kept by the ledger."
    )
    next_retry_at: Annotated[UtcDatetime | None, KEPT] = Field(
        default=None,
        description="When a failed one is run again, if it is. Kept by the ledger.",
    )
    last_error: Annotated[LongText | None, KEPT] = Field(
        default=None, description="What went wrong the last time. Kept by the ledger."
    )
    workflow_id: Annotated[Identifier | None, KEPT] = Field(
        default=None, description="The workflow that it is part of. Given by `create_workflow`."
    )
    version: Annotated[Version | None, KEPT] = Field(
        default=None, description="Counts the changes of the row from 1 on. Kept by the database."
    )

    @property
    def replayed(self) -> bool:
        """Whether `create_proposal` found it under its idempotency key, and did not write it now."""
        return bool(self.__dict__.get(_REPLAYED))

    def as_replayed(self) -> Self:
        """The same proposal, found and not written; equal to itself."""
        # Beside the fields, as cached properties are: no part of what is compared or dumped.
        return self.from_stored({**self.__dict__, _REPLAYED: True})

    if TYPE_CHECKING:
        # As in ProposalRequest, without what the ledger keeps.
        def __init__(
            self,
            *,
            action_name: str,
            reason: str,
            ticket_id: int | None = None,
            action_type: ActionType = ActionType.SUBJECT,
            parameters: Mapping[str, Any] | BaseModel = ...,
            status: ActionStatus = ActionStatus.PROPOSED,
            proposed_at: datetime = ...,
            proposed_by: str = "agent",
            priority: int = 0,
            scheduled_at: datetime | None = None,
            expires_at: datetime | None = None,
            max_retries: int = 0,
            retry_delay: float = 1.0,
            max_retry_delay: float = 300.0,
            depends_on: Sequence[int] = (),
            wait_on_failure: bool = False,
            validated_at: datetime | None = None,
            cancelled_at: datetime | None = None,
        ) -> None: ...


class StoredProposal(ActionProposal):
    """A proposal that is in the ledger, as it stood when it was read."""

    # Frozen, so that a narrower type is safe, which type checkers can't tell from the configuration.
    id: Annotated[Identifier, KEPT] = Field(description="Given by the ledger.")  # pyright: ignore
    created_at: Annotated[UtcDatetime, KEPT] = Field(  # pyright: ignore
        description="When the row was written, by the database's clock."
    )
    updated_at: Annotated[UtcDatetime, KEPT] = Field(  # pyright: ignore
        description="When the row last changed, by the database's clock."
    )
    version: Annotated[Version, KEPT] = Field(  # pyright: ignore
        description="Counts the changes of the row from 1 on."
    )
