"""The verbs that move proposals along their lifecycle without executing them."""

from functools import partial

from operator_core.actions.types import ActionStatus
from operator_core.db.ledger.status import Move, move_proposal
from operator_core.db.ledger.stops import Stop, cancel_pending_in_parts, cancellation
from operator_core.db.verbs import arguments
from operator_core.db.verbs.arguments import check
from operator_core.db.verbs.base import Verbs

__all__ = ["StatusVerbs"]


class StatusVerbs(Verbs):
    """What people and policies decide of proposals."""

    async def update_proposal_status(
        self,
        proposal_id: int,
        status: ActionStatus,
        *,
        actor: str | None = None,
        reason: str | None = None,
        expected_version: int | None = None,
    ) -> None:
        """Moves a proposal along its lifecycle; of two callers that want the same move one loses.

        Raises `NotFound`, or `InvalidTransition`, which says what would be allowed: `NotDue`, `Expired` or
        `DependencyPending` for one that may not start yet or any more. With the
        `expected_version` of a proposal that was read before, raises `VersionConflict` if it has
        changed since.
        """
        move = Move(
            check(arguments.ID, proposal_id, "proposal_id"),
            check(arguments.STATUS, status, "status"),
            self._who(actor),
            check(arguments.REASON, reason, "reason"),
            check(arguments.OPTIONAL_ID, expected_version, "expected_version"),
        )
        await self._units.write(move_proposal(move))

    async def cancel_all_pending(
        self, *, actor: str | None = None, reason: str | None = None
    ) -> int:
        """Cancels every proposal that is proposed or validated, at once, and says how many.

        What has failed and would be run again is not, and does not count. What is executing goes on: only its
        worker can stop it. What the database refuses to change is logged, and is in the way of nothing else.
        """
        stop = Stop(actor=self._who(actor), reason=check(arguments.REASON, reason, "reason"))
        return await self._write_what_can_be(
            cancellation(stop), partial(cancel_pending_in_parts, stop=stop)
        )

    async def retry(
        self, proposal_id: int, *, actor: str | None = None, reason: str | None = None
    ) -> None:
        """Puts a failed proposal back among those that are claimed, now, by somebody's decision.

        That is possible however often it was run before, and counts as none of its own retries.
        Raises `NotFound`, or `InvalidTransition` for one that has not failed.
        """
        move = Move(
            check(arguments.ID, proposal_id, "proposal_id"),
            ActionStatus.VALIDATED,
            self._who(actor),
            check(arguments.REASON, reason, "reason"),
            source=ActionStatus.FAILED,
        )
        await self._units.write(move_proposal(move))
