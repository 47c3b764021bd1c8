"""The gate of an agent in an event loop."""

import asyncio
import concurrent.futures
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

from operator_core.actions.errors import (
    ActionError,
    HaltRequested,
    InvalidValue,
    LeaseLost,
)
from operator_core.actions.types import Claim
from operator_core.db.run.cancellation import finish
from operator_core.db.verbs.executions import lease_of
from operator_core.db.verbs.holding import hold
from operator_core.db.verbs.ledger import ActionLedger
from operator_core.gate.core import Claimed
from operator_core.gate.opening import Opened
from operator_core.gate.repetitions import executing
from operator_core.gate.results import kept, stored, text_of
from operator_core.gate.tickets import Outcome, Ticket
from operator_core.gate.tools import Arguments, OnCancel, Tool

__all__ = ["Begun", "Gate"]

logger = logging.getLogger(__name__)

Handler = Callable[..., Awaitable[Any] | Any]


class Gate(Opened[ActionLedger]):
    """Stands between an agent and its tools: a call is proposed, decided, claimed, executed once, and recorded.

    A gate belongs to one run of one agent. `run_id` names the run: a new one for each, because providers repeat their
    call ids. `agent_id`, `requester` and `parent_id` say who acts, for whom, and in the execution of which proposal;
    take them from the authentication of the caller, never from the model.

    With `execute` "here", the gate runs the tools itself, as `worker` (default: ``gate`` and the run), under a `lease`
    that heartbeats extend. With "worker", it waits for a `run_worker` elsewhere. With `repeat` "refuse", a call is
    refused if the same one was rejected in this run, or if nobody knows whether it was done.

    Several tasks may share one gate.
    """

    def _verbs_of(self, db: ActionLedger) -> ActionLedger:
        return db

    def _check_tool(self, function: Handler, on_cancel: OnCancel) -> None:
        if on_cancel == "not done" and not inspect.iscoroutinefunction(function):
            raise InvalidValue("on_cancel", "must be 'unknown' for a function in a thread")

    async def propose(
        self, name: str, arguments: Arguments, *, call_id: str, reason: str | None = None
    ) -> Ticket:
        """Writes down a call of the model, with the arguments that the tool would get, defaults included.

        Asked again with the same `call_id`, it returns the same ticket; another `reason` does not matter. A call that
        can't be executed, because of its tool, its arguments, or a repetition, is written as cancelled: `settle` then
        raises `Refused`.

        Raises `Conflict` if the call has other arguments than before, `Halted` if nothing may be proposed, and `Refused`
        for what the ledger can't store.
        """
        return await self._core.propose(name, arguments, call_id, reason)

    async def outcome(
        self,
        ticket: Ticket,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - it does not count while the tool runs
        handler: Handler | None = None,
    ) -> Outcome:
        """Waits for the decision, executes the call once, and returns what became of it, also if that is an error.

        Asked again, also by another process, it returns the same outcome. `handler` takes the place of the tool, with
        the same arguments. After `timeout` seconds the outcome is `Pending`; the time does not count while the tool
        runs. Raises `InvalidValue` if there is nothing to execute the call with.
        """
        function = handler if handler is not None else self.tools.function(ticket.name)
        return await self._core.outcome(ticket, timeout, function, self._run)

    async def settle(
        self,
        ticket: Ticket,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as above
        handler: Handler | None = None,
    ) -> Any:
        """Returns what the tool has returned, as `outcome` does; raises the outcome's error."""
        outcome = await self.outcome(ticket, timeout=timeout, handler=handler)
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    async def call(
        self,
        name: str,
        arguments: Arguments,
        *,
        call_id: str,
        reason: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - as above
        handler: Handler | None = None,
    ) -> Any:
        """Proposes a call and settles it."""
        ticket = await self.propose(name, arguments, call_id=call_id, reason=reason)
        return await self.settle(ticket, timeout=timeout, handler=handler)

    async def begin(self, ticket: Ticket, *, timeout: float | None = None) -> "Begun":  # noqa: ASYNC109
        """Waits for the decision and starts the call, for a caller that executes it itself and says how it ended.

        For hooks before and after a tool. Raises the error of a call that is not to be executed, `Pending` after
        `timeout` seconds, and `Conflict` if it was executed before. Raises `InvalidValue` if workers execute the calls.
        """
        return Begun(self._db, *await self._core.begin(ticket, timeout))

    async def decided(self, ticket: Ticket, *, timeout: float | None = None) -> Outcome | None:  # noqa: ASYNC109
        """Waits for the decision, and starts nothing. Returns None if the call can be settled, otherwise its outcome.

        For a framework with a pause of its own for approvals. After `timeout` seconds the outcome is `Pending`.
        """
        return await self._core.decided(ticket, timeout)

    async def find(self, call_id: str) -> Ticket | None:
        """Returns the ticket of a call of this run, or None if it is not proposed."""
        return await self._core.find(call_id)

    async def pending(self) -> list[Ticket]:
        """Returns the tickets of this run that are not settled, oldest first: where to go on after a restart."""
        return await self._core.pending()

    async def _run(self, claimed: Claimed, function: Handler) -> Exception | None:
        """Executes a claimed call; what became of it is in the ledger. Returns the error of the tool."""
        claim = claimed.claim
        tool = self.tools.get(claim.proposal.action_name)
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        cancelled = task.cancelling()
        failure: Exception | None = None
        stopped: asyncio.CancelledError | None = None
        try:
            async with hold(self._db, claim, self._core.settings.lease, claimed.since) as execution:
                try:
                    with executing(claim.proposal):
                        result = await _called(function, tool, claim.proposal.parameters)
                except asyncio.CancelledError as error:
                    is_cancelled = task.cancelling() > cancelled
                    # A thread goes on.
                    in_loop = inspect.iscoroutinefunction(function)
                    if is_cancelled and in_loop and tool is not None and tool.stops(function):
                        raise _NotDone from error
                    # Also if something that the tool has waited for was cancelled: nobody knows how far it came.
                    raise
                execution.result_data = stored(result, self._db._max_json_bytes)  # pyright: ignore[reportPrivateUsage]
        except asyncio.CancelledError as error:
            stopped = error
            logger.warning("the execution of proposal %s was cancelled", claim.proposal.id)
        except (LeaseLost, HaltRequested) as error:
            logger.warning("the execution of proposal %s: %s", claim.proposal.id, error)
        except Exception as error:
            # The message of the exception may contain parameters; only the record has it.
            kind = type(error).__name__
            logger.info("the tool of proposal %s failed: %s", claim.proposal.id, kind)
            failure = error
        if task.cancelling() > cancelled:
            # By the caller, whatever the tool made of it. Who cancelled may know its own error, as anyio does.
            raise stopped or asyncio.CancelledError
        return failure


class _NotDone(Exception):
    """The tool was cancelled before it had done anything."""

    def __str__(self) -> str:
        return "cancelled: nothing was done"


async def _called(function: Handler, tool: Tool | None, parameters: dict[str, Any]) -> Any:
    arguments = parameters if tool is None else tool.values(parameters)
    if inspect.iscoroutinefunction(function):
        return await function(**arguments)
    result = await asyncio.to_thread(_in_a_thread, function, arguments)
    return await result if inspect.isawaitable(result) else result


def _in_a_thread(function: Handler, arguments: dict[str, Any]) -> Any:
    """Calls a function; converts what a future can't hold, or would take for the end of the caller."""
    try:
        return function(**arguments)
    except (StopIteration, concurrent.futures.CancelledError) as error:
        raise RuntimeError(f"the tool raised {type(error).__name__}") from error


class Begun:
    """A call that its caller executes; heartbeats go on until it is told how it ended, once."""

    def __init__(self, db: ActionLedger, claim: Claim, since: float) -> None:
        self.claim = claim
        self.halt: HaltRequested | None = None
        """Set when a heartbeat has told of a halt: the caller should end the tool."""
        self._db = db
        self._worker = claim.record.worker
        seconds = lease_of(claim, None)
        beats = db._keep_alive(claim.record.id, seconds, since, self._lost, self._halted)  # pyright: ignore[reportPrivateUsage]
        self._beating = asyncio.create_task(beats)

    async def done(self, value: Any = None) -> Any:
        """Completes the call, and returns the value as the ledger has stored it; raises `LeaseLost`."""
        result = stored(value, self._db._max_json_bytes)  # pyright: ignore[reportPrivateUsage]
        await self._end(self._db.complete(self.claim.record.id, result, actor=self._worker))
        return kept(result)

    async def failed(self, error: BaseException | str) -> None:
        """Fails the call: it is known that it was not done, or not wholly; raises `LeaseLost`."""
        await self._fail(error, unknown=False)

    async def unknown(self, why: BaseException | str) -> None:
        """Ends the call without knowing whether it was done; raises `LeaseLost`."""
        await self._fail(why, unknown=True)

    async def _fail(self, error: BaseException | str, *, unknown: bool) -> None:
        fail = self._db.fail(
            self.claim.record.id, text_of(error), outcome_unknown=unknown, actor=self._worker
        )
        await self._end(fail)

    async def _end(self, call: Coroutine[Any, Any, None]) -> None:
        """Ends the execution also if the caller is cancelled; heartbeats go on until then."""
        try:
            await finish(call)
        except LeaseLost:
            self._beating.cancel()
            raise
        self._beating.cancel()

    def _lost(self, error: ActionError) -> None:
        logger.warning("the execution of proposal %s: %s", self.claim.proposal.id, error)

    def _halted(self, error: HaltRequested) -> None:
        self.halt = error
