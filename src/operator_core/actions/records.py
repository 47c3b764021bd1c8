"""Execution records, and the claim that holds one."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import BaseModel, Field

from operator_core.actions.model import KEPT, Model
from operator_core.actions.proposals import StoredProposal
from operator_core.actions.values import Identifier, JsonObject, LongText, Name, UtcDatetime

__all__ = ["ActionRecord", "Claim", "StoredRecord"]


class ActionRecord(Model):
    """One execution of a proposal, from its start to its outcome."""

    id: Annotated[Identifier | None, KEPT] = Field(
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
        # As in ActionProposal; and the id of a proposal that was created needs no assertion.
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
    """A record that is in the ledger, as it stood when it was read."""

    # As in StoredProposal.
    id: Annotated[Identifier, KEPT] = Field(description="Given by the ledger.")  # pyright: ignore


class Claim(NamedTuple):
    """A proposal that a worker has taken, and the record of its execution, whose id is the fencing token."""

    proposal: StoredProposal
    record: StoredRecord

    @property
    def lease(self) -> timedelta | None:
        """How long the lease is that it was claimed with, to the millisecond; None of a record that has none."""
        begun, ends = self.record.started_at, self.record.lease_expires_at
        if begun is None or ends is None:
            return None
        # The database's clock goes on between the two times.
        return timedelta(milliseconds=round((ends - begun) / timedelta(milliseconds=1)))
