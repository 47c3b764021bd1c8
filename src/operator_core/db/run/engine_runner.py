"""Units of work on the connections of an AsyncEngine: what all kinds of engine have in common."""

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
"""Seconds for which a caller that is cancelled waits for its connection: a pool may have none to give for longer."""


class _Use:
    """What all ledgers on one engine share."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()
        self.under_way: set[_ConnectionRunner] = set()
        # On a connection that all share nobody's commit is a change of somebody else's.
        self.doorbell = Doorbell()


_USES: Final[WeakKeyDictionary[AsyncEngine, _Use]] = WeakKeyDictionary()


class Changes(Protocol):
    """Rings while it runs."""

    async def start(self) -> None:
        """From when it returns on, nothing is missed."""
        ...

    async def stop(self) -> None:
        """Gives everything back."""
        ...


class EngineRunner(ABC):
    """Runs units of work on connections of an engine; `timeout` is how many seconds a call may wait."""

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

    @abstractmethod
    async def open(self) -> None:
        """Makes the ledger ready; see `Runner`."""

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
        """Refuses new calls, waits for those under way, and rolls back an open transaction.

        Whoever brought the engine disposes of it.
        """
        self._closed = True
        if os.getpid() != self._pid:
            return
        # These first: a call under way may wait for a row that one of them holds.
        while self._transactions_open:
            await self._transactions_open.pop().close()
        # Who listens looks, and finds it closed.
        self._doorbell.ring()
        while self._under_way:
            self._none_under_way = asyncio.Event()
            await self._none_under_way.wait()

    def _call(self) -> "_Call":
        """The block is a call under way, for which `close` waits."""
        return _Call(self)

    def _call_ended(self) -> None:
        self._under_way -= 1
        if not self._under_way and self._none_under_way is not None:
            self._none_under_way.set()

    def _translated(self) -> AbstractContextManager[None]:
        return translated(self._translate)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[UnitRunner]:
        """One connection of the pool, and on SQLite the write lock, from entry to exit."""
        self._check_open()
        check_outside(self._use.under_way)
        async with self._alone():
            with self._call():
                units = _ConnectionRunner(await obtained(self._transacting()), self)
                if self._closed:  # while this waited; closing waits for the connection
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
                self._transactions_open.discard(units)
                await units.close()

    @asynccontextmanager
    async def changes(self) -> AsyncGenerator[asyncio.Event]:
        """Set when somebody may have committed something, by whichever connection."""
        self._check_open()
        check_outside(self._use.under_way)
        with self._doorbell.listening() as changed:
            self._listeners += 1
            if self._changes is None:
                changes = self._new_changes()
                self._changes = changes, asyncio.ensure_future(changes.start())
            try:
                # Shielded, as several may wait for it.
                with self._translated():
                    await asyncio.shield(self._changes[1])
                yield changed
            finally:
                self._listeners -= 1
                if not self._listeners:
                    unwatched, self._changes = self._changes, None
                    await asyncio.shield(_stop(*unwatched))

    @abstractmethod
    def _new_changes(self) -> "Changes":
        """What rings the doorbell while somebody listens."""

    async def _transacting(self) -> AsyncConnection:
        """A connection on which transactions are what they should be."""
        return await self._engine.connect()

    async def _check_alive(self, conn: AsyncConnection) -> None:  # noqa: B027 - a file is never away
        """Raises `StorageUnavailable` if the connection of a transaction is known to be lost."""

    def _alone(self) -> AbstractAsyncContextManager[Any]:
        """While nobody else may use the engine; by default everybody may."""
        return nullcontext()

    def _check_open(self) -> None:
        if self._closed:
            raise NotOpen("the ledger is not open: use `async with ActionDB(...) as db:`")
        check_process(self._pid)


async def obtained(connecting: Coroutine[Any, Any, AsyncConnection]) -> AsyncConnection:
    """The connection that comes of it; one that comes when the caller has been cancelled is closed.

    SQLAlchemy and aiosqlite forget a connection whose caller is cancelled while it is opened or made ready.
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
    with suppress(Exception):
        await started
    await changes.stop()


class _Call:
    """A block in which a call is under way, and driver exceptions become the ledger's own.

    A class, as every call enters one, and a generator would take three times as long.
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

    def __init__(self, conn: AsyncConnection, runner: EngineRunner) -> None:
        self._conn = conn
        self._runner = runner
        # Units of several tasks in one transaction take turns: their savepoints must not cross.
        self._turn = asyncio.Lock()
        self._over = False

    async def run(self, unit: Unit[T]) -> T:
        """Runs `unit` as it is."""
        return await self._alone(lambda: self._conn.run_sync(unit))

    async def read(self, unit: Unit[T]) -> T:
        """Runs `unit` on what the transaction has done so far; if it fails, that stands."""
        return await self.run(partial(read_in_savepoint, unit=unit))

    async def write(self, unit: Unit[T]) -> T:
        """Runs `unit` in a savepoint: if it fails, the transaction is as it was before."""
        return await self.run(partial(in_savepoint, unit=unit))

    def changes(self) -> AbstractAsyncContextManager[asyncio.Event]:
        """Refused."""
        raise no_waiting()

    def transaction(self) -> AbstractAsyncContextManager[UnitRunner]:
        """Refused: nested transactions are one transaction with parts that may vanish."""
        raise ActionError("a transaction() can't be opened inside another one")

    async def commit(self) -> None:
        """Commits, and is of no use any more."""

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
        """Rolls back what was not committed, and gives the connection back."""
        self._over = True

        async def work() -> None:
            async with self._turn:
                try:
                    await self._conn.close()
                except Exception:
                    # The ROLLBACK was said to nobody: the transaction has ended with its connection, and why
                    # the block has ended is what its caller must see.
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
