"""The gate of an agent without an event loop."""

import inspect
import logging
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from operator_core.actions.errors import (
    ActionError,
    Conflict,
    HaltRequested,
    InvalidValue,
    LeaseLost,
    NotFound,
    NotOpen,
)
from operator_core.actions.types import Claim, RequesterType
from operator_core.db.run.blocking import finished
from operator_core.db.verbs.executions import BEATS, LEASE
from operator_core.db.verbs.sync import SyncActionLedger, coroutines_of
from operator_core.gate.core import Core, as_text, executing, kept, stored, until
from operator_core.gate.errors import ExecutionFailed
from operator_core.gate.opening import Execute, Repeat, ToolsOrFunctions, settings, tools_of
from operator_core.gate.tickets import Outcome, Ticket
from operator_core.gate.tools import Arguments, F, OnCancel, Tool

__all__ = ["SyncBegun", "SyncGate"]

logger = logging.getLogger(__name__)

SyncToolHandler = Callable[..., Any]


class SyncGate:
    """`Gate` over a `SyncActionDB`: the same calls without ``async``, in the calling thread.

    Tools and handlers are plain functions. Ctrl-C in the middle of a tool counts as a cancellation. Several threads may
    share one gate.
    """

    def __init__(
        self,
        db: SyncActionLedger,
        *,
        run_id: str,
        agent_id: str | None = None,
        requester: str | None = None,
        requester_type: RequesterType | str = RequesterType.USER,
        parent_id: int | None = None,
        tools: ToolsOrFunctions = None,
        execute: Execute = "here",
        worker: str | None = None,
        lease: timedelta = LEASE,
        repeat: Repeat = "refuse",
    ) -> None:
        self.tools = tools_of(tools)
        """The tools by name. A gate without any takes every call, and needs a handler for each."""
        self._db = db
        self._settings = settings(
            run_id=run_id,
            agent_id=agent_id,
            requester=requester,
            requester_type=requester_type,
            parent_id=parent_id,
            execute=execute,
            worker=worker,
            lease=lease,
            repeat=repeat,
        )
        self._core = Core(coroutines_of(db), self.tools, self._settings)

    def tool(
        self,
        name: str | None = None,
        *,
        expires_in: timedelta | None = None,
        max_retries: int = 0,
        on_cancel: OnCancel = "unknown",
    ) -> Callable[[F], F]:
        """As `Gate.tool`, for a plain function."""

        def add(function: F) -> F:
            if inspect.iscoroutinefunction(function):
                raise InvalidValue("function", "must not be a coroutine function: use Gate")
            self.tools.add(
                function,
                name=name,
                expires_in=expires_in,
                max_retries=max_retries,
                on_cancel=on_cancel,
            )
            return function

        return add

    def propose(
        self, name: str, arguments: Arguments, *, call_id: str, reason: str | None = None
    ) -> Ticket:
        """As `Gate.propose`."""
        return finished(self._core.propose(name, arguments, call_id, reason))

    def outcome(
        self,
        ticket: Ticket,
        *,
        timeout: float | None = None,
        handler: SyncToolHandler | None = None,
    ) -> Outcome:
        """As `Gate.outcome`."""
        end = until(timeout)
        function = handler if handler is not None else self._function(ticket.name)
        if inspect.iscoroutinefunction(function):
            raise InvalidValue("handler", "must not be a coroutine function: use Gate")
        if function is None and self._settings.runs_here:
            settled = finished(self._core.settled(ticket))
            if settled is None:
                raise InvalidValue(
                    "handler", f"must be given: there is no tool {ticket.name!r} here"
                )
            return settled
        failure: Exception | None = None
        while isinstance(found := finished(self._core.turn(ticket, end)), Claim):
            assert function is not None
            begun = time.monotonic()
            failure = self._run(found, function)
            end += time.monotonic() - begun
        if isinstance(found.error, ExecutionFailed):
            found.error.__cause__ = failure
        return found

    def settle(
        self,
        ticket: Ticket,
        *,
        timeout: float | None = None,
        handler: SyncToolHandler | None = None,
    ) -> Any:
        """As `Gate.settle`."""
        outcome = self.outcome(ticket, timeout=timeout, handler=handler)
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    def call(
        self,
        name: str,
        arguments: Arguments,
        *,
        call_id: str,
        reason: str | None = None,
        timeout: float | None = None,
        handler: SyncToolHandler | None = None,
    ) -> Any:
        """As `Gate.call`."""
        ticket = self.propose(name, arguments, call_id=call_id, reason=reason)
        return self.settle(ticket, timeout=timeout, handler=handler)

    def begin(self, ticket: Ticket, *, timeout: float | None = None) -> "SyncBegun":
        """As `Gate.begin`; a thread sends the heartbeats."""
        if not self._settings.runs_here:
            raise InvalidValue("execute", "must be 'here' for a caller that executes calls")
        found = finished(self._core.turn(ticket, until(timeout)))
        if isinstance(found, Claim):
            return SyncBegun(self._db, found, self._settings.lease)
        raise found.error or Conflict("proposal", ticket.proposal_id, "executed already")

    def pending(self) -> list[Ticket]:
        """As `Gate.pending`."""
        return finished(self._core.pending())

    def _function(self, name: str) -> SyncToolHandler | None:
        tool = self.tools.get(name)
        return None if tool is None else tool.function

    def _run(self, claim: Claim, function: SyncToolHandler) -> Exception | None:
        """Executes a claimed call; what became of it is in the ledger. Returns the error of the tool."""
        tool = self.tools.get(claim.proposal.action_name)
        try:
            with self._db.holding(claim) as execution:
                try:
                    with executing(claim.proposal.id):
                        result = _called(function, tool, claim.proposal.parameters)
                except KeyboardInterrupt as error:
                    is_its_own = tool is not None and tool.function is function
                    if is_its_own and tool is not None and tool.on_cancel == "not done":
                        raise _NotDone from error
                    raise
                most = coroutines_of(self._db)._max_json_bytes  # pyright: ignore[reportPrivateUsage]
                execution.result_data = stored(result, most)
        except _NotDone:
            raise KeyboardInterrupt from None
        except (LeaseLost, HaltRequested) as error:
            logger.warning("the execution of proposal %s: %s", claim.proposal.id, error)
        except Exception as error:
            logger.info("the tool of proposal %s failed: %s", claim.proposal.id, error)
            return error
        return None


class _NotDone(Exception):
    """The tool was interrupted before it had done anything."""

    def __str__(self) -> str:
        return "interrupted: nothing was done"


def _called(function: SyncToolHandler, tool: Tool | None, parameters: dict[str, Any]) -> Any:
    result = function(**(parameters if tool is None else tool.values(parameters)))
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError("the tool returned an awaitable, which nobody awaits here: use Gate")
    return result


class SyncBegun:
    """As `Begun`; a thread sends the heartbeats."""

    def __init__(self, db: SyncActionLedger, claim: Claim, lease: timedelta) -> None:
        self.claim = claim
        self.halt: HaltRequested | None = None
        """Set when a heartbeat has told of a halt: the caller should end the tool."""
        self._db = db
        self._lease = lease
        self._ended = threading.Event()
        threading.Thread(target=self._beat, name="operator-core-gate", daemon=True).start()

    def done(self, value: Any = None) -> Any:
        """As `Begun.done`."""
        result = stored(value, coroutines_of(self._db)._max_json_bytes)  # pyright: ignore[reportPrivateUsage]
        with self._ending():
            self._db.complete(self.claim.record.id, result, actor=self.claim.record.worker)
        return kept(result)

    def failed(self, error: BaseException | str) -> None:
        """As `Begun.failed`."""
        self._fail(error, unknown=False)

    def unknown(self, why: BaseException | str) -> None:
        """As `Begun.unknown`."""
        self._fail(why, unknown=True)

    def _fail(self, error: BaseException | str, *, unknown: bool) -> None:
        record = self.claim.record
        with self._ending():
            self._db.fail(record.id, as_text(error), outcome_unknown=unknown, actor=record.worker)

    @contextmanager
    def _ending(self) -> Generator[None]:
        """A block that ends the execution; heartbeats go on until it has."""
        try:
            yield
        except LeaseLost:
            self._ended.set()
            raise
        self._ended.set()

    def _beat(self) -> None:
        while not self._ended.wait(self._lease.total_seconds() / BEATS):
            try:
                self._db.heartbeat(self.claim.record.id, self._lease)
            except HaltRequested as error:
                self.halt = error
            except (LeaseLost, NotFound, NotOpen):
                return
            except ActionError as error:
                logger.warning("no heartbeat for record %s: %s", self.claim.record.id, error)
