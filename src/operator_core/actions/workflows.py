"""Workflows: actions that belong together."""

from pydantic import Field

from operator_core.actions.model import Model
from operator_core.actions.values import Identifier, Name, Reason, UtcDatetime

__all__ = ["Workflow", "WorkflowProposal"]


class WorkflowProposal(Model):
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
