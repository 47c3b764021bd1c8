"""One SQLite connection in its own thread, and the settings of all connections of the ledger."""

import asyncio
import logging
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
from operator_core.db.sql.sqlite_library import OPEN_OPTIONS, dbapi
from operator_core.db.sqlite.engine import over
from operator_core.db.sqlite.files import uri
from operator_core.db.sqlite.one_library import check_library

__all__ = ["MEMORY", "NO_TRUST", "TRUST", "Answer", "SqliteConnection", "connect", "over"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

MEMORY = ":memory:"

_DEFENSIVE: Final = 1010  # SQLITE_DBCONFIG_DEFENSIVE

_SETTINGS: Final = (
    # SQLite's default is off, and each connection has its own setting.
    "PRAGMA foreign_keys = ON",
    # An acknowledged write survives a power failure. With NORMAL it would only survive a crash of the process.
    "PRAGMA synchronous = FULL",
    # SQLite detects a damaged page before it uses the page.
    "PRAGMA cell_size_check = ON",
    # SQLite's default, which a build can change. The schema holds under both; without recursion a trigger that
    # updates its own row runs once.
    "PRAGMA recursive_triggers = OFF",
)


def _json_is_innocuous() -> bool:
    """Whether CHECKs and triggers of an untrusted schema may use SQLite's JSON functions.

    Some releases, for example 3.40, mark these functions the wrong way round.
    """
    with closing(dbapi.connect(":memory:")) as connection:
        connection.execute("PRAGMA trusted_schema = OFF")
        try:
            connection.execute("CREATE TABLE probe (text TEXT CHECK (json_valid(text)))")
            connection.execute("INSERT INTO probe VALUES ('{}')")
        except dbapi.OperationalError:
            return False
    return True


NO_TRUST: Final = "PRAGMA trusted_schema = OFF"
"""The setting of a connection that only reads, or that checks a file of unknown origin.

The file's views and triggers can't use functions and virtual tables with side effects (SQLite, "Defense
Against The Dark Arts").
"""

TRUST: Final = NO_TRUST if _json_is_innocuous() else "PRAGMA trusted_schema = ON"
"""The setting of a connection that writes to a ledger: the ledger's triggers use SQLite's JSON functions."""


def connect(
    path: str, *, busy_timeout: float, how: str | None = None, read_only: bool = False
) -> dbapi.Connection:
    """Returns a connection in autocommit mode: the ledger itself begins and ends transactions.

    With `how`, this opens an existing file (see `files.uri`). Without it, SQLite may create the file.
    """
    if path != MEMORY:
        check_library(path)
    connection = dbapi.connect(
        path if how is None else uri(path, how),
        uri=how is not None,
        timeout=busy_timeout,
        isolation_level=None,
        cached_statements=256,
        **OPEN_OPTIONS,
    )
    try:
        # SQL can't write to the schema table or switch off the journal. Python's module offers this from 3.12 on.
        if (configure := getattr(connection, "setconfig", None)) is not None:
            configure(_DEFENSIVE, True)
        for setting in (*_SETTINGS, NO_TRUST if read_only else TRUST):
            connection.execute(setting)
        if read_only:
            # A unit that writes on a reading connection is a bug; this makes it fail.
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


# Keeps connections from the garbage collector, which would close them in an arbitrary thread.
_connected: Final[set[Connection | None]] = set()


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
        try:
            result = function()
        except BaseException as error:
            answer.send(error=to_ledger_error(error))
        else:
            answer.send(result)


class SqliteConnection(aiosqlite.Connection):
    """An aiosqlite connection that runs a whole unit of work in one hop to its thread.

    `opener` connects in the thread, for the first work and again after `drop`. With `lasts`, the
    connection is never dropped: a database in memory is lost with its connection.
    """

    def __init__(
        self,
        opener: Callable[[], dbapi.Connection],
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

    @property
    def raw(self) -> dbapi.Connection:
        """The sqlite3 connection."""
        if self._connection is None:
            self._connect_now()
        return cast(dbapi.Connection, self._connection)

    @property
    def wrapped(self) -> Connection:
        """The SQLAlchemy connection over `raw`."""
        if self._wrapped is None:
            self._connect_now()
        return cast(Connection, self._wrapped)

    def _connect_now(self) -> None:
        # If this fails, the next work connects again.
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
        """Begins a transaction that holds the write lock from its start."""
        raw = self.raw
        if raw.in_transaction:
            # The rollback of the previous transaction failed.
            raw.execute("ROLLBACK")
        raw.execute("BEGIN IMMEDIATE")

    def undo(self) -> None:
        """Rolls back an open transaction, and drops the connection if that fails. Never raises."""
        raw = self._connection
        try:
            if raw is not None and raw.in_transaction:
                raw.execute("ROLLBACK")
        except BaseException:
            logger.exception("a transaction could not be rolled back; its connection is dropped")
            self.drop()

    def drop(self) -> None:
        """Closes the connection; the next work opens another one. Never raises."""
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

    def translate(self, error: BaseException) -> BaseException:
        """Returns the ledger's exception for an exception of the driver."""
        return translate(error, busy_timeout=self._busy_timeout)

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
        self._disconnect()
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
        # The thread has no work left, so this returns soon.
        self._thread.join()

    async def shut(self) -> None:
        """Does `end`, and waits until the thread has ended."""
        self.end()
        await self.ended()
