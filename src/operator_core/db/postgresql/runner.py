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
from typing import Final, TypeVar, cast

from sqlalchemy import Connection, Engine
from sqlalchemy.engine.interfaces import IsolationLevel
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.util import greenlet_spawn

from operator_core.actions.errors import WrongLoop
from operator_core.db.postgresql.attempts import Attempt, not_kept, outcome_unknown, worth_another
from operator_core.db.postgresql.batching import Batcher
from operator_core.db.postgresql.connect import (
    end_transaction,
    hold_isolation,
    in_transaction,
    is_closed,
    is_lost,
    is_stale,
    ping,
)
from operator_core.db.postgresql.direct import Direct
from operator_core.db.postgresql.listener import ServerChanges
from operator_core.db.postgresql.settings import check_reported, look_at_session
from operator_core.db.run.backoff import pause
from operator_core.db.run.cancellation import finish, finish_here
from operator_core.db.run.engine_runner import EngineRunner
from operator_core.db.run.runner import check_outside, check_process
from operator_core.db.sql.errors import translate
from operator_core.db.sql.execution import fetch
from operator_core.db.sql.postgresql_errors import (
    LOSSES,
    Limits,
    Trouble,
    missing_row,
    scrub,
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

_WHOLE: Final[IsolationLevel] = "READ COMMITTED"
_SINGLE: Final[IsolationLevel] = "AUTOCOMMIT"


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
        # Views of the same pool: a service's engine is not changed. The ledger's own engine is
        # already in autocommit mode.
        self._transactions = engine.execution_options(isolation_level=_WHOLE)
        self._whole = self._transactions.sync_engine
        self._single = (
            engine if owned else engine.execution_options(isolation_level=_SINGLE)
        ).sync_engine
        self._loop: asyncio.AbstractEventLoop | None = None
        # A single statement runs at the database's default level, which may be another one on a
        # service's engine.
        self._alone_suffices = True
        self._limits = Limits(timeout)
        self._batcher = Batcher(self._run_together, self._run_one)
        # The connections that were used last, kept for the next units: this halves the cost of the pool and
        # SQLAlchemy's own Connection for a unit. They return to the pool as soon as one is needed from it.
        self._at_hand: list[Connection] = []
        self._connecting = 0
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
        self._closed = False

    def _look(self) -> None:
        with self._connect(self._single, _SINGLE) as conn:
            self._check_schema(conn)
            session = look_at_session(conn)
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
        await super().close()
        await greenlet_spawn(self._let_go)
        if self._owned:
            await self._engine.dispose()

    async def read(self, unit: Unit[T]) -> T:
        """Runs `unit` on a connection of the pool; retries after a lost connection, because reads change nothing."""
        self._check_open()
        with self._call():
            return await self._run(unit, self._read)

    async def write(self, unit: Unit[T]) -> T:
        """Runs `unit` as one transaction, or a `SingleStatement` without one.

        Retries the whole unit after a serialization failure, a deadlock, or a connection lost before the
        COMMIT. Raises `CommitOutcomeUnknown` if the connection is lost during the COMMIT.
        """
        self._check_open()
        check_outside(self._use.under_way)
        with self._call():
            single = _single(unit)
            if single is None or not self._alone_suffices:
                return await self._try(self._transact, unit)
            if single.shared is not None:
                return await self._batcher.run(single, single.shared)
            return await self._run_one(single)

    async def _run_together(self, together: Shortcut[T]) -> T:
        # A separate call: the callers may have been cancelled, and closing waits for the connection.
        with self._call():
            return await self._run_one(_of_shortcut(together))

    async def _run_one(self, unit: SingleStatement[T]) -> T:
        return await self._run(unit, self._change)

    async def _run(self, unit: Unit[T], run: Callable[[Attempt, Unit[T]], T]) -> T:
        """Runs `unit` by `run`, or its shortcut by the driver alone if possible."""
        single = _single(unit)
        shortcut = None if single is None else single.shortcut
        failures = 0
        if shortcut is not None and self._direct is not None and not self._has_listeners():
            conn = self._alive_at_hand()
            if conn is not None:
                writes = run != self._read
                # Without an explicit timeout asyncpg sets none, so this needs no task of its own.
                answer, failures = await finish_here(
                    self._run_directly(self._direct, conn, shortcut, writes)
                )
                if answer is not UNANSWERED:
                    return answer
        return await self._try(run, unit, failures)

    def _has_listeners(self) -> bool:
        """Whether a listener, such as tracing, needs the events of SQLAlchemy's executions."""
        return getattr(self._single, "_has_events", True)

    async def _run_directly(
        self, direct: Direct, conn: Connection, shortcut: Shortcut[T], writes: bool
    ) -> tuple[T | Unanswered, int]:
        """Runs the shortcut; returns its answer, and the number of failures that count for a retry of the unit."""
        try:
            answer = await direct.run(conn.connection.driver_connection, shortcut)
        except Exception as error:
            kind = trouble(error)
            if kind in LOSSES or kind is Trouble.READ_ONLY:
                _throw_away(conn)
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
            _throw_away(conn)
            raise
        await self._put_back(conn)
        return answer, 0

    async def _put_back(self, conn: Connection) -> None:
        if not self._keep(conn):
            await greenlet_spawn(conn.close)

    def _keep(self, conn: Connection) -> bool:
        if not self._owned or self._connecting or self._closed:
            return False
        self._at_hand.append(conn)
        return True

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
                kind = trouble(error)
                if attempt.may_have_committed(kind, error):
                    raise outcome_unknown(error) from error
                if not worth_another(kind, failures, late=clock() >= deadline):
                    raise
            attempt.begin()
            failures += 1
            await pause(failures)

    # From here on: in the greenlet.

    def _read(self, attempt: Attempt, unit: Unit[T]) -> T:
        conn = self._take()
        attempt.connected = True
        return self._run_alone(conn, unit)

    def _change(self, attempt: Attempt, unit: Unit[T]) -> T:
        conn = self._take()
        # The statement is its own COMMIT.
        attempt.connected = attempt.committing = attempt.alone = True
        return self._run_alone(conn, unit)

    def _run_alone(self, conn: Connection, unit: Unit[T]) -> T:
        try:
            result = unit(conn)
            # Ends the transaction of a listener that begins one, as the recipe for SQLite does.
            end_transaction(conn, "COMMIT")
        except BaseException as error:
            _drop_if_unusable(conn, error)
            conn.close()
            raise
        if not self._keep(conn):
            conn.close()
        return result

    def _take(self) -> Connection:
        return self._alive_at_hand() or self._connect(self._single, _SINGLE)

    def _alive_at_hand(self) -> Connection | None:
        """Takes a connection at hand that the server has not closed; None if there is none."""
        while self._at_hand:
            conn = self._at_hand.pop()
            if not is_stale(conn.connection.driver_connection):
                return conn
            _throw_away(conn)
        return None

    def _let_go(self) -> None:
        while self._at_hand:
            self._at_hand.pop().close()

    def _transact(self, attempt: Attempt, unit: Unit[T]) -> T:
        self._let_go()
        conn = self._connect(self._whole, _WHOLE)
        try:
            attempt.connected = True
            with conn.begin():
                result = unit(conn)
                attempt.committing = True
            return result
        except Exception as error:
            _drop_if_unusable(conn, error)
            raise
        finally:
            conn.close()

    def _connect(self, engine: Engine, level: IsolationLevel) -> Connection:
        """A connection of the pool that was alive a moment ago; checking costs no round trip."""
        while True:
            self._connecting += 1
            try:
                conn = engine.connect()
            finally:
                self._connecting -= 1
            if not _has_died(conn):
                break
            _throw_away(conn)
        try:
            self._prepare(conn, level)
        except BaseException:
            conn.close()
            raise
        return conn

    def _prepare(self, conn: Connection, level: IsolationLevel) -> None:
        hold_isolation(conn, level)
        if not self._owned:
            # The service may have changed its settings meanwhile to values that the ledger refuses.
            check_reported(conn)

    # From here on: the hooks of EngineRunner.

    def _new_changes(self) -> ServerChanges:
        return ServerChanges(self._engine, self._doorbell.ring)

    async def _transacting(self) -> AsyncConnection:
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._timeout
        failures = 0
        while True:
            await greenlet_spawn(self._let_go)
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
            self._connecting += 1
            try:
                conn = await self._transactions.connect()
            finally:
                self._connecting -= 1
            if not await conn.run_sync(_has_died):
                break
            await conn.invalidate()
            await conn.close()
        try:
            await conn.run_sync(self._prepare, _WHOLE)
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
        if trouble(error) is Trouble.UNSENT:
            scrub(error)
            return not_kept()
        return translate(error, busy_timeout=self._timeout, server=True, limits=self._limits)

    def _check_open(self) -> None:
        super()._check_open()
        if self._loop is not asyncio.get_running_loop():
            check_process(self._pid)
            raise WrongLoop(
                "this ledger's connections belong to the event loop that opened it; open another ledger here"
            )


def _single(unit: Unit[T]) -> SingleStatement[T] | None:
    return cast("SingleStatement[T]", unit) if isinstance(unit, SingleStatement) else None


def _of_shortcut(shortcut: Shortcut[T]) -> SingleStatement[T]:
    """The unit for a statement that answers every caller."""

    def unit(conn: Connection) -> T:
        return cast(T, shortcut.answer(fetch(conn, shortcut.statement, shortcut.parameters)))

    return SingleStatement(unit, shortcut)


_KNOWN: Final = "known to operator_core"


def _has_died(conn: Connection) -> bool:
    """Whether a pooled connection has died since its last use; the server has just answered a fresh one."""
    known = conn.info.get(_KNOWN, False)
    conn.info[_KNOWN] = True
    return (is_stale if known else is_closed)(conn.connection.driver_connection)


def _throw_away(conn: Connection) -> None:
    conn.invalidate()
    conn.close()


def _drop_if_unusable(conn: Connection, error: BaseException) -> None:
    if conn.invalidated:
        return
    if trouble(error) in (*LOSSES, Trouble.READ_ONLY) or in_transaction(
        conn.connection.driver_connection
    ):
        # The connection is lost, or its server does not accept writes and the next connection finds the one
        # that does. Or a listener has begun a transaction that SQLAlchemy does not know.
        conn.invalidate()
