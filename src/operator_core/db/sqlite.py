"""Units of work on a SQLite file or in memory: one writer, and readers beside it.

A file has a writer's connection, opened at the first write, and up to a few readers' ones, which see
the last committed state and wait for nobody. In memory there is one connection, and readers queue
with the writers.
"""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, TypeVar

from sqlalchemy import Connection

from operator_core.actions.errors import NotOpen
from operator_core.db import migrate
from operator_core.db.doorbell import Doorbell
from operator_core.db.driver_errors import read_damaged
from operator_core.db.engine import Unit, UnitRunner, check_process
from operator_core.db.sqlite_changes import SqliteChanges
from operator_core.db.sqlite_connection import MEMORY, SqliteConnection
from operator_core.db.sqlite_schema import use_wal
from operator_core.db.sqlite_template import copy_template
from operator_core.db.sqlite_writer import SqliteWriter

__all__ = ["SqliteRunner"]

T = TypeVar("T")

_MAX_READERS: Final = 4
"""How many connections read at once at the most. A read holds the interpreter, so more help little."""


class SqliteRunner:
    """Runs units of work on one SQLite database. Any number may be open on the same file."""

    def __init__(self, path: str, *, busy_timeout: float) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self._pid: int | None = None
        self._lock = threading.Lock()
        self._is_open = False
        self._writer: SqliteWriter | None = None
        self._readers: list[_Reader] = []
        self._closing: asyncio.Task[None] | None = None
        self._doorbell = Doorbell()
        self._changes: SqliteChanges | None = None
        self._listeners = 0

    @property
    def _in_memory(self) -> bool:
        return self._path == MEMORY

    async def open(self) -> None:
        """Opens the file, makes it if there is none, and upgrades its schema if that is behind."""
        if self._is_open:
            check_process(self._pid)
            return
        self._pid = os.getpid()
        connection = self._connect()
        try:
            await connection.run_raw(lambda: self._make_ready(connection))
        except BaseException:
            await asyncio.shield(connection.shut())
            raise
        # The connection that looked goes on as the first reader, or in memory as the only one.
        if self._in_memory:
            self._writer = SqliteWriter(connection, self._doorbell.ring)
        else:
            self._readers = [_Reader(connection)]
        self._is_open = True

    def _make_ready(self, connection: SqliteConnection) -> None:
        if self._in_memory:
            copy_template(connection.raw)
            return
        if not migrate.is_current(connection.raw):
            migrate.make_current(connection.wrapped, busy_timeout=self._busy_timeout)
        connection.raw.execute("PRAGMA query_only = ON")

    def _connect(
        self, *, read_only: bool = False, prepare: Callable[[Connection], object] | None = None
    ) -> SqliteConnection:
        connection = SqliteConnection(
            self._path, busy_timeout=self._busy_timeout, read_only=read_only, prepare=prepare
        )
        connection.start()
        return connection

    async def close(self) -> None:
        """Refuses new units, lets the queued ones finish, rolls back an open transaction, closes."""
        if os.getpid() != self._pid:
            return
        if self._is_open:
            self._is_open = False
            self._closing = asyncio.ensure_future(self._close())
        # A second caller waits too, also if the first one lost patience.
        if self._closing is not None and not self._closing.done():
            await asyncio.shield(self._closing)

    async def _close(self) -> None:
        writer, self._writer = self._writer, None
        readers, self._readers = self._readers, []
        if writer is not None:
            await writer.close()
        # Who listens looks, and finds it closed.
        self._doorbell.ring()
        for reader in readers:
            await reader.connection.shut()

    async def read(self, unit: Unit[T]) -> T:
        """Runs `unit` beside the writers, on the last committed state; in memory, after them."""
        self._check_open()
        if self._in_memory:
            return await self._started_writer().write(partial(read_damaged, unit=unit))
        reader = self._choose_reader()
        try:
            return await reader.connection.run(partial(read_damaged, unit=unit))
        finally:
            with self._lock:
                reader.waiting -= 1

    def _choose_reader(self) -> "_Reader":
        with self._lock:
            reader = min(self._readers, key=lambda each: each.waiting)
            if reader.waiting and len(self._readers) < _MAX_READERS:
                reader = _Reader(self._connect(read_only=True))
                self._readers.append(reader)
            reader.waiting += 1
        return reader

    async def write(self, unit: Unit[T], *, single: bool = False) -> T:
        """Runs `unit` and answers when it is durable. A cancelled caller's unit is whole or absent."""
        self._check_open()
        return await self._started_writer().write(unit)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[UnitRunner]:
        """Holds the write lock from entry to exit: the other writers of the process queue behind."""
        self._check_open()
        async with self._started_writer().transaction() as units:
            yield units

    @asynccontextmanager
    async def changes(self) -> AsyncGenerator[asyncio.Event]:
        """Set by each commit of this ledger at once, by those of others within some 20 ms."""
        self._check_open()
        if self._writer is not None:
            self._writer.check_not_inside()
        with self._doorbell.listening() as changed:
            watch = self._watch()
            try:
                if watch is not None:
                    await watch.started()
                yield changed
            finally:
                if (unwatched := self._unwatch()) is not None:
                    await asyncio.shield(unwatched.stop())

    def _watch(self) -> SqliteChanges | None:
        """What looks at the file as long as anybody listens; in memory nobody else writes."""
        with self._lock:
            self._listeners += 1
            if self._changes is None and not self._in_memory:
                connection = self._connect(read_only=True)
                self._changes = SqliteChanges(connection, self._doorbell.ring)
            return self._changes

    def _unwatch(self) -> SqliteChanges | None:
        with self._lock:
            self._listeners -= 1
            if self._listeners:
                return None
            changes, self._changes = self._changes, None
            return changes

    def _started_writer(self) -> SqliteWriter:
        with self._lock:
            if self._writer is None:
                # Somebody may have made or restored the file without it.
                prepare = partial(use_wal, busy_timeout=self._busy_timeout)
                self._writer = SqliteWriter(self._connect(prepare=prepare), self._doorbell.ring)
            return self._writer

    # ------ misuse, told at once instead of hanging or answering wrongly

    def _check_open(self) -> None:
        if not self._is_open:
            raise NotOpen("the ledger is not open: use `async with ActionDB(...) as db:`")
        check_process(self._pid)


class _Reader:
    """A connection that reads, and how many callers wait for it."""

    __slots__ = ("connection", "waiting")

    def __init__(self, connection: SqliteConnection) -> None:
        self.connection = connection
        self.waiting = 0
