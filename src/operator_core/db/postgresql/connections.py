"""Runs units on the connections of a PostgreSQL engine, each from the checkout of a connection to its return.

Everything here is synchronous: `ServerRunner` calls it in a greenlet, `SyncServerRunner` in the caller's thread.
"""

from collections.abc import Callable
from typing import Final, TypeVar, cast

from sqlalchemy import Connection, Engine
from sqlalchemy.engine.interfaces import IsolationLevel

from operator_core.db.postgresql.attempts import Attempt
from operator_core.db.postgresql.connect import (
    end_transaction,
    hold_isolation,
    in_transaction,
    is_closed,
    is_stale,
)
from operator_core.db.postgresql.settings import Session, check_reported, look_at_session
from operator_core.db.sql.postgresql_errors import LOSSES, Trouble, trouble
from operator_core.db.sql.unit import SingleStatement, Unit

__all__ = ["SINGLE", "WHOLE", "ServerConnections", "has_died", "single_statement", "throw_away"]

T = TypeVar("T")

WHOLE: Final[IsolationLevel] = "READ COMMITTED"
SINGLE: Final[IsolationLevel] = "AUTOCOMMIT"


class ServerConnections:
    """The connections of an engine, of which `owned` says whether it is the ledger's own.

    With `keeps`, the connections that were used last are kept for the next units. This halves the cost of the pool and
    of SQLAlchemy's own Connection for a unit. They return to the pool as soon as one is needed from it. It is not for
    several threads.
    """

    def __init__(self, engine: Engine, *, owned: bool, keeps: bool) -> None:
        # Views of the same pool: a service's engine is not changed. The ledger's own engine is already in autocommit
        # mode.
        self.whole = engine.execution_options(isolation_level=WHOLE)
        self.single = engine if owned else engine.execution_options(isolation_level=SINGLE)
        self._owned = owned
        self._keeps = owned and keeps
        self._at_hand: list[Connection] = []
        self.connecting = 0
        self.closed = True

    def look(self, check_schema: Callable[[Connection], None]) -> Session:
        """Checks the schema, and returns the session's settings after checking them."""
        with self.connect(self.single, SINGLE) as conn:
            check_schema(conn)
            return look_at_session(conn)

    def read(self, attempt: Attempt, unit: Unit[T]) -> T:
        """Runs a unit that changes nothing."""
        conn = self._take()
        attempt.connected = True
        return self._run_alone(conn, unit)

    def change(self, attempt: Attempt, unit: Unit[T]) -> T:
        """Runs a unit that is one statement and needs no transaction."""
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
        if not self.keep(conn):
            conn.close()
        return result

    def _take(self) -> Connection:
        return self.alive_at_hand() or self.connect(self.single, SINGLE)

    def alive_at_hand(self) -> Connection | None:
        """Takes a connection at hand that the server has not closed; None if there is none."""
        while self._at_hand:
            conn = self._at_hand.pop()
            if not is_stale(conn.connection.driver_connection):
                return conn
            throw_away(conn)
        return None

    def let_go(self) -> None:
        """Returns the connections at hand to the pool."""
        while self._at_hand:
            self._at_hand.pop().close()

    def transact(self, attempt: Attempt, unit: Unit[T]) -> T:
        """Runs a unit in a transaction and commits it."""
        self.let_go()
        conn = self.connect(self.whole, WHOLE)
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

    def keep(self, conn: Connection) -> bool:
        """Keeps a connection at hand for the next unit, or returns False."""
        if not self._keeps or self.connecting or self.closed:
            return False
        self._at_hand.append(conn)
        return True

    def connect(self, engine: Engine, level: IsolationLevel) -> Connection:
        """A connection of the pool that was alive a moment ago; checking costs no round trip."""
        while True:
            self.connecting += 1
            try:
                conn = engine.connect()
            finally:
                self.connecting -= 1
            if not has_died(conn):
                break
            throw_away(conn)
        try:
            self.prepare(conn, level)
        except BaseException:
            conn.close()
            raise
        return conn

    def prepare(self, conn: Connection, level: IsolationLevel) -> None:
        """Sets the isolation level and checks the settings of a connection that was just taken from the pool."""
        hold_isolation(conn, level)
        if not self._owned:
            # The service may have changed its settings meanwhile to values that the ledger refuses.
            check_reported(conn)


def single_statement(unit: Unit[T]) -> SingleStatement[T] | None:
    """Returns the unit if it is known to be a single statement."""
    return cast("SingleStatement[T]", unit) if isinstance(unit, SingleStatement) else None


_KNOWN: Final = "known to operator_core"


def has_died(conn: Connection) -> bool:
    """Whether a pooled connection has died since its last use; the server has just answered a fresh one."""
    known = conn.info.get(_KNOWN, False)
    conn.info[_KNOWN] = True
    return (is_stale if known else is_closed)(conn.connection.driver_connection)


def throw_away(conn: Connection) -> None:
    """Closes the connection itself instead of returning it to its pool."""
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
