"""What gates with and without an event loop have in common: it only calls verbs of the ledger."""

import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from math import inf
from typing import Any, Final, NamedTuple, TypeAlias

from operator_core.actions.errors import (
    ApprovalRequired,
    Busy,
    Conflict,
    InvalidTransition,
    InvalidValue,
    NotFound,
    TamperedProposal,
)
from operator_core.actions.errors import Halted as LedgerHalted
from operator_core.actions.results import storable
from operator_core.actions.types import (
    ActionProposal,
    ActionStatus,
    ActionType,
    Claim,
    EndCode,
    StoredProposal,
)
from operator_core.db.verbs.ledger import ActionLedger
from operator_core.gate.endings import REFUSED, ended, has_ended, has_failed, is_rejected
from operator_core.gate.errors import (
    ExecutionFailed,
    Halted,
    Pending,
    Refused,
)
from operator_core.gate.repetitions import is_executing, twins_of
from operator_core.gate.settings import Settings
from operator_core.gate.tickets import Outcome, Ticket
from operator_core.gate.tools import Arguments, Call, Tools

__all__ = ["Claimed", "Core", "Function"]

logger = logging.getLogger(__name__)

_S = ActionStatus
_OPEN: Final = (_S.PROPOSED, _S.VALIDATED, _S.EXECUTING, _S.FAILED)

_LOOKS_EVERY: Final = 1.0
"""Seconds between two attempts to start what a limit, a key, a halt or its time holds back: no change tells of these."""

_LONGEST_WAIT: Final = 3600.0
"""Seconds of one call of `wait_until`."""


Function: TypeAlias = Callable[..., Any]


class Claimed(NamedTuple):
    """A call that this gate may execute."""

    claim: Claim
    since: float
    """When the claim was requested, by the ledger's clock: the lease begins then."""


_LONGEST_PROBLEM: Final = 2000
"""The longest text about a wrong call: it goes back to the model."""


class Core:
    """Proposes calls, waits for their decisions, and tells what became of them."""

    def __init__(self, verbs: ActionLedger, tools: Tools, settings: Settings) -> None:
        self.verbs = verbs
        self.tools = tools
        self.settings = settings

    # ------ proposing

    async def propose(
        self, name: str, arguments: Arguments, call_id: str, reason: str | None
    ) -> Ticket:
        call = self.tools.read(name, arguments)
        known = await self.verbs.find_call(self.settings.run_id, call_id)
        if known is None:
            known = await self._create(call, call_id, reason)
        elif not call.is_of(known.action_name, known.parameters):
            raise Conflict("proposal", known.id, "the one of this call, with other arguments")
        return Ticket(known.id, self.settings.run_id, call_id, call.name)

    async def _create(self, call: Call, call_id: str, reason: str | None) -> StoredProposal:
        why = reason or f"the model called {call.name}"
        problem = call.problem
        if problem is None:
            # What a program that died has left is over.
            await self._sweep()
            problem = (await twins_of(self.verbs, call, self.settings, None)).refusal
        try:
            if problem is not None:
                # What an agent tried is evidence.
                text = storable(problem, _LONGEST_PROBLEM)
                return await self._written(call, call_id, REFUSED + text, _S.CANCELLED)
            made = await self._written(call, call_id, why, _S.PROPOSED)
        except LedgerHalted as error:
            raise Halted(None, str(error), end_code=EndCode.HALTED) from error
        except InvalidValue as error:
            if not error.path.startswith(("action_name", "parameters")):
                raise
            # What the model said.
            raise Refused(None, str(error)) from error
        except Conflict:
            known = await self.verbs.find_call(self.settings.run_id, call_id)
            if known is None or not call.is_of(known.action_name, known.parameters):
                raise
            return known
        if made.status is _S.PROPOSED and made.approval is None:
            await self._validate(made)
        return made

    async def _written(
        self, call: Call, call_id: str, reason: str, status: ActionStatus
    ) -> StoredProposal:
        of, tool = self.settings, call.tool
        expires_in = None if tool is None else tool.expires_in
        return await self.verbs.create_proposal(
            ActionProposal(
                action_name=call.name,
                action_type=ActionType.TOOL,
                parameters=call.parameters,
                reason=reason,
                status=status,
                proposed_by=of.agent_id or "agent",
                agent_id=of.agent_id,
                requester_id=of.requester,
                requester_type=None if of.requester is None else of.requester_type,
                run_id=of.run_id,
                call_id=call_id,
                parent_id=of.parent_id,
                expires_at=None if expires_in is None else datetime.now(UTC) + expires_in,
                max_retries=0 if tool is None else tool.max_retries,
            )
        )

    async def _sweep(self) -> None:
        await self.verbs._sweep()  # pyright: ignore[reportPrivateUsage]

    async def pending(self) -> list[Ticket]:
        open_ones = [
            each
            async for each in self.verbs.iter_proposals(_OPEN, run_id=self.settings.run_id)
            if each.call_id is not None
            if not has_failed(each) or await self._was_not_begun(each)
        ]
        return [
            Ticket(each.id, self.settings.run_id, each.call_id or "", each.action_name)
            for each in reversed(open_ones)
        ]

    async def find(self, call_id: str) -> Ticket | None:
        run_id = self.settings.run_id
        found = await self.verbs.find_call(run_id, call_id)
        return None if found is None else Ticket(found.id, run_id, call_id, found.action_name)

    # ------ settling

    async def decided(self, ticket: Ticket, timeout: float | None) -> Outcome | None:  # noqa: ASYNC109 - as below
        """Waits until a call has its decision; returns its outcome, or None if it can be settled."""
        until = _until(timeout)
        await self._sweep()
        while True:
            found = await self._proposal(ticket)
            if has_ended(found) and not await self._was_not_begun(found):
                return await ended(self.verbs, found, ticket)
            if found.status is not _S.PROPOSED or found.approval is None:
                return None
            rest = until - time.monotonic()
            if rest <= 0:
                error = Pending(found.id, f"it is {found.status}")
                return Outcome(ticket.call_id, error=error, ticket=ticket)
            await self._changed(found, min(rest, _LONGEST_WAIT))

    async def outcome(
        self,
        ticket: Ticket,
        timeout: float | None,  # noqa: ASYNC109 - it does not count while the tool runs
        function: Function | None,
        run: Callable[[Claimed, Function], Awaitable[Exception | None]],
    ) -> Outcome:
        """Settles a call. `run` executes a claim by `function`, and returns the error of the tool.

        What became of it is in the ledger. Raises `InvalidValue` if there is nothing to execute the call with.
        """
        until = _until(timeout)
        if function is None and self.settings.runs_here:
            settled = await self._settled(ticket)
            if settled is None:
                problem = f"must be given: there is no tool {ticket.name!r} here"
                raise InvalidValue("handler", problem)
            return settled
        failure: Exception | None = None
        await self._sweep()
        while isinstance(found := await self._turn(ticket, until), Claimed):
            assert function is not None
            begun = time.monotonic()
            failure = await run(found, function)
            until += time.monotonic() - begun
        if isinstance(found.error, ExecutionFailed):
            found.error.__cause__ = failure
        return found

    async def begin(self, ticket: Ticket, timeout: float | None) -> Claimed:  # noqa: ASYNC109 - as above
        """Claims a call for a caller that executes it; raises the error of one that is not to be executed."""
        if not self.settings.runs_here:
            raise InvalidValue("execute", "must be 'here' for a caller that executes calls")
        until = _until(timeout)
        await self._sweep()
        found = await self._turn(ticket, until)
        if isinstance(found, Claimed):
            return found
        raise found.error or Conflict("proposal", ticket.proposal_id, "executed already")

    async def _turn(self, ticket: Ticket, until: float) -> Claimed | Outcome:
        """Waits until the call can be executed, and claims it; or returns what became of it.

        `until` is a time of `time.monotonic`; then it is pending.
        """
        if is_executing(ticket):
            raise InvalidValue(
                "ticket", "is that of the call in which this code runs: it would wait for itself"
            )
        changed: StoredProposal | None = None
        while True:
            held: str | None = None
            # What a wait has found is read once: the next turn reads again.
            found, changed = changed or await self._proposal(ticket), None
            unbegun = await self._was_not_begun(found)
            if not unbegun and has_ended(found):
                return await ended(self.verbs, found, ticket)
            if unbegun:
                # A claim that was cancelled has given its approvals back.
                held = await self._moved(self.verbs.retry(found.id, actor=self.settings.worker))
            elif found.status is _S.PROPOSED and found.approval is None:
                # It was proposed while it could not be validated.
                held = await self._validate(found)
            elif self.settings.runs_here and _is_ready(found):
                claim, held = await self._claim(found)
                if claim is not None:
                    return claim
            now = await self._proposal(ticket)
            if (now.status, now.version) != (found.status, found.version):
                continue
            rest = until - time.monotonic()
            if rest <= 0:
                error = Pending(found.id, held or f"it is {found.status}")
                return Outcome(ticket.call_id, error=error, ticket=ticket)
            polls = held is not None or (self.settings.runs_here and _is_ready(found))
            longest = _LOOKS_EVERY if polls else _LONGEST_WAIT
            changed = await self._changed(found, min(rest, longest))

    async def _claim(self, found: StoredProposal) -> tuple[Claimed | None, str | None]:
        """The claim, or why there is none yet; neither if something has changed meanwhile."""
        call = Call(found.action_name, found.parameters, self.tools.get(found.action_name))
        twins = await twins_of(self.verbs, call, self.settings, found.id)
        if twins.refusal is not None:
            if found.status is _S.FAILED:
                # It can be cancelled once its retry is due.
                return None, twins.refusal
            return None, await self._refuse(found, twins.refusal)
        if twins.running is not None:
            why = f"the same call is executed as proposal {twins.running}"
            if found.status is _S.VALIDATED and (is_executing() or self.settings.parent_id):
                # Who executes something and waits for another execution might be waited for.
                return None, await self._refuse(found, why)
            return None, why
        since = self.verbs._clock()  # pyright: ignore[reportPrivateUsage]
        try:
            claim = await self.verbs.claim_proposal(
                found.id, self.settings.worker, lease=self.settings.lease
            )
        except (InvalidTransition, TamperedProposal, Busy) as error:
            return None, str(error)
        return Claimed(claim, since), None

    async def _refuse(self, found: StoredProposal, why: str) -> str | None:
        """Cancels a call that must not be repeated. As `_moved`."""
        who = self.settings.worker
        return await self._moved(self.verbs.cancel_proposal(found.id, by=who, reason=REFUSED + why))

    async def _validate(self, made: StoredProposal) -> str | None:
        """Validates a call that nobody has to approve: its arguments are checked. As `_moved`."""
        who, why = self.settings.worker, "nothing is required"
        return await self._moved(
            self.verbs.update_proposal_status(made.id, _S.VALIDATED, actor=who, reason=why)
        )

    async def _moved(self, move: Awaitable[object]) -> str | None:
        """Makes a move; returns why it is refused, or None if it is made or somebody else was faster."""
        try:
            await move
        except (LedgerHalted, ApprovalRequired) as error:
            return str(error)
        except InvalidTransition:
            return None
        return None

    async def _changed(self, found: StoredProposal, seconds: float) -> StoredProposal | None:
        """Waits until the proposal has another status, for at most so many seconds; returns it then."""
        others = [status for status in ActionStatus if status is not found.status]
        try:
            return await self.verbs.wait_until(found.id, *others, timeout=seconds)
        except TimeoutError:
            return None
        except InvalidTransition:
            # It has failed and was not begun: of what lets it start nothing tells.
            await self.verbs._sleep(min(seconds, _LOOKS_EVERY))  # pyright: ignore[reportPrivateUsage]
            return None

    async def _settled(self, ticket: Ticket) -> Outcome | None:
        """What became of the call, or None if that is not known yet."""
        await self._sweep()
        found = await self._proposal(ticket)
        return await ended(self.verbs, found, ticket) if has_ended(found) else None

    async def _proposal(self, ticket: Ticket) -> StoredProposal:
        found = await self.verbs.get_proposal(ticket.proposal_id)
        if found is None:
            raise NotFound("proposal", ticket.proposal_id)
        if (found.run_id, found.call_id) != (self.settings.run_id, ticket.call_id):
            raise InvalidValue("ticket", "is of another run")
        if found.action_name != ticket.name:
            raise InvalidValue("ticket", "is of another tool")
        return found

    async def _was_not_begun(self, found: StoredProposal) -> bool:
        """Whether the last execution was surely not begun, so that this gate may begin it."""
        is_so = has_failed(found) and found.end_code is EndCode.NOT_BEGUN
        return is_so and self.settings.runs_here and not await is_rejected(self.verbs, found)


def _is_ready(found: StoredProposal) -> bool:
    return found.status is _S.VALIDATED or (
        found.status is _S.FAILED and found.next_retry_at is not None
    )


def _until(timeout: float | None) -> float:
    """The time of `time.monotonic` at which a wait is over; raises `InvalidValue`."""
    if timeout is None:
        return inf
    if isinstance(timeout, bool) or not timeout >= 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidValue("timeout", "must be a number of seconds, 0 or more")
    return time.monotonic() + timeout
