"""What gates with and without an event loop have in common: it only calls verbs of the ledger."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any, Final, cast

from operator_core.actions.errors import (
    Busy,
    Conflict,
    InvalidTransition,
    InvalidValue,
    NotFound,
    TamperedProposal,
)
from operator_core.actions.errors import Halted as LedgerHalted
from operator_core.actions.results import keep
from operator_core.actions.types import (
    ActionProposal,
    ActionStatus,
    ActionType,
    Claim,
    EndCode,
    EventType,
    RequesterType,
    StoredProposal,
)
from operator_core.db.verbs.ledger import ActionLedger
from operator_core.gate.errors import (
    Cancelled,
    Denied,
    EffectUnknown,
    ExecutionFailed,
    Expired,
    GateError,
    Halted,
    NotExecuted,
    Pending,
    Refused,
    Rejected,
    Superseded,
    Undecided,
)
from operator_core.gate.tickets import Outcome, Ticket
from operator_core.gate.tools import Arguments, Call, Tools

__all__ = ["Core", "Settings", "kept", "until", "wrapped"]

_S = ActionStatus
_OPEN: Final = (_S.PROPOSED, _S.VALIDATED, _S.EXECUTING, _S.FAILED)

_LOOKS_EVERY: Final = 1.0
"""Seconds between two attempts to start what a limit, a key, a halt or its time holds back: no change tells of these."""

_LONGEST_WAIT: Final = 3600.0
"""Seconds of one call of `wait_until`."""

_NOT_EXECUTED: Final[dict[str, type[NotExecuted]]] = {
    EndCode.REJECTED.value: Rejected,
    EndCode.DENIED.value: Denied,
    EndCode.UNDECIDED.value: Undecided,
    EndCode.APPROVAL_EXPIRED.value: Undecided,
    EndCode.EXPIRED.value: Expired,
    EndCode.HALTED.value: Halted,
    EndCode.SUPERSEDED.value: Superseded,
}
_NEVER_BEGUN: Final = (EndCode.NOT_BEGUN.value, EndCode.TAMPERED.value)

_RESULT: Final = "result"


@dataclass(frozen=True)
class Settings:
    """Whose calls a gate takes, and how it runs them."""

    run_id: str
    agent_id: str | None
    requester: str | None
    requester_type: RequesterType
    parent_id: int | None
    runs_here: bool
    worker: str
    lease: timedelta
    refuses_repeats: bool


def wrapped(result: object) -> object:
    """What a gate stores of a result, so that `kept` gives back what the tool returned."""
    # An object with this one key looks like a wrapped value.
    if isinstance(result, Mapping):
        members = cast(Mapping[object, object], result)
        return {_RESULT: members} if list(members) == [_RESULT] else members
    return result


def kept(stored: dict[str, Any] | None) -> Any:
    """The result of a tool, of what the ledger has stored."""
    if stored is not None and list(stored) == [_RESULT]:
        return stored[_RESULT]
    return stored


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
        elif (known.action_name, known.parameters) != (call.name, call.parameters):
            raise Conflict("proposal", known.id, "the one of this call, with other arguments")
        return Ticket(known.id, self.settings.run_id, call_id, call.name)

    async def _create(self, call: Call, call_id: str, reason: str | None) -> StoredProposal:
        why = reason or f"the model called {call.name}"
        problem = call.problem or await self._repetition(call)
        try:
            if problem is not None:
                # What an agent tried is evidence.
                return await self._written(call, call_id, f"refused: {problem}", _S.CANCELLED)
            made = await self._written(call, call_id, why, _S.PROPOSED)
        except LedgerHalted as error:
            raise Halted(None, str(error), end_code=EndCode.HALTED.value) from error
        except InvalidValue as error:
            if not error.path.startswith(("action_name", "parameters")):
                raise
            # What the model said.
            raise Refused(None, str(error)) from error
        except Conflict:
            known = await self.verbs.find_call(self.settings.run_id, call_id)
            same = known is not None and known.parameters == call.parameters
            if known is None or not same or known.action_name != call.name:
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

    async def _repetition(self, call: Call) -> str | None:
        """Why the same call must not be made again in this run, if there is a reason."""
        if not self.settings.refuses_repeats:
            return None
        for code in (EndCode.REJECTED, EndCode.OUTCOME_UNKNOWN):
            for each in await self.verbs.list_proposals(
                run_id=self.settings.run_id, action_name=call.name, end_code=code
            ):
                if each.parameters != call.parameters or each.next_retry_at is not None:
                    continue
                if code is EndCode.REJECTED:
                    return f"the same call was rejected before (proposal {each.id})"
                if await self._resolution(each.id) is None:
                    return (
                        f"whether the same call was done before is not known (proposal {each.id})"
                    )
        return None

    async def _resolution(self, proposal_id: int) -> str | None:
        """The evidence that an execution whose outcome was unknown was not done."""
        for event in await self.verbs.history(proposal_id):
            if event.event_type is EventType.OUTCOME_RESOLVED and event.success is False:
                return event.reason
        return None

    async def pending(self) -> list[Ticket]:
        open_ones = [
            each
            async for each in self.verbs.iter_proposals(_OPEN, run_id=self.settings.run_id)
            if each.call_id is not None and not _has_failed(each)
        ]
        return [
            Ticket(each.id, self.settings.run_id, each.call_id or "", each.action_name)
            for each in reversed(open_ones)
        ]

    # ------ settling

    async def turn(self, ticket: Ticket, until: float) -> Claim | Outcome:
        """Waits until the call can be executed, and claims it; or returns what became of it.

        `until` is a time of `time.monotonic`; then it is pending.
        """
        held: str | None = None
        while True:
            found = await self._proposal(ticket)
            outcome = await self._outcome(ticket, found)
            if outcome is not None:
                return outcome
            if found.status is _S.PROPOSED and found.approval is None:
                # It was proposed while it could not be validated.
                held = await self._validate(found)
                if held is None:
                    continue
            is_ready = found.status is _S.VALIDATED or found.status is _S.FAILED
            if self.settings.runs_here and is_ready:
                try:
                    return await self.verbs.claim_proposal(
                        found.id, self.settings.worker, lease=self.settings.lease
                    )
                except (InvalidTransition, TamperedProposal, Busy) as error:
                    held = str(error)
            rest = until - time.monotonic()
            if rest <= 0:
                error = Pending(found.id, held or f"it is {found.status}")
                return Outcome(ticket.call_id, error=error, ticket=ticket)
            await self._changed(found, rest, polls=is_ready or held is not None)

    async def _validate(self, made: StoredProposal) -> str | None:
        """Validates a call that nobody has to approve: its arguments are checked.

        Returns why a halt refuses that; None if it is done, or if somebody else was faster.
        """
        try:
            await self.verbs.update_proposal_status(
                made.id, _S.VALIDATED, actor=self.settings.worker, reason="nothing is required"
            )
        except LedgerHalted as error:
            return str(error)
        except InvalidTransition:
            return None
        return None

    async def _changed(self, found: StoredProposal, rest: float, *, polls: bool) -> None:
        """Waits until the proposal has another status, for at most `rest` seconds."""
        others = [status for status in ActionStatus if status is not found.status]
        longest = _LOOKS_EVERY if polls and self.settings.runs_here else _LONGEST_WAIT
        try:
            await self.verbs.wait_until(found.id, *others, timeout=min(rest, longest))
        except (TimeoutError, InvalidTransition):
            # Its retry may have been called off.
            return

    async def settled(self, ticket: Ticket) -> Outcome | None:
        """What became of the call, or None if that is not known yet."""
        return await self._outcome(ticket, await self._proposal(ticket))

    async def _proposal(self, ticket: Ticket) -> StoredProposal:
        found = await self.verbs.get_proposal(ticket.proposal_id)
        if found is None:
            raise NotFound("proposal", ticket.proposal_id)
        if (found.run_id, found.call_id) != (self.settings.run_id, ticket.call_id):
            raise InvalidValue("ticket", "is of another run")
        return found

    async def _outcome(self, ticket: Ticket, found: StoredProposal) -> Outcome | None:
        if found.status is _S.COMPLETED:
            records = await self.verbs.get_records_for_proposal(found.id)
            value = kept(records[-1].result_data) if records else None
            return Outcome(ticket.call_id, value, ticket=ticket)
        if found.status is _S.CANCELLED:
            return Outcome(ticket.call_id, error=await self._why_cancelled(found), ticket=ticket)
        if _has_failed(found):
            return Outcome(ticket.call_id, error=await self._why_failed(found), ticket=ticket)
        return None

    async def _why_cancelled(self, found: StoredProposal) -> GateError:
        event = [each for each in await self.verbs.history(found.id) if each.to_status][-1]
        if event.event_type is EventType.PROPOSAL_CREATED:
            return Refused(found.id, found.reason.removeprefix("refused: "))
        code = None if found.end_code is None else found.end_code.value
        kind = _NOT_EXECUTED.get(code or "", Cancelled)
        return kind(found.id, event.reason, by=event.actor, end_code=code)

    async def _why_failed(self, found: StoredProposal) -> GateError:
        code = None if found.end_code is None else found.end_code.value
        if code in _NEVER_BEGUN:
            return Cancelled(found.id, found.last_error, end_code=code)
        if code == EndCode.OUTCOME_UNKNOWN:
            evidence = await self._resolution(found.id)
            if evidence is None:
                return EffectUnknown(found.id, found.last_error, end_code=code)
            return ExecutionFailed(found.id, f"it was not done: {evidence}", end_code=code)
        return ExecutionFailed(found.id, found.last_error, end_code=code)

    def stored(self, result: object) -> Any:
        """The result as the ledger gives it back when it is asked again."""
        return kept(keep(wrapped(result), self.verbs._max_json_bytes).result)  # pyright: ignore[reportPrivateUsage]


def _has_failed(found: StoredProposal) -> bool:
    return found.status is _S.FAILED and found.next_retry_at is None


def until(timeout: float | None) -> float:
    """The time of `time.monotonic` at which a wait is over; raises `InvalidValue`."""
    if timeout is None:
        return inf
    if isinstance(timeout, bool) or not timeout >= 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidValue("timeout", "must be a number of seconds, 0 or more")
    return time.monotonic() + timeout
