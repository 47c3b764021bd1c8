"""The models of a workflow."""

from pydantic import Field

from operator_core.actions.model import Model
from operator_core.actions.values import Identifier, Name, Reason, UtcDatetime

__all__ = ["Workflow", "WorkflowProposal"]


class WorkflowProposal(Model):
    """A workflow that a caller proposes: a named group of proposals."""

    name: Name = Field(description="The purpose, in a few words.")
    description: Reason | None = Field(default=None, description="The purpose, in detail.")
    ticket_id: Identifier | None = Field(
        default=None, description="The ticket that it is for, if any."
    )


class Workflow(WorkflowProposal):
    """A workflow in the ledger."""

    id: Identifier = Field(description="Set by the ledger.")
    created_at: UtcDatetime = Field(
        description="When the row was written, by the database's clock."
    )
    updated_at: UtcDatetime = Field(description="When the row last changed.")
