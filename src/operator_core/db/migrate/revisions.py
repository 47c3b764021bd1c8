"""The revisions of the ledger's schema, and the revision of a database."""

from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from operator_core.actions.errors import SchemaOutdated, SchemaTooNew
from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sql.postgresql_errors import sqlstate

__all__ = [
    "HEAD",
    "REVISIONS",
    "VERSION_TABLE",
    "check_current",
    "check_known",
    "current_revision",
    "stamp",
]

REVISIONS: Final = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010")
"""Every revision, oldest first; any other is recognised as newer without Alembic."""

HEAD: Final = REVISIONS[-1]
"""The revision that this code works with."""

VERSION_TABLE: Final = "operator_core_alembic_version"
"""The version table has its own name, so that a service's own Alembic history can exist beside the ledger's."""

_UNDEFINED_TABLE: Final = "42P01"


def current_revision(conn: Connection, *, alone: bool = False) -> str | None:
    """The database's revision, or None if it has none.

    One SELECT on SQLite, and also on a server if `conn` is `alone`, which means in no transaction: a
    failed statement would end a transaction.
    """
    if not is_sqlite(conn) and not alone:
        known = conn.exec_driver_sql(f"SELECT to_regclass('{VERSION_TABLE}') IS NOT NULL").scalar()
        if not known:
            return None
    try:
        return conn.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar()
    except DBAPIError as error:
        if "no such table" in str(error.orig) or sqlstate(error) == _UNDEFINED_TABLE:
            return None
        raise


def check_known(conn: Connection, *, alone: bool = False) -> str | None:
    """The database's revision; raises `SchemaTooNew` for one that this code does not know."""
    revision = current_revision(conn, alone=alone)
    if revision is not None and revision not in REVISIONS:
        raise SchemaTooNew(revision, HEAD)
    return revision


def check_current(conn: Connection, *, alone: bool = False) -> None:
    """Raises `SchemaOutdated` or `SchemaTooNew` unless the database is at `HEAD`; changes nothing."""
    revision = check_known(conn, alone=alone)
    if revision != HEAD:
        raise SchemaOutdated(revision, HEAD)


def stamp(conn: Connection) -> None:
    """Writes `HEAD` as the revision of a SQLite database that has none."""
    # The same text as Alembic's. After a downgrade to base the table exists and is empty.
    conn.exec_driver_sql(
        f"CREATE TABLE IF NOT EXISTS {VERSION_TABLE} (\n    version_num VARCHAR(32) NOT NULL, \n    "
        f"CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY (version_num)\n)"
    )
    conn.exec_driver_sql(f"INSERT INTO {VERSION_TABLE} VALUES ('{HEAD}')")
