"""How a SQLite database becomes a ledger at head when it is opened, with Alembic only where it is behind."""

import sqlite3
from typing import Final

from sqlalchemy import Connection

from operator_core.actions.errors import UnmanagedSchema
from operator_core.db.migrate import sqlite
from operator_core.db.migrate.revisions import (
    HEAD,
    VERSION_TABLE,
    check_current,
    check_known,
    stamp,
)
from operator_core.db.migrate.scripts import upgrade_on
from operator_core.db.schema import ACTIONS_SCHEMA_SQL, SCHEMA_SQL
from operator_core.db.sql.tables import TABLES
from operator_core.db.sqlite.wal import use_wal

__all__ = ["check_usable", "is_current", "make_current"]

_LOOK: Final = (
    f"SELECT version_num, ({sqlite.disguised('count(*)', VERSION_TABLE)}) FROM {VERSION_TABLE}"
)


def is_current(connection: sqlite3.Connection) -> bool:
    """Whether there is nothing for `make_current` to do; False too if that can't be told.

    One SELECT, asked of the driver: SQLAlchemy would need three times as long to put it.
    """
    try:
        found = connection.execute(_LOOK).fetchone()
    except sqlite3.Error:
        return False
    return found == (HEAD, 0)


def check_usable(conn: Connection) -> None:
    """Raises `SchemaError` unless a SQLite database is a ledger at `HEAD`; changes nothing."""
    sqlite.refuse_disguised(conn, VERSION_TABLE)
    if check_known(conn) is None:
        _refuse_strangers(_others(conn))
    check_current(conn)


def make_current(conn: Connection, *, busy_timeout: float) -> None:
    """Brings a SQLite database to `HEAD`; on one that is there already this is one SELECT.

    An empty database is filled, one that is behind is upgraded, a predecessor's is adopted; one
    with only strangers' tables in it is refused with `UnmanagedSchema`, untouched: whoever wants
    the ledger beside them says so with ``alembic upgrade head``. So is one with views in the tables' places.
    """
    sqlite.refuse_disguised(conn, VERSION_TABLE)
    revision = check_known(conn)
    if revision == HEAD:
        return
    if conn.connection.driver_connection.in_transaction:  # pyright: ignore
        # A service's engine may begin one with the first statement; settings are changed outside.
        conn.exec_driver_sql("ROLLBACK")
    if revision is None:
        others = _others(conn)
        if not others:
            use_wal(conn, busy_timeout=busy_timeout)
            if _fill(conn):
                return
        else:
            _refuse_strangers(others)
    with sqlite.locked(conn):
        # Whoever held the lock before may have done it, too.
        if check_known(conn) != HEAD:
            upgrade_on(conn)
    use_wal(conn, busy_timeout=busy_timeout)


def _fill(conn: Connection) -> bool:
    """Makes the schema in an empty database from its text, without Alembic; False if it is not empty."""
    with sqlite.immediate(conn):
        if _others(conn):
            return False
        sqlite.run_script(conn, SCHEMA_SQL + ACTIONS_SCHEMA_SQL)
        stamp(conn)
        return True


def _others(conn: Connection) -> frozenset[str]:
    return sqlite.tables(conn) - {VERSION_TABLE}


def _refuse_strangers(others: frozenset[str]) -> None:
    if others and others.isdisjoint(TABLES):
        names = ", ".join(sorted(others))
        raise UnmanagedSchema([f"it has only tables of something else ({names})"])
