"""The gate of an agent without an event loop."""

import inspect
import logging
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

from operator_core.actions.errors import (
    HaltRequested,
    InvalidValue,
    LeaseLost,
)
from operator_core.actions.types import Claim
from operator_core.db.run.blocking import finished
from operator_core.db.verbs.blocking import BlockingVerbs, Lost, SyncExecution
from operator_core.db.verbs.executions import lease_of
from operator_core.db.verbs.holding import Lease
from operator_core.db.verbs.sync import SyncActionLedger, coroutines_of, hold
from operator_core.gate.core import Claimed, Function
from operator_core.gate.opening import Opened
from operator_core.gate.repetitions import executing
from operator_core.gate.results import kept, stored, text_of
from operator_core.gate.tickets import Outcome, Ticket
from operator_core.gate.tools import Arguments, OnCancel, Tool

__all__ = ["SyncBegun", "SyncGate"]

logger = logging.getLogger(__name__)


def _check_plain(function: Function | None, name: str) -> None:
    if inspect.iscoroutinefunction(function):
        raise InvalidValue(name, "must not be a coroutine function: use Gate")


class SyncGate(Opened[SyncActionLedger]):
    """`Gate` over a `SyncActionDB`: the same calls without ``async``, in the calling thread.

    Tools and handlers are plain functions. Ctrl-C in the middle of a tool counts as a cancellation. Several threads may
    share one gate.
    """

    def _verbs_of(self, db: SyncActionLedger) -> BlockingVerbs:
        return coroutines_of(db)

    def _check_tool(self, function: Function, on_cancel: OnCancel) -> None:
        _check_plain(function, "function")

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
        handler: Function | None = None,
    ) -> Outcome:
        """As `Gate.outcome`."""
        function = handler if handler is not None else self.tools.function(ticket.name)
        _check_plain(function, "handler")
        return finished(self._core.outcome(ticket, timeout, function, self._run))

    def settle(
        self,
        ticket: Ticket,
        *,
        timeout: float | None = None,
        handler: Function | None = None,
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
        handler: Function | None = None,
    ) -> Any:
        """As `Gate.call`."""
        ticket = self.propose(name, arguments, call_id=call_id, reason=reason)
        return self.settle(ticket, timeout=timeout, handler=handler)

    def begin(self, ticket: Ticket, *, timeout: float | None = None) -> "SyncBegun":
        """As `Gate.begin`; a thread sends the heartbeats."""
        return SyncBegun(self._db, *finished(self._core.begin(ticket, timeout)))

    def decided(self, ticket: Ticket, *, timeout: float | None = None) -> Outcome | None:
        """As `Gate.decided`."""
        return finished(self._core.decided(ticket, timeout))

    def find(self, call_id: str) -> Ticket | None:
        """As `Gate.find`."""
        return finished(self._core.find(call_id))

    def pending(self) -> list[Ticket]:
        """As `Gate.pending`."""
        return finished(self._core.pending())

    async def _run(self, claimed: Claimed, function: Function) -> Exception | None:
        """Executes a claimed call; what became of it is in the ledger. Returns the error of the tool."""
        claim = claimed.claim
        tool = self.tools.get(claim.proposal.action_name)
        try:
            with hold(self._db, claim, self._core.settings.lease, claimed.since) as execution:
                try:
                    with executing(claim.proposal):
                        result = _called(function, tool, claim.proposal.parameters)
                except KeyboardInterrupt as error:
                    if tool is not None and tool.stops(function):
                        raise _NotDone from error
                    raise
                most = self._verbs._max_json_bytes  # pyright: ignore[reportPrivateUsage]
                execution.result_data = stored(result, most)
        except _NotDone:
            raise KeyboardInterrupt from None
        except (LeaseLost, HaltRequested) as error:
            logger.warning("the execution of proposal %s: %s", claim.proposal.id, error)
        except Exception as error:
            # As in `Gate`: the message may contain parameters.
            kind = type(error).__name__
            logger.info("the tool of proposal %s failed: %s", claim.proposal.id, kind)
            return error
        return None


class _NotDone(Exception):
    """The tool was interrupted before it had done anything."""

    def __str__(self) -> str:
        return "interrupted: nothing was done"


def _called(function: Function, tool: Tool | None, parameters: dict[str, Any]) -> Any:
    result = function(**(parameters if tool is None else tool.values(parameters)))
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError("the tool returned an awaitable, which nobody awaits here: use Gate")
    return result


class SyncBegun:
    """As `Begun`; a thread sends the heartbeats."""

    def __init__(self, db: SyncActionLedger, claim: Claim, since: float) -> None:
        self.claim = claim
        self._db = db
        self._ended = threading.Event()
        verbs = coroutines_of(db)
        lease = Lease(lease_of(claim, None), since)
        lost = Lost(claim.record.id, lease)
        self._execution = SyncExecution(claim, lost)
        beat = partial(verbs._beat, self._execution, lease, lost, self._ended)  # pyright: ignore[reportPrivateUsage]
        threading.Thread(target=beat, name="operator-core-gate", daemon=True).start()

    @property
    def halt(self) -> HaltRequested | None:
        """Set when a heartbeat has told of a halt: the caller should end the tool."""
        return self._execution.halt

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
            self._db.fail(record.id, text_of(error), outcome_unknown=unknown, actor=record.worker)

    @contextmanager
    def _ending(self) -> Generator[None]:
        """A block that ends the execution; heartbeats go on until it has."""
        try:
            yield
        except LeaseLost:
            self._ended.set()
            raise
        self._ended.set()
