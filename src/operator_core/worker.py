"""A small worker loop: claims what it has a handler for, runs it, and ends it in the ledger.

It is optional. Whoever has a loop of their own calls `ActionDB.claim`, `complete` and `fail`.
"""

import asyncio
import contextvars
import inspect
import logging
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, TypeAlias, cast

from operator_core.actions.errors import ActionError, InvalidValue, LeaseLost, NotOpen
from operator_core.actions.results import describe
from operator_core.actions.types import ActionProposal, Claim
from operator_core.db.run.cancellation import finish_or_give_back
from operator_core.db.verbs import arguments
from operator_core.db.verbs.arguments import check
from operator_core.db.verbs.executions import LEASE
from operator_core.db.verbs.holding import hold
from operator_core.db.verbs.ledger import ActionLedger

__all__ = ["Handler", "HandlerExit", "run_worker"]

logger = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[ActionProposal], Awaitable[object] | object]
"""What carries an action out: a coroutine function, or a plain one, which is run in a thread.

What it returns is the result, whatever it is: see `operator_core.actions.results.keep`.
"""

MAX_CONCURRENCY: Final = 1000

_PAUSE: Final = 1.0
"""Seconds without a word from the ledger after which it is asked: for what is scheduled, and retries."""


async def run_worker(
    db: ActionLedger,
    handlers: Mapping[str, Handler],
    *,
    worker: str | None = None,
    concurrency: int = 1,
    lease: timedelta = LEASE,
    stop: asyncio.Event | None = None,
) -> int:
    """Runs what is claimable by the handlers of its `action_name`, up to `concurrency` (1 to 1,000) at a time.

    Each handler gets the proposal and returns the result, or None. What it returns completes the execution, whatever it
    is; what it raises fails the execution, SystemExit and KeyboardInterrupt too, and the others go on. If its lease is
    lost it is cancelled (a thread can't be, and its result is dropped).
    Ends when `stop` is set: it claims nothing more and waits for what is running, as it does when it
    is cancelled. Without a `stop`, and in the main thread, that is what SIGTERM and SIGINT do, for all
    that run there so; whoever gives one handles signals too. Returns how many it has run.
    `worker` is its name in the history, by default the machine's and the process's.
    """
    check(arguments.count_up_to(MAX_CONCURRENCY), concurrency, "concurrency")
    check(arguments.LEASE, lease, "lease")
    if not handlers:
        raise InvalidValue("handlers", "must have at least one")
    check(arguments.NAMES, handlers, "handlers")
    for name, handler in handlers.items():
        if not callable(handler):
            raise InvalidValue("handlers", f"must have a function for {name}")
    if worker is None:
        worker = f"{socket.gethostname()}:{os.getpid()}"
    loop = _Loop(db, handlers, check(arguments.ACTOR, worker, "worker"), concurrency, lease)
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
        # A thread for each execution that runs one: made when none is idle, so that one which goes on
        # after its lease was lost is in nobody's way.
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
            logger.info("%s stops when its %d executions end", self._worker, len(self._running))
        finally:
            stopping.cancel()
            # Also when it is cancelled: what is running hears of it by itself.
            await asyncio.gather(*self._running, return_exceptions=True)
            self._threads.shutdown(wait=False)
        return self._count

    async def _fill(self) -> int:
        free = self._concurrency - len(self._running)
        if not free:
            return 0
        asked = asyncio.get_running_loop().time()

        async def start(taken: Sequence[Claim]) -> None:
            for claim in taken:
                task = asyncio.create_task(self._execute(claim, asked))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
            self._count += len(taken)

        claiming = self._db.claim(
            self._worker, limit=free, lease=self._lease, action_names=self._handlers
        )
        try:
            # What it takes when this is cancelled is carried out all the same.
            taken = await finish_or_give_back(claiming, start)
        except NotOpen:
            raise
        except ActionError as error:
            logger.warning("%s could not claim: %s", self._worker, error)
            return 0
        await start(taken)
        return len(taken)

    async def _wait(self, stopping: asyncio.Task[Any], changed: asyncio.Event) -> None:
        """Until something is committed, something running ends, it is to stop, or some time has passed."""
        change = asyncio.create_task(changed.wait())
        try:
            await asyncio.wait(
                {change, stopping, *self._running},
                timeout=_PAUSE,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            change.cancel()

    async def _execute(self, claim: Claim, asked: float) -> None:
        what = (
            f"proposal {claim.proposal.id} ({claim.proposal.action_name}), record {claim.record.id}"
        )
        logger.info("%s starts %s", self._worker, what)
        handled = False
        try:
            async with hold(self._db, claim, self._lease, asked) as execution:
                handler = self._handlers[claim.proposal.action_name]
                execution.result_data = await self._call(handler, claim.proposal)
                handled = True
        except LeaseLost:
            logger.warning("%s lost %s", self._worker, what)
        except Exception as error:
            if handled:
                logger.error("%s could not complete %s: %s", self._worker, what, error)
            else:
                # The words of the exception are in the record; they may hold parameters.
                logger.warning("%s failed %s: %s", self._worker, what, type(error).__name__)
        else:
            logger.info("%s completed %s", self._worker, what)

    async def _call(self, handler: Handler, proposal: ActionProposal) -> object:
        try:
            return await self._called(handler, proposal)
        except (Exception, asyncio.CancelledError):
            raise
        except BaseException as error:
            # It would end the event loop, and all that runs in it.
            raise HandlerExit(describe(error)) from error

    async def _called(self, handler: Handler, proposal: ActionProposal) -> object:
        if inspect.iscoroutinefunction(handler):
            return await cast(Awaitable[object], handler(proposal))
        context, loop = contextvars.copy_context(), asyncio.get_running_loop()

        def call() -> Any:
            try:
                return context.run(handler, proposal)
            except StopIteration as error:
                # As in a coroutine (PEP 479): a future can't hold one, and nobody would hear of it.
                raise RuntimeError("the handler raised StopIteration") from error

        result = await loop.run_in_executor(self._threads, call)
        if inspect.isawaitable(result):
            return await result
        return result


class HandlerExit(RuntimeError):
    """A handler raised what would end the process, such as SystemExit; the message says what."""


_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

# A process has one handler for each signal, and may run several workers.
_stops: Final[set[asyncio.Event]] = set()
_before: Final[dict[signal.Signals, Any]] = {}


@contextmanager
def _stopped_by_signals() -> Generator[asyncio.Event]:
    """An event that the signals set while the block runs; afterwards they mean what they meant before."""
    stop = asyncio.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    loop = asyncio.get_running_loop()
    if not _stops:
        for each in _SIGNALS:
            _before[each] = signal.getsignal(each)
            loop.add_signal_handler(each, _stop_all)
    _stops.add(stop)
    try:
        yield stop
    finally:
        _stops.discard(stop)
        if not _stops:
            for each in _SIGNALS:
                loop.remove_signal_handler(each)
                # Where the loop had one of the service's own, only the loop knew it: this is asyncio's stand-in.
                before = _before[each]
                if before is not None and getattr(before, "__name__", "") != "_sighandler_noop":
                    signal.signal(each, before)


def _stop_all() -> None:
    for stop in _stops:
        stop.set()
