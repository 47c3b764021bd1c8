"""The runner for a SQLite file or a database in memory that works in the calling thread.

A file has a connection that writes and one that reads, each with a lock. The threads of the program take turns on
both; readers do not wait for the writer. In memory there is one connection.
"""

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from operator_core.db.run.blocking import BlockingUnits, not_open
from operator_core.db.run.notify import Doorbell
from operator_core.db.run.runner import check_outside, check_process, inside
from operator_core.db.run.unclosed import warn_unclosed
from operator_core.db.sql.errors import read_damaged
from operator_core.db.sql.unit import Unit, run_units
from operator_core.db.sqlite.changes import SqliteChanges
from operator_core.db.sqlite.connection import SqliteConnection
from operator_core.db.sqlite.files import FILE_MODE
from operator_core.db.sqlite.handle import SqliteHandle
from operator_core.db.sqlite.one_library import release
from operator_core.db.sqlite.opening import Opening
from operator_core.db.sqlite.reader import SqliteReader
from operator_core.db.sqlite.schema import Schema
from operator_core.db.sqlite.transaction import BlockingTransaction
from operator_core.db.sqlite.work_limit import WorkLimit

__all__ = ["SyncSqliteRunner"]

T = TypeVar("T")


class SyncSqliteRunner:
    """As `SqliteRunner`, without threads of its own and without an event loop. Several threads may use it."""

    def __init__(
        self,
        path: str,
        schema: Schema,
        *,
        busy_timeout: float,
        upgrade: bool = True,
        file_mode: int = FILE_MODE,
    ) -> None:
        self._opening = Opening(
            path,
            schema,
            busy_timeout=busy_timeout,
            upgrade=upgrade,
            file_mode=file_mode,
            any_thread=True,
        )
        self._check_files = self._opening.check_files
        self._pid: int | None = None
        self._is_open = False
        # Opening and closing; then the writing connection, and the reading one.
        self._gate = threading.Lock()
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._new_handles()
        self._held: BlockingTransaction | None = None
        self._doorbell = Doorbell()
        self._pollers: set[SqliteChanges] = set()

    def _new_handles(self) -> None:
        opening = self._opening
        self._writer = SqliteHandle(
            **(opening.memory() if opening.in_memory else opening.writing())
        )
        # The connection that checks the schema is also the one that reads.
        opener = opening.reading(query_only=False)
        self._reader = SqliteReader(
            SqliteHandle(opener, busy_timeout=opening.busy_timeout), opener, opening.file
        )

    def __del__(self) -> None:
        if self._is_open and os.getpid() == self._pid:
            self.close()
            warn_unclosed(self._opening.name, self, "with SyncActionDB(...)")

    @property
    def path(self) -> Path | None:
        """The path of the file; None in memory."""
        return self._opening.path

    def open(self) -> None:
        """Opens the ledger, as `SqliteRunner` does."""
        if self._is_open:
            check_process(self._pid)
        with self._gate:
            if self._is_open:
                return
            self._pid = os.getpid()
            self._new_handles()
            handle = self._writer if self._opening.in_memory else self._reader.connection
            try:
                self._opening.make_ready(handle, WorkLimit(), self)
            except BaseException as error:
                handle.disconnect()
                release(self)
                handle.raise_own(error)
            self._is_open = True

    def close(self) -> None:
        """Refuses new units, waits for running ones, rolls back an open transaction, and closes."""
        if os.getpid() != self._pid:
            return
        with self._gate:
            if not self._is_open:
                return
            self._is_open = False
            # Wakes the listeners, which then find the ledger closed.
            self._doorbell.ring()
            if (held := self._held) is not None:
                held.end_quietly()
            with self._writing, self._reading:
                # The writer comes last: the last connection moves the write-ahead log into the file.
                for poller in list(self._pollers):
                    poller.end()
                    poller.join()
                self._reader.connection.disconnect()
                self._writer.disconnect()
            release(self)

    def read(self, unit: Unit[T]) -> T:
        """Runs `unit` on the last committed state; in memory, after the running write."""
        if self._opening.in_memory:
            return self.write(partial(read_damaged, unit=unit))
        self._check_open()
        reader = self._reader
        with self._reading:
            self._check_open()
            try:
                return reader.read(unit)
            except Exception as error:
                reader.connection.raise_own(error)
            except BaseException:
                # Interrupted between the rows of a result. While it is open, later reads would see its state.
                reader.connection.drop()
                raise

    def write(self, unit: Unit[T]) -> T:
        """Runs `unit` as one transaction, and returns when it is durable; any exception rolls it back."""
        self._check_open()
        self._check_not_inside()
        with self._writing:
            self._check_open()
            writer = self._writer
            try:
                self._check_files(begun=False)
                writer.begin()
                raw = writer.raw
                before = raw.total_changes
                (result,) = run_units(writer.wrapped, [unit])
                raw.execute("COMMIT")
                changes = raw.total_changes != before
                if changes:
                    self._check_files(begun=True)
            except BaseException as error:
                writer.undo()
                writer.raise_own(error)
        if changes:
            self._doorbell.ring()
        return result

    @contextmanager
    def transaction(self) -> Generator[BlockingUnits]:
        """Holds the write lock from entry to exit; other threads that write wait."""
        self._check_open()
        self._check_not_inside()
        self._writing.acquire()
        transaction = BlockingTransaction(self._writer, self._release, self._committed)
        try:
            self._begin(transaction)
            with inside(transaction):
                yield transaction
        except BaseException:
            transaction.end_quietly()
            raise
        transaction.commit()

    def _begin(self, transaction: BlockingTransaction) -> None:
        try:
            self._check_open()
            self._check_files(begun=False)
            self._writer.begin()
        except Exception as error:
            self._writer.raise_own(error)
        transaction.begun()
        self._held = transaction
        # `close` looks for it after it has closed the ledger to new calls.
        self._check_open()

    def _release(self) -> None:
        self._held = None
        self._writing.release()

    def _committed(self, changes: bool) -> None:
        if changes:
            try:
                self._check_files(begun=True)
            finally:
                self._doorbell.ring()

    @contextmanager
    def changes(self) -> Generator[threading.Event]:
        """Yields an event that each commit sets: a commit of this ledger at once, others within about 20 ms."""
        self._check_open()
        self._check_not_inside()
        with self._doorbell.listening_in_thread() as changed:
            if self._opening.in_memory:
                yield changed
                return
            connection = SqliteConnection(
                self._opening.reading(), busy_timeout=self._opening.busy_timeout
            )
            poller = SqliteChanges(connection, changed.set)
            self._pollers.add(poller)
            try:
                poller.wait_started()
                self._check_open()
                yield changed
            finally:
                self._pollers.discard(poller)
                poller.end()
                poller.join()

    def _check_not_inside(self) -> None:
        held = self._held
        check_outside(() if held is None else (held,))

    def _check_open(self) -> None:
        if not self._is_open:
            raise not_open()
        check_process(self._pid)
