"""The worker loop in an event loop."""

import asyncio
import contextvars
import inspect
import logging
import signal
import threading
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeAlias, cast

from operator_core.actions.errors import ActionError, NotOpen
from operator_core.actions.results import describe
from operator_core.actions.types import ActionProposal, Claim
from operator_core.db.run.cancellation import finish_or_give_back
from operator_core.db.verbs.executions import LEASE
from operator_core.db.verbs.holding import hold
from operator_core.db.verbs.ledger import ActionLedger
from operator_core.worker.running import (
    MAX_CONCURRENCY,
    POLLS_EVERY,
    SIGNALS,
    HandlerExit,
    checked,
    reported,
    without_stop_iteration,
)

__all__ = ["Handler", "run_worker"]

logger = logging.getLogger("operator_core.worker")

Handler: TypeAlias = Callable[[ActionProposal], Awaitable[object] | object]
"""The function that performs an action: a coroutine function, or a plain function, which runs in a thread.

Its return value is the result, and may be any object: see `operator_core.actions.results.keep`.
"""


async def run_worker(
    db: ActionLedger,
    handlers: Mapping[str, Handler],
    *,
    worker: str | None = None,
    concurrency: int = 1,
    lease: timedelta = LEASE,
    stop: asyncio.Event | None = None,
) -> int:
    """Claims proposals and runs the handler of their `action_name`, up to `concurrency` (1 to 1,000) at a time.

    Each handler gets the proposal. Its return value, of any type, completes the execution. An exception fails the
    execution, SystemExit and KeyboardInterrupt too; other executions continue. If the lease is lost, the handler is
    cancelled; a thread can't be cancelled, and its result is dropped.

    If `stop` is set or the call is cancelled, the worker claims nothing more and waits for running handlers. Without
    `stop`, SIGTERM and SIGINT do the same for every such worker in the main thread. With `stop`, the caller handles
    signals. Returns the number of executions that it ran.

    `worker` is the name in the history; the default is the machine's name and the process id.
    """
    worker = checked(handlers, worker, concurrency, lease)
    loop = _Loop(db, handlers, worker, concurrency, lease)
    if stop is not None:
        return await loop.run(stop)
    with _stopped_by_signals() as stopped:
        return await loop.run(stopped)


class _Loop:
    def __init__(
        self,
        db: ActionLedger,
        handlers: Mapping[str, Handler],
        worker: str,
        concurrency: int,
        lease: timedelta,
    ) -> None:
        self._db = db
        self._handlers = handlers
        self._worker = worker
        self._concurrency = concurrency
        self._lease = lease
        self._running: set[asyncio.Task[None]] = set()
        self._count = 0
        # The limit is not `concurrency`: a thread that continues after its lease was lost must not delay other
        # executions. The pool creates a thread only if none is idle.
        self._threads = ThreadPoolExecutor(
            MAX_CONCURRENCY, thread_name_prefix="operator-core-worker"
        )

    async def run(self, stop: asyncio.Event) -> int:
        stopping = asyncio.create_task(stop.wait())
        try:
            async with self._db.changes() as changed:
                while not stop.is_set():
                    changed.clear()
                    found = await self._fill()
                    if found and len(self._running) < self._concurrency:
                        continue
                    await self._wait(stopping, changed)
            logger.info(
                "%s stops after its running executions (%d) end", self._worker, len(self._running)
            )
        finally:
            stopping.cancel()
            # Also after a cancellation, the worker waits for running executions.
            await asyncio.gather(*self._running, return_exceptions=True)
            self._threads.shutdown(wait=False)
        return self._count

    async def _fill(self) -> int:
        free = self._concurrency - len(self._running)
        if not free:
            return 0
        requested = asyncio.get_running_loop().time()

        async def start(taken: Sequence[Claim]) -> None:
            for claim in taken:
                task = asyncio.create_task(self._execute(claim, requested))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
            self._count += len(taken)

        claiming = self._db.claim(
            self._worker, limit=free, lease=self._lease, action_names=self._handlers
        )
        try:
            # If this task is cancelled during the claim, the claimed proposals still run.
            taken = await finish_or_give_back(claiming, start)
        except NotOpen:
            raise
        except ActionError as error:
            logger.warning("%s could not claim: %s", self._worker, error)
            return 0
        await start(taken)
        return len(taken)

    async def _wait(self, stopping: asyncio.Task[Any], changed: asyncio.Event) -> None:
        """Waits for a commit, the end of an execution, the stop event or the polling interval."""
        change = asyncio.create_task(changed.wait())
        try:
            await asyncio.wait(
                {change, stopping, *self._running},
                timeout=POLLS_EVERY,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            change.cancel()

    async def _execute(self, claim: Claim, requested: float) -> None:
        with reported(self._worker, claim) as handled:
            async with hold(self._db, claim, self._lease, requested) as execution:
                handler = self._handlers[claim.proposal.action_name]
                execution.result_data = await self._call(handler, claim.proposal)
                handled.set()

    async def _call(self, handler: Handler, proposal: ActionProposal) -> object:
        try:
            return await self._called(handler, proposal)
        except (Exception, asyncio.CancelledError):
            raise
        except BaseException as error:
            # It would end the event loop and every task in it.
            raise HandlerExit(describe(error)) from error

    async def _called(self, handler: Handler, proposal: ActionProposal) -> object:
        if inspect.iscoroutinefunction(handler):
            return await cast(Awaitable[object], handler(proposal))
        context, loop = contextvars.copy_context(), asyncio.get_running_loop()
        call = partial(context.run, partial(without_stop_iteration, handler, proposal))
        result = await loop.run_in_executor(self._threads, call)
        if inspect.isawaitable(result):
            return await result
        return result


# A process has one handler for each signal but may run several workers.
_stops: Final[set[asyncio.Event]] = set()
_before: Final[dict[signal.Signals, Any]] = {}


@contextmanager
def _stopped_by_signals() -> Generator[asyncio.Event]:
    """Yields an event that the signals set; the end of the block restores the previous handlers."""
    stop = asyncio.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    loop = asyncio.get_running_loop()
    if not _stops:
        for each in SIGNALS:
            _before[each] = signal.getsignal(each)
            loop.add_signal_handler(each, _stop_all)
    _stops.add(stop)
    try:
        yield stop
    finally:
        _stops.discard(stop)
        if not _stops:
            for each in SIGNALS:
                loop.remove_signal_handler(each)
                # asyncio's placeholder: the loop had a handler of the service, which only the loop knew.
                before = _before[each]
                if before is not None and getattr(before, "__name__", "") != "_sighandler_noop":
                    signal.signal(each, before)


def _stop_all() -> None:
    for stop in _stops:
        stop.set()
