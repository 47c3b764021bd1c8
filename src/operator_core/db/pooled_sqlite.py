"""Units of work on a service's own SQLite engine: borrowed, neither disposed nor changed."""

import asyncio
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from functools import partial
from typing import Any, TypeVar, cast

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection, StaticPool
from sqlalchemy.util import greenlet_spawn

from operator_core.db import migrate
from operator_core.db.borrowed import begin
from operator_core.db.driver_errors import read_damaged, translate
from operator_core.db.engine import Unit, check_outside
from operator_core.db.finishing import finish
from operator_core.db.pooled import EngineRunner
from operator_core.db.sqlite_changes import LOOKS_EVERY

__all__ = ["SqliteEngineRunner"]

T = TypeVar("T")


class SqliteEngineRunner(EngineRunner):
    """Runs units of work on a SQLite engine's connections.

    How long a write waits is a setting of the engine's own; the `timeout` is for upgrading only.
    """

    async def open(self) -> None:
        """Checks the schema; one that is behind is upgraded, as when the ledger opens a file."""
        if self._shared:
            check_outside(self._use.under_way)
        self._pid = os.getpid()
        await self._run(partial(migrate.make_current, busy_timeout=self._timeout), commit=False)
        self._closed = False

    async def read(self, unit: Unit[T]) -> T:
        """Runs `unit` on a connection of the pool."""
        self._check_open()
        if self._shared:
            check_outside(self._use.under_way)
        return await self._run(partial(read_damaged, unit=unit), commit=False)

    async def write(self, unit: Unit[T], *, single: bool = False) -> T:
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
                self._doorbell.ring()
            return result

        # A caller may be cancelled while it waits for its turn or for a connection.
        with self._call():
            async with self._alone():
                conn = await self._engine.connect()
                try:
                    return await finish(work(conn))
                finally:
                    await finish(conn.close())

    def _new_changes(self) -> "_Looks":
        return _Looks(self._engine, self._doorbell.ring)

    def _translate(self, error: BaseException) -> BaseException:
        return translate(error)

    def _begin(self, conn: Connection) -> None:
        begin(conn)

    @property
    def _shared(self) -> bool:
        return isinstance(self._engine.pool, StaticPool)

    def _alone(self) -> AbstractAsyncContextManager[Any]:
        # A StaticPool is one connection for everyone (SQLAlchemy's way with SQLite in memory): two
        # units on it at once would be one transaction, and the rollback of one would take the
        # other's rows along.
        return self._use.turn if self._shared else nullcontext()


class _Looks:
    """Looks at ``PRAGMA data_version`` on a connection of the engine's kind, beside its pool."""

    def __init__(self, engine: AsyncEngine, ring: Callable[[], None]) -> None:
        self._pool = engine.sync_engine.pool.recreate()
        self._ring = ring
        self._connection: PoolProxiedConnection | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """From when it returns on, no change is missed."""
        self._connection = await greenlet_spawn(self._pool.connect)
        seen = await greenlet_spawn(_version, self._connection)
        self._task = asyncio.create_task(self._look(self._connection, seen))

    async def stop(self) -> None:
        """Closes the connection, also if `start` failed."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._connection is not None:
            await greenlet_spawn(self._connection.invalidate)

    async def _look(self, connection: PoolProxiedConnection, seen: int) -> None:
        while True:
            await asyncio.sleep(LOOKS_EVERY)
            try:
                version = await greenlet_spawn(_version, connection)
            except Exception:
                # Whoever listens looks for itself, and is told what is wrong.
                version = -1
            if version != seen:
                seen = version
                self._ring()


def _version(connection: PoolProxiedConnection) -> int:
    cursor = connection.cursor()
    try:
        cursor.execute("PRAGMA data_version")
        (version,) = cast(tuple[int], cursor.fetchone())
        return version
    finally:
        cursor.close()
