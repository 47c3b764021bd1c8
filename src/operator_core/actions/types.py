"""The models of the ledger: frozen, strict, and the same whether made by a caller or read from a row."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from operator_core.actions.errors import InvalidValue
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
    format_path,
    join_paths,
)

__all__ = [
    "ActionEvent",
    "ActionProposal",
    "ActionRecord",
    "ActionStatus",
    "ActionType",
    "Claim",
    "EventType",
    "ProposalRequest",
    "Workflow",
    "WorkflowProposal",
    "WorkflowStatus",
]

ModelT = TypeVar("ModelT", bound=BaseModel)


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


class _Model(BaseModel):
    """Frozen and strict; whatever can't be kept in the ledger is an `InvalidValue` with its path."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        use_attribute_docstrings=False,
        validate_default=False,
    )

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise to_invalid_value(error) from None

    # Tells pydantic that its own, faster way to make an instance may be taken inside another
    # model's validation (FastAPI's, say), where a ValidationError is what everybody expects.
    __init__.__pydantic_base_init__ = True  # pyright: ignore[reportFunctionMemberAccess]

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """As pydantic's, but raises `InvalidValue`."""
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise to_invalid_value(error) from None

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """As pydantic's, but raises `InvalidValue`."""
        try:
            return super().model_validate_json(json_data, **options)
        except ValidationError as error:
            raise to_invalid_value(error) from None

    @classmethod
    def from_stored(cls, values: dict[str, Any]) -> Self:
        """An instance of `values` that were checked when they were written: every field, in its type.

        The limits of new values do not apply to what the ledger already holds, and a validation
        of each field of each row would cost more than reading the row: this does what pydantic's
        ``model_construct`` does for a model whose fields are all given, at a fifth of the time.
        """
        model = cls.__new__(cls)
        put = object.__setattr__
        put(model, "__dict__", values)
        put(model, "__pydantic_fields_set__", set(values))
        put(model, "__pydantic_extra__", None)
        put(model, "__pydantic_private__", None)
        return model


def to_invalid_value(error: ValidationError, at: str = "") -> InvalidValue:
    """Pydantic's `error`, found in the value at the path `at`, as the ledger's own, without values."""
    problems = [_problem(details) for details in error.errors(include_url=False)]
    problems = [(at + path, problem) for path, problem in problems]
    path, problem = problems[0]
    return InvalidValue(path, problem, problems=problems)


def _problem(details: ErrorDetails) -> tuple[str, str]:
    path = format_path(details["loc"])
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, InvalidValue):
        return join_paths(path, cause.path), cause.problem
    if details["type"] == "string_pattern_mismatch":
        return path, "must not be blank and must not contain a NUL character"
    if details["type"] == "string_unicode":
        return path, "must not contain a lone surrogate"
    return path, details["msg"]


_REPLAYED = "_replayed"


def _now() -> datetime:
    return datetime.now(UTC)


class ProposalRequest(_Model):
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

    id: Identifier | None = Field(
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
    created_at: UtcDatetime | None = Field(
        default=None, description="When the row was written, by the database's clock."
    )
    updated_at: UtcDatetime | None = Field(
        default=None, description="When the row last changed, by the database's clock."
    )
    retry_count: Retries = Field(
        default=0, description="How often it was run again by itself. Kept by the ledger."
    )
    next_retry_at: UtcDatetime | None = Field(
        default=None,
        description="When a failed one is run again, if it is. Kept by the ledger.",
    )
    last_error: LongText | None = Field(
        default=None, description="What went wrong the last time. Kept by the ledger."
    )
    workflow_id: Identifier | None = Field(
        default=None, description="The workflow that it is part of. Given by `create_workflow`."
    )
    version: Version | None = Field(
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
        # As in ProposalRequest.
        def __init__(
            self,
            *,
            action_name: str,
            reason: str,
            id: int | None = None,
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
            created_at: datetime | None = None,
            updated_at: datetime | None = None,
            retry_count: int = 0,
            next_retry_at: datetime | None = None,
            last_error: str | None = None,
            workflow_id: int | None = None,
            version: int | None = None,
        ) -> None: ...


class ActionRecord(_Model):
    """One execution of a proposal, from its start to its outcome."""

    id: Identifier | None = Field(
        default=None, description="Given by the ledger; None until the record is in it."
    )
    proposal_id: Identifier = Field(description="The proposal that is executed.")
    started_at: UtcDatetime | None = Field(
        default=None, description="When the execution started; the time of writing if not given."
    )
    completed_at: UtcDatetime | None = Field(
        default=None, description="When it ended; None while executing."
    )
    success: bool | None = Field(
        default=None, description="Whether it succeeded; None while executing."
    )
    error_message: LongText | None = Field(default=None, description="What went wrong, if it did.")
    result_data: JsonObject | None = Field(
        default=None, description="What the execution gave back: a JSON object."
    )
    worker: Name | None = Field(
        default=None, description="The worker that claimed the proposal for this execution."
    )
    lease_expires_at: UtcDatetime | None = Field(
        default=None,
        description="Until when the worker is believed to be alive. Given by `claim` and `heartbeat`.",
    )
    outcome_unknown: bool = Field(
        default=False,
        description="The worker fell silent: whether it did it is not known, and success stays None.",
    )

    if TYPE_CHECKING:
        # As in ProposalRequest; and the id of a proposal that was created needs no assertion.
        def __init__(
            self,
            *,
            proposal_id: int | None,
            id: int | None = None,
            started_at: datetime | None = None,
            completed_at: datetime | None = None,
            success: bool | None = None,
            error_message: str | None = None,
            result_data: Mapping[str, Any] | BaseModel | None = None,
            worker: str | None = None,
            lease_expires_at: datetime | None = None,
            outcome_unknown: bool = False,
        ) -> None: ...


class Claim(NamedTuple):
    """A proposal that a worker has taken, and the record of its execution, whose id is the fencing token."""

    proposal: ActionProposal
    record: ActionRecord


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


class WorkflowProposal(_Model):
    """Actions that belong together, as somebody proposes them."""

    name: Name = Field(description="What it is for, in a few words.")
    description: Reason | None = Field(default=None, description="What it is for, at length.")
    ticket_id: Identifier | None = Field(
        default=None, description="The ticket that it is meant to help with, if any."
    )


class Workflow(WorkflowProposal):
    """A workflow that is in the ledger."""

    id: Identifier = Field(description="Given by the ledger.")
    created_at: UtcDatetime = Field(description="When it was written, by the database's clock.")
    updated_at: UtcDatetime = Field(description="When its row last changed.")


class ActionEvent(_Model):
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
