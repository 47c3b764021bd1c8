"""SQLAlchemy over the ledger's own SQLite connections, isolated from a service's event listeners.

A listener on one of SQLAlchemy's classes (Engine, Connection, Pool, Dialect) gets the events of every engine in
the process. If it sets PRAGMAs, rewrites statements or raises, it can switch off durability or stop the ledger.
"""

import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, Final, cast

from sqlalchemy import Connection, Executable
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from operator_core.db.sql.execution import DirectConnection, Statements
from operator_core.db.sql.sqlite_library import dbapi

__all__ = ["over"]


_ROWS_AT_ONCE: Final = 100
"""The number of rows in one INSERT. More gain nothing, and SQLite limits the parameters of a statement to 32,766."""


class _WithoutListeners:
    """Excludes a class from the listeners on its base class, by SQLAlchemy's own switch."""

    _sa_propagate_class_events = False
    # A listener on the base class sets this attribute there, and a subclass would inherit it.
    _has_events = False


class _Connection(_WithoutListeners, DirectConnection):
    @property
    def is_watched(self) -> bool:
        return self._echo or bool(self._has_events)

    def fetch(self, statement: Executable, values: Mapping[str, Any]) -> Sequence[Any]:
        compiled = _STATEMENTS.compiled(statement, values)
        return self._fetch(compiled.text, compiled.arguments(values))

    def insert(self, statement: Executable, rows: Sequence[Mapping[str, Any]]) -> Sequence[Any]:
        compiled = _STATEMENTS.compiled(statement, rows[0])
        found: list[Any] = []
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[start : start + _ROWS_AT_ONCE]
            arguments = [value for row in some for value in compiled.arguments(row)]
            found += self._fetch(compiled.text_for(len(some)), arguments)
        return found

    def execute_text(self, text: str) -> None:
        self._fetch(text, ())

    def _fetch(self, text: str, arguments: Sequence[Any]) -> Sequence[Any]:
        driver_connection = cast(dbapi.Connection, self.connection.driver_connection)
        try:
            return driver_connection.execute(text, arguments).fetchall()
        except dbapi.Error as error:
            raise _wrapped(error, text) from error


def _wrapped(error: dbapi.Error, text: str) -> BaseException:
    """SQLAlchemy's exception for the driver's, without the parameters."""
    return DBAPIError.instance(text, None, error, dbapi.Error, hide_parameters=True)


class _Dialect(_WithoutListeners, SQLiteDialect_pysqlite):
    supports_statement_cache = True


class _Pool(_WithoutListeners, NullPool):
    _sqla_logger_namespace = "sqlalchemy.pool.impl.NullPool"


class _Engine(_WithoutListeners, Engine):
    # The logger that a service configures. A logger with the class's own name would have the root's level.
    _sqla_logger_namespace = "sqlalchemy.engine.Engine"
    _connection_cls = _Connection


# One engine for all SQLite connections of the process: it caches compiled statements, which each opening of a
# ledger would otherwise compile again. It pools nothing. This thread-local passes it the connection to wrap.
_wrapping = threading.local()


def _engine() -> Engine:
    # Not by create_engine, which returns an Engine. Its listeners set the isolation level, which the
    # ledger's connections already have, and read the server's version once, which `initialize` does.
    dialect = _Dialect(dbapi=dbapi)
    # Nothing to reset: a unit of work leaves no transaction behind.
    pool = _Pool(lambda: _wrapping.connection, reset_on_return=None, dialect=dialect)
    return _Engine(pool, dialect, make_url("sqlite://"), hide_parameters=True)


_ENGINE = _engine()

_STATEMENTS = Statements(_ENGINE.dialect)


def over(connection: dbapi.Connection) -> Connection:
    """A SQLAlchemy connection over `connection`, for the calling thread; closing it closes both."""
    _wrapping.connection = connection
    try:
        return _ENGINE.connect()
    finally:
        del _wrapping.connection


with closing(over(dbapi.connect(":memory:", isolation_level=None))) as _conn:
    _ENGINE.dialect.initialize(_conn)
