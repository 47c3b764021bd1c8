"""The verbs of a ledger whose units run in the calling thread: where they wait, they block it.

Their coroutines never suspend, so `run.blocking.finished` runs one without an event loop.
"""

import logging
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from functools import partial
from math import inf
from typing import Any, cast

from operator_core.actions.errors import ActionError, HaltRequested, LeaseLost, NotFound
from operator_core.actions.types import Claim, StoredProposal
from operator_core.db.run.backoff import delay
from operator_core.db.run.blocking import NeverSuspending, finished
from operator_core.db.verbs.executions import BEATS
from operator_core.db.verbs.history import unfinished
from operator_core.db.verbs.holding import Execution, Lease
from operator_core.db.verbs.ledger import ActionLedger

__all__ = ["BlockingVerbs", "Lost", "SyncExecution"]

logger = logging.getLogger(__name__)


class Lost:
    """Tells a block whether its lease is lost. Like a `threading.Event`, any thread may look at it or wait for it."""

    def __init__(self, record_id: int, lease: Lease) -> None:
        self._record_id = record_id
        self._lease = lease
        self._found = threading.Event()
        self._error: ActionError | None = None

    def is_set(self) -> bool:
        """Whether the lease is lost."""
        return self.error is not None

    def wait(self, timeout: float | None = None) -> bool:
        """Blocks until the lease is lost, for at most `timeout` seconds, and returns whether it is."""
        end = inf if timeout is None else time.monotonic() + timeout
        while self.error is None and (now := time.monotonic()) < end:
            # A heartbeat may extend the lease meanwhile.
            self._found.wait(max(0.0, min(end, self._lease.until) - now))
        return self.is_set()

    @property
    def error(self) -> ActionError | None:
        """Why the lease is lost, or None. A lost lease stays lost."""
        # The thread that sends heartbeats may be stuck in one, so the clock decides.
        if self._error is None and self._lease.rest(time.monotonic()) <= 0:
            self.set(LeaseLost(self._record_id, "unreachable"))
        return self._error

    def set(self, error: ActionError) -> None:
        """Notes that the lease is lost because of `error`."""
        self._error = self._error or error
        self._found.set()


class SyncExecution(Execution):
    """A claim that a block holds, and the result that the block sets."""

    def __init__(self, claim: Claim, lost: Lost) -> None:
        super().__init__(claim)
        self.lost = lost
        """Set when the lease is lost. A long block looks at it and stops."""


class BlockingVerbs(ActionLedger):
    """All verbs, with waits that block the thread, and heartbeats from a thread of their own."""

    _UNKNOWN_ENDS = (*ActionLedger._UNKNOWN_ENDS, KeyboardInterrupt)

    def _clock(self) -> float:
        return time.monotonic()

    async def _pause(self, failures: int) -> None:
        time.sleep(delay(failures, first=0.05))  # noqa: ASYNC251 - no event loop

    async def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - no event loop

    async def _woken(self, changed: Any, seconds: float) -> None:
        changed.wait(seconds)

    async def _reached_within(
        self, known: int, reached: Callable[[StoredProposal], bool], seconds: float | None
    ) -> StoredProposal:
        until = inf if seconds is None else time.monotonic() + seconds
        found = await self._reached(known, reached, until)
        if found is None:
            raise unfinished(known, seconds)
        return found

    @asynccontextmanager
    async def _kept(self, taken: Sequence[Claim], seconds: float) -> AsyncGenerator[None]:
        stop, length = threading.Event(), timedelta(seconds=seconds)

        def beat() -> None:
            while not stop.wait(seconds / BEATS):
                for known in taken:
                    with suppress(ActionError):
                        finished(self.heartbeat(known, length))

        try:
            with self._beside(beat, stop):
                yield
        except ActionError:
            raise
        except BaseException:
            await self._give_back(taken)
            raise

    @contextmanager
    def hold(
        self, claim: Claim, seconds: float, since: float | None, *, finishes: bool = False
    ) -> Generator[SyncExecution]:
        """As `HoldingVerbs.holding`; `since` is the time of the claim by `_clock`, which saves the first heartbeat."""
        record_id, stop = claim.record.id, threading.Event()
        begun = False

        def end(call: Callable[[], Awaitable[None]]) -> None:
            finished(self._end_with_retries(record_id, call, seconds))

        try:
            if since is None or self._clock() - since > seconds / BEATS:
                since = finished(self._first_heartbeat(record_id, seconds, finishes=finishes))
            lease = Lease(seconds, since)
            lost = Lost(record_id, lease)
            execution = SyncExecution(claim, lost)
            with self._beside(partial(self._beat, execution, lease, lost, stop), stop):
                begun = True
                try:
                    yield execution
                except BaseException as error:
                    # What can't write leaves the execution to the end of its lease, with an unknown outcome.
                    if not lost.is_set() and (
                        not isinstance(error, GeneratorExit) or self._can_write
                    ):
                        with suppress(LeaseLost):
                            end(partial(self._fail_held, execution, error))
                    raise
                if lost.error is not None:
                    raise lost.error
                end(partial(self._complete_held, execution))
        except ActionError as error:
            if not begun and isinstance(error, HaltRequested):
                finished(self._give_back([claim]))
            raise
        except BaseException:
            # Interrupted, or there is no thread for the heartbeats.
            if not begun:
                finished(self._give_back([claim]))
            raise

    def _beat(
        self, execution: SyncExecution, lease: Lease, lost: Lost, stop: threading.Event
    ) -> None:
        """Sends heartbeats until `stop` is set or the lease is lost."""
        record_id = execution.record.id
        length = timedelta(seconds=lease.seconds)
        while (rest := lease.rest(self._clock())) > 0 and not stop.wait(rest):
            sent = self._clock()
            try:
                finished(self.heartbeat(record_id, length))
            except (LeaseLost, NotFound) as error:
                lost.set(error)
                return
            except HaltRequested as error:
                execution.halt = error
                if not lost.is_set():
                    lease.arrived(sent)
            except ActionError as error:
                logger.warning("no heartbeat for record %s: %s", record_id, error)
                lease.failed()
            else:
                if not lost.is_set():
                    lease.arrived(sent)

    @contextmanager
    def _beside(self, work: Callable[[], None], stop: threading.Event) -> Generator[None]:
        """A block beside which a thread does `work`, which ends when `stop` is set."""
        thread = threading.Thread(target=work, name="operator-core-heartbeats", daemon=True)
        try:
            thread.start()
            yield
        finally:
            stop.set()
            # It ends by itself where it can't be joined: an interrupted start may leave a thread that has not begun,
            # and the garbage collector may end an abandoned block in it, or in a thread that it waits for.
            ours = thread is threading.current_thread()
            if thread.is_alive() and not ours and self._can_write:
                thread.join()

    @property
    def _can_write(self) -> bool:
        return cast(NeverSuspending, self._units).can_write
