"""How a SQLite schema is changed: alone, outside the settings that would get in the way, whole or not."""

import sqlite3
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection

from operator_core.actions.errors import UnmanagedSchema
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
    """A SELECT of `columns` of what stands in the place of the ledger's tables, or those `names`, and is no table."""
    listed = ", ".join(f"'{name}'" for name in (*TABLES, *names))
    return (
        f"SELECT {columns} FROM sqlite_master WHERE name COLLATE NOCASE IN ({listed}) "
        "AND (type = 'view' OR type = 'table' AND sql LIKE 'CREATE VIRTUAL %')"
    )


def refuse_disguised(conn: Connection, *names: str) -> None:
    """Raises `UnmanagedSchema` if there is any of that: reading it would run what somebody else has written."""
    found = conn.exec_driver_sql(disguised("name, type", *names)).all()
    if found:
        raise UnmanagedSchema(
            f"there is a {'virtual table' if kind == 'table' else kind} {name}"
            for name, kind in found
        )


@contextmanager
def locked(conn: Connection) -> Generator[None]:
    """Nobody else writes during the block, and all that it does is committed at its end, or nothing.

    Raises `UnmanagedSchema` if the ledger's tables then refer to rows that are not there.
    """
    # Both are ignored inside a transaction, so they come first. Rebuilding a table with foreign
    # keys on would delete or orphan the rows that refer to it; with the legacy rename, foreign
    # keys elsewhere go on naming the table and not its old copy (SQLite, "ALTER TABLE", section 7).
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
    # Of the ledger's tables only: what a service's own refer to is not checked here.
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
    """The block as one transaction that has the write lock from its start."""
    conn.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        yield
        conn.exec_driver_sql("COMMIT")
    except BaseException:
        # Some failures (a full disk) have rolled back already; then there is nothing to end.
        if conn.connection.driver_connection.in_transaction:  # pyright: ignore
            conn.exec_driver_sql("ROLLBACK")
        raise


def run_script(conn: Connection, script: str) -> None:
    """Runs the statements of `script` one by one, in whatever transaction there is."""
    for statement in _statements(script):
        conn.exec_driver_sql(statement)


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def tables(conn: Connection) -> frozenset[str]:
    """The names of all tables but SQLite's own."""
    names = conn.exec_driver_sql(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    )
    return frozenset(names.scalars())


def catalogue(conn: Connection) -> frozenset[tuple[Any, ...]]:
    """All that the schema is made of, with its SQL to the letter."""
    rows = conn.exec_driver_sql("SELECT type, name, tbl_name, sql FROM sqlite_master")
    return frozenset(tuple(row) for row in rows)


def _pragma(conn: Connection, name: str) -> Any:
    return conn.exec_driver_sql(f"PRAGMA {name}").scalar()
