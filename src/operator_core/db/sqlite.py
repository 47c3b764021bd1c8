"""Units of work on a SQLite file or in memory: one writer, group-committed, with readers beside it.

Writers: one connection in one thread. What waits runs in one ``BEGIN IMMEDIATE ... COMMIT``, and
every caller is answered after the commit. If a unit fails, the group is rolled back and each unit
runs again on its own, so that no one pays for a neighbour. Readers: other connections, one hop
each, beside the writer. In memory there is one connection, and readers queue with the writers.
"""

import asyncio
import os
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeVar, cast

from sqlalchemy import Connection

from operator_core.actions.errors import ActionError, NotOpen, WrongProcess
from operator_core.db import migrate
from operator_core.db.engine import Unit, UnitRunner
from operator_core.db.sqlite_connection import MEMORY, Answer, SqliteConnection

__all__ = ["SqliteRunner"]

T = TypeVar("T")

_MAX_GROUP: Final = 128
"""How many units share one commit at the most: whoever comes first waits for the whole group."""

_MAX_READERS: Final = 4
"""How many connections read at once at the most. A read holds the interpreter, so more help little."""


class _Job:
    """A unit in the writer's queue, and the caller who waits for it."""

    __slots__ = ("answer", "unit")

    def __init__(self, unit: Unit[Any], answer: Answer) -> None:
        self.unit = unit
        self.answer = answer


class _Begin(_Job):
    """The start of a transaction in the queue: what comes behind it waits until that is over."""


class SqliteRunner:
    """Runs units of work on one SQLite database. Any number may be open on the same file."""

    def __init__(self, path: str, *, busy_timeout: float) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._queue: deque[_Job] = deque()
        self._draining = False
        self._held: _Transaction | None = None
        self._closed = True
        self._writer: SqliteConnection | None = None
        self._readers: list[_Reader] = []

    @property
    def _in_memory(self) -> bool:
        return self._path == MEMORY

    async def open(self) -> None:
        """Opens the file, makes it if there is none, and upgrades its schema if that is behind."""
        self._check_process()
        if not self._closed:
            return
        connection = self._connect(read_only=False)
        try:
            await connection.run_raw(lambda: self._make_ready(connection))
        except BaseException:
            await asyncio.shield(connection.shut())
            raise
        # The connection that looked goes on as the first reader, or in memory as the only one.
        if self._in_memory:
            self._writer = connection
        else:
            self._readers = [_Reader(connection)]
        self._closed = False

    def _make_ready(self, connection: SqliteConnection) -> None:
        migrate.make_current(connection.wrapped, busy_timeout=self._busy_timeout)
        if not self._in_memory:
            connection.raw.execute("PRAGMA query_only = ON")

    def _connect(self, *, read_only: bool) -> SqliteConnection:
        connection = SqliteConnection(
            self._path, busy_timeout=self._busy_timeout, read_only=read_only
        )
        connection.start()
        return connection

    async def close(self) -> None:
        """Refuses new units, lets the queued ones finish, rolls back an open transaction, closes."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        await asyncio.shield(asyncio.ensure_future(self._close()))

    async def _close(self) -> None:
        with self._lock:
            held = self._held
        if held is not None:
            await held.end("ROLLBACK")
        writer, self._writer = self._writer, None
        readers, self._readers = self._readers, []
        if writer is not None:
            while self._draining:
                await writer.run_raw(lambda: None)
            await writer.shut()
        for reader in readers:
            await reader.connection.shut()

    async def read(self, unit: Unit[T]) -> T:
        """Runs `unit` beside the writers, on the last committed state; in memory, after them."""
        self._check_open()
        if self._in_memory:
            return await self.write(unit)
        reader = self._choose_reader()
        reader.waiting += 1
        try:
            return await reader.connection.run(unit)
        finally:
            reader.waiting -= 1

    def _choose_reader(self) -> "_Reader":
        reader = min(self._readers, key=lambda each: each.waiting)
        if reader.waiting and len(self._readers) < _MAX_READERS:
            reader = _Reader(self._connect(read_only=True))
            self._readers.append(reader)
        return reader

    async def write(self, unit: Unit[T]) -> T:
        """Runs `unit` and answers when it is durable. A cancelled caller's unit is whole or absent."""
        self._check_open()
        self._check_not_inside()
        answer = Answer()
        self._enqueue(_Job(unit, answer))
        return cast(T, await answer.future)

    def transaction(self) -> AbstractAsyncContextManager[UnitRunner]:
        """Holds the write lock from entry to exit: the other writers of the process queue behind."""
        return self._transact()

    @asynccontextmanager
    async def _transact(self) -> AsyncGenerator[UnitRunner]:
        self._check_open()
        self._check_not_inside()
        transaction = _Transaction(self._started_writer(), self._release, asyncio.current_task())
        answer = Answer(orphaned=transaction.abandon)
        self._enqueue(_Begin(transaction.begin_for(self._hold), answer))
        try:
            await answer.future
        except asyncio.CancelledError:
            # Cancelled in the very turn of the loop that brought the answer.
            if not answer.abandoned:
                await transaction.end("ROLLBACK")
            raise
        try:
            yield transaction
        except BaseException:
            await transaction.end("ROLLBACK")
            raise
        await transaction.end("COMMIT")

    # ------ the queue; callers put, the writer's thread takes

    def _started_writer(self) -> SqliteConnection:
        if self._writer is None:
            self._writer = self._connect(read_only=False)
            self._writer.submit(self._use_wal)
        return self._writer

    def _use_wal(self) -> None:
        writer = self._writer
        assert writer is not None
        try:
            migrate.use_wal(writer.wrapped, busy_timeout=self._busy_timeout)
        except BaseException as error:
            # Whoever comes first is told; a medium that can't be written fails each write anyway.
            with self._lock:
                waiting, self._queue = list(self._queue), deque()
            for job in waiting:
                job.answer.send(error=writer.translate(error))

    def _enqueue(self, job: _Job) -> None:
        writer = self._started_writer()
        with self._lock:
            self._queue.append(job)
            if self._draining or self._held is not None:
                return
            self._draining = True
        writer.submit(lambda: self._drain(writer))

    def _drain(self, writer: SqliteConnection) -> None:
        group = self._next_group()
        if group and isinstance(group[0], _Begin):
            self._begin(writer, group[0])
        elif group:
            self._run_group(writer, group)
        with self._lock:
            self._draining = bool(self._queue) and self._held is None
            again = self._draining
        if again:
            writer.submit(lambda: self._drain(writer))

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

    def _run_group(self, writer: SqliteConnection, group: list[_Job]) -> None:
        try:
            raw, wrapped = writer.raw, writer.wrapped
            raw.execute("BEGIN IMMEDIATE")
        except BaseException as error:
            # Not one unit's fault: asking again for each would make the last wait for all timeouts.
            for job in group:
                job.answer.send(error=writer.translate(error))
            return
        try:
            try:
                results = [job.unit(wrapped) for job in group]
                raw.execute("COMMIT")
            except BaseException:
                # A failed COMMIT may have rolled back already.
                if raw.in_transaction:
                    raw.execute("ROLLBACK")
                raise
        except BaseException as error:
            if len(group) == 1:
                group[0].answer.send(error=writer.translate(error))
            else:
                for job in group:
                    self._run_group(writer, [job])
        else:
            Answer.send_all(
                [(job.answer, result) for job, result in zip(group, results, strict=True)]
            )

    def _begin(self, writer: SqliteConnection, job: _Begin) -> None:
        try:
            transaction = job.unit(writer.wrapped)
        except BaseException as error:
            job.answer.send(error=writer.translate(error))
        else:
            job.answer.send(transaction)

    def _hold(self, transaction: "_Transaction") -> None:
        with self._lock:
            self._held = transaction

    def _release(self) -> None:
        with self._lock:
            self._held = None
            if self._draining or not self._queue:
                return
            self._draining = True
        writer = self._writer
        assert writer is not None
        writer.submit(lambda: self._drain(writer))

    # ------ misuse, told at once instead of hanging or answering wrongly

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise WrongProcess(self._pid, os.getpid())

    def _check_open(self) -> None:
        self._check_process()
        if self._closed:
            raise NotOpen("the ledger is not open: use `async with ActionDB(...) as db:`")

    def _check_not_inside(self) -> None:
        held = self._held
        if held is not None and held.owner is asyncio.current_task():
            raise ActionError(
                "inside transaction(), call the methods of the object that it yields: "
                "this call would wait for the transaction that it is in"
            )


class _Reader:
    """A connection that reads, and how many callers wait for it."""

    __slots__ = ("connection", "waiting")

    def __init__(self, connection: SqliteConnection) -> None:
        self.connection = connection
        self.waiting = 0


class _Transaction:
    """A `UnitRunner` inside one transaction. Each unit in it is all or nothing too."""

    def __init__(
        self,
        writer: SqliteConnection,
        release: Callable[[], None],
        owner: "asyncio.Task[Any] | None",
    ) -> None:
        self._writer = writer
        self._release = release
        self._over = False
        self.owner = owner

    def begin_for(self, hold: Callable[["_Transaction"], None]) -> Unit["_Transaction"]:
        """The unit that begins it, in the writer's thread."""

        def begin(_: Connection) -> "_Transaction":
            self._writer.raw.execute("BEGIN IMMEDIATE")
            hold(self)
            return self

        return begin

    def abandon(self) -> None:
        """Rolls back what nobody will end: the caller was cancelled while it was begun."""
        self._writer.submit(self._rollback)

    async def end(self, how: str) -> None:
        """Commits or rolls back, once, and lets the others write, whatever becomes of the caller."""
        if not self._over:
            await self._writer.run_raw(lambda: self._end(how))

    def _end(self, how: str) -> None:
        if self._over:
            return
        self._over = True
        raw = self._writer.raw
        try:
            raw.execute(how)
        finally:
            if raw.in_transaction:
                raw.execute("ROLLBACK")
            self._release()

    def _rollback(self) -> None:
        try:
            self._end("ROLLBACK")
        except BaseException:  # the connection is gone, and the transaction with it
            self._release()

    async def read(self, unit: Unit[T]) -> T:
        """Runs `unit` on what the transaction has done so far."""
        return await self._writer.run_raw(lambda: unit(self._usable()))

    async def write(self, unit: Unit[T]) -> T:
        """Runs `unit` in a savepoint: if it fails, the transaction is as it was before."""
        return await self._writer.run_raw(lambda: self._in_savepoint(unit))

    def transaction(self) -> AbstractAsyncContextManager[UnitRunner]:
        """Refused: nested transactions are one transaction with parts that may vanish."""
        raise ActionError("a transaction() can't be opened inside another one")

    def _usable(self) -> Connection:
        if self._over:
            raise NotOpen("the transaction is over")
        return self._writer.wrapped

    def _in_savepoint(self, unit: Unit[T]) -> T:
        wrapped = self._usable()
        raw = self._writer.raw
        raw.execute("SAVEPOINT unit")
        try:
            result = unit(wrapped)
        except BaseException:
            # A full disk ends the whole transaction, savepoints included.
            if raw.in_transaction:
                raw.execute("ROLLBACK TO unit")
                raw.execute("RELEASE unit")
            raise
        raw.execute("RELEASE unit")
        return result
