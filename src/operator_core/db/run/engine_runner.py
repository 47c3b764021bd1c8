"""The runner base class for units of work on the connections of an `AsyncEngine` of any database."""

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    nullcontext,
    suppress,
)
from functools import partial
from typing import Any, Final, Protocol, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from operator_core.actions.errors import ActionError, NotOpen
from operator_core.db.run.borrowed import in_savepoint, read_in_savepoint, translated
from operator_core.db.run.cancellation import finish
from operator_core.db.run.notify import Doorbell
from operator_core.db.run.runner import UnitRunner, check_outside, check_process, inside, no_waiting
from operator_core.db.sql.errors import translate
from operator_core.db.sql.unit import Unit

__all__ = ["Changes", "EngineRunner", "obtained"]

T = TypeVar("T")

_COMES_WITHIN: Final = 1.0
"""Seconds that a cancelled caller waits for its connection: a pool may have none for longer."""


class _Use:
    """The state that all ledgers on one engine share."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.under_way: set[_ConnectionRunner] = set()
        # On a single shared connection, `PRAGMA data_version` shows none of the commits, so ledgers share the signal.
        self.doorbell = Doorbell()


_USES: Final[WeakKeyDictionary[AsyncEngine, _Use]] = WeakKeyDictionary()


class Changes(Protocol):
    """A source of changes that rings a doorbell while it runs."""

    async def start(self) -> None:
        """Starts; no change after its return is missed."""
        ...

    async def stop(self) -> None:
        """Stops, and releases everything that it holds."""
        ...


class EngineRunner(ABC):
    """Runs units of work on connections of an engine; `timeout` is the number of seconds that a call may wait."""

    commits = True

    def __init__(self, engine: AsyncEngine, *, timeout: float) -> None:
        self._engine = engine
        self._timeout = timeout
        self._closed = True
        self._pid: int | None = None
        self._use = _USES.setdefault(engine, _Use())
        self._transactions_open: set[_ConnectionRunner] = set()
        self._under_way = 0
        self._none_under_way: asyncio.Event | None = None
        self._doorbell = self._use.doorbell
        self._changes: tuple[Changes, asyncio.Future[None]] | None = None
        self._listeners = 0
        self._stopping: set[asyncio.Future[None]] = set()
        """What ends the sources of changes that nobody listens to any more."""

    @abstractmethod
    async def open(self) -> None:
        """Opens the ledger; see `Runner`."""

    @abstractmethod
    async def read(self, unit: Unit[T]) -> T:
        """Runs a unit that changes nothing."""

    @abstractmethod
    async def write(self, unit: Unit[T]) -> T:
        """Runs a unit as one transaction."""

    def _begin(self, conn: Connection) -> None:
        """Begins a transaction."""
        conn.begin()

    def _commit_lost(self, error: BaseException) -> BaseException:
        """The ledger's error for a COMMIT that failed with `error`."""
        return self._translate(error)

    def _translate(self, error: BaseException) -> BaseException:
        return translate(error, busy_timeout=self._timeout)

    async def close(self) -> None:
        """Refuses new calls, rolls back open transactions, and waits for running calls.

        The owner of the engine disposes of it.
        """
        self._closed = True
        if os.getpid() != self._pid:
            return
        # Transactions first: a running call may wait for a row that one of them has locked.
        while self._transactions_open:
            await self._transactions_open.pop().close()
        # Listeners wake up, look at the ledger and find it closed.
        self._doorbell.ring()
        if self._stopping:
            await asyncio.wait(self._stopping)
        while self._under_way:
            self._none_under_way = asyncio.Event()
            await self._none_under_way.wait()

    def _call(self) -> "_Call":
        """A block that counts as a running call, for which `close` waits."""
        return _Call(self)

    def _call_ended(self) -> None:
        self._under_way -= 1
        if not self._under_way and self._none_under_way is not None:
            self._none_under_way.set()

    def _translated(self) -> AbstractContextManager[None]:
        return translated(self._translate)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[UnitRunner]:
        """A block that holds one connection of the pool, and on SQLite the write lock."""
        self._check_open()
        check_outside(self._use.under_way)
        async with self._alone():
            with self._call():
                units = _ConnectionRunner(await obtained(self._transacting()), self)
                if self._closed:  # closed during the wait; `close` waits for this connection
                    await units.close()
                    self._check_open()
                self._use.under_way.add(units)
                self._transactions_open.add(units)
            try:
                await units.run(self._begin)
                with inside(units):
                    yield units
                await units.commit()
                self._doorbell.ring()
            finally:
                self._use.under_way.discard(units)
                try:
                    await units.close()
                finally:
                    # Not earlier: `close` waits for it, or the connection would return to a pool that is disposed of.
                    self._transactions_open.discard(units)

    @asynccontextmanager
    async def changes(self) -> AsyncGenerator[asyncio.Event]:
        """A block with an event that is set after every possible commit, on any connection."""
        self._check_open()
        check_outside(self._use.under_way)
        with self._doorbell.listening() as changed:
            self._listeners += 1
            if self._changes is None:
                changes = self._new_changes()
                self._changes = changes, asyncio.ensure_future(changes.start())
            try:
                # Shielded, because several callers may wait for it.
                with self._translated():
                    await asyncio.shield(self._changes[1])
                yield changed
            finally:
                self._listeners -= 1
                if not self._listeners:
                    unwatched, self._changes = self._changes, None
                    # Who has seen a change does not wait for the connection to close; `close` does.
                    stopping = asyncio.ensure_future(_stop(*unwatched))
                    self._stopping.add(stopping)
                    stopping.add_done_callback(self._stopping.discard)

    @abstractmethod
    def _new_changes(self) -> "Changes":
        """The source of changes that rings the doorbell while there are listeners."""

    async def _transacting(self) -> AsyncConnection:
        """A connection with the settings that transactions need."""
        return await self._engine.connect()

    async def _check_alive(self, conn: AsyncConnection) -> None:  # noqa: B027 - a file has no connection to lose
        """Raises `StorageUnavailable` if the connection of a transaction is known to be lost."""

    def _alone(self) -> AbstractAsyncContextManager[Any]:
        """A block in which no other caller may use the engine; by default, others may."""
        return nullcontext()

    def _check_open(self) -> None:
        if self._closed:
            raise NotOpen("the ledger is not open: use `async with ActionDB(...) as db:`")
        check_process(self._pid)


async def obtained(connecting: Coroutine[Any, Any, AsyncConnection]) -> AsyncConnection:
    """Returns the connection of `connecting`; if the caller is cancelled, the connection is closed.

    SQLAlchemy and aiosqlite leak a connection if its caller is cancelled while the connection is opened or prepared.
    """
    task = asyncio.ensure_future(connecting)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await finish(_give_back(task))
        raise


async def _give_back(connecting: asyncio.Task[AsyncConnection]) -> None:
    if not (await asyncio.wait({connecting}, timeout=_COMES_WITHIN))[0]:
        connecting.cancel()
        await asyncio.wait({connecting})
    if not connecting.cancelled() and connecting.exception() is None:
        await connecting.result().close()


async def _stop(changes: Changes, started: asyncio.Future[None]) -> None:
    # Nobody is left to be told of an error.
    with suppress(Exception):
        await started
    with suppress(Exception):
        await changes.stop()


class _Call:
    """A block that counts as a running call and converts driver exceptions to the ledger's own.

    It is a class because every call enters one, and a generator would take three times as long.
    """

    __slots__ = ("_runner",)

    def __init__(self, runner: EngineRunner) -> None:
        self._runner = runner

    def __enter__(self) -> None:
        self._runner._under_way += 1  # pyright: ignore[reportPrivateUsage]

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._runner._call_ended()  # pyright: ignore[reportPrivateUsage]
        if isinstance(error, Exception):
            own = self._runner._translate(error)  # pyright: ignore[reportPrivateUsage]
            if own is not error:
                raise own from error


class _ConnectionRunner:
    """A `UnitRunner` inside one transaction of an engine's connection."""

    commits = False

    def __init__(self, conn: AsyncConnection, runner: EngineRunner) -> None:
        self._conn = conn
        self._runner = runner
        # Units of several tasks in one transaction run one at a time: their savepoints must not interleave.
        self._turn = asyncio.Lock()
        self._over = False

    async def run(self, unit: Unit[T]) -> T:
        """Runs `unit` without a savepoint."""
        return await self._alone(lambda: self._conn.run_sync(unit))

    async def read(self, unit: Unit[T]) -> T:
        """Runs `unit` in the transaction; if it fails, the earlier changes of the transaction stay."""
        return await self.run(partial(read_in_savepoint, unit=unit))

    async def write(self, unit: Unit[T]) -> T:
        """Runs `unit` in a savepoint; if it fails, only its own changes are rolled back."""
        return await self.run(partial(in_savepoint, unit=unit))

    def changes(self) -> AbstractAsyncContextManager[asyncio.Event]:
        """Raises `ActionError`: a transaction does not see the commits of others."""
        raise no_waiting()

    def transaction(self) -> AbstractAsyncContextManager[UnitRunner]:
        """Raises `ActionError`: a nested transaction would be a part of the outer one, not a transaction."""
        raise ActionError("a transaction() can't be opened inside another one")

    async def commit(self) -> None:
        """Commits; afterwards this runner raises `NotOpen`."""

        async def work() -> None:
            try:
                await self._conn.commit()
            except Exception as error:
                raise self._runner._commit_lost(error) from error  # pyright: ignore[reportPrivateUsage]

        if self._over:
            raise NotOpen("the transaction is lost: it was rolled back, and nothing of it was kept")
        await self._alone(work)
        self._over = True

    async def close(self) -> None:
        """Rolls back uncommitted changes and returns the connection to the pool."""
        self._over = True

        async def work() -> None:
            async with self._turn:
                try:
                    await self._conn.close()
                except Exception:
                    # The ROLLBACK failed because the connection is lost, and the transaction ended with it. The
                    # caller must see the error that ended the block, not this one.
                    if not self._conn.closed:
                        await self._conn.invalidate()
                        await self._conn.close()

        with self._runner._translated():  # pyright: ignore[reportPrivateUsage]
            await finish(work())

    async def _alone(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        with self._runner._translated():  # pyright: ignore[reportPrivateUsage]
            async with self._turn:
                if self._over:
                    raise NotOpen("the transaction is over")
                await self._runner._check_alive(self._conn)  # pyright: ignore[reportPrivateUsage]
                return await finish(function())
