"""One SQLite connection in its own thread, and the settings that every such connection gets."""

import asyncio
import logging
import sqlite3
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar, cast

import aiosqlite
from sqlalchemy import Connection

from operator_core.actions.errors import NotOpen
from operator_core.db.sql.errors import translate
from operator_core.db.sqlite.engine import over
from operator_core.db.sqlite.files import uri

__all__ = ["MEMORY", "NO_TRUST", "TRUST", "Answer", "SqliteConnection", "connect", "over"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

MEMORY = ":memory:"

_SETTINGS: Final = (
    # Off in SQLite unless asked for, on each connection anew.
    "PRAGMA foreign_keys = ON",
    # An answered write survives the loss of power. NORMAL would only survive the process's death.
    "PRAGMA synchronous = FULL",
    # A damaged page is found before it is used.
    "PRAGMA cell_size_check = ON",
)


def _json_is_innocuous() -> bool:
    """Whether CHECKs and triggers may use SQLite's JSON functions in a schema that is not trusted.

    Some releases (3.40 is one) have them marked the wrong way round.
    """
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("PRAGMA trusted_schema = OFF")
        try:
            connection.execute("CREATE TABLE probe (text TEXT CHECK (json_valid(text)))")
            connection.execute("INSERT INTO probe VALUES ('{}')")
        except sqlite3.OperationalError:
            return False
    return True


NO_TRUST: Final = "PRAGMA trusted_schema = OFF"
"""For a connection that only reads, or looks at a file that may come from anywhere.

Its views and triggers may not use functions and virtual tables with effects of their own (SQLite, "Defense
Against The Dark Arts").
"""

TRUST: Final = NO_TRUST if _json_is_innocuous() else "PRAGMA trusted_schema = ON"
"""For a connection that writes to a ledger, whose own triggers use SQLite's JSON functions."""


def connect(
    path: str, *, busy_timeout: float, how: str | None = None, read_only: bool = False
) -> sqlite3.Connection:
    """A connection in autocommit mode: transactions begin and end where the ledger says so.

    An existing file is opened as `how` says (see `sqlite_files.uri`); without it, it may be made.
    """
    connection = sqlite3.connect(
        path if how is None else uri(path, how),
        uri=how is not None,
        timeout=busy_timeout,
        isolation_level=None,
        cached_statements=256,
    )
    try:
        if sys.version_info >= (3, 12):
            # SQL can't write to the schema's table, nor switch the journal off.
            connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)
        for setting in (*_SETTINGS, NO_TRUST if read_only else TRUST):
            connection.execute(setting)
        if read_only:
            # A unit that was called a reader and writes all the same is a bug; it fails here.
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


# Kept from the garbage collector, which would close them in whatever thread it runs in.
_connected: Final[set[Connection | None]] = set()


class Answer:
    """Brings one outcome from a connection's thread to whoever awaits it, on whichever loop that is.

    `orphaned` runs, in either thread, if the outcome was a success that nobody could be told of
    any more: the awaiting task was cancelled, or its loop is gone. Sending never raises, and an error
    sent to who has an answer already changes nothing.
    """

    __slots__ = ("_orphaned", "future", "loop")

    def __init__(self, orphaned: Callable[[], None] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self._orphaned = orphaned

    @property
    def abandoned(self) -> bool:
        """Whether the caller was cancelled, so that work not yet begun need not begin."""
        return self.future.cancelled()

    def send(self, result: Any = None, error: BaseException | None = None) -> None:
        """Called in the connection's thread."""
        try:
            self.loop.call_soon_threadsafe(self._settle, result, error)
        except RuntimeError:  # the loop is closed
            self._orphan(error)

    def _settle(self, result: Any, error: BaseException | None) -> None:
        if self.future.done():
            self._orphan(error)
        elif error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    @staticmethod
    def send_all(answers: "list[tuple[Answer, Any]]") -> None:
        """Sends each its result, waking each loop once; called in the connection's thread."""
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
    """A function and the caller who waits for it. Done once: then it holds on to neither.

    The thread keeps what it has done last until there is something else to do.
    """

    __slots__ = ("_parts",)

    def __init__(
        self,
        function: Callable[[], object],
        answer: Answer,
        to_own: Callable[[BaseException], BaseException],
    ) -> None:
        self._parts: list[Any] = [function, answer, to_own]

    def __call__(self) -> None:
        function, answer, to_own = self._parts
        self._parts.clear()
        try:
            result = function()
        except BaseException as error:
            answer.send(error=to_own(error))
        else:
            answer.send(result)


class SqliteConnection(aiosqlite.Connection):
    """An aiosqlite connection that runs a whole unit of work in one hop to its thread.

    `opener` connects, in the thread, when it is first given something to do, and again after `drop`.
    One that `lasts` is never dropped: a database in memory is gone with its connection.
    """

    def __init__(
        self,
        opener: Callable[[], sqlite3.Connection],
        *,
        busy_timeout: float,
        lasts: bool = False,
        prepare: Callable[[Connection], object] | None = None,
    ) -> None:
        super().__init__(opener, iter_chunk_size=64)
        self._busy_timeout = busy_timeout
        self._lasts = lasts
        self._prepare = prepare
        self._wrapped: Connection | None = None
        # One that its holder can take again: the garbage collector may end this very connection meanwhile.
        self._stopping = threading.RLock()
        self._stopped = False
        self._earlier: SqliteConnection | None = None
        self._ended: Future[None] = Future()
        # Nobody who waits for it can cancel it.
        self._ended.set_running_or_notify_cancel()
        # A process that forgets to close its ledger can still end; SQLite survives worse.
        self._thread.daemon = True
        self._thread.start()

    def __del__(self) -> None:
        # aiosqlite's own warns, which is for the ledger to do, and ends no thread that has not connected.
        self.end()

    def submit(self, function: Callable[[], object]) -> None:
        """Queues `function`, which must not raise, for the thread; waits for nothing."""
        with self._stopping:
            if self._stopped:
                raise NotOpen("the ledger was closed")
            self._work.put_nowait((None, function))

    @property
    def _work(self) -> "SimpleQueue[tuple[None, Callable[[], object]]]":
        return cast(Any, self)._tx

    # ------ only for the thread

    @property
    def raw(self) -> sqlite3.Connection:
        """The connection itself."""
        if self._connection is None:
            self._connect_now()
        return cast(sqlite3.Connection, self._connection)

    @property
    def wrapped(self) -> Connection:
        """SQLAlchemy's connection over it."""
        if self._wrapped is None:
            self._connect_now()
        return cast(Connection, self._wrapped)

    def _connect_now(self) -> None:
        # Tried again with the next work if it fails.
        try:
            self._connection = self._connector()
            self._wrapped = over(self._connection)
            _connected.add(self._wrapped)
            if self._prepare is not None:
                self._prepare(self._wrapped)
        except BaseException:
            self._disconnect()
            raise

    def begin(self) -> None:
        """Begins a transaction that has the write lock from its start."""
        raw = self.raw
        if raw.in_transaction:
            # Undoing the one before has failed.
            raw.execute("ROLLBACK")
        raw.execute("BEGIN IMMEDIATE")

    def undo(self) -> None:
        """Rolls back whatever is open; gives the connection up where that fails. Never raises."""
        raw = self._connection
        try:
            if raw is not None and raw.in_transaction:
                raw.execute("ROLLBACK")
        except BaseException:
            logger.exception("a transaction could not be rolled back; its connection is given up")
            self.drop()

    def drop(self) -> None:
        """Closes the connection; the next work makes another one. Never raises."""
        if not self._lasts:
            self._disconnect()

    def _disconnect(self) -> None:
        wrapped, raw = self._wrapped, self._connection
        self._connection = self._wrapped = None
        _connected.discard(wrapped)
        for each in (wrapped, raw):
            try:
                if each is not None:
                    each.close()
            except BaseException:
                logger.exception("a connection could not be closed")

    def serve_while(self, condition: Callable[[], bool], *, look_every: float) -> None:
        """Does what is queued until `condition` is no longer true, which is looked at that often."""
        while not self._ended.done() and condition():
            try:
                _, function = self._work.get(timeout=look_every)
            except Empty:
                continue
            try:
                function()
            except BaseException:
                logger.exception("work on a connection failed")
            # It may hold an event loop that nobody else has any more.
            del function

    # ------

    async def run(self, function: Callable[[Connection], T]) -> T:
        """Runs `function` in the thread, to its end, whatever becomes of the caller."""
        return await self.run_raw(lambda: function(self.wrapped))

    async def run_raw(self, function: Callable[[], T]) -> T:
        """As `run`, for a function that reaches for the connection itself."""
        answer = Answer()
        self.submit(_Work(function, answer, self.translate))
        return cast(T, await answer.future)

    def translate(self, error: BaseException) -> BaseException:
        """The ledger's exception for what the driver raised."""
        return translate(error, busy_timeout=self._busy_timeout)

    def close_after(self, earlier: "SqliteConnection") -> None:
        """Has it closed when `earlier`, which is ended too, has been.

        Two connections that close at the same time each take the other for one that stays, and neither brings
        the write-ahead log into the file: who copies the file then copies nothing of it.
        """
        self._earlier = earlier

    def end(self) -> None:
        """Lets the thread finish what is queued, close the connection and end; waits for nothing."""
        with self._stopping:
            if not self._stopped:
                self._stopped = True
                self._work.put_nowait((None, self._finish))

    def _finish(self) -> None:
        if self._earlier is not None:
            self._earlier._ended.result()
        self._disconnect()
        # aiosqlite's, which ends the thread's loop; here it finds no event loop to tell of it.
        cast(Any, self).stop()
        self._ended.set_result(None)

    async def ended(self) -> None:
        """Waits until the thread is at its end."""
        await asyncio.wrap_future(self._ended)
        # Nothing is left to do for it but to end.
        self._thread.join()

    async def shut(self) -> None:
        """As `end`, and waits for it."""
        self.end()
        await self.ended()
