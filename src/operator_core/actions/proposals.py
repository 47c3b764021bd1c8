"""The models of a proposal: the request, the proposal and the stored proposal."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

from pydantic import BaseModel, Field

from operator_core.actions.digest import proposal_digest
from operator_core.actions.model import KEPT, Model
from operator_core.actions.statuses import (
    ActionStatus,
    ActionType,
    ApprovalStatus,
    EndCode,
    RequesterType,
)
from operator_core.actions.values import (
    Dependencies,
    Digest,
    Identifier,
    JsonObject,
    LongText,
    Name,
    Priority,
    Reason,
    Retries,
    Seconds,
    Traceparent,
    UtcDatetime,
    Version,
)

__all__ = ["ActionProposal", "ProposalRequest", "StoredProposal"]

ModelT = TypeVar("ModelT", bound=BaseModel)

_REPLAYED = "_replayed"


def _now() -> datetime:
    return datetime.now(UTC)


class ProposalRequest(Model):
    """The fields of a proposal that a caller may set: the model for the body of an API's request.

    The proposer, the status and the times are not among them: `create_proposal` takes `proposed_by`, and the
    ledger sets the rest. A service that authenticates its callers sets `agent_id`, `requester_id` and `requester_type`
    itself, as ``examples/service.py`` does.
    """

    ticket_id: Identifier | None = Field(
        default=None, description="The ticket that this action is for, if any."
    )
    action_name: Name = Field(description="The name of the action, such as transfer_leader.")
    action_type: ActionType = Field(
        default=ActionType.SUBJECT, description="The kind of component that performs the action."
    )
    parameters: JsonObject = Field(
        default_factory=dict,
        description="The arguments of the call: a JSON object, or a Pydantic model that is converted to one.",
    )
    reason: Reason = Field(description="The reason for the proposal, for people who read it later.")
    priority: Priority = Field(
        default=0, description="Higher values are claimed earlier; -32768 to 32767."
    )
    scheduled_at: UtcDatetime | None = Field(
        default=None,
        description="It does not start before this time; None: it may start as soon as it is validated.",
    )
    expires_at: UtcDatetime | None = Field(
        default=None, description="If it has not started by this time, it is cancelled."
    )
    max_retries: Retries = Field(
        default=0,
        description="How often the ledger may retry it after a failure or an unknown outcome. "
        "0, the default, means never. A higher value declares that the action is safe to repeat.",
    )
    retry_delay: Seconds = Field(
        default=1.0,
        description="Upper limit of the delay before the first retry, in seconds; it doubles with each retry.",
    )
    max_retry_delay: Seconds = Field(
        default=300.0, description="Upper limit of the delay before any retry, in seconds."
    )
    depends_on: Dependencies = Field(
        default=(),
        description="The ids of the proposals that must be completed before it may start.",
    )
    wait_on_failure: bool = Field(
        default=False,
        strict=True,
        description="The effect of a dependency that fails or is cancelled. False: this proposal is cancelled too. "
        "True: it waits until somebody retries the dependency.",
    )
    exclusive_key: Name | None = Field(
        default=None,
        description="What it needs for itself alone, such as a store or a host: at most one proposal with the same key is "
        "executing in the ledger.",
    )
    requester_id: Name | None = Field(
        default=None,
        description="The one for whom the action is proposed, as the service knows it.",
    )
    requester_type: RequesterType | None = Field(
        default=None, description="The kind of requester: a user, a system or an agent."
    )
    agent_id: Name | None = Field(default=None, description="The agent that acts.")
    run_id: Name | None = Field(
        default=None,
        description="The conversation, thread or run that it is part of; sub-agents share it.",
    )
    parent_id: Identifier | None = Field(
        default=None,
        description="The proposal in whose execution this one is proposed; of the same run.",
    )
    call_id: Name | None = Field(
        default=None, description="The provider's id of the tool call, unique in a run."
    )
    traceparent: Traceparent | None = Field(
        default=None, description="The trace that it is part of (W3C Trace Context)."
    )

    if TYPE_CHECKING:
        # The validators accept more types than the fields hold, and type checkers see only the fields.
        # A test compares the names.
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
            exclusive_key: str | None = None,
            requester_id: str | None = None,
            requester_type: RequesterType | None = None,
            agent_id: str | None = None,
            run_id: str | None = None,
            parent_id: int | None = None,
            call_id: str | None = None,
            traceparent: str | None = None,
        ) -> None: ...

    def parameters_as(self, model: type[ModelT]) -> ModelT:
        """Returns the parameters as an instance of the caller's `model`.

        Raises pydantic's `ValidationError` if they don't match the model.
        """
        # From JSON, so that a strict model accepts a date as text, as it does from an API.
        return model.model_validate_json(json.dumps(self.parameters))


class ActionProposal(ProposalRequest):
    """A tool call that an agent or a person proposes, with its status, times and retries."""

    id: Annotated[Identifier | None, KEPT] = Field(
        default=None, description="Set by the ledger; None until the proposal is stored."
    )
    status: ActionStatus = Field(
        default=ActionStatus.PROPOSED, description="The status in the lifecycle."
    )
    proposed_at: UtcDatetime = Field(
        default_factory=_now, description="When it was proposed. A naive time is local time."
    )
    proposed_by: Name = Field(default="agent", description="The agent or person that proposes it.")
    validated_at: UtcDatetime | None = Field(
        default=None, description="When it was last validated. Set by the ledger."
    )
    cancelled_at: UtcDatetime | None = Field(
        default=None, description="When it was cancelled. Set by the ledger."
    )
    created_at: Annotated[UtcDatetime | None, KEPT] = Field(
        default=None, description="When the row was written, by the database's clock."
    )
    updated_at: Annotated[UtcDatetime | None, KEPT] = Field(
        default=None, description="When the row last changed, by the database's clock."
    )
    retry_count: Annotated[Retries, KEPT] = Field(
        default=0, description="How often the ledger has retried it. Set by the ledger."
    )
    next_retry_at: Annotated[UtcDatetime | None, KEPT] = Field(
        default=None,
        description="The earliest time of the next retry; None if none is scheduled. Set by the ledger.",
    )
    last_error: Annotated[LongText | None, KEPT] = Field(
        default=None, description="The latest error message. Set by the ledger."
    )
    workflow_id: Annotated[Identifier | None, KEPT] = Field(
        default=None, description="The workflow that it belongs to. Set by `create_workflow`."
    )
    version: Annotated[Version | None, KEPT] = Field(
        default=None, description="Counts the changes of the row, from 1. Set by the database."
    )
    end_code: Annotated[EndCode | None, KEPT] = Field(
        default=None,
        description="How it has ended, if it is cancelled or failed. Set by the ledger.",
    )
    content_digest: Annotated[Digest | None, KEPT] = Field(
        default=None,
        description="The digest that the ledger stored when it was proposed; None if raw SQL wrote the row.",
    )

    supersedes_id: Annotated[Identifier | None, KEPT] = Field(
        default=None,
        description="The proposal that it replaces. Set by `amend_proposal`.",
    )
    approval: Annotated[ApprovalStatus | None, KEPT] = Field(
        default=None,
        description="What its requirements and decisions came to when they last changed; None: nothing is required. "
        "`is_approved` tells what they come to now.",
    )
    lapses_at: Annotated[UtcDatetime | None, KEPT] = Field(
        default=None,
        description="When it is cancelled unless it is decided or started before; None: never.",
    )

    @property
    def digest(self) -> str:
        """The digest of what was proposed: see `operator_core.actions.digest`.

        It is computed for each call. `content_digest` is the stored one.
        """
        return proposal_digest(self.__dict__)

    @property
    def replayed(self) -> bool:
        """Whether `create_proposal` found it under its idempotency key and wrote nothing."""
        return bool(self.__dict__.get(_REPLAYED))

    def as_replayed(self) -> Self:
        """Returns an equal proposal whose `replayed` is true."""
        # Stored beside the fields, as cached properties are: comparisons and dumps ignore it.
        return self.from_stored({**self.__dict__, _REPLAYED: True})

    if TYPE_CHECKING:
        # As in ProposalRequest, without the fields that the ledger sets.
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
            exclusive_key: str | None = None,
            requester_id: str | None = None,
            requester_type: RequesterType | None = None,
            agent_id: str | None = None,
            run_id: str | None = None,
            parent_id: int | None = None,
            call_id: str | None = None,
            traceparent: str | None = None,
            validated_at: datetime | None = None,
            cancelled_at: datetime | None = None,
        ) -> None: ...


class StoredProposal(ActionProposal):
    """A proposal in the ledger, as it was when it was read."""

    # The model is frozen, so a narrower type is safe. Type checkers can't see that in the configuration.
    id: Annotated[Identifier, KEPT] = Field(description="Set by the ledger.")  # pyright: ignore
    created_at: Annotated[UtcDatetime, KEPT] = Field(  # pyright: ignore
        description="When the row was written, by the database's clock."
    )
    updated_at: Annotated[UtcDatetime, KEPT] = Field(  # pyright: ignore
        description="When the row last changed, by the database's clock."
    )
    version: Annotated[Version, KEPT] = Field(  # pyright: ignore
        description="Counts the changes of the row, from 1."
    )
