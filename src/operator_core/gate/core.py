"""What gates with and without an event loop have in common: it only calls verbs of the ledger."""

import logging
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import inf
from typing import Any, Final, NamedTuple, cast

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
from operator_core.actions.results import describe, keep
from operator_core.actions.types import (
    ActionProposal,
    ActionStatus,
    ActionType,
    Claim,
    EndCode,
    EventType,
    RequesterType,
    StoredProposal,
    StoredRecord,
)
from operator_core.actions.values import MAX_TEXT
from operator_core.db.verbs.executions import NOT_BEGUN
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

__all__ = ["Core", "Settings", "as_text", "executing", "kept", "stored", "until"]

logger = logging.getLogger(__name__)

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
_Object = dict[str, Any]

REFUSED: Final = "refused: "
"""What the reason of a call begins with that the gate has cancelled."""

_LONGEST_PROBLEM: Final = 2000
"""The longest text about a wrong call: it goes back to the model."""


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


def stored(result: object, max_json_bytes: int) -> dict[str, Any] | None:
    """What a gate stores of a result, so that `kept` gives back what the tool returned; never raises."""
    if result is None:
        return None
    found = keep({_RESULT: result}, max_json_bytes)
    if found.problem is not None:
        logger.warning("the result of a tool: %s", found.problem)
    value = (found.result or {}).get(_RESULT)
    # An object with this one key looks like a wrapped value.
    if (
        found.problem is None
        and isinstance(value, dict)
        and list(cast(_Object, value)) != [_RESULT]
    ):
        return cast(_Object, value)
    return found.result


def kept(result: dict[str, Any] | None) -> Any:
    """The result of a tool, of what the ledger has stored."""
    if result is not None and list(result) == [_RESULT]:
        return result[_RESULT]
    return result


def as_text(error: BaseException | str) -> str:
    """An error as text that the ledger can store."""
    return _clean(error)[:MAX_TEXT] if isinstance(error, str) else describe(error)


def _clean(text: str) -> str:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


_inside: ContextVar[tuple[int, ...]] = ContextVar("operator_core_gate_inside", default=())
"""The proposals in whose executions, by a gate, this code runs."""


@contextmanager
def executing(proposal_id: int) -> Generator[None]:
    """A block in which the tool of a proposal runs."""
    token = _inside.set((*_inside.get(), proposal_id))
    try:
        yield
    finally:
        _inside.reset(token)


class Twins(NamedTuple):
    """The same call under other ids: why it must not be repeated, or which of them is executed now."""

    refusal: str | None = None
    running: int | None = None


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
            problem = (await self._twins(call, None)).refusal
        try:
            if problem is not None:
                # What an agent tried is evidence.
                text = _clean(problem)[:_LONGEST_PROBLEM]
                return await self._written(call, call_id, REFUSED + text, _S.CANCELLED)
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

    async def _twins(self, call: Call, proposal_id: int | None) -> Twins:
        """What became of the same call under other ids in this run."""
        if not self.settings.refuses_repeats:
            return Twins()
        running: list[int] = []
        for each in await self.verbs.list_proposals(
            (_S.EXECUTING, _S.FAILED, _S.CANCELLED),
            run_id=self.settings.run_id,
            action_name=call.name,
        ):
            if each.id == proposal_id or not call.is_of(each.action_name, each.parameters):
                continue
            if each.status is _S.EXECUTING:
                running.append(each.id)
                continue
            if await self._is_rejected(each):
                return Twins(f"the same call was rejected before (proposal {each.id})")
            if each.status is _S.FAILED and each.next_retry_at is not None:
                continue
            if isinstance((await self._ended(each)).error, EffectUnknown):
                why = f"whether the same call was done before is not known (proposal {each.id})"
                return Twins(why)
        if running:
            # A tool may make its own call again, for which it must not wait.
            own = await self._ancestors()
            running = [each for each in running if each not in own]
        return Twins(running=running[0] if running else None)

    async def _ancestors(self) -> set[int]:
        """The executions in which this gate's calls are made, as far as it is known."""
        own, parent = set(_inside.get()), self.settings.parent_id
        while parent is not None and parent not in own:
            own.add(parent)
            above = await self.verbs.get_proposal(parent)
            parent = None if above is None else above.parent_id
        return own

    async def _is_rejected(self, found: StoredProposal) -> bool:
        if found.end_code is EndCode.REJECTED:
            return True
        # A failed one stays failed.
        is_open = found.status is _S.FAILED and found.approval is not None
        return is_open and any(
            each.event_type is EventType.REJECTED for each in await self.verbs.history(found.id)
        )

    async def _sweep(self) -> None:
        await self.verbs._sweep()  # pyright: ignore[reportPrivateUsage]

    async def pending(self) -> list[Ticket]:
        open_ones = [
            each
            async for each in self.verbs.iter_proposals(_OPEN, run_id=self.settings.run_id)
            if each.call_id is not None
            if not _has_failed(each) or await self._was_not_begun(each)
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
        await self._sweep()
        while True:
            held: str | None = None
            found = await self._proposal(ticket)
            unbegun = await self._was_not_begun(found)
            if not unbegun and _has_ended(found):
                return await self._ended(found, ticket)
            if unbegun:
                # A claim that was cancelled has given its approvals back.
                held = await self._moved(self.verbs.retry, found.id)
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
            await self._changed(found, min(rest, _LOOKS_EVERY if polls else _LONGEST_WAIT))

    async def _claim(self, found: StoredProposal) -> tuple[Claim | None, str | None]:
        """The claim, or why there is none yet; neither if something has changed meanwhile."""
        call = Call(found.action_name, found.parameters, self.tools.get(found.action_name))
        twins = await self._twins(call, found.id)
        if twins.refusal is not None:
            if found.status is _S.FAILED:
                # It can be cancelled once its retry is due.
                return None, twins.refusal
            return None, await self._moved(self._refuse, found.id, twins.refusal)
        if twins.running is not None:
            why = f"the same call is executed as proposal {twins.running}"
            if found.status is _S.VALIDATED and (_inside.get() or self.settings.parent_id):
                # Who executes something and waits for another execution might be waited for.
                return None, await self._moved(self._refuse, found.id, why)
            return None, why
        try:
            claim = await self.verbs.claim_proposal(
                found.id, self.settings.worker, lease=self.settings.lease
            )
        except (InvalidTransition, TamperedProposal, Busy) as error:
            return None, str(error)
        return claim, None

    async def _refuse(self, proposal_id: int, why: str, *, actor: str) -> None:
        await self.verbs.cancel_proposal(proposal_id, by=actor, reason=REFUSED + why)

    async def _moved(self, verb: Callable[..., Awaitable[object]], *arguments: Any) -> str | None:
        """Makes a move; returns why it is refused, or None if it is made or somebody else was faster."""
        try:
            await verb(*arguments, actor=self.settings.worker)
        except (LedgerHalted, ApprovalRequired) as error:
            return str(error)
        except InvalidTransition:
            return None
        return None

    async def _validate(self, made: StoredProposal) -> str | None:
        """Validates a call that nobody has to approve: its arguments are checked. As `_moved`."""

        async def move(*, actor: str) -> None:
            await self.verbs.update_proposal_status(
                made.id, _S.VALIDATED, actor=actor, reason="nothing is required"
            )

        return await self._moved(move)

    async def _changed(self, found: StoredProposal, seconds: float) -> None:
        """Waits until the proposal has another status, for at most so many seconds."""
        others = [status for status in ActionStatus if status is not found.status]
        try:
            await self.verbs.wait_until(found.id, *others, timeout=seconds)
        except TimeoutError:
            return
        except InvalidTransition:
            # It has failed and was not begun: of what lets it start nothing tells.
            await self.verbs._sleep(min(seconds, _LOOKS_EVERY))  # pyright: ignore[reportPrivateUsage]

    async def settled(self, ticket: Ticket) -> Outcome | None:
        """What became of the call, or None if that is not known yet."""
        await self._sweep()
        found = await self._proposal(ticket)
        return await self._ended(found, ticket) if _has_ended(found) else None

    async def _proposal(self, ticket: Ticket) -> StoredProposal:
        found = await self.verbs.get_proposal(ticket.proposal_id)
        if found is None:
            raise NotFound("proposal", ticket.proposal_id)
        if (found.run_id, found.call_id) != (self.settings.run_id, ticket.call_id):
            raise InvalidValue("ticket", "is of another run")
        if found.action_name != ticket.name:
            raise InvalidValue("ticket", "is of another tool")
        return found

    async def _ended(self, found: StoredProposal, ticket: Ticket | None = None) -> Outcome:
        """What became of a call that has ended."""
        call_id = found.call_id or ""
        records = await self.verbs.get_records_for_proposal(found.id)
        executed = [each for each in records if each.error_message not in NOT_BEGUN]
        last = executed[-1] if executed else None
        if found.status is _S.COMPLETED:
            value = None if last is None else kept(last.result_data)
            return Outcome(call_id, value, ticket=ticket)
        if last is None:
            error = await self._why_not_executed(found)
        elif last.success:
            # Somebody cancelled it while it ran, and it was done all the same.
            return Outcome(call_id, kept(last.result_data), ticket=ticket)
        else:
            error = await self._why_without_result(found, last)
        return Outcome(call_id, error=error, ticket=ticket)

    async def _why_not_executed(self, found: StoredProposal) -> GateError:
        events = [each for each in await self.verbs.history(found.id) if each.to_status]
        code = None if found.end_code is None else found.end_code.value
        if found.status is _S.FAILED:
            for each in await self.verbs.history(found.id):
                if each.event_type is EventType.REJECTED:
                    return Rejected(found.id, each.reason, by=each.actor, end_code=code)
            # It was not begun, written so, or moved by hand.
            kind = Cancelled if code in _NEVER_BEGUN else ExecutionFailed
            return kind(found.id, found.last_error or events[-1].reason, end_code=code)
        reason = events[-1].reason or ""
        if events[-1].event_type is EventType.PROPOSAL_CREATED:
            reason = found.reason
        if code == EndCode.CANCELLED and reason.startswith(REFUSED):
            return Refused(found.id, reason.removeprefix(REFUSED))
        kind = _NOT_EXECUTED.get(code or "", Cancelled)
        return kind(found.id, events[-1].reason, by=events[-1].actor, end_code=code)

    async def _why_without_result(self, found: StoredProposal, last: StoredRecord) -> GateError:
        code = None if found.end_code is None else found.end_code.value
        if last.success is False:
            return ExecutionFailed(found.id, last.error_message, end_code=code)
        for event in await self.verbs.history(found.id):
            is_found_out = event.event_type is EventType.OUTCOME_RESOLVED
            if is_found_out and event.record_id == last.id and event.success is False:
                why = f"it was not done: {event.reason}"
                return ExecutionFailed(found.id, why, end_code=code)
        return EffectUnknown(found.id, last.error_message, end_code=code)

    async def _was_not_begun(self, found: StoredProposal) -> bool:
        """Whether the last execution was surely not begun, so that this gate may begin it."""
        is_so = _has_failed(found) and found.end_code is EndCode.NOT_BEGUN
        return is_so and self.settings.runs_here and not await self._is_rejected(found)


def _is_ready(found: StoredProposal) -> bool:
    return found.status is _S.VALIDATED or (
        found.status is _S.FAILED and found.next_retry_at is not None
    )


def _has_ended(found: StoredProposal) -> bool:
    return found.status in (_S.COMPLETED, _S.CANCELLED) or _has_failed(found)


def _has_failed(found: StoredProposal) -> bool:
    return found.status is _S.FAILED and found.next_retry_at is None


def until(timeout: float | None) -> float:
    """The time of `time.monotonic` at which a wait is over; raises `InvalidValue`."""
    if timeout is None:
        return inf
    if isinstance(timeout, bool) or not timeout >= 0:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidValue("timeout", "must be a number of seconds, 0 or more")
    return time.monotonic() + timeout
