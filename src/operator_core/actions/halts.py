"""The models of a halt and of its report."""

from datetime import datetime
from typing import NamedTuple

from pydantic import Field

from operator_core.actions.model import Model
from operator_core.actions.statuses import HaltMode
from operator_core.actions.values import Identifier, Name, Reason, UtcDatetime

__all__ = ["Blocker", "Halt", "HaltReport", "RunningExecution"]


class Halt(Model):
    """A halt: what is stopped, by whom and why. With a start or an end it is a freeze."""

    id: Identifier = Field(description="Set by the ledger.")
    mode: HaltMode = Field(description="`observe` or `halted`.")
    action_name: Name | None = Field(
        default=None,
        description="The actions that it covers: a name, or a pattern with * (any text) and ? (any character). "
        "None is any action.",
    )
    agent_id: Name | None = Field(
        default=None,
        description="The agent that it covers, with its sub-agents; None is any agent.",
    )
    run_id: Name | None = Field(default=None, description="The run that it covers; None is any.")
    halted_by: Name = Field(description="Who halted.")
    reason: Reason = Field(description="Why.")
    created_at: UtcDatetime = Field(description="When, by the database's clock.")
    valid_from: UtcDatetime | None = Field(
        default=None, description="When a freeze begins; None is at once."
    )
    valid_until: UtcDatetime | None = Field(
        default=None, description="When a freeze ends; None is when somebody resumes it."
    )
    cancels: bool = Field(default=False, description="Whether it cancels what is pending.")
    resumed_at: UtcDatetime | None = Field(
        default=None, description="When it was resumed; None while it is open."
    )
    resumed_by: Name | None = Field(default=None, description="Who resumed it.")
    resume_reason: Reason | None = Field(default=None, description="Why it was resumed.")

    @property
    def scope(self) -> dict[str, str]:
        """What limits the halt, by the names of the fields; empty if it covers the whole ledger."""
        limits = {
            "action_name": self.action_name,
            "agent_id": self.agent_id,
            "run_id": self.run_id,
        }
        return {name: value for name, value in limits.items() if value is not None}

    @property
    def is_freeze(self) -> bool:
        """Whether it has a start or an end of its own."""
        return self.valid_from is not None or self.valid_until is not None


class RunningExecution(NamedTuple):
    """An execution that was running when a halt began."""

    proposal_id: int
    action_name: str
    record_id: int | None
    """None if the proposal is executing without an open record."""
    worker: str | None
    since: datetime | None
    acknowledged: bool
    """Whether a heartbeat has told its worker of the halt."""
    ended_at: datetime | None
    """When it ended; None while it is running."""


class Blocker(NamedTuple):
    """A transaction that had begun something before a halt, and is still open."""

    pid: int | None
    """The server process; None for a prepared transaction."""
    application: str | None
    since: datetime | None
    """When the transaction began, if this role may know."""
    transaction: str
    """PostgreSQL's virtual id of the transaction."""


class HaltReport(NamedTuple):
    """What a halt has reached: what is still running, and who is in the way."""

    halt: Halt
    running: list[RunningExecution]
    """What was running when it began, also what has ended since."""
    blockers: list[Blocker]
    """Open transactions that may still commit something that they had begun before. None on SQLite."""
    cancelled: int
    """The number of proposals that it has cancelled."""
    unknown: str | None = None
    """Why it is not known what the halt has reached, or that it begins later."""

    @property
    def complete(self) -> bool:
        """Whether it is known that nothing can begin any more: no transaction of before is open."""
        return not self.blockers and self.unknown is None

    @property
    def unfinished(self) -> list[RunningExecution]:
        """What is still running."""
        return [each for each in self.running if each.ended_at is None]
