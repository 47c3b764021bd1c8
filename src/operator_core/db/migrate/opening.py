"""Brings a SQLite database to head when it is opened; uses Alembic only if the schema is behind."""

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
from operator_core.db.sql.sqlite_library import dbapi
from operator_core.db.sql.tables import TABLES
from operator_core.db.sqlite.wal import use_wal

__all__ = ["check_usable", "is_current", "make_current"]

_LOOK: Final = (
    f"SELECT version_num, ({sqlite.disguised('count(*)', VERSION_TABLE)}) FROM {VERSION_TABLE}"
)


def is_current(connection: dbapi.Connection) -> bool:
    """Whether `make_current` has nothing to do; False also if that is unknown.

    One SELECT directly by the driver: SQLAlchemy would take three times as long.
    """
    try:
        found = connection.execute(_LOOK).fetchone()
    except dbapi.Error:
        return False
    return found == (HEAD, 0)


def check_usable(conn: Connection) -> None:
    """Raises `SchemaError` unless a SQLite database is a ledger at `HEAD`; changes nothing."""
    sqlite.refuse_disguised(conn, VERSION_TABLE)
    if check_known(conn) is None:
        _refuse_other_programs(_others(conn))
    check_current(conn)


def make_current(conn: Connection, *, busy_timeout: float) -> None:
    """Brings a SQLite database to `HEAD`; costs one SELECT if it is there already.

    Fills an empty database, upgrades one that is behind, and adopts a predecessor's. Raises `UnmanagedSchema`
    and changes nothing if all tables belong to other programs; ``alembic upgrade head`` makes a ledger beside
    them. Also raises it if views have the names of the ledger's tables.
    """
    sqlite.refuse_disguised(conn, VERSION_TABLE)
    revision = check_known(conn)
    if revision == HEAD:
        return
    if conn.connection.driver_connection.in_transaction:  # pyright: ignore
        # A service's engine may begin a transaction with the first statement; settings change only outside one.
        conn.exec_driver_sql("ROLLBACK")
    if revision is None:
        others = _others(conn)
        if not others:
            use_wal(conn, busy_timeout=busy_timeout)
            if _fill(conn):
                return
        else:
            _refuse_other_programs(others)
    with sqlite.locked(conn):
        # The previous holder of the lock may have upgraded it.
        if check_known(conn) != HEAD:
            upgrade_on(conn)
    use_wal(conn, busy_timeout=busy_timeout)


def _fill(conn: Connection) -> bool:
    """Creates the schema in an empty database from its text, without Alembic; False if it is not empty."""
    with sqlite.immediate(conn):
        if _others(conn):
            return False
        sqlite.run_script(conn, SCHEMA_SQL + ACTIONS_SCHEMA_SQL)
        stamp(conn)
        return True


def _others(conn: Connection) -> frozenset[str]:
    return sqlite.tables(conn) - {VERSION_TABLE}


def _refuse_other_programs(others: frozenset[str]) -> None:
    if others and others.isdisjoint(TABLES):
        names = ", ".join(sorted(others))
        raise UnmanagedSchema([f"it has only tables of other programs ({names})"])
