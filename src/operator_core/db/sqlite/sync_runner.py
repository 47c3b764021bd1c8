"""The runner for a SQLite file or a database in memory that works in the calling thread.

A file has a connection that writes and one that reads, each with a lock. The threads of the program take turns on
both; readers do not wait for the writer. In memory there is one connection.
"""

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TypeVar

from operator_core.db.run.blocking import BlockingUnits, not_open
from operator_core.db.run.notify import Doorbell
from operator_core.db.run.runner import check_outside, check_process, inside, is_inside
from operator_core.db.run.turn import Turn, in_the_middle
from operator_core.db.run.unclosed import warn_unclosed
from operator_core.db.sql.errors import read_damaged
from operator_core.db.sql.unit import Unit, run_units
from operator_core.db.sqlite.changes import SqliteChanges
from operator_core.db.sqlite.connection import SqliteConnection
from operator_core.db.sqlite.handle import SqliteHandle
from operator_core.db.sqlite.one_library import release
from operator_core.db.sqlite.opening import Opening
from operator_core.db.sqlite.reader import SqliteReader
from operator_core.db.sqlite.transaction import BlockingTransaction
from operator_core.db.sqlite.work_limit import WorkLimit

__all__ = ["SyncSqliteRunner"]

T = TypeVar("T")


class _Writer:
    """The writing connection of one opening, the turn to use it, and the transaction() that has the turn."""

    __slots__ = ("handle", "held", "turn")

    def __init__(self, handle: SqliteHandle) -> None:
        self.handle = handle
        self.turn = Turn()
        self.held: BlockingTransaction | None = None


class SyncSqliteRunner:
    """As `SqliteRunner`, without threads of its own and without an event loop.

    Several threads may use it, so the connections of `opening` are for any thread.
    """

    commits = True

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._check_files = self._opening.check_files
        self._pid: int | None = None
        self._is_open = False
        # For opening and closing. Reentrant: a signal handler may close the ledger meanwhile.
        self._gate = threading.RLock()
        self._reading = Turn()
        self._new_handles()
        self._doorbell = Doorbell()
        self._pollers: set[SqliteChanges] = set()

    def _new_handles(self) -> None:
        opening = self._opening
        self._writer = _Writer(
            SqliteHandle(**(opening.memory() if opening.in_memory else opening.writing()))
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
            handle = self._writer.handle if self._opening.in_memory else self._reader.connection
            try:
                self._opening.make_ready(handle, WorkLimit(), self)
            except BaseException as error:
                handle.disconnect()
                release(self)
                handle.raise_own(error)
            self._is_open = True

    def close(self) -> None:
        """Refuses new units, waits for running ones, rolls back an open transaction, and closes.

        Raises `ActionError` in a signal handler that has interrupted a unit of the same thread.
        """
        if os.getpid() != self._pid:
            return
        with self._gate:
            if not self._is_open:
                return
            if self.in_call:
                raise in_the_middle()
            self._is_open = False
            # Wakes the listeners, which then find the ledger closed.
            self._doorbell.ring()
            writer = self._writer
            held = writer.held
            if held is not None:
                held.leave()
            # Its block keeps the turn to its end, without the connection.
            turn = nullcontext() if held is not None else writer.turn.lock
            with turn, self._reading.lock:
                # The writer comes last: the last connection moves the write-ahead log into the file.
                for poller in list(self._pollers):
                    poller.end()
                    poller.join()
                self._reader.connection.disconnect()
                writer.handle.disconnect()
            release(self)

    @property
    def in_call(self) -> bool:
        """Whether the calling thread is in the middle of a unit."""
        writer = self._writer
        held = writer.held
        return writer.turn.is_mine or self._reading.is_mine or (held is not None and held.in_call)

    @property
    def can_write(self) -> bool:
        """Whether the calling thread is neither in the middle of a unit nor inside the transaction."""
        held = self._writer.held
        return not self.in_call and not is_inside(() if held is None else (held,))

    def read(self, unit: Unit[T]) -> T:
        """Runs `unit` on the last committed state; in memory, after the running write."""
        if self._opening.in_memory:
            return self.write(partial(read_damaged, unit=unit))
        self._check_open()
        return self._reading.run(partial(self._read_in_turn, unit))

    def _read_in_turn(self, unit: Unit[T]) -> T:
        # The ledger may have been closed and opened again meanwhile.
        self._check_open()
        reader = self._reader
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
        writer = self._my_writer()
        result, changes = writer.turn.run(partial(self._write_in_turn, writer, unit))
        if changes:
            self._doorbell.ring()
        return result

    def _write_in_turn(self, writer: "_Writer", unit: Unit[T]) -> tuple[T, bool]:
        """Returns the result, and whether the unit changed any row."""
        handle = writer.handle
        try:
            self._prepare(writer)
            raw = handle.raw
            before = raw.total_changes
            (result,) = run_units(handle.wrapped, [unit])
            raw.execute("COMMIT")
            changes = raw.total_changes != before
            if changes:
                self._check_files(begun=True)
        except BaseException as error:
            handle.undo()
            handle.raise_own(error)
        return result, changes

    @contextmanager
    def transaction(self) -> Generator[BlockingUnits]:
        """Holds the write lock from entry to exit; other threads that write wait."""
        writer = self._my_writer()
        with writer.turn.lock:
            transaction = BlockingTransaction(writer.handle, self._committed)
            try:
                self._begin(writer, transaction)
                with inside(transaction):
                    yield transaction
                transaction.commit()
            finally:
                transaction.leave()
                writer.held = None

    def _begin(self, writer: "_Writer", transaction: BlockingTransaction) -> None:
        turn = writer.turn
        try:
            turn.owner = threading.get_ident()
            self._prepare(writer)
            transaction.begun()
        except Exception as error:
            writer.handle.raise_own(error)
        finally:
            # The block may pass to another thread.
            turn.owner = None
        writer.held = transaction
        # `close` looks for it after it has closed the ledger to new calls.
        self._check_open()

    def _my_writer(self) -> "_Writer":
        """The writer, for a caller that does not hold its turn yet."""
        self._check_open()
        self._check_not_inside()
        writer = self._writer
        if writer.turn.is_mine:
            raise in_the_middle()
        return writer

    def _prepare(self, writer: "_Writer") -> None:
        """Begins a transaction on `writer`, whose turn the caller has taken."""
        self._check_open()
        if writer is not self._writer:
            # The ledger was closed and opened again meanwhile.
            raise not_open()
        # An interrupted block may have left it.
        writer.held = None
        self._check_files(begun=False)
        writer.handle.begin()

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
                poller.end()
                poller.join()
                # Last: if this is interrupted, `close` ends it.
                self._pollers.discard(poller)

    def _check_not_inside(self) -> None:
        held = self._writer.held
        check_outside(() if held is None else (held,))

    def _check_open(self) -> None:
        if not self._is_open:
            raise not_open()
        check_process(self._pid)
