"""The one writer of a SQLite ledger: a queue of units, committed in groups, or held by a transaction.

Callers put units in the queue, on any thread and any event loop; the connection's thread takes what
waits and runs it in one ``BEGIN IMMEDIATE ... COMMIT``. Every caller is answered after the commit. If
a unit fails, the group is rolled back and each unit runs again on its own, so that no one pays for a
neighbour.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeVar, cast

from sqlalchemy import Connection

from operator_core.actions.errors import ActionError, NotOpen
from operator_core.db.driver_errors import read_damaged
from operator_core.db.engine import Unit, UnitRunner, check_outside, inside, no_waiting, run_units
from operator_core.db.savepoint import savepoint
from operator_core.db.sqlite_connection import Answer, SqliteConnection

__all__ = ["SqliteWriter"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MAX_GROUP: Final = 128
"""How many units share one commit at the most: whoever comes first waits for the whole group."""


class _Job:
    """A unit in the queue, and the caller who waits for it."""

    __slots__ = ("answer", "unit")

    def __init__(self, unit: Unit[Any], answer: Answer) -> None:
        self.unit = unit
        self.answer = answer


class _Begin(_Job):
    """The start of a transaction: what stands behind it in the queue waits until that is over."""

    __slots__ = ()


class SqliteWriter:
    """Queues units of work for one connection, which nobody else writes through."""

    def __init__(self, connection: SqliteConnection, committed: Callable[[], None]) -> None:
        self._connection = connection
        self._committed = committed
        self._lock = threading.Lock()
        # All three are guarded by the lock: callers' threads and the connection's meet here.
        self._queue: deque[_Job] = deque()
        self._draining = False
        self._held: _Transaction | None = None

    async def write(self, unit: Unit[T], *, single: bool = False) -> T:
        """Runs `unit` and answers when it is durable. A cancelled caller's unit is whole or absent."""
        self.check_not_inside()
        answer = Answer()
        self._enqueue(_Job(unit, answer))
        return cast(T, await answer.future)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[UnitRunner]:
        """Holds the write lock from entry to exit; the queue waits."""
        self.check_not_inside()
        transaction = _Transaction(self._connection, self._release, self._committed)
        answer = Answer(orphaned=transaction.abandon)
        self._enqueue(_Begin(lambda conn: self._hold(transaction), answer))
        try:
            await answer.future
        except asyncio.CancelledError:
            # Cancelled in the very turn of the loop that brought the answer.
            if not answer.abandoned:
                await transaction.end("ROLLBACK")
            raise
        try:
            with inside(transaction):
                yield transaction
        except BaseException:
            await transaction.end("ROLLBACK")
            raise
        await transaction.end("COMMIT")

    async def close(self) -> None:
        """Rolls back an open transaction, lets the queue run empty, and closes the connection."""
        while True:
            with self._lock:
                held, busy = self._held, self._draining
            if held is not None:
                await held.end("ROLLBACK")
            elif busy:
                await self._connection.run_raw(lambda: None)
            else:
                break
        await self._connection.shut()

    def check_not_inside(self) -> None:
        """Raises `ActionError` in a task that is inside this writer's transaction."""
        held = self._held
        check_outside(() if held is None else (held,))

    def _enqueue(self, job: _Job) -> None:
        with self._lock:
            self._queue.append(job)
            if self._held is None:
                self._start_draining()

    def _start_draining(self) -> None:
        if self._queue and not self._draining:
            self._connection.submit(self._drain)
            self._draining = True

    # ------ from here on in the connection's thread

    def _drain(self) -> None:
        group = self._next_group()
        if group and isinstance(group[0], _Begin):
            self._begin(group[0])
        elif group:
            self._run_together(group)
        with self._lock:
            self._draining = False
            if self._held is None:
                self._start_draining()

    def _next_group(self) -> list[_Job]:
        group: list[_Job] = []
        with self._lock:
            while self._queue and len(group) < _MAX_GROUP:
                if isinstance(self._queue[0], _Begin) and group:
                    break
                job = self._queue.popleft()
                if job.answer.abandoned:
                    continue
                group.append(job)
                if isinstance(job, _Begin):
                    break
        return group

    def _run_together(self, group: list[_Job]) -> None:
        try:
            raw, conn = self._connection.raw, self._connection.wrapped
            raw.execute("BEGIN IMMEDIATE")
        except BaseException as error:
            # Not one unit's fault: asking again for each would make the last wait for all timeouts.
            for job in group:
                job.answer.send(error=self._connection.translate(error))
            return
        try:
            results = run_units(conn, [job.unit for job in group])
            raw.execute("COMMIT")
        except BaseException as error:
            # A failed COMMIT may have rolled back already.
            if raw.in_transaction:
                raw.execute("ROLLBACK")
            if len(group) == 1:
                group[0].answer.send(error=self._connection.translate(error))
                return
        else:
            Answer.send_all([(job.answer, each) for job, each in zip(group, results, strict=True)])
            self._committed()
            return
        for job in group:
            self._run_together([job])

    def _begin(self, job: _Begin) -> None:
        try:
            self._connection.raw.execute("BEGIN IMMEDIATE")
            job.unit(self._connection.wrapped)
        except BaseException as error:
            job.answer.send(error=self._connection.translate(error))
        else:
            job.answer.send()

    def _hold(self, transaction: "_Transaction") -> None:
        with self._lock:
            self._held = transaction

    def _release(self) -> None:
        with self._lock:
            self._held = None
            self._start_draining()


class _Transaction:
    """A `UnitRunner` inside one transaction, for the task that began it and whom it hands it to."""

    _LOST: Final = "the transaction is lost: it was rolled back, and nothing of it was kept"

    def __init__(
        self,
        connection: SqliteConnection,
        release: Callable[[], None],
        committed: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._release = release
        self._committed = committed
        self._over = False

    async def read(self, unit: Unit[T]) -> T:
        """Runs `unit` on what the transaction has done so far."""
        return await self._connection.run_raw(lambda: read_damaged(self._usable(), unit))

    async def write(self, unit: Unit[T], *, single: bool = False) -> T:
        """Runs `unit` in a savepoint: if it fails, the transaction is as it was before."""
        return await self._connection.run_raw(lambda: self._in_savepoint(unit))

    def transaction(self) -> AbstractAsyncContextManager[UnitRunner]:
        """Refused: nested transactions are one transaction with parts that may vanish."""
        raise ActionError("a transaction() can't be opened inside another one")

    def changes(self) -> AbstractAsyncContextManager[asyncio.Event]:
        """Refused."""
        raise no_waiting()

    async def end(self, how: str) -> None:
        """Commits or rolls back and lets the others write, whatever becomes of the caller.

        Raises `NotOpen` if it was to be committed and is rolled back already.
        """
        try:
            await self._connection.run_raw(lambda: self._end(how))
        except NotOpen:
            if how == "COMMIT":
                raise NotOpen(self._LOST) from None

    def abandon(self) -> None:
        """Rolls back what nobody will end: the caller was cancelled while it was begun."""
        self._connection.submit(self._end_quietly)

    def _end(self, how: str) -> None:
        if self._over:
            # Closing the ledger was first.
            if how == "COMMIT":
                raise NotOpen(self._LOST)
            return
        self._over = True
        try:
            raw = self._connection.raw
            try:
                if raw.in_transaction:
                    raw.execute(how)
                    self._committed()
                elif how == "COMMIT":
                    raise NotOpen(self._LOST)
            finally:
                if raw.in_transaction:
                    raw.execute("ROLLBACK")
        finally:
            self._release()

    def _end_quietly(self) -> None:
        try:
            self._end("ROLLBACK")
        except Exception:
            logger.exception("a transaction that nobody waits for could not be rolled back")

    def _usable(self) -> Connection:
        if self._over:
            raise NotOpen("the transaction is over")
        if not self._connection.raw.in_transaction:
            # A full disk ends it; the next statement would begin a transaction of its own.
            raise NotOpen(self._LOST)
        return self._connection.wrapped

    def _in_savepoint(self, unit: Unit[T]) -> T:
        conn = self._usable()
        with savepoint(conn):
            return unit(conn)
