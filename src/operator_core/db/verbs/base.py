"""The base class of all verbs: it holds the runner of their units of work and the default actor."""

import asyncio
import logging
from collections.abc import Awaitable, Iterable, Sequence
from functools import partial
from typing import Final, TypeVar

from operator_core.actions.errors import (
    ActionError,
    ApprovalRequired,
    Conflict,
    ConstraintViolation,
    Halted,
    NotOpen,
)
from operator_core.actions.policies import Deny, Policy, Require, to_answer
from operator_core.actions.types import (
    ActionProposal,
    ActionStatus,
    ProposalRequest,
    StoredProposal,
)
from operator_core.db.ledger.halted import HALTED, Subject, covering, mode_of
from operator_core.db.ledger.partial import is_refused
from operator_core.db.ledger.proposals import is_same_call
from operator_core.db.ledger.queries import find_call
from operator_core.db.ledger.requirements import UNAPPROVED
from operator_core.db.run.backoff import pause
from operator_core.db.run.runner import UnitRunner
from operator_core.db.sql.unit import Unit
from operator_core.db.verbs import arguments
from operator_core.db.verbs.arguments import check

__all__ = ["DEFAULT_ACTOR", "Verbs"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

DEFAULT_ACTOR: Final = "agent"
"""The actor if neither the call nor the ledger names one."""


class Verbs:
    """A runner of units of work, and the settings that apply to all calls."""

    def __init__(
        self,
        runner: UnitRunner | None,
        actor: str | None,
        max_json_bytes: int,
        policy: Policy | None = None,
    ) -> None:
        self._runner = runner
        self._actor = actor
        self._max_json_bytes = max_json_bytes
        self._policy = policy

    @property
    def _units(self) -> UnitRunner:
        if self._runner is None:
            raise NotOpen("the ledger is not open: use `async with ActionDB(...) as db:`")
        return self._runner

    def _who(self, actor: str | None) -> str:
        """Returns the actor of the call, else the actor of the ledger, else `DEFAULT_ACTOR`."""
        return self._named(actor) or DEFAULT_ACTOR

    def _named(self, actor: str | None) -> str | None:
        """Returns the actor of the call, else the actor of the ledger, else None."""
        return self._actor if actor is None else check(arguments.ACTOR, actor, "actor")

    async def _ask(self, proposals: Sequence[ActionProposal]) -> list[tuple[Deny | Require, ...]]:
        """What the policy of the service asks of each of these proposals, beyond the rules in the database.

        Raises `InvalidValue` for an answer of another type than those documented, and `ApprovalRequired` for a
        requirement of a proposal that has begun elsewhere.
        """
        if self._policy is None:
            return [()] * len(proposals)
        answers: list[tuple[Deny | Require, ...]] = []
        for each in proposals:
            answer = self._policy(each)
            found = to_answer(await answer if isinstance(answer, Awaitable) else answer)
            if each.status in (ActionStatus.COMPLETED, ActionStatus.CANCELLED):
                found = ()
            missing = [asked.name for asked in found if isinstance(asked, Require)]
            if missing and each.status in (ActionStatus.VALIDATED, ActionStatus.EXECUTING):
                raise ApprovalRequired(missing)
            answers.append(found)
        return answers

    async def _propose(self, unit: Unit[T], proposed: Iterable[ProposalRequest]) -> T:
        """Runs a `unit` that creates proposals.

        Raises `Conflict` if one of them is for a call that has one already, `Halted` if a halt covers one,
        and `ApprovalRequired` if one that was begun elsewhere needs approvals first.
        """
        try:
            return await self._units.write(unit)
        except ConstraintViolation as error:
            if HALTED in str(error):
                raise await self._halted(proposed) from error
            if UNAPPROVED in str(error):
                raise ApprovalRequired() from error
            if is_same_call(error):
                for each in proposed:
                    if each.run_id is None or each.call_id is None:
                        continue
                    found = await self._proposal_of(each.run_id, each.call_id)
                    if found is not None:
                        state = "the one of this call in its run"
                        raise Conflict("proposal", found.id, state) from error
            raise

    async def _halted(self, proposed: Iterable[ProposalRequest]) -> Halted:
        """The error for proposals that a halt has refused."""
        for each in proposed:
            subject = Subject(each.action_name, each.agent_id, each.run_id, each.parent_id)
            try:
                halts = await self._units.read(partial(covering, subject=subject))
            except ActionError:
                # In a transaction of a service on a server, nothing can be read after an error.
                break
            if halts:
                ids = [halt.id for halt in halts]
                return Halted(ids, mode_of(halts), halts[0].scope)
        return Halted()

    async def _proposal_of(self, run_id: str, call_id: str) -> StoredProposal | None:
        try:
            return await self._units.read(find_call(run_id, call_id))
        except ActionError:
            # In a transaction of a service on a server, nothing can be read after an error.
            return None

    # How the verbs wait: in the event loop. `blocking.BlockingVerbs` overrides it and blocks the thread.

    def _clock(self) -> float:
        """The seconds of the clock that measures leases and retries in this process."""
        return asyncio.get_running_loop().time()

    async def _pause(self, failures: int) -> None:
        """Waits after a number of failures to reach the ledger."""
        await pause(failures, first=0.05)

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _woken(self, changed: asyncio.Event, seconds: float) -> None:
        """Waits until `changed` is set, for at most `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await changed.wait()
        except TimeoutError:
            pass

    async def _write_or_in_parts(self, unit: Unit[T], in_parts: Unit[T]) -> T:
        """Runs a `unit` that changes many rows; if the database refuses some of them, runs `in_parts` instead."""
        try:
            return await self._units.write(unit)
        except ActionError as error:
            if not is_refused(error):
                raise
            logger.warning(
                "the database refused the whole change; it is retried in parts: %s", error
            )
        return await self._units.write(in_parts)
