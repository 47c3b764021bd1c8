"""SQLAlchemy over the ledger's own SQLite connections, isolated from a service's event listeners.

A listener on one of SQLAlchemy's classes (Engine, Connection, Pool, Dialect) gets the events of every engine in
the process. If it sets PRAGMAs, rewrites statements or raises, it can switch off durability or stop the ledger.
"""

import sqlite3
import threading
from contextlib import closing

from sqlalchemy import Connection
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.pool import NullPool

__all__ = ["over"]


class _WithoutListeners:
    """Excludes a class from the listeners on its base class, by SQLAlchemy's own switch."""

    _sa_propagate_class_events = False
    # A listener on the base class sets this attribute there, and a subclass would inherit it.
    _has_events = False


class _Connection(_WithoutListeners, Connection):
    pass


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
    dialect = _Dialect(dbapi=sqlite3)
    # Nothing to reset: a unit of work leaves no transaction behind.
    pool = _Pool(lambda: _wrapping.connection, reset_on_return=None, dialect=dialect)
    return _Engine(pool, dialect, make_url("sqlite://"), hide_parameters=True)


_ENGINE = _engine()


def over(connection: sqlite3.Connection) -> Connection:
    """A SQLAlchemy connection over `connection`, for the calling thread; closing it closes both."""
    _wrapping.connection = connection
    try:
        return _ENGINE.connect()
    finally:
        del _wrapping.connection


with closing(over(sqlite3.connect(":memory:", isolation_level=None))) as _conn:
    _ENGINE.dialect.initialize(_conn)
