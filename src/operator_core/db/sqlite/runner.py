"""The runner for a SQLite file or a database in memory: one writer, and readers beside it.

A file has one writing connection, which the first write opens, and a few reading connections. Readers see
the last committed state and do not wait for the writer. In memory there is one connection, and readers
queue with the writers.
"""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeVar

from operator_core.actions.errors import NotOpen
from operator_core.db.run.notify import Doorbell
from operator_core.db.run.runner import UnitRunner, check_process
from operator_core.db.run.unclosed import warn_unclosed
from operator_core.db.sql.errors import read_damaged
from operator_core.db.sql.unit import Unit
from operator_core.db.sqlite.changes import SqliteChanges
from operator_core.db.sqlite.connection import SqliteConnection
from operator_core.db.sqlite.one_library import release
from operator_core.db.sqlite.opening import Opening
from operator_core.db.sqlite.reader import SqliteReader
from operator_core.db.sqlite.work_limit import WorkLimit
from operator_core.db.sqlite.writer import SqliteWriter

__all__ = ["SqliteRunner"]

T = TypeVar("T")

_MAX_READERS: Final = 4
"""The maximum number of reading connections. A read holds the interpreter, so more would gain little."""

_PATIENCE: Final = 1.0
"""Seconds that a cancelled opening waits for its thread to end."""


class SqliteRunner:
    """Runs units of work on the SQLite database of `opening`. Any number of runners may be open on one file."""

    commits = True

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._pid: int | None = None
        self._lock = threading.Lock()
        # The lock guards all attributes below: several threads may use and close the ledger.
        self._is_open = False
        self._writer: SqliteWriter | None = None
        self._readers: list[SqliteReader[SqliteConnection]] = []
        self._ending: list[SqliteConnection] = []
        self._doorbell = Doorbell()
        self._changes: SqliteChanges | None = None
        self._listeners = 0
        # Connections of earlier pollers, which may not have closed yet.
        self._unwatched: list[SqliteConnection] = []

    def __del__(self) -> None:
        if self._is_open and os.getpid() == self._pid:
            self._end()
            warn_unclosed(self._opening.name, self)

    @property
    def path(self) -> Path | None:
        """The path of the file; None in memory."""
        return self._opening.path

    async def open(self) -> None:
        """Opens the ledger; see the class."""
        if self._is_open:
            check_process(self._pid)
            return
        self._pid = os.getpid()
        limit = WorkLimit()
        reader = None if self._opening.in_memory else self._new_reader(query_only=False)
        connection = (
            SqliteConnection(**self._opening.memory()) if reader is None else reader.connection
        )
        try:
            await connection.run_raw(lambda: self._opening.make_ready(connection, limit, self))
        except asyncio.CancelledError:
            limit.stop()
            connection.end()
            # The thread may wait for a lock; a cancelled caller does not wait for that lock.
            await asyncio.wait({asyncio.ensure_future(connection.ended())}, timeout=_PATIENCE)
            release(self)
            raise
        except BaseException:
            await connection.shut()
            release(self)
            raise
        # The connection that checked the schema becomes the first reader, or in memory the only connection.
        with self._lock:
            if reader is None:
                self._writer = self._new_writer(connection)
            else:
                self._readers = [reader]
            self._is_open = True

    async def close(self) -> None:
        """Refuses new units, finishes the queued ones, rolls back an open transaction, and closes."""
        if os.getpid() != self._pid:
            return
        self._end()
        # Every caller of `close` waits, also if the first one was cancelled or its event loop is closed.
        for connection in list(self._ending):
            await connection.ended()
        release(self)
        # Wakes the listeners, which then find the ledger closed.
        self._doorbell.ring()

    def _end(self) -> None:
        """Starts to close, without waiting."""
        with self._lock:
            if not self._is_open:
                return
            self._is_open = False
            writer, self._writer = self._writer, None
            readers, self._readers = self._readers, []
            self._ending = [*self._unwatched, *(each.connection for each in readers)]
            self._unwatched = []
            if self._changes is not None:
                self._ending.insert(0, self._changes.connection)
                self._changes.end()
                # A listener after the next opening gets another one.
                self._changes = None
            if writer is not None:
                self._ending.append(writer.connection)
            for earlier, later in pairwise(self._ending):
                later.close_after(earlier)
            if writer is not None:
                writer.end()
            for reader in readers:
                reader.connection.end()

    async def read(self, unit: Unit[T]) -> T:
        """Runs `unit` on the last committed state while others write; in memory, after the queued units."""
        self._check_open()
        if self._opening.in_memory:
            return await self._started_writer().write(partial(read_damaged, unit=unit))
        reader = self._choose_reader()
        try:
            return await reader.connection.run_raw(lambda: reader.read(unit))
        finally:
            with self._lock:
                reader.waiting -= 1

    def _choose_reader(self) -> SqliteReader[SqliteConnection]:
        with self._lock:
            self._check_open()
            reader = min(self._readers, key=lambda each: each.waiting)
            if reader.waiting and len(self._readers) < _MAX_READERS:
                reader = self._new_reader()
                self._readers.append(reader)
            reader.waiting += 1
        return reader

    def _new_reader(self, *, query_only: bool = True) -> SqliteReader[SqliteConnection]:
        opener = self._opening.reading(query_only=query_only)
        connection = SqliteConnection(opener, busy_timeout=self._opening.busy_timeout)
        return SqliteReader(connection, opener, self._opening.file)

    async def write(self, unit: Unit[T]) -> T:
        """Runs `unit` and returns when it is durable.

        If the caller is cancelled, the unit takes effect as a whole or not at all.
        """
        self._check_open()
        return await self._started_writer().write(unit)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[UnitRunner]:
        """Holds the write lock from entry to exit; other writers of the process queue."""
        self._check_open()
        async with self._started_writer().transaction() as units:
            yield units

    @asynccontextmanager
    async def changes(self) -> AsyncGenerator[asyncio.Event]:
        """Yields an event that each commit sets: a commit of this ledger at once, others within about 20 ms."""
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
                # Who has seen a change does not wait for the connection to close; `close` does.
                if (unwatched := self._unwatch()) is not None:
                    unwatched.end()

    def _watch(self) -> SqliteChanges | None:
        """Adds a listener and returns the file's poller; None in memory, where nobody else writes."""
        with self._lock:
            self._check_open()
            self._listeners += 1
            if self._changes is None and not self._opening.in_memory:
                self._changes = SqliteChanges(self._new_reader().connection, self._doorbell.ring)
            return self._changes

    def _unwatch(self) -> SqliteChanges | None:
        with self._lock:
            self._listeners -= 1
            if self._listeners:
                return None
            changes, self._changes = self._changes, None
            if changes is not None:
                self._unwatched = [each for each in self._unwatched if not each.has_ended]
                self._unwatched.append(changes.connection)
            return changes

    def _started_writer(self) -> SqliteWriter:
        with self._lock:
            self._check_open()
            if self._writer is None:
                self._writer = self._new_writer(SqliteConnection(**self._opening.writing()))
            return self._writer

    def _new_writer(self, connection: SqliteConnection) -> SqliteWriter:
        return SqliteWriter(
            connection, check_files=self._opening.check_files, changed=self._doorbell.ring
        )

    # Misuse raises at once instead of hanging or returning a wrong answer.

    def _check_open(self) -> None:
        if not self._is_open:
            raise NotOpen("the ledger is not open: use `async with ActionDB(...) as db:`")
        check_process(self._pid)
