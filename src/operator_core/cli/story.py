"""All that the ledger says of one proposal."""

from typing import Any, NamedTuple

from operator_core.actions.errors import CorruptRow
from operator_core.actions.types import ActionEvent, Approvals, StoredProposal, StoredRecord
from operator_core.cli.approval_views import approvals_json
from operator_core.db import ActionDB
from operator_core.db.sql.rows import Listing

__all__ = ["Story", "story_json", "told"]


class Story(NamedTuple):
    """A proposal, its executions, what was required and decided, and its history."""

    proposal: StoredProposal
    records: Listing[StoredRecord]
    approvals: Approvals
    history: Listing[ActionEvent]

    @property
    def corrupt(self) -> tuple[CorruptRow, ...]:
        """The rows that can't be read."""
        return (*self.records.corrupt, *self.history.corrupt)


async def told(db: ActionDB, proposal: StoredProposal) -> Story:
    """Reads the story of a proposal."""
    return Story(
        proposal,
        await db.get_records_for_proposal(proposal.id),
        await db.approvals(proposal.id),
        await db.history(proposal.id),
    )


def story_json(story: Story) -> dict[str, Any]:
    """Returns a story for `print_json`."""
    return {
        "proposal": story.proposal,
        "records": story.records,
        "approvals": approvals_json(story.approvals),
        "history": story.history,
    }
