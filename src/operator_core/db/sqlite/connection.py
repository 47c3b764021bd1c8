"""One SQLite connection in its own thread."""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar, cast

import aiosqlite
from sqlalchemy import Connection

from operator_core.actions.errors import NotOpen
from operator_core.db.sql.sqlite_library import dbapi
from operator_core.db.sqlite.handle import SqliteHandle

__all__ = ["Answer", "SqliteConnection"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Answer:
    """Delivers one outcome from a connection's thread to the awaiting caller, on the caller's event loop.

    `orphaned` runs, in either thread, if a success can't be delivered: the awaiting task was
    cancelled, or its event loop is closed. Sending never raises. An error that is sent after the
    outcome changes nothing.
    """

    __slots__ = ("_orphaned", "future", "loop")

    def __init__(self, orphaned: Callable[[], None] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self._orphaned = orphaned

    @property
    def abandoned(self) -> bool:
        """Whether the caller was cancelled. Its work can be skipped if it has not begun."""
        return self.future.cancelled()

    def send(self, result: Any = None, error: BaseException | None = None) -> None:
        """Sends the outcome; called in the connection's thread."""
        try:
            self.loop.call_soon_threadsafe(self._settle, result, error)
        except RuntimeError:  # the loop is closed
            self._orphan(error)

    def _settle(self, result: Any, error: BaseException | None) -> None:
        if self.future.done():
            self._orphan(error)
        elif isinstance(error, StopIteration):
            # A future can't hold it; the caller would wait for ever.
            self.future.set_exception(RuntimeError("a unit of work raised StopIteration"))
        elif error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    @staticmethod
    def send_all(answers: "list[tuple[Answer, Any]]") -> None:
        """Sends each result and wakes each event loop once; called in the connection's thread."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Answer, Any]]] = {}
        for answer, result in answers:
            by_loop.setdefault(answer.loop, []).append((answer, result))
        for loop, settled in by_loop.items():
            try:
                loop.call_soon_threadsafe(_settle_all, settled)
            except RuntimeError:  # the loop is closed
                for answer, _ in settled:
                    answer._orphan(None)

    def _orphan(self, error: BaseException | None) -> None:
        if self._orphaned is not None and error is None:
            self._orphaned()


def _settle_all(settled: list[tuple[Answer, Any]]) -> None:
    for answer, result in settled:
        answer._settle(result, None)  # pyright: ignore[reportPrivateUsage]


class _Work:
    """A function and its waiting caller. It runs once, and then references neither.

    The thread keeps a reference to its last work until it gets the next.
    """

    __slots__ = ("_parts",)

    def __init__(
        self,
        function: Callable[[], object],
        answer: Answer,
        to_ledger_error: Callable[[BaseException], BaseException],
    ) -> None:
        self._parts: list[Any] = [function, answer, to_ledger_error]

    def __call__(self) -> None:
        function, answer, to_ledger_error = self._parts
        self._parts.clear()
        result, failure = None, None
        try:
            result = function()
        except BaseException as error:
            failure = to_ledger_error(error)
        # Before the caller goes on, which may drop its last reference to the ledger and expect it to be collected.
        del function
        answer.send(result, failure)
        # Its traceback refers to this frame.
        del failure


class SqliteConnection(SqliteHandle, aiosqlite.Connection):
    """An aiosqlite connection that runs a whole unit of work in one hop to its thread.

    `opener` connects in the thread. The methods of `SqliteHandle` are called only there, but for `translate`.
    """

    def __init__(
        self,
        opener: Callable[[], dbapi.Connection],
        *,
        busy_timeout: float,
        lasts: bool = False,
        prepare: Callable[[Connection], object] | None = None,
    ) -> None:
        SqliteHandle.__init__(self, opener, busy_timeout=busy_timeout, lasts=lasts, prepare=prepare)
        aiosqlite.Connection.__init__(self, opener, iter_chunk_size=64)
        # Reentrant: while a thread holds the lock, the garbage collector may end this connection in that thread.
        self._stopping = threading.RLock()
        self._stopped = False
        self._earlier: SqliteConnection | None = None
        self._ended: Future[None] = Future()
        # A waiting caller can't cancel it.
        self._ended.set_running_or_notify_cancel()
        # A process that does not close its ledger can still exit, which SQLite survives.
        self._thread.daemon = True
        self._thread.start()

    def __del__(self) -> None:
        # Replaces aiosqlite's: that one warns, which the ledger does, and does not end a thread that never connected.
        # An interrupted constructor leaves no thread to end.
        if self.__dict__.get("_stopping") is not None:
            self.end()

    def submit(self, function: Callable[[], object]) -> None:
        """Queues `function`, which must not raise, for the thread, without waiting."""
        with self._stopping:
            if self._stopped:
                raise NotOpen("the ledger was closed")
            self._work.put_nowait((None, function))

    @property
    def _work(self) -> "SimpleQueue[tuple[None, Callable[[], object]]]":
        return cast(Any, self)._tx

    # From here on: only in the connection's thread.

    def serve_while(self, condition: Callable[[], bool], *, look_every: float) -> None:
        """Runs queued work while `condition` holds; checks it after each work, or every `look_every` seconds."""
        while not self._ended.done() and condition():
            try:
                _, function = self._work.get(timeout=look_every)
            except Empty:
                continue
            try:
                function()
            except BaseException:
                logger.exception("work on a connection failed")
            # The function may hold the last reference to an event loop.
            del function

    # From here on: in any thread.

    async def run(self, function: Callable[[Connection], T]) -> T:
        """Runs `function` in the thread, to its end even if the caller is cancelled."""
        return await self.run_raw(lambda: function(self.wrapped))

    async def run_raw(self, function: Callable[[], T]) -> T:
        """Like `run`, for a function that takes no connection."""
        answer = Answer()
        self.submit(_Work(function, answer, self.translate))
        return cast(T, await answer.future)

    def close_after(self, earlier: "SqliteConnection") -> None:
        """Delays closing until `earlier`, which is ended too, is closed.

        If two connections close at the same time, each assumes that the other stays open. Neither then moves
        the write-ahead log into the file, and a copy of the file contains nothing of the log.
        """
        self._earlier = earlier

    def end(self) -> None:
        """Lets the thread finish its queue, close the connection and end, without waiting."""
        with self._stopping:
            if not self._stopped:
                self._stopped = True
                self._work.put_nowait((None, self._finish))

    def _finish(self) -> None:
        if self._earlier is not None:
            self._earlier._ended.result()
        self.disconnect()
        # aiosqlite's `stop` ends the loop of the thread. In this thread it finds no event loop to notify.
        cast(Any, self).stop()
        self._ended.set_result(None)

    @property
    def has_ended(self) -> bool:
        """Whether the connection is closed."""
        return self._ended.done()

    async def ended(self) -> None:
        """Waits until the thread has ended."""
        await asyncio.wrap_future(self._ended)
        self.join()

    def join(self) -> None:
        """Blocks until the thread has ended; after `ended` that is soon."""
        self._thread.join()

    async def shut(self) -> None:
        """Does `end`, and waits until the thread has ended."""
        self.end()
        await self.ended()
