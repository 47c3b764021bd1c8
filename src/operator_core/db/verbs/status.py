"""The verbs that move proposals along their lifecycle without executing them."""

from functools import partial

from operator_core.actions.errors import ApprovalRequired, ConstraintViolation
from operator_core.actions.types import ActionStatus
from operator_core.db.ledger.halted import HALTED
from operator_core.db.ledger.limited import REFUSALS
from operator_core.db.ledger.requirements import UNAPPROVED
from operator_core.db.ledger.status import Move, cancel_proposal, move_proposal
from operator_core.db.ledger.stops import Stop, cancel_pending_in_parts, cancellation
from operator_core.db.verbs import arguments
from operator_core.db.verbs.arguments import check
from operator_core.db.verbs.base import Verbs

__all__ = ["StatusVerbs"]


class StatusVerbs(Verbs):
    """The verbs for decisions of people and policies about proposals."""

    async def update_proposal_status(
        self,
        proposal_id: int,
        status: ActionStatus,
        *,
        actor: str | None = None,
        reason: str | None = None,
        expected_version: int | None = None,
    ) -> None:
        """Moves a proposal to another status; if two callers make the same move, one of them fails.

        Raises `NotFound` for an unknown proposal, and `InvalidTransition` for a move that the lifecycle does not
        allow; its `allowed` lists the possible ones. Its subclasses `NotDue`, `Expired` and `DependencyPending` mean
        that the proposal can't start yet, or can't start any longer, `TransitionHalted` that a halt covers it, and
        `LimitReached` and `ExclusiveBusy` that it has to wait for others. Raises `VersionConflict` if the proposal has another version than `expected_version`.
        """
        move = Move(
            check(arguments.ID, proposal_id, "proposal_id"),
            check(arguments.STATUS, status, "status"),
            self._who(actor),
            check(arguments.REASON, reason, "reason"),
            check(arguments.OPTIONAL_ID, expected_version, "expected_version"),
        )
        await self._move(move)

    async def cancel_proposal(self, proposal_id: int, *, by: str, reason: str) -> None:
        """Cancels a proposal that is proposed, validated or executing, as the decision of `by`.

        Its end code is `withdrawn` if `by` is its proposer or its requester, and otherwise `cancelled`.
        Only its worker can stop an execution that is running: its next heartbeat raises `LeaseLost`. Raises `NotFound`
        and `InvalidTransition`.
        """
        move = Move(
            check(arguments.ID, proposal_id, "proposal_id"),
            ActionStatus.CANCELLED,
            check(arguments.ACTOR, by, "by"),
            check(arguments.REQUIRED_REASON, reason, "reason"),
        )
        await self._units.write(partial(cancel_proposal, move=move))

    async def cancel_all_pending(
        self, *, actor: str | None = None, reason: str | None = None
    ) -> int:
        """Cancels every proposed or validated proposal in one unit of work, and returns how many.

        A failed proposal with a retry stays failed: its retry is cancelled, and it does not count. Executing
        proposals continue, because only their workers can stop them. Rows that the database refuses to change are
        logged, and do not prevent the other changes.
        """
        stop = Stop(actor=self._who(actor), reason=check(arguments.REASON, reason, "reason"))
        return await self._write_or_in_parts(
            cancellation(stop), partial(cancel_pending_in_parts, stop=stop)
        )

    async def retry(
        self, proposal_id: int, *, actor: str | None = None, reason: str | None = None
    ) -> None:
        """Moves a failed proposal back to `validated` immediately, without waiting for its `next_retry_at`.

        This is possible however often it has run, and does not count as one of its `max_retries`. Raises `NotFound`
        for an unknown proposal, and `InvalidTransition` for one that has not failed or that a halt covers.
        """
        move = Move(
            check(arguments.ID, proposal_id, "proposal_id"),
            ActionStatus.VALIDATED,
            self._who(actor),
            check(arguments.REASON, reason, "reason"),
            source=ActionStatus.FAILED,
        )
        await self._move(move)

    async def _move(self, move: Move) -> None:
        try:
            await self._units.write(move_proposal(move))
        except ConstraintViolation as error:
            # A halt, a decision or a start of another proposal that was committed after the UPDATE had begun. The next one
            # sees it, and raises the error for it.
            if not any(refusal in str(error) for refusal in (HALTED, UNAPPROVED, *REFUSALS)):
                raise
            try:
                await self._units.write(move_proposal(move))
            except ConstraintViolation as again:
                if UNAPPROVED not in str(again):
                    raise
                raise ApprovalRequired(what="the proposal was not moved") from again
