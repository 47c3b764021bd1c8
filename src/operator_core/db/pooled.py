"""Units of work on an AsyncEngine that a service brings: borrowed, neither disposed nor changed."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import StaticPool

from operator_core.actions.errors import ActionError, NotOpen
from operator_core.db import migrate
from operator_core.db.borrowed import begin, finish, in_savepoint, translated
from operator_core.db.driver_errors import read_damaged
from operator_core.db.engine import Unit, UnitRunner, check_outside, check_process, inside

__all__ = ["EngineRunner"]

T = TypeVar("T")


class _Use:
    """What all ledgers on one engine share."""

    def __init__(self) -> None:
        # A StaticPool is one connection for everyone (SQLAlchemy's way with SQLite in memory): two
        # units on it at once would be one transaction, and the rollback of one would take the
        # other's rows along.
        self.turn = asyncio.Lock()
        self.under_way: set[_ConnectionRunner] = set()


_USES: Final[WeakKeyDictionary[AsyncEngine, _Use]] = WeakKeyDictionary()


class EngineRunner:
    """Runs units of work on connections of an engine that belongs to someone else."""

    def __init__(self, engine: AsyncEngine, *, busy_timeout: float) -> None:
        self._engine = engine
        # For upgrading only: how long a write waits is a setting of the engine's own connections.
        self._busy_timeout = busy_timeout
        self._closed = True
        self._pid: int | None = None
        self._use = _USES.setdefault(engine, _Use())
        self._calls: set[asyncio.Future[None]] = set()

    async def open(self) -> None:
        """Checks the schema; a SQLite one that is behind is upgraded, as when the ledger opens a file."""
        if self._shared:
            check_outside(self._use.under_way)
        self._pid = os.getpid()
        if self._engine.dialect.name == "sqlite":
            await self._run(
                lambda conn: migrate.make_current(conn, busy_timeout=self._busy_timeout),
                commit=False,
            )
        else:
            await self._run(migrate.check_current, commit=False)
        self._closed = False

    async def close(self) -> None:
        """Refuses new calls and waits for those under way; whoever brought the engine disposes of it."""
        self._closed = True
        if os.getpid() == self._pid:
            while self._calls:
                await asyncio.wait(set(self._calls))

    async def read(self, unit: Unit[T]) -> T:
        """Runs `unit` on a connection of the pool."""
        self._check_open()
        if self._shared:
            check_outside(self._use.under_way)
        return await self._run(partial(read_damaged, unit=unit), commit=False)

    async def write(self, unit: Unit[T]) -> T:
        """Runs `unit` as one transaction on a connection of the pool, and commits it."""
        self._check_open()
        check_outside(self._use.under_way)
        return await self._run(unit, commit=True)

    async def _run(self, unit: Unit[T], *, commit: bool) -> T:
        async def work(conn: AsyncConnection) -> T:
            if commit:
                await conn.run_sync(begin)
            result = await conn.run_sync(unit)
            if commit:
                await conn.commit()
            return result

        call = asyncio.get_running_loop().create_future()
        self._calls.add(call)
        try:
            with translated():
                # A caller may be cancelled while it waits for its turn or for a connection.
                async with self._alone():
                    conn = await self._engine.connect()
                    try:
                        return await finish(work(conn))
                    finally:
                        await finish(conn.close())
        finally:
            self._calls.discard(call)
            call.set_result(None)

    def transaction(self) -> AbstractAsyncContextManager[UnitRunner]:
        """One connection of the pool, and on SQLite the write lock, from entry to exit."""
        return self._transact()

    @asynccontextmanager
    async def _transact(self) -> AsyncGenerator[UnitRunner]:
        self._check_open()
        check_outside(self._use.under_way)
        async with self._alone():
            units = _ConnectionRunner(await self._connected())
            self._use.under_way.add(units)
            try:
                await units.run(begin)
                with inside(units):
                    yield units
                await units.commit()
            finally:
                self._use.under_way.discard(units)
                await units.close()

    async def _connected(self) -> AsyncConnection:
        with translated():
            return await self._engine.connect()

    @property
    def _shared(self) -> bool:
        return isinstance(self._engine.pool, StaticPool)

    def _alone(self) -> AbstractAsyncContextManager[Any]:
        if not self._shared:
            return nullcontext()
        return self._use.turn

    def _check_open(self) -> None:
        if self._closed:
            raise NotOpen("the ledger is not open: use `async with ActionDB(...) as db:`")
        check_process(self._pid)


class _ConnectionRunner:
    """A `UnitRunner` inside one transaction of an engine's connection."""

    def __init__(self, conn: AsyncConnection) -> None:
        self._conn = conn
        # Units of several tasks in one transaction take turns: their savepoints must not cross.
        self._turn = asyncio.Lock()
        self._over = False

    async def run(self, unit: Unit[T]) -> T:
        """Runs `unit` as it is."""
        return await self._alone(lambda: self._conn.run_sync(unit))

    async def read(self, unit: Unit[T]) -> T:
        """Runs `unit` on what the transaction has done so far."""
        return await self.run(partial(read_damaged, unit=unit))

    async def write(self, unit: Unit[T]) -> T:
        """Runs `unit` in a savepoint: if it fails, the transaction is as it was before."""
        return await self.run(partial(in_savepoint, unit=unit))

    def transaction(self) -> AbstractAsyncContextManager[UnitRunner]:
        """Refused: nested transactions are one transaction with parts that may vanish."""
        raise ActionError("a transaction() can't be opened inside another one")

    async def commit(self) -> None:
        """Commits, and is of no use any more."""
        await self._alone(self._conn.commit)
        self._over = True

    async def close(self) -> None:
        """Rolls back what was not committed, and gives the connection back."""
        self._over = True

        async def work() -> None:
            async with self._turn:
                await self._conn.close()

        with translated():
            await finish(work())

    async def _alone(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        with translated():
            async with self._turn:
                if self._over:
                    raise NotOpen("the transaction is over")
                return await finish(function())
