"""One SQLite connection in its own thread, and the settings that every such connection gets."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

import aiosqlite
from sqlalchemy import Connection, create_engine
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool

from operator_core.actions.errors import NotOpen
from operator_core.db.driver_errors import translate

__all__ = ["MEMORY", "Answer", "SqliteConnection", "connect", "over"]

T = TypeVar("T")

MEMORY = ":memory:"

_SETTINGS = (
    # Off in SQLite unless asked for, on each connection anew.
    "PRAGMA foreign_keys = ON",
    # An answered write survives the loss of power. NORMAL would only survive the process's death.
    "PRAGMA synchronous = FULL",
)


def connect(path: str, *, busy_timeout: float, read_only: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode: transactions begin and end where the ledger says so."""
    connection = sqlite3.connect(
        path, timeout=busy_timeout, isolation_level=None, cached_statements=256
    )
    try:
        for setting in _SETTINGS:
            connection.execute(setting)
        if read_only:
            # A unit that was called a reader and writes all the same is a bug; it fails here.
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


# One SQLAlchemy engine for all SQLite connections of the process, because its cache of compiled
# statements is what opening a ledger would otherwise pay for again. It pools nothing and is told
# through this thread-local which connection it is to wrap.
_wrapping = threading.local()


def _engine() -> Engine:
    return create_engine(
        "sqlite://",
        creator=lambda: _wrapping.connection,
        poolclass=NullPool,
        # Nothing to reset: a unit of work leaves no transaction behind.
        pool_reset_on_return=None,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
    )


_ENGINE = _engine()


def over(connection: sqlite3.Connection) -> Connection:
    """A SQLAlchemy connection over `connection`, for the thread that calls; closing it closes both."""
    _wrapping.connection = connection
    try:
        return _ENGINE.connect()
    finally:
        del _wrapping.connection


class Answer:
    """Brings one outcome from a connection's thread to whoever awaits it, on whichever loop that is.

    `orphaned` runs, in either thread, if the outcome was a success that nobody could be told of
    any more: the awaiting task was cancelled, or its loop is gone.
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


class SqliteConnection(aiosqlite.Connection):
    """An aiosqlite connection that runs a whole unit of work in one hop to its thread."""

    def __init__(
        self,
        path: str,
        *,
        busy_timeout: float,
        read_only: bool = False,
        prepare: Callable[[Connection], object] | None = None,
    ) -> None:
        super().__init__(
            lambda: connect(path, busy_timeout=busy_timeout, read_only=read_only),
            iter_chunk_size=64,
        )
        self._busy_timeout = busy_timeout
        self._prepare = prepare
        self._wrapped: Connection | None = None
        self._stopping = threading.Lock()
        self._stopped = False
        # A process that forgets to close its ledger can still end; SQLite survives worse.
        self._thread.daemon = True

    def start(self) -> None:
        """Starts the thread. It connects when it is first given something to do."""
        self._thread.start()

    def submit(self, function: Callable[[], object]) -> None:
        """Queues `function`, which must not raise, for the thread; waits for nothing."""
        with self._stopping:
            if self._stopped:
                raise NotOpen("the ledger was closed")
            cast(Any, self)._tx.put_nowait((None, function))

    @property
    def raw(self) -> sqlite3.Connection:
        """The connection itself; only for the thread."""
        if self._connection is None:
            self._connect_now()
        return cast(sqlite3.Connection, self._connection)

    @property
    def wrapped(self) -> Connection:
        """SQLAlchemy's connection over it; only for the thread."""
        if self._wrapped is None:
            self._connect_now()
        return cast(Connection, self._wrapped)

    def _connect_now(self) -> None:
        # Both at once: SQLAlchemy sets the isolation level of what it wraps, and that would commit
        # a transaction that was begun before. Tried again with the next work if it fails.
        try:
            self._connection = self._connector()
            self._wrapped = over(self._connection)
            if self._prepare is not None:
                self._prepare(self._wrapped)
        except BaseException:
            self._disconnect()
            raise

    def _disconnect(self) -> None:
        if self._wrapped is not None:
            self._wrapped.close()
        if self._connection is not None:
            self._connection.close()
        self._connection = self._wrapped = None

    async def run(self, function: Callable[[Connection], T]) -> T:
        """Runs `function` in the thread, to its end, whatever becomes of the caller."""
        return await self.run_raw(lambda: function(self.wrapped))

    async def run_raw(self, function: Callable[[], T]) -> T:
        """As `run`, for a function that reaches for the connection itself."""
        answer = Answer()

        def work() -> None:
            try:
                result = function()
            except BaseException as error:
                answer.send(error=self.translate(error))
            else:
                answer.send(result)

        self.submit(work)
        return cast(T, await answer.future)

    def translate(self, error: BaseException) -> BaseException:
        """The ledger's exception for what the driver raised."""
        return translate(error, busy_timeout=self._busy_timeout)

    async def shut(self) -> None:
        """Lets the thread finish what is queued, closes the connection and joins the thread."""
        with self._stopping:
            queue = cast(Any, self)
            queue._tx.put_nowait((None, self._disconnect))
            self._stopped = True
            ended = queue.stop()
        await ended
        # Nothing is left to do for it but to end.
        self._thread.join()
