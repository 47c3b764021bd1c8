"""The runner for PostgreSQL that works in the calling thread, on a pool of psycopg's synchronous connections."""

import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from operator_core.actions.errors import NotOpen
from operator_core.db.postgresql.attempts import (
    Attempt,
    check_worth_another,
    not_kept,
    outcome_unknown,
    own_error,
)
from operator_core.db.postgresql.connect import is_lost
from operator_core.db.postgresql.connections import (
    WHOLE,
    ServerConnections,
    single_statement,
)
from operator_core.db.postgresql.sync_listener import SyncServerChanges
from operator_core.db.run.backoff import delay
from operator_core.db.run.blocking import BlockingBlock, BlockingUnits, finished, not_open
from operator_core.db.run.borrowed import in_savepoint, read_in_savepoint, translated
from operator_core.db.run.notify import Doorbell
from operator_core.db.run.runner import check_outside, check_process, inside, is_inside
from operator_core.db.run.turn import in_the_middle
from operator_core.db.run.unclosed import warn_unclosed
from operator_core.db.sql.postgresql_errors import LOSSES, Limits, Trouble, trouble
from operator_core.db.sql.unit import Unit, run_units

__all__ = ["SyncServerRunner"]

T = TypeVar("T")


class SyncServerRunner:
    """As `ServerRunner`, without an event loop, on the ledger's own `engine`. Several threads may use it.

    A thread takes a connection of the pool for each call. `timeout` is the number of seconds that a call may wait.
    """

    commits = True

    def __init__(
        self, engine: Engine, check_schema: Callable[[Connection], None], *, timeout: float
    ) -> None:
        self._engine = engine
        self._check_schema = check_schema
        self._timeout = timeout
        self._connections = ServerConnections(engine, owned=True, keeps=False)
        # A single statement runs at the database's default level.
        self._alone_suffices = True
        self._limits = Limits(timeout)
        self._pid: int | None = None
        self._is_open = False
        # Reentrant: a signal handler may close the ledger while it is opened or closed.
        self._gate = threading.RLock()
        # Guards the running calls, each with its thread.
        self._state = threading.Condition()
        self._running: dict[object, int] = {}
        self._transactions: set[_SyncTransaction] = set()
        self._doorbell = Doorbell()
        # One listener for all waiters. Reentrant: the garbage collector may end an abandoned waiter.
        self._listening = threading.RLock()
        self._waiters: set[object] = set()
        self._changes: SyncServerChanges | None = None

    def __del__(self) -> None:
        if self._is_open and self._pid == os.getpid():
            self._is_open = False
            self._engine.dispose()
            warn_unclosed("on a server", self, "with SyncActionDB(...)")

    def open(self) -> None:
        """Checks the schema and changes nothing: only a deploy changes a server's schema."""
        if self._is_open:
            check_process(self._pid)
        with self._gate:
            if self._is_open:
                return
            self._pid = os.getpid()
            try:
                with self._translated():
                    session = self._connections.look(self._check_schema)
            except BaseException:
                self._engine.dispose()
                raise
            self._alone_suffices = session.read_committed
            self._limits = Limits(self._timeout, session.lock_timeout, session.statement_timeout)
            self._is_open = True

    def close(self) -> None:
        """Refuses new calls, rolls back open transactions, waits for running calls, and closes the connections.

        Raises `ActionError` in a signal handler that has interrupted a call of the same thread.
        """
        if self._pid != os.getpid():
            return
        with self._gate:
            if not self._is_open:
                return
            if self.in_call:
                raise in_the_middle()
            self._is_open = False
            # Transactions first: a running call may wait for a row that one of them has locked.
            for transaction in self._transactions.copy():
                transaction.close()
            # Wakes the listeners, which then find the ledger closed.
            self._doorbell.ring()
            self._stop_listening()
            with self._state:
                self._state.wait_for(lambda: not self._running)
            self._engine.dispose()

    @property
    def in_call(self) -> bool:
        """Whether the calling thread is in the middle of a call."""
        return threading.get_ident() in self._running.copy().values() or any(
            transaction.in_call for transaction in self._transactions.copy()
        )

    @property
    def can_write(self) -> bool:
        """Whether the calling thread is neither in the middle of a call nor inside a transaction."""
        return not self.in_call and not is_inside(self._transactions.copy())

    def read(self, unit: Unit[T]) -> T:
        """Runs `unit` on a connection of the pool; retries after a lost connection, because reads change nothing."""
        with self._call():
            return self._try(self._connections.read, unit)

    def write(self, unit: Unit[T]) -> T:
        """Runs `unit` as one transaction, or a `SingleStatement` without one; retries as `ServerRunner.write` does."""
        check_outside(self._transactions)
        with self._call():
            if single_statement(unit) is None or not self._alone_suffices:
                return self._try(self._connections.transact, unit)
            (result,) = self._try(self._connections.change, partial(run_units, units=[unit]))
            return result

    def _try(self, run: Callable[[Attempt, Unit[T]], T], unit: Unit[T]) -> T:
        attempt = Attempt()
        deadline = time.monotonic() + self._timeout
        failures = 0
        while True:
            attempt.begin()
            try:
                return run(attempt, unit)
            except Exception as error:
                late = time.monotonic() >= deadline
                check_worth_another(attempt, error, failures, late=late)
            failures += 1
            time.sleep(delay(failures))

    @contextmanager
    def transaction(self) -> Generator[BlockingUnits]:
        """A block that holds one connection of the pool."""
        check_outside(self._transactions)
        with self._call():
            transaction = _SyncTransaction(self._connected(), self._translated)
            self._transactions.add(transaction)
        try:
            # `close` looks for it after it has closed the ledger to new calls.
            self._check_open()
            transaction.begin()
            with inside(transaction):
                yield transaction
            transaction.commit()
        finally:
            try:
                transaction.close()
            finally:
                # Not earlier: `close` waits for it, or the connection would return to a pool that is disposed of.
                self._transactions.discard(transaction)

    def _connected(self) -> Connection:
        """A connection that was alive a moment ago, for a transaction; the body can't be repeated."""
        deadline = time.monotonic() + self._timeout
        failures = 0
        while True:
            try:
                return self._connections.connect(self._connections.whole, WHOLE)
            except Exception as error:
                if trouble(error) not in LOSSES or time.monotonic() >= deadline:
                    raise
            failures += 1
            time.sleep(delay(failures))

    @contextmanager
    def changes(self) -> Generator[threading.Event]:
        """A block with an event that is set after every possible commit, on any connection."""
        self._check_open()
        check_outside(self._transactions)
        with self._doorbell.listening_in_thread() as changed:
            waiter = object()
            try:
                self._listen(waiter).wait_started()
                self._check_open()
                yield changed
            finally:
                if os.getpid() == self._pid:
                    self._stop_listening(waiter)

    def _listen(self, waiter: object) -> SyncServerChanges:
        """Starts the listener if there is none."""
        with self._listening:
            # `close` stops the listener after it has closed the ledger to new calls.
            self._check_open()
            self._waiters.add(waiter)
            if self._changes is None:
                self._changes = SyncServerChanges(self._engine, self._doorbell.ring)
                try:
                    self._changes.start()
                except BaseException:
                    self._stop_listening()
                    raise
            return self._changes

    def _stop_listening(self, waiter: object = None) -> None:
        """Stops the listener, if only `waiter` needed it; without `waiter`, in any case."""
        with self._listening:
            self._waiters.discard(waiter)
            if waiter is not None and self._waiters:
                return
            changes, self._changes = self._changes, None
        if changes is not None:
            changes.stop()

    @contextmanager
    def _call(self) -> Generator[None]:
        """A block that counts as a running call, for which `close` waits, with translated errors."""
        call = object()
        try:
            with self._state:
                self._check_open()
                self._running[call] = threading.get_ident()
            with self._translated():
                yield
        finally:
            with self._state:
                self._running.pop(call, None)
                self._state.notify_all()

    def _translated(self) -> AbstractContextManager[None]:
        return translated(self._translate)

    def _translate(self, error: BaseException) -> BaseException:
        return own_error(error, self._timeout, self._limits)

    def _check_open(self) -> None:
        if not self._is_open:
            raise not_open()
        check_process(self._pid)


class _SyncTransaction(BlockingBlock):
    """A `BlockingUnits` inside one transaction of a connection. Its threads take turns."""

    def __init__(
        self, conn: Connection, translated: Callable[[], AbstractContextManager[None]]
    ) -> None:
        super().__init__()
        self._conn = conn
        self._translated = translated
        self._over = False

    def begin(self) -> None:
        """Begins the transaction."""
        self._alone(self._conn.begin)

    def read(self, unit: Unit[T]) -> T:
        """Runs `unit` in the transaction; if it fails, the earlier changes of the transaction stay."""
        return self._alone(lambda: read_in_savepoint(self._conn, unit))

    def write(self, unit: Unit[T]) -> T:
        """Runs `unit` in a savepoint; if it fails, only its own changes are rolled back."""
        return self._alone(lambda: in_savepoint(self._conn, unit))

    def commit(self) -> None:
        """Commits; afterwards this object raises `NotOpen`."""

        def work() -> None:
            try:
                self._conn.commit()
            except Exception as error:
                if trouble(error) is Trouble.LOST:
                    raise outcome_unknown(error) from error
                raise

        if self._over:
            raise NotOpen("the transaction is lost: it was rolled back, and nothing of it was kept")
        self._alone(work)
        self._over = True

    def close(self) -> None:
        """Rolls back uncommitted changes and returns the connection to the pool. A second call does nothing."""
        if os.getpid() != self._pid:
            self._leave_to_parent()
            return
        with self._turn.lock:
            self._over = True
            if self._conn.closed:
                return
            try:
                self._conn.close()
            except Exception:
                # The connection is lost, and the transaction with it. The error that ended the block is the one to see.
                if not self._conn.closed:
                    with suppress(Exception):
                        self._conn.invalidate()
                    self._conn.close()

    def _leave_to_parent(self) -> None:
        """Takes this process's copy of the connection from it, in a fork: the pool would roll back on the copy."""
        if self._conn.closed or self._conn.invalidated:
            return
        driver: Any = self._conn.connection.driver_connection
        with open(os.devnull, "r+b", buffering=0) as nothing:
            os.dup2(nothing.fileno(), driver.fileno())
        self._conn.invalidate()
        self._conn.close()

    def _alone(self, work: Callable[[], T]) -> T:
        def checked() -> T:
            if self._over:
                raise NotOpen("the transaction is over")
            self._check_alive()
            return work()

        with self._translated():
            return self._in_turn(checked)

    def _check_alive(self) -> None:
        # On a lost connection the next statement, maybe a COMMIT, would look like a lost answer.
        if not self._conn.invalidated:
            # psycopg's answer needs no event loop.
            if not finished(is_lost(self._conn.connection.driver_connection)):
                return
            self._conn.invalidate()
        raise not_kept()
