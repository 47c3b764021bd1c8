"""The runner for a service's own SQLite engine, which it neither disposes of nor changes."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from functools import partial
from typing import Any, TypeVar, cast

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import PoolProxiedConnection, StaticPool
from sqlalchemy.util import greenlet_spawn

from operator_core.db.run.borrowed import begin
from operator_core.db.run.cancellation import finish
from operator_core.db.run.engine_runner import EngineRunner, obtained
from operator_core.db.run.runner import UnitRunner, check_outside
from operator_core.db.sql.errors import read_damaged, translate
from operator_core.db.sql.unit import Unit
from operator_core.db.sqlite.changes import LOOKS_EVERY
from operator_core.db.sqlite.files import FileIdentity
from operator_core.db.sqlite.handle import MEMORY
from operator_core.db.sqlite.one_library import file_of, hold, library_of, release
from operator_core.db.sqlite.schema import Schema

__all__ = ["SqliteEngineRunner"]

T = TypeVar("T")


class SqliteEngineRunner(EngineRunner):
    """Runs units of work on a SQLite engine's connections.

    The engine's own settings limit how long a write waits; `timeout` is for upgrading only.
    """

    def __init__(
        self, engine: AsyncEngine, schema: Schema, *, timeout: float, upgrade: bool = True
    ) -> None:
        super().__init__(engine, timeout=timeout)
        self._schema = schema
        self._upgrade = upgrade
        self._path = _path(engine)
        self._library = library_of(engine.dialect)
        # The engine's connections come and go.
        self._file = None if self._path is None else FileIdentity(self._path, watched=False)

    async def open(self) -> None:
        """Checks the schema, and upgrades one that is behind, as opening a file does."""
        if self._shared:
            check_outside(self._use.under_way)
        self._pid = os.getpid()
        if self._path is not None:
            # Before a connection of the engine opens the file, if there is one.
            hold(self, self._path, self._library)
        try:
            await self._run(self._make_ready, commit=False, check=False)
        except BaseException:
            release(self)
            raise
        if self._file is not None:
            self._file.remember()
        self._closed = False

    def _make_ready(self, conn: Connection) -> None:
        # The file may be new, and the URL of an engine need not show its path.
        if path := file_of(conn):
            hold(self, path, self._library)
        if self._upgrade:
            self._schema.make_current(conn, busy_timeout=self._timeout)
        else:
            self._schema.check_usable(conn)

    async def close(self) -> None:
        """Does what `EngineRunner.close` does."""
        await super().close()
        release(self)

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

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[UnitRunner]:
        """Holds one connection of the pool, and the write lock, from entry to exit."""
        self._check_file(writing=True)
        async with super().transaction() as units:
            yield units
        self._check_file(writing=True)

    async def _run(self, unit: Unit[T], *, commit: bool, check: bool = True) -> T:
        def in_transaction(conn: Connection) -> tuple[T, bool]:
            begin(conn)
            before = _total_changes(conn)
            result = unit(conn)
            return result, _total_changes(conn) != before

        async def work(conn: AsyncConnection) -> T:
            if not commit:
                return await conn.run_sync(unit)
            result, changes = await conn.run_sync(in_transaction)
            await conn.commit()
            if changes:
                self._doorbell.ring()
            return result

        if check:
            self._check_file(writing=commit)
        # A caller may be cancelled while it waits for its turn or for a connection.
        with self._call():
            async with self._alone():
                conn = await obtained(self._transacting())
                try:
                    result = await finish(work(conn))
                finally:
                    await finish(conn.close())
            if check:
                self._check_file(writing=commit)
            return result

    def _check_file(self, *, writing: bool) -> None:
        if self._file is not None:
            self._file.check(writing=writing)

    def _new_changes(self) -> "_Poller":
        return _Poller(self._engine, self._doorbell.ring)

    def _translate(self, error: BaseException) -> BaseException:
        return translate(error)

    def _begin(self, conn: Connection) -> None:
        begin(conn)

    @property
    def _shared(self) -> bool:
        return isinstance(self._engine.pool, StaticPool)

    def _alone(self) -> AbstractAsyncContextManager[Any]:
        # A StaticPool has one connection for all callers (SQLAlchemy uses it for SQLite in memory).
        # Two concurrent units would share one transaction, and the rollback of one would remove the
        # rows of the other.
        return self._use.turn if self._shared else nullcontext()


def _path(engine: AsyncEngine) -> str | None:
    """The path of the engine's file; None if it has no file or the path is unknown."""
    url = engine.url
    named = url.database
    if not named or named == MEMORY or named.startswith("file:") or "uri" in url.query:
        return None
    return os.path.abspath(named)


def _total_changes(conn: Connection) -> int:
    """The number of rows that the connection has changed since it was opened."""
    driver_connection: Any = conn.connection.driver_connection
    return driver_connection.total_changes


class _Poller:
    """Polls ``PRAGMA data_version`` on a connection with the engine's settings, outside its pool."""

    def __init__(self, engine: AsyncEngine, ring: Callable[[], None]) -> None:
        self._pool = engine.sync_engine.pool.recreate()
        self._ring = ring
        self._connection: PoolProxiedConnection | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Starts to poll; no change after its return is missed."""
        self._connection = await greenlet_spawn(self._pool.connect)
        seen = await greenlet_spawn(_version, self._connection)
        self._task = asyncio.create_task(self._poll(self._connection, seen))

    async def stop(self) -> None:
        """Stops polling and closes the connection, also if `start` failed."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._connection is not None:
            await greenlet_spawn(self._connection.invalidate)

    async def _poll(self, connection: PoolProxiedConnection, seen: int) -> None:
        while True:
            await asyncio.sleep(LOOKS_EVERY)
            try:
                version = await greenlet_spawn(_version, connection)
            except Exception:
                # Rings anyway: the listener then reads the ledger and gets the error.
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
