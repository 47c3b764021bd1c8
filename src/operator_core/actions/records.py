"""The models of a record, of a claim, and of an outcome that was found out later."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import BaseModel, Field

from operator_core.actions.model import KEPT, Model
from operator_core.actions.proposals import StoredProposal
from operator_core.actions.values import (
    Identifier,
    JsonObject,
    LongText,
    Name,
    Reason,
    UtcDatetime,
)

__all__ = ["ActionRecord", "Claim", "OutcomeResolution", "StoredRecord"]


class ActionRecord(Model):
    """One execution of a proposal, from its start to its outcome."""

    id: Annotated[Identifier | None, KEPT] = Field(
        default=None, description="Set by the ledger; None until the record is stored."
    )
    proposal_id: Identifier = Field(description="The proposal that is executed.")
    started_at: UtcDatetime | None = Field(
        default=None, description="When the execution started; the time of writing by default."
    )
    completed_at: UtcDatetime | None = Field(
        default=None, description="When it ended; None while executing."
    )
    success: bool | None = Field(
        default=None, description="Whether it succeeded; None while executing."
    )
    error_message: LongText | None = Field(
        default=None, description="The error message, if there is one."
    )
    result_data: JsonObject | None = Field(
        default=None, description="The result of the execution: a JSON object."
    )
    worker: Name | None = Field(
        default=None, description="The worker that claimed the proposal for this execution."
    )
    lease_expires_at: UtcDatetime | None = Field(
        default=None,
        description="The time until which the worker owns the execution. Set by `claim` and `heartbeat`.",
    )
    outcome_unknown: bool = Field(
        default=False,
        description="True if it is unknown whether the action was done, for example because the worker "
        "stopped responding; success is then None.",
    )

    if TYPE_CHECKING:
        # As in ActionProposal. None is accepted so that the id of a created proposal needs no assertion.
        def __init__(
            self,
            *,
            proposal_id: int | None,
            started_at: datetime | None = None,
            completed_at: datetime | None = None,
            success: bool | None = None,
            error_message: str | None = None,
            result_data: Mapping[str, Any] | BaseModel | None = None,
            worker: str | None = None,
            lease_expires_at: datetime | None = None,
            outcome_unknown: bool = False,
        ) -> None: ...


class StoredRecord(ActionRecord):
    """A record in the ledger, as it was when it was read."""

    # As in StoredProposal.
    id: Annotated[Identifier, KEPT] = Field(description="Set by the ledger.")  # pyright: ignore


class OutcomeResolution(Model):
    """What somebody found out about an execution whose outcome was unknown; the record itself stays as it is."""

    id: Identifier = Field(description="Set by the ledger.")
    record_id: Identifier = Field(description="The record of the execution.")
    proposal_id: Identifier = Field(description="The proposal that was executed.")
    succeeded: bool = Field(description="Whether the action was done.")
    resolved_by: Name = Field(description="Who found out.")
    evidence: Reason = Field(description="How they know.")
    created_at: UtcDatetime = Field(description="When, by the database's clock.")


class Claim(NamedTuple):
    """A claimed proposal and the record of its execution; the record's id is the fencing token."""

    proposal: StoredProposal
    record: StoredRecord

    @property
    def lease(self) -> timedelta | None:
        """The length of the lease at the claim, to the millisecond; None if the record has no lease."""
        begun, ends = self.record.started_at, self.record.lease_expires_at
        if begun is None or ends is None:
            return None
        # The database's clock advances between the two times.
        return timedelta(milliseconds=round((ends - begun) / timedelta(milliseconds=1)))
