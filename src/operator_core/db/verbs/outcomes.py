"""The verbs of people who find out what became of executions with an unknown outcome."""

from functools import partial

from operator_core.actions.types import OutcomeResolution, StoredRecord
from operator_core.db.ledger import outcomes
from operator_core.db.sql.rows import Listing
from operator_core.db.verbs import arguments
from operator_core.db.verbs.arguments import check
from operator_core.db.verbs.base import Verbs

__all__ = ["OutcomeVerbs"]


class OutcomeVerbs(Verbs):
    """The verbs of unknown outcomes."""

    async def resolve_outcome(
        self, record_id: int, *, by: str, succeeded: bool, evidence: str
    ) -> OutcomeResolution:
        """Writes down what became of an execution whose outcome is unknown: whether it was done, and how `by` knows.

        The record stays as it is, and can be resolved once. If the action was done, and this was the last execution of a
        failed proposal, the proposal is completed, and its retry is called off. Nothing else completes a failed
        proposal. If it was not done, the proposal stays failed, and a retry is safe.

        Raises `NotFound` for an unknown record, and `Conflict` for one whose outcome is known or resolved, or whose
        execution has not ended.
        """
        found = outcomes.Resolution(
            check(arguments.ID, record_id, "record_id"),
            check(arguments.FLAG, succeeded, "succeeded"),
            check(arguments.ACTOR, by, "by"),
            check(arguments.REQUIRED_REASON, evidence, "evidence"),
        )
        return await self._units.write(partial(outcomes.resolve_outcome, found=found))

    async def unresolved(
        self, *, after: int | None = None, limit: int | None = None
    ) -> Listing[StoredRecord]:
        """Returns the records whose outcome is unknown and that nobody has resolved, oldest first.

        For the next page, pass the last id as `after`. Rows that can't be read are left out, logged, and reported in the
        `corrupt` of the returned list.
        """
        position = check(arguments.POSITION, after, "after")
        most = check(arguments.POSITION, limit, "limit")
        return await self._units.read(partial(outcomes.unresolved, after=position, limit=most))
