"""SQLAlchemy over the ledger's own SQLite connections, out of reach of a service's event listeners.

A listener on one of SQLAlchemy's classes (Engine, Connection, Pool, Dialect) hears of every engine in the
process. One that sets PRAGMAs, rewrites statements or raises would switch off durability or stop the ledger.
"""

import sqlite3
import threading
from contextlib import closing

from sqlalchemy import Connection
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.pool import NullPool

__all__ = ["over"]


class _Unheard:
    """Listeners on the base class are not listeners on this one: SQLAlchemy's own switch for that."""

    _sa_propagate_class_events = False
    # A listener on the base class sets it there, which would be inherited.
    _has_events = False


class _Connection(_Unheard, Connection):
    pass


class _Dialect(_Unheard, SQLiteDialect_pysqlite):
    supports_statement_cache = True


class _Pool(_Unheard, NullPool):
    _sqla_logger_namespace = "sqlalchemy.pool.impl.NullPool"


class _Engine(_Unheard, Engine):
    # The name that a service's logging settings know; by its own it would log at the root's level.
    _sqla_logger_namespace = "sqlalchemy.engine.Engine"
    _connection_cls = _Connection


# One engine for all SQLite connections of the process, because its cache of compiled statements is what
# opening a ledger would otherwise pay for again. It pools nothing and is told through this thread-local
# which connection it is to wrap.
_wrapping = threading.local()


def _engine() -> Engine:
    # Not by create_engine, which makes an Engine. Its listeners set the isolation level, which the
    # ledger's connections have, and look at the server's version once, which `initialize` does.
    dialect = _Dialect(dbapi=sqlite3)
    # Nothing to reset: a unit of work leaves no transaction behind.
    pool = _Pool(lambda: _wrapping.connection, reset_on_return=None, dialect=dialect)
    return _Engine(pool, dialect, make_url("sqlite://"), hide_parameters=True)


_ENGINE = _engine()


def over(connection: sqlite3.Connection) -> Connection:
    """A SQLAlchemy connection over `connection`, for the thread that calls; closing it closes both."""
    _wrapping.connection = connection
    try:
        return _ENGINE.connect()
    finally:
        del _wrapping.connection


with closing(over(sqlite3.connect(":memory:", isolation_level=None))) as _conn:
    _ENGINE.dialect.initialize(_conn)
