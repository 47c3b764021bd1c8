"""The runner for PostgreSQL, on the ledger's own pool of connections or on a service's engine.

A unit runs in one greenlet from the checkout of a connection to its return. A unit that changes the database by
a single statement needs no transaction around it, and makes one round trip. READ COMMITTED is enough for all
units, because no unit decides by a value that it has read before. The UPDATE itself contains the condition.
PostgreSQL evaluates it again on a row that another transaction has just changed (PostgreSQL manual, 13.2.1), and
constraints and triggers check the actual change.
"""

import asyncio
import os
import warnings
from collections.abc import Callable
from typing import TypeVar, cast

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.util import greenlet_spawn

from operator_core.actions.errors import ActionError, WrongLoop
from operator_core.db.postgresql.attempts import (
    Attempt,
    check_worth_another,
    not_kept,
    outcome_unknown,
    own_error,
)
from operator_core.db.postgresql.batching import Batcher
from operator_core.db.postgresql.connect import (
    is_lost,
    ping,
)
from operator_core.db.postgresql.connections import (
    WHOLE,
    ServerConnections,
    has_died,
    single_statement,
    throw_away,
)
from operator_core.db.postgresql.direct import Direct
from operator_core.db.postgresql.listener import ServerChanges
from operator_core.db.run.backoff import pause
from operator_core.db.run.cancellation import finish, finish_here
from operator_core.db.run.engine_runner import EngineRunner
from operator_core.db.run.runner import check_outside, check_process
from operator_core.db.sql.execution import fetch
from operator_core.db.sql.postgresql_errors import (
    LOSSES,
    Limits,
    Trouble,
    missing_row,
    sqlstate,
    trouble,
)
from operator_core.db.sql.unit import (
    UNANSWERED,
    Shortcut,
    SingleStatement,
    Unanswered,
    Unit,
)

__all__ = ["ServerRunner"]

T = TypeVar("T")


class ServerRunner(EngineRunner):
    """Runs units of work on a PostgreSQL server.

    `check_schema` raises `SchemaError` unless the ledger is at head; it gets a connection without a transaction.
    `owned` is whether the engine is the ledger's own.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        check_schema: Callable[[Connection], None],
        *,
        timeout: float,
        owned: bool,
    ) -> None:
        super().__init__(engine, timeout=timeout)
        self._check_schema = check_schema
        self._owned = owned
        self._connections = ServerConnections(engine.sync_engine, owned=owned, keeps=True)
        self._transactions = engine.execution_options(isolation_level=WHOLE)
        self._loop: asyncio.AbstractEventLoop | None = None
        # A single statement runs at the database's default level, which may be another one on a
        # service's engine.
        self._alone_suffices = True
        self._limits = Limits(timeout)
        self._batcher = Batcher(self._run_together, self._run_one)
        # Set if shortcuts can bypass SQLAlchemy.
        self._direct = Direct(engine.dialect) if owned and engine.driver == "asyncpg" else None

    async def open(self) -> None:
        """Checks the schema and changes nothing: only a deploy changes a server's schema."""
        if not self._closed:
            self._check_open()
            return
        self._pid = os.getpid()
        self._loop = asyncio.get_running_loop()
        try:
            with self._call():
                await finish(greenlet_spawn(self._look))
        except BaseException:
            if self._owned:
                await asyncio.shield(self._engine.dispose())
            raise
        self._closed = self._connections.closed = False

    def _look(self) -> None:
        session = self._connections.look(self._check_schema)
        self._alone_suffices = session.read_committed
        self._limits = Limits(self._timeout, session.lock_timeout, session.statement_timeout)

    def __del__(self) -> None:
        if self._owned and not self._closed and self._pid == os.getpid():
            warnings.warn(
                f"unclosed ledger on a server: {self!r}", ResourceWarning, stacklevel=2, source=self
            )

    async def close(self) -> None:
        """Refuses new calls, waits for running ones, and closes the ledger's own connections."""
        if self._pid != os.getpid():
            return
        if self._loop is not asyncio.get_running_loop():
            raise WrongLoop("a ledger on a server must be closed in the event loop that opened it")
        self._connections.closed = True
        await super().close()
        await greenlet_spawn(self._connections.let_go)
        if self._owned:
            await self._engine.dispose()

    async def read(self, unit: Unit[T]) -> T:
        """Runs `unit` on a connection of the pool; retries after a lost connection, because reads change nothing."""
        self._check_open()
        with self._call():
            return await self._run(unit, self._connections.read)

    async def write(self, unit: Unit[T]) -> T:
        """Runs `unit` as one transaction, or a `SingleStatement` without one.

        Retries the whole unit after a serialization failure, a deadlock, or a connection lost before the
        COMMIT. Raises `CommitOutcomeUnknown` if the connection is lost during the COMMIT.
        """
        self._check_open()
        check_outside(self._use.under_way)
        with self._call():
            single = single_statement(unit)
            if single is None or not self._alone_suffices:
                return await self._try(self._connections.transact, unit)
            if single.shared is not None:
                return await self._batcher.run(single, single.shared)
            return await self._run_one(single)

    async def _run_together(self, together: Shortcut[T]) -> T:
        # A separate call: the callers may have been cancelled, and closing waits for the connection.
        with self._call():
            return await self._run_one(_of_shortcut(together))

    async def _run_one(self, unit: SingleStatement[T]) -> T:
        return await self._run(unit, self._connections.change)

    async def _run(self, unit: Unit[T], run: Callable[[Attempt, Unit[T]], T]) -> T:
        """Runs `unit` by `run`, or its shortcut by the driver alone if possible."""
        single = single_statement(unit)
        shortcut = None if single is None else single.shortcut
        failures = 0
        if shortcut is not None and self._direct is not None and not self._has_listeners():
            conn = self._connections.alive_at_hand()
            if conn is not None:
                writes = run != self._connections.read
                # Without an explicit timeout asyncpg sets none, so this needs no task of its own.
                answer, failures = await finish_here(
                    self._run_directly(self._direct, conn, shortcut, writes)
                )
                if answer is not UNANSWERED:
                    return answer
        return await self._try(run, unit, failures)

    def _has_listeners(self) -> bool:
        """Whether a listener, such as tracing, needs the events of SQLAlchemy's executions."""
        return getattr(self._connections.single, "_has_events", True)

    async def _run_directly(
        self, direct: Direct, conn: Connection, shortcut: Shortcut[T], writes: bool
    ) -> tuple[T | Unanswered, int]:
        """Runs the shortcut; returns its answer, and the number of failures that count for a retry of the unit."""
        try:
            answer = await direct.run(conn.connection.driver_connection, shortcut)
        except ActionError:
            # The statement's rows are not what the unit expects.
            await self._put_back(conn)
            raise
        except Exception as error:
            kind = trouble(error)
            if kind in LOSSES or kind is Trouble.READ_ONLY:
                throw_away(conn)
            else:
                await self._put_back(conn)
            if kind is Trouble.LOST and writes:
                raise outcome_unknown(error) from error
            state = sqlstate(error)
            if kind is Trouble.REFUSED and not (state and state.startswith(shortcut.explains)):
                if (missing := missing_row(error)) is not None:
                    raise missing from None
                raise
            return UNANSWERED, 0 if kind is Trouble.REFUSED else 1
        except BaseException:
            throw_away(conn)
            raise
        await self._put_back(conn)
        return answer, 0

    async def _put_back(self, conn: Connection) -> None:
        if not self._connections.keep(conn):
            await greenlet_spawn(conn.close)

    async def _try(
        self, run: Callable[[Attempt, Unit[T]], T], unit: Unit[T], failures: int = 0
    ) -> T:
        attempt = Attempt()
        # A caller that is cancelled while it waits for a connection stops waiting.
        return await finish(self._attempts(attempt, run, unit, failures), may_stop=attempt.may_stop)

    async def _attempts(
        self, attempt: Attempt, run: Callable[[Attempt, Unit[T]], T], unit: Unit[T], failures: int
    ) -> T:
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._timeout
        while True:
            attempt.begin()
            try:
                return await greenlet_spawn(run, attempt, unit)
            except Exception as error:
                check_worth_another(attempt, error, failures, late=clock() >= deadline)
            attempt.begin()
            failures += 1
            await pause(failures)

    # From here on: the hooks of EngineRunner.

    def _new_changes(self) -> ServerChanges:
        return ServerChanges(self._engine, self._doorbell.ring)

    async def _transacting(self) -> AsyncConnection:
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._timeout
        failures = 0
        while True:
            await greenlet_spawn(self._connections.let_go)
            try:
                return await self._connected()
            except Exception as error:
                if trouble(error) not in LOSSES or clock() >= deadline:
                    raise
            failures += 1
            await pause(failures)

    async def _connected(self) -> AsyncConnection:
        """A connection that was alive a moment ago, for a transaction."""
        while True:
            self._connections.connecting += 1
            try:
                conn = await self._transactions.connect()
            finally:
                self._connections.connecting -= 1
            if not await conn.run_sync(has_died):
                break
            await conn.invalidate()
            await conn.close()
        try:
            await conn.run_sync(self._connections.prepare, WHOLE)
            await conn.run_sync(ping)
        except BaseException:
            await conn.invalidate()
            await conn.close()
            raise
        return conn

    async def _check_alive(self, conn: AsyncConnection) -> None:
        # On a lost connection the next statement, maybe a COMMIT, would look like a lost answer.
        known = conn.sync_connection
        assert known is not None
        if not known.invalidated:
            if not await is_lost(known.connection.driver_connection):
                return
            await conn.invalidate()
        raise not_kept()

    def _commit_lost(self, error: BaseException) -> BaseException:
        if trouble(error) is Trouble.LOST:
            return outcome_unknown(error)
        return self._translate(error)

    def _translate(self, error: BaseException) -> BaseException:
        return own_error(error, self._timeout, self._limits)

    def _check_open(self) -> None:
        super()._check_open()
        if self._loop is not asyncio.get_running_loop():
            check_process(self._pid)
            raise WrongLoop(
                "this ledger's connections belong to the event loop that opened it; open another ledger here"
            )


def _of_shortcut(shortcut: Shortcut[T]) -> SingleStatement[T]:
    """The unit for a statement that answers every caller."""

    def unit(conn: Connection) -> T:
        answer = shortcut.answer(fetch(conn, shortcut.statement, shortcut.parameters))
        if isinstance(answer, Shortcut):
            return _of_shortcut(cast("Shortcut[T]", answer))(conn)
        return cast(T, answer)

    return SingleStatement(unit, shortcut)
