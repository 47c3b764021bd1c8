"""Changes a SQLite schema: exclusively, with suitable settings, and as a whole or not at all."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection

from operator_core.actions.errors import UnmanagedSchema
from operator_core.db.sql.sqlite_library import dbapi
from operator_core.db.sql.tables import TABLES

__all__ = [
    "catalogue",
    "disguised",
    "immediate",
    "locked",
    "refuse_disguised",
    "run_script",
    "tables",
]


def disguised(columns: str, *names: str) -> str:
    """A SELECT of `columns` of views and virtual tables with the names of the ledger's tables, or with `names`."""
    listed = ", ".join(f"'{name}'" for name in (*TABLES, *names))
    return (
        f"SELECT {columns} FROM sqlite_master WHERE name COLLATE NOCASE IN ({listed}) "
        "AND (type = 'view' OR type = 'table' AND sql LIKE 'CREATE VIRTUAL %')"
    )


def refuse_disguised(conn: Connection, *names: str) -> None:
    """Raises `UnmanagedSchema` if there are any such objects: reading one would run code of the file's author."""
    found = conn.exec_driver_sql(disguised("name, type", *names)).all()
    if found:
        raise UnmanagedSchema(
            f"there is a {'virtual table' if kind == 'table' else kind} {name}"
            for name, kind in found
        )


@contextmanager
def locked(conn: Connection) -> Generator[None]:
    """Runs the block with the write lock, and commits all its changes at its end, or none.

    Raises `UnmanagedSchema` if the ledger's tables then refer to missing rows.
    """
    # SQLite ignores both PRAGMAs inside a transaction, so they come first. Rebuilding a table with foreign
    # keys on would delete or orphan the rows that refer to it. With the legacy rename, foreign keys
    # elsewhere still name the table and not its old copy (SQLite, "ALTER TABLE", section 7).
    foreign_keys = _pragma(conn, "foreign_keys")
    legacy = _pragma(conn, "legacy_alter_table")
    conn.exec_driver_sql("PRAGMA foreign_keys = OFF")
    conn.exec_driver_sql("PRAGMA legacy_alter_table = ON")
    try:
        with immediate(conn):
            yield
            _check_references(conn)
    finally:
        conn.exec_driver_sql(f"PRAGMA foreign_keys = {foreign_keys}")
        conn.exec_driver_sql(f"PRAGMA legacy_alter_table = {legacy}")


def _check_references(conn: Connection) -> None:
    # Only the ledger's tables: the references of a service's own tables are not checked here.
    present = tables(conn)
    for name in (each for each in TABLES if each in present):
        dangling = conn.exec_driver_sql(f"PRAGMA foreign_key_check({name})").fetchmany(10)
        if dangling:
            raise UnmanagedSchema(
                f"{table} row {rowid} refers to a row of {parent} that isn't there"
                for table, rowid, parent, _ in dangling
            )


@contextmanager
def immediate(conn: Connection) -> Generator[None]:
    """Runs the block as one transaction that holds the write lock from its start."""
    conn.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        yield
        conn.exec_driver_sql("COMMIT")
    except BaseException:
        # Some failures (a full disk) have already rolled back the transaction.
        if conn.connection.driver_connection.in_transaction:  # pyright: ignore
            conn.exec_driver_sql("ROLLBACK")
        raise


def run_script(conn: Connection, script: str) -> None:
    """Runs the statements of `script` one by one, in the current transaction if there is one."""
    for statement in _statements(script):
        conn.exec_driver_sql(statement)


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if dbapi.complete_statement(statement):
            yield statement
            statement = ""


def tables(conn: Connection) -> frozenset[str]:
    """The names of all tables except SQLite's own."""
    names = conn.exec_driver_sql(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    )
    return frozenset(names.scalars())


def catalogue(conn: Connection) -> frozenset[tuple[Any, ...]]:
    """All objects of the schema, each with its exact SQL."""
    rows = conn.exec_driver_sql("SELECT type, name, tbl_name, sql FROM sqlite_master")
    return frozenset(tuple(row) for row in rows)


def _pragma(conn: Connection, name: str) -> Any:
    return conn.exec_driver_sql(f"PRAGMA {name}").scalar()
