"""A transaction() of a SQLite ledger: units of work inside it, and its end."""

import asyncio
import logging
import os
import weakref
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Final, TypeVar

from sqlalchemy import Connection

from operator_core.actions.errors import NotOpen
from operator_core.db.run.blocking import BlockingBlock, nested
from operator_core.db.run.runner import UnitRunner, no_waiting
from operator_core.db.sql.errors import read_damaged
from operator_core.db.sql.savepoint import savepoint
from operator_core.db.sql.unit import Unit
from operator_core.db.sqlite.connection import SqliteConnection
from operator_core.db.sqlite.handle import SqliteHandle

__all__ = ["BlockingTransaction", "SqliteTransaction"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


class _OnHandle:
    """A transaction on a connection. Only one thread at a time may call it, that of a `SqliteConnection` if it has one.

    `committed` runs after a COMMIT, with whether it changed any row.
    """

    _LOST: Final = "the transaction is lost: it was rolled back, and nothing of it was kept"

    def __init__(self, handle: SqliteHandle, committed: Callable[[bool], None]) -> None:
        self._handle = handle
        self._committed = committed
        self._changes_before = 0
        self.over = False

    def begun(self) -> None:
        """Notes the state at the start; called right after the BEGIN."""
        self._changes_before = self._handle.raw.total_changes

    def _end(self, how: str) -> None:
        if self.over:
            # Closing the ledger has ended it before.
            if how == "COMMIT":
                raise NotOpen(self._LOST)
            return
        self.over = True
        try:
            raw = self._handle.raw
            if raw.in_transaction:
                raw.execute(how)
                if how == "COMMIT":
                    self._committed(raw.total_changes != self._changes_before)
            elif how == "COMMIT":
                raise NotOpen(self._LOST)
        finally:
            self._handle.undo()

    def _usable(self) -> Connection:
        if self.over:
            raise NotOpen("the transaction is over")
        if not self._handle.raw.in_transaction:
            # A full disk ends the transaction; the next statement would begin another one.
            raise NotOpen(self._LOST)
        return self._handle.wrapped

    def _read(self, unit: Unit[T]) -> T:
        return read_damaged(self._usable(), unit)

    def _in_savepoint(self, unit: Unit[T]) -> T:
        conn = self._usable()
        with savepoint(conn):
            return unit(conn)


class SqliteTransaction(_OnHandle):
    """A `UnitRunner` inside one transaction, for the task that began it and for tasks that get it from there.

    `release` lets other callers write.
    """

    commits = False

    def __init__(
        self,
        connection: SqliteConnection,
        release: Callable[[], None],
        committed: Callable[[bool], None],
    ) -> None:
        super().__init__(connection, committed)
        self._connection = connection
        self._release = release
        # Weak, so that an unused event loop, and the transaction with it, can be garbage-collected.
        self._loop = weakref.ref(asyncio.get_running_loop())

    @property
    def is_wanted(self) -> bool:
        """Whether a caller can still end it: it is not over, and its event loop is not closed."""
        loop = self._loop()
        return not self.over and loop is not None and not loop.is_closed()

    async def read(self, unit: Unit[T]) -> T:
        """Runs `unit`, which sees the changes of the transaction."""
        return await self._connection.run_raw(lambda: self._read(unit))

    async def write(self, unit: Unit[T]) -> T:
        """Runs `unit` in a savepoint: if it fails, the transaction stays as it was before."""
        return await self._connection.run_raw(lambda: self._in_savepoint(unit))

    def transaction(self) -> AbstractAsyncContextManager[UnitRunner]:
        """Raises `ActionError`: a nested transaction is a part of the outer one that could be undone alone."""
        raise nested()

    def changes(self) -> AbstractAsyncContextManager[asyncio.Event]:
        """Raises `ActionError`."""
        raise no_waiting()

    async def end(self, how: str) -> None:
        """Commits or rolls back and lets other callers write, even if this caller is cancelled.

        Raises `NotOpen` for a COMMIT if the transaction is already rolled back.
        """
        try:
            await self._connection.run_raw(lambda: self._end(how))
        except NotOpen:
            if how == "COMMIT":
                raise NotOpen(self._LOST) from None

    def _end(self, how: str) -> None:
        was_over = self.over
        try:
            super()._end(how)
        finally:
            if not was_over:
                self._release()

    def end_quietly(self) -> None:
        """Rolls back the transaction unless it is over; never raises."""
        try:
            self._end("ROLLBACK")
        except Exception:
            logger.exception("an abandoned transaction could not be rolled back")

    def abandon(self) -> None:
        """Rolls back a transaction that has no caller: the caller was cancelled while it began."""
        with suppress(NotOpen):
            self._connection.submit(self.end_quietly)


class BlockingTransaction(BlockingBlock, _OnHandle):
    """A `BlockingUnits` inside one transaction. Its threads take turns, so that their savepoints do not interleave."""

    def __init__(self, handle: SqliteHandle, committed: Callable[[bool], None]) -> None:
        BlockingBlock.__init__(self)
        _OnHandle.__init__(self, handle, committed)
        self._left = False

    def read(self, unit: Unit[T]) -> T:
        """Runs `unit`, which sees the changes of the transaction."""
        return self._in_turn(lambda: self._read(unit))

    def write(self, unit: Unit[T]) -> T:
        """Runs `unit` in a savepoint: if it fails, the transaction stays as it was before."""
        return self._in_turn(lambda: self._in_savepoint(unit))

    def commit(self) -> None:
        """Commits. Raises `NotOpen` if the transaction is already rolled back."""
        self._in_turn(lambda: self._end("COMMIT"))

    def leave(self) -> None:
        """Rolls back what is not committed, after the running unit; never raises. A second call does nothing.

        Afterwards this object does not use the connection. In a fork it does nothing: the connection is the parent's.
        """
        if os.getpid() != self._pid:
            return
        with self._turn.lock:
            # Also after an interrupted commit, which is over and may not be rolled back.
            self.over = True
            if not self._left:
                self._handle.undo()
                self._left = True

    def _in_turn(self, call: Callable[[], T]) -> T:
        try:
            return super()._in_turn(call)
        except BaseException as error:
            self._handle.raise_own(error)
