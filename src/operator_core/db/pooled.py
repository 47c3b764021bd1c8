"""Units of work on what a service brings: an AsyncEngine, or the AsyncSession that it is in.

An engine is borrowed: neither disposed nor changed. A session is joined: the unit becomes part of
the caller's transaction, and nothing here ever commits it.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from functools import partial
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from operator_core.actions.errors import ActionError, NotOpen
from operator_core.db import migrate
from operator_core.db.driver_errors import read_damaged, translate
from operator_core.db.engine import Unit, UnitRunner, check_outside, check_process, inside

__all__ = ["EngineRunner", "SessionRunner"]

T = TypeVar("T")

# A StaticPool is one connection for everyone (SQLAlchemy's way with SQLite in memory): two units on
# it at once would be one transaction, and the rollback of one would take the other's rows along.
_ONE_AT_A_TIME: Final[WeakKeyDictionary[AsyncEngine, asyncio.Lock]] = WeakKeyDictionary()


def _begin(conn: Connection) -> None:
    """Begins a real transaction where the driver would not: sqlite3's own BEGIN comes late and weak.

    It would come only before the first INSERT or UPDATE, so that two readers that both go on to
    write deadlock, and never before a SAVEPOINT, whose RELEASE would then commit.
    """
    if conn.dialect.name == "sqlite" and not _in_transaction(conn):
        conn.exec_driver_sql("BEGIN IMMEDIATE")


def _in_transaction(conn: Connection) -> bool:
    driver_connection: Any = conn.connection.driver_connection
    return driver_connection.in_transaction


def _in_savepoint(conn: Connection, unit: Unit[T]) -> T:
    if conn.dialect.name != "sqlite":
        with conn.begin_nested():
            return unit(conn)
    _begin(conn)
    conn.exec_driver_sql("SAVEPOINT unit")
    try:
        result = unit(conn)
    except BaseException:
        if _in_transaction(conn):
            conn.exec_driver_sql("ROLLBACK TO unit")
            conn.exec_driver_sql("RELEASE unit")
        else:
            # A full disk ends the whole transaction. As after a lost connection, SQLAlchemy then
            # refuses all but a rollback; the next statement would begin a transaction of its own.
            conn.invalidate()
        raise
    conn.exec_driver_sql("RELEASE unit")
    return result


async def _finish(work: Coroutine[Any, Any, T]) -> T:
    """Runs `work` to its end; a cancellation of the caller waits for that, and then goes on its way.

    So nothing is ever under way on a connection that is being rolled back or given back.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
        except BaseException:
            break
    if cancelled is not None:
        # Its outcome is nobody's any more; asyncio complains of one that was never looked at.
        task.exception()
        raise cancelled
    return task.result()


class EngineRunner:
    """Runs units of work on connections of an engine that belongs to someone else."""

    def __init__(self, engine: AsyncEngine, *, busy_timeout: float) -> None:
        self._engine = engine
        # For upgrading only: how long a write waits is a setting of the engine's own connections.
        self._busy_timeout = busy_timeout
        self._closed = True
        self._pid = os.getpid()
        self._under_way: set[_ConnectionRunner] = set()

    async def open(self) -> None:
        """Checks the schema; a SQLite one that is behind is upgraded, as when the ledger opens a file."""
        if self._engine.dialect.name == "sqlite":
            await self._run(
                lambda conn: migrate.make_current(conn, busy_timeout=self._busy_timeout),
                commit=False,
            )
        else:
            await self._run(migrate.check_current, commit=False)
        self._closed = False

    async def close(self) -> None:
        """Forgets the engine; whoever brought it disposes of it."""
        self._closed = True

    async def read(self, unit: Unit[T]) -> T:
        """Runs `unit` on a connection of the pool."""
        self._check_open()
        if self._shared:
            check_outside(self._under_way)
        return await self._run(partial(read_damaged, unit=unit), commit=False)

    async def write(self, unit: Unit[T]) -> T:
        """Runs `unit` as one transaction on a connection of the pool, and commits it."""
        self._check_open()
        check_outside(self._under_way)
        return await self._run(unit, commit=True)

    async def _run(self, unit: Unit[T], *, commit: bool) -> T:
        async def work() -> T:
            async with self._alone(), self._engine.connect() as conn:
                if commit:
                    await conn.run_sync(_begin)
                result = await conn.run_sync(unit)
                if commit:
                    await conn.commit()
                return result

        with _translated():
            return await _finish(work())

    def transaction(self) -> AbstractAsyncContextManager[UnitRunner]:
        """One connection of the pool, and on SQLite the write lock, from entry to exit."""
        return self._transact()

    @asynccontextmanager
    async def _transact(self) -> AsyncGenerator[UnitRunner]:
        self._check_open()
        check_outside(self._under_way)
        async with self._alone():
            units = _ConnectionRunner(await self._connected())
            self._under_way.add(units)
            try:
                await units.run(_begin)
                with inside(units):
                    yield units
                await units.commit()
            finally:
                self._under_way.discard(units)
                await units.close()

    async def _connected(self) -> AsyncConnection:
        with _translated():
            return await self._engine.connect()

    @property
    def _shared(self) -> bool:
        return isinstance(self._engine.pool, StaticPool)

    def _alone(self) -> AbstractAsyncContextManager[Any]:
        if not self._shared:
            return nullcontext()
        return _ONE_AT_A_TIME.setdefault(self._engine, asyncio.Lock())

    def _check_open(self) -> None:
        check_process(self._pid)
        if self._closed:
            raise NotOpen("the ledger is not open: use `async with ActionDB(...) as db:`")


@contextmanager
def _translated() -> Generator[None]:
    """Driver exceptions leave the block as the ledger's own."""
    try:
        yield
    except Exception as error:
        translated = translate(error)
        if translated is error:
            raise
        raise translated from error


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
        return await self.run(partial(_in_savepoint, unit=unit))

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

        with _translated():
            await _finish(work())

    async def _alone(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async def work() -> T:
            async with self._turn:
                if self._over:
                    raise NotOpen("the transaction is over")
                return await function()

        with _translated():
            return await _finish(work())


class SessionRunner:
    """Runs units of work inside the transaction of a session that belongs to someone else."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._pid = os.getpid()

    async def open(self) -> None:
        """Checks the schema; it can't be changed inside somebody's transaction, so behind is an error."""
        await self.read(migrate.check_current)

    async def close(self) -> None:
        """Does nothing: the caller commits, rolls back and closes."""

    async def read(self, unit: Unit[T]) -> T:
        """Runs `unit` in the caller's transaction, after what the session holds back is flushed."""
        return await self._run(partial(read_damaged, unit=unit))

    async def write(self, unit: Unit[T]) -> T:
        """As `read`, in a savepoint: if the unit fails, the caller's transaction is as it was."""
        return await self._run(partial(_in_savepoint, unit=unit))

    async def _run(self, function: Callable[[Connection], T]) -> T:
        def work(session: Session) -> T:
            session.flush()
            return function(session.connection())

        check_process(self._pid)
        with _translated():
            return await _finish(self._session.run_sync(work))

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[UnitRunner]:
        """All or nothing within the caller's transaction: a savepoint."""
        await self._run(_begin)
        async with self._session.begin_nested():
            yield self
