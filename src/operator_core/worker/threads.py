"""The worker loop without an event loop: handlers run in threads."""

import contextvars
import inspect
import logging
import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final, Protocol, TypeAlias

from operator_core.actions.errors import ActionError, InvalidValue, NotOpen
from operator_core.actions.results import describe
from operator_core.actions.types import ActionProposal, Claim
from operator_core.db.verbs.executions import LEASE
from operator_core.db.verbs.sync import SyncActionLedger, give_back, hold
from operator_core.worker.running import (
    POLLS_EVERY,
    SIGNALS,
    HandlerExit,
    checked,
    reported,
    without_stop_iteration,
)

__all__ = ["SyncHandler", "run_sync_worker"]

logger = logging.getLogger("operator_core.worker")

SyncHandler: TypeAlias = Callable[[ActionProposal], object]
"""The plain function that performs an action. Its return value is the result, and may be any object."""

_LOOKS_EVERY: Final = 0.1
"""Seconds between two looks at the stop event. A signal handler can't safely wake a thread that waits."""


def run_sync_worker(
    db: SyncActionLedger,
    handlers: Mapping[str, SyncHandler],
    *,
    worker: str | None = None,
    concurrency: int = 1,
    lease: timedelta = LEASE,
    stop: threading.Event | None = None,
) -> int:
    """`run_worker` for programs without an event loop: each handler runs in a thread, and this call blocks.

    It takes the arguments of `run_worker`, with plain functions as `handlers` and a `threading.Event` as `stop`. If
    the lease is lost, the handler continues, because a thread can't be cancelled, and its result is dropped.

    If `stop` is set, the worker claims nothing more and waits for running handlers. Without `stop`, SIGTERM and
    SIGINT do the same in the main thread. Returns the number of executions that it ran.
    """
    worker = checked(handlers, worker, concurrency, lease)
    for name, handler in handlers.items():
        if inspect.iscoroutinefunction(handler):
            raise InvalidValue("handlers", f"must have a plain function for {name}")
    loop = _Loop(db, handlers, worker, concurrency, lease)
    if stop is not None:
        return loop.run(stop)
    with _stopped_by_signals() as stopped:
        return loop.run(stopped)


class _Stop(Protocol):
    def is_set(self) -> bool: ...


class _Loop:
    def __init__(
        self,
        db: SyncActionLedger,
        handlers: Mapping[str, SyncHandler],
        worker: str,
        concurrency: int,
        lease: timedelta,
    ) -> None:
        self._db = db
        self._handlers = handlers
        self._worker = worker
        self._concurrency = concurrency
        self._lease = lease
        self._running: set[Future[None]] = set()
        # The claims that no thread runs yet, by the id of the record. Whoever removes one, runs it or gives it back.
        self._unbegun: dict[int, Claim] = {}
        self._count = 0

    def run(self, stop: _Stop) -> int:
        # The end of the block waits for running handlers, also after an exception.
        with (
            ThreadPoolExecutor(self._concurrency, "operator-core-worker") as threads,
            self._db.changes() as changed,
        ):
            while not stop.is_set():
                changed.clear()
                found = self._fill(threads, changed)
                if not found or len(self._running) >= self._concurrency:
                    self._wait(stop, changed)
            logger.info(
                "%s stops after its running executions (%d) end", self._worker, len(self._running)
            )
        return self._count

    def _wait(self, stop: _Stop, changed: threading.Event) -> None:
        """Waits for a commit, the end of an execution, the stop event or the polling interval."""
        until = time.monotonic() + POLLS_EVERY
        while not stop.is_set() and (left := until - time.monotonic()) > 0:
            if changed.wait(min(left, _LOOKS_EVERY)):
                return

    def _fill(self, threads: ThreadPoolExecutor, changed: threading.Event) -> int:
        self._running = {each for each in self._running if not each.done()}
        free = self._concurrency - len(self._running)
        if not free:
            return 0
        requested = time.monotonic()
        try:
            taken = self._db.claim(
                self._worker, limit=free, lease=self._lease, action_names=self._handlers
            )
        except NotOpen:
            raise
        except ActionError as error:
            logger.warning("%s could not claim: %s", self._worker, error)
            return 0
        try:
            self._unbegun.update((claim.record.id, claim) for claim in taken)
            for claim in taken:
                context = contextvars.copy_context()
                running = threads.submit(context.run, self._execute, claim, requested)
                self._running.add(running)
                # The end of an execution makes room, as a commit may bring work.
                running.add_done_callback(lambda _: changed.set())
        except BaseException:
            # Interrupted, or there is no thread. A claim that is submitted may also be in the queue of the threads.
            found = (self._unbegun.pop(claim.record.id, None) for claim in taken)
            give_back(self._db, [claim for claim in found if claim is not None])
            raise
        self._count += len(taken)
        return len(taken)

    def _execute(self, claim: Claim, requested: float) -> None:
        if self._unbegun.pop(claim.record.id, None) is None:
            return
        with (
            reported(self._worker, claim) as handled,
            hold(self._db, claim, self._lease, requested) as execution,
        ):
            handler = self._handlers[claim.proposal.action_name]
            execution.result_data = _called(handler, claim.proposal)
            handled.set()


def _called(handler: SyncHandler, proposal: ActionProposal) -> object:
    try:
        return without_stop_iteration(handler, proposal)
    except Exception:
        raise
    except BaseException as error:
        # It fails this execution only, with a known outcome.
        raise HandlerExit(describe(error)) from error


class _Flag:
    """An event that a signal handler can set: it has no lock, which the interrupted thread may hold."""

    def __init__(self) -> None:
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True


@contextmanager
def _stopped_by_signals() -> Generator[_Flag]:
    """Yields a flag that the signals set; the end of the block restores the previous handlers."""
    flag = _Flag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def stop(number: int, frame: Any) -> None:
        flag.set()

    before = {each: signal.signal(each, stop) for each in SIGNALS}
    try:
        yield flag
    finally:
        for each, handler in before.items():
            # None: a handler that Python did not install, and can't install again.
            if handler is not None:
                signal.signal(each, handler)
