"""The only writer of a SQLite ledger: it commits queued units in groups, and holds the queue for a transaction.

Callers queue units from any thread and any event loop. The connection's thread takes the waiting units and
runs them in one ``BEGIN IMMEDIATE ... COMMIT``. Every caller gets its answer after the commit. If a unit fails,
the group is rolled back and each unit runs again alone, so that a failure does not affect other callers.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from copy import copy
from typing import Any, Final, TypeVar, cast

from operator_core.actions.errors import ActionError, NotOpen, StorageUnavailable
from operator_core.db.run.runner import UnitRunner, check_outside, inside
from operator_core.db.sql.unit import Unit, run_units
from operator_core.db.sqlite.connection import Answer, SqliteConnection
from operator_core.db.sqlite.transaction import SqliteTransaction

__all__ = ["SqliteWriter"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_MAX_GROUP: Final = 128
"""The maximum number of units in one commit: the first caller waits for the whole group."""


_LOOK_EVERY: Final = 0.5
"""Seconds between two checks that the event loop of an open transaction is not closed."""


class _Job:
    """A unit in the queue, and its waiting caller."""

    __slots__ = ("answer", "unit")

    def __init__(self, unit: Unit[Any], answer: Answer) -> None:
        self.unit = unit
        self.answer = answer


class _Begin(_Job):
    """The start of a transaction: later units in the queue wait until the transaction is over."""

    __slots__ = ()


class SqliteWriter:
    """Queues units of work for one connection; nothing else writes through that connection.

    `check_files` raises if the file that receives the writes is not the ledger's file. It runs before each BEGIN. It also
    runs after each COMMIT that changed rows, before any caller gets an answer; then `changed` runs.
    """

    def __init__(
        self,
        connection: SqliteConnection,
        *,
        check_files: Callable[..., None],
        changed: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._check_files = check_files
        self._changed = changed
        # Reentrant: while a thread holds the lock, the garbage collector may close this ledger in that thread.
        self._lock = threading.RLock()
        # The lock guards these four attributes: callers' threads and the connection's thread use them.
        self._queue: deque[_Job] = deque()
        self._draining = False
        self._held: SqliteTransaction | None = None
        self._closing = False

    @property
    def connection(self) -> SqliteConnection:
        """The connection; callers use it to wait until its thread has ended."""
        return self._connection

    async def write(self, unit: Unit[T]) -> T:
        """Runs `unit` and returns when it is durable.

        If the caller is cancelled, the unit takes effect as a whole or not at all.
        """
        self.check_not_inside()
        answer = Answer()
        self._enqueue(_Job(unit, answer))
        return cast(T, await answer.future)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[UnitRunner]:
        """Holds the write lock from entry to exit; the queue waits."""
        self.check_not_inside()
        transaction = SqliteTransaction(self._connection, self._release, self._committed)
        answer = Answer(orphaned=transaction.abandon)
        self._enqueue(_Begin(lambda conn: self._hold(transaction), answer))
        try:
            await answer.future
        except asyncio.CancelledError:
            # Cancelled in the same turn of the event loop that delivered the answer.
            if not answer.abandoned:
                await transaction.end("ROLLBACK")
            raise
        try:
            with inside(transaction):
                yield transaction
        except GeneratorExit:
            # Garbage-collected: there may be no event loop to wait in.
            transaction.abandon()
            raise
        except BaseException:
            await transaction.end("ROLLBACK")
            raise
        await transaction.end("COMMIT")

    def end(self) -> None:
        """Rolls back an open transaction, finishes the queue, and ends the connection, without waiting."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        with suppress(NotOpen):
            self._connection.submit(self._end_when_empty)

    def check_not_inside(self) -> None:
        """Raises `ActionError` in a task that is inside this writer's transaction."""
        held = self._held
        check_outside(() if held is None else (held,))

    def _enqueue(self, job: _Job) -> None:
        with self._lock:
            if self._closing:
                raise NotOpen("the ledger was closed")
            self._queue.append(job)
            if self._held is None:
                self._start_draining()

    def _start_draining(self) -> None:
        if not self._queue or self._draining:
            return
        try:
            self._connection.submit(self._drain)
        except NotOpen as error:
            while self._queue:
                self._queue.popleft().answer.send(error=copy(error))
        else:
            self._draining = True

    # From here on: in the connection's thread.

    def _drain(self) -> None:
        group: list[_Job] = []
        try:
            group = self._next_group()
            if group and isinstance(group[0], _Begin):
                self._begin(group[0])
            elif group:
                self._run_together(group)
        except BaseException as error:
            # Not a failure of a unit: those are caught. Callers without an answer get this error.
            logger.exception("the ledger's writer failed; its connection is replaced")
            self._connection.drop()
            self._send_error(group, error)
        finally:
            group.clear()
            self._serve_held()
            with self._lock:
                self._draining = False
                if self._held is None:
                    self._start_draining()

    def _serve_held(self) -> None:
        """Runs the work of an open transaction until it is over or its event loop is closed."""
        with self._lock:
            held = self._held
        while held is not None and not held.over:
            self._connection.serve_while(lambda: held.is_wanted, look_every=_LOOK_EVERY)
            held.end_quietly()

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
            self._check_files(begun=False)
            self._connection.begin()
            raw, conn = self._connection.raw, self._connection.wrapped
        except BaseException as error:
            # Not a failure of one unit. A retry for each unit would make the last caller wait for all timeouts.
            self._connection.undo()
            self._send_error(group, error)
            return
        before = raw.total_changes
        try:
            results = run_units(conn, [job.unit for job in group], self._check_begun)
            raw.execute("COMMIT")
        except BaseException as error:
            # A failed COMMIT may have rolled back already.
            self._connection.undo()
            if len(group) == 1:
                self._send_error(group, error)
                return
        else:
            self._answer(group, results, raw.total_changes != before)
            return
        for job in group:
            self._run_together([job])

    def _check_begun(self) -> None:
        # A trigger of another program can end the transaction, and a unit may take that for a refusal. The units
        # after it would be committed one by one.
        if not self._connection.raw.in_transaction:
            raise StorageUnavailable(
                "a statement has ended the transaction: nothing of it was kept"
            )

    def _answer(self, group: list[_Job], results: list[Any], changes: bool) -> None:
        try:
            if changes:
                self._check_files(begun=True)
        except BaseException as error:
            self._send_error(group, error)
            return
        Answer.send_all([(job.answer, each) for job, each in zip(group, results, strict=True)])
        if changes:
            self._changed()

    def _send_error(self, group: Iterable[_Job], error: BaseException) -> None:
        for number, job in enumerate(group):
            translated = self._connection.translate(error)
            # One copy for each caller: raising an exception adds to its traceback.
            shared = number and translated is error and isinstance(translated, ActionError)
            job.answer.send(error=copy(translated) if shared else translated)

    def _committed(self, changes: bool) -> None:
        if changes:
            try:
                self._check_files(begun=True)
            finally:
                self._changed()

    def _begin(self, job: _Begin) -> None:
        try:
            self._check_files(begun=False)
            self._connection.begin()
            job.unit(self._connection.wrapped)
        except BaseException as error:
            self._connection.undo()
            self._send_error([job], error)
        else:
            job.answer.send()

    def _hold(self, transaction: SqliteTransaction) -> None:
        transaction.begun()
        with self._lock:
            self._held = transaction

    def _release(self) -> None:
        with self._lock:
            self._held = None
            self._start_draining()

    def _end_when_empty(self) -> None:
        with self._lock:
            held, busy = self._held, self._draining
        if held is not None:
            held.end_quietly()
        if held is None and not busy:
            self._connection.end()
            return
        with suppress(NotOpen):
            # Runs after the work that is queued at this moment.
            self._connection.submit(self._end_when_empty)
