"""A ledger's SQLite file looked over: is it whole, is it current, and what runs it.

Only reads, and changes no byte of the file.
"""

import os
import sqlite3
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from operator_core.actions.errors import UnmanagedSchema
from operator_core.cli.findings import (
    SHOWN,
    Finding,
    Verdict,
    check_revision,
    check_rows,
    compared,
    told,
)
from operator_core.db import migrate
from operator_core.db.driver_errors import text_or_bytes
from operator_core.db.schema import ACTIONS_SCHEMA_SQL, SCHEMA_SQL
from operator_core.db.sqlite_connection import MEMORY, connect, over

__all__ = ["check_up", "has_wal_reset_bug", "open_read_only", "revision_of"]


@contextmanager
def open_read_only(path: Path) -> Generator[sqlite3.Connection]:
    """A connection to an existing file that can't change it; raises `sqlite3.Error`."""
    uri = f"{path.absolute().as_uri()}?mode={_mode(path)}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    connection.text_factory = text_or_bytes
    try:
        connection.execute("PRAGMA query_only = ON")
        yield connection
    finally:
        connection.close()


def _mode(path: Path) -> str:
    if any(Path(f"{path}{suffix}").exists() for suffix in ("-wal", "-journal")):
        # Somebody writes, or died writing: what is to be recovered is left to the next writer.
        return "ro"
    if not os.access(path.absolute().parent, os.W_OK):
        # SQLite would need to put files beside it. Nobody writes, so it can do without.
        return "ro&immutable=1"
    # For "ro", SQLite would make the files of WAL mode and leave them behind.
    return "rw"


def revision_of(connection: sqlite3.Connection) -> str | None:
    """The schema's revision, or None in a database that has none."""
    known = connection.execute(
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (migrate.VERSION_TABLE,)
    ).fetchone()
    if known is None:
        return None
    row = connection.execute(f"SELECT version_num FROM {migrate.VERSION_TABLE}").fetchone()  # noqa: S608
    return None if row is None else str(row[0])


def has_wal_reset_bug(version: tuple[int, int, int]) -> bool:
    """Whether this SQLite can damage a database in WAL mode in the way its release notes tell.

    In 3.7.0 to 3.51.2, but for 3.50.7 and 3.44.6 and what follows them in their series.
    """
    if version[:2] in ((3, 50), (3, 44)):
        return version[2] < {50: 7, 44: 6}[version[1]]
    return (3, 7, 0) <= version < (3, 51, 3)


def check_up(path: Path) -> Iterator[Finding]:
    """Everything that is to be known about the file, finding by finding; raises `sqlite3.Error`.

    Reads all of it, which takes a while for a large one.
    """
    with open_read_only(path) as connection:
        revision = revision_of(connection)
        tables = set(_column(connection, "SELECT name FROM sqlite_master WHERE type = 'table'"))
        yield check_revision(revision, lambda: _without_revision(connection, tables))
        yield _library(sqlite3.sqlite_version_info)
        yield _journal_mode(connection)
        yield _integrity(connection)
        yield _foreign_keys(connection)
        if revision == migrate.HEAD:
            yield _schema(connection)
            yield check_rows(
                lambda table, columns: connection.execute(
                    f"SELECT {', '.join(columns)} FROM {table}"  # noqa: S608
                )
            )


def _without_revision(connection: sqlite3.Connection, tables: set[str]) -> Finding:
    if "action_proposals" not in tables:
        return Finding("revision", Verdict.BROKEN, "none: this is not a ledger")
    if problem := _why_not_adoptable(connection):
        return Finding("revision", Verdict.BROKEN, f"none: {problem}")
    text = "none: a ledger from before revisions; `operator-core db upgrade` adopts it"
    return Finding("revision", Verdict.WARNING, text)


def _why_not_adoptable(connection: sqlite3.Connection) -> str | None:
    """What adopting the file would say of its tables, tried on empty ones like them."""
    conn = over(connect(MEMORY, busy_timeout=0))
    try:
        for sql in _catalogue(connection).values():
            conn.exec_driver_sql(sql)
        migrate.make_current(conn, busy_timeout=0)
    except UnmanagedSchema as error:
        return "\n".join(error.differences)
    finally:
        conn.close()
    return None


def _library(version: tuple[int, int, int, *tuple[Any, ...]]) -> Finding:
    text = ".".join(str(part) for part in version[:3])
    if not has_wal_reset_bug(version[:3]):
        return Finding("SQLite library", Verdict.OK, f"{text}, without the WAL-reset bug")
    return Finding(
        "SQLite library",
        Verdict.WARNING,
        f"{text} has the WAL-reset bug of SQLite 3.7.0 to 3.51.2: it can, rarely, corrupt a database "
        "in WAL mode when two connections write or checkpoint at the same moment. Upgrade the "
        "SQLite library that Python uses to 3.51.3 or later (or 3.50.7, or 3.44.6), and keep backups.",
    )


def _journal_mode(connection: sqlite3.Connection) -> Finding:
    mode = str(_column(connection, "PRAGMA journal_mode")[0])
    if mode == "wal":
        return Finding("journal mode", Verdict.OK, mode)
    text = f"{mode}: readers and writers wait for each other; the ledger sets wal when it upgrades"
    return Finding("journal mode", Verdict.WARNING, text)


def _integrity(connection: sqlite3.Connection) -> Finding:
    try:
        found = _column(connection, f"PRAGMA integrity_check({SHOWN})")
    except sqlite3.DatabaseError as error:
        found = [error]
    if found == ["ok"]:
        return Finding("integrity", Verdict.OK, "every page and index is sound")
    return Finding("integrity", Verdict.BROKEN, "\n".join(str(each) for each in found))


def _foreign_keys(connection: sqlite3.Connection) -> Finding:
    def dangling() -> Iterator[str]:
        for table, rowid, parent, _ in connection.execute("PRAGMA foreign_key_check"):
            yield f"{table} row {rowid} refers to a row of {parent} that isn't there"

    return told("foreign keys", dangling(), "every reference has its row")


def _schema(connection: sqlite3.Connection) -> Finding:
    """The triggers keep promises: one that another tool dropped or changed should not go unseen."""
    fresh = sqlite3.connect(":memory:", isolation_level=None)
    try:
        fresh.executescript(SCHEMA_SQL + ACTIONS_SCHEMA_SQL)
        wanted = _catalogue(fresh)
    finally:
        fresh.close()
    try:
        there = _catalogue(connection)
    except sqlite3.DatabaseError as error:
        return Finding("schema", Verdict.BROKEN, str(error))
    return compared(wanted, there)


def _catalogue(connection: sqlite3.Connection) -> dict[str, str]:
    found = connection.execute(
        "SELECT type, name, sql FROM sqlite_master "
        "WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' "
        "ORDER BY CASE type WHEN 'table' THEN 1 WHEN 'index' THEN 2 ELSE 3 END"
    )
    return {f"{kind} {name}": sql for kind, name, sql in found}


def _column(connection: sqlite3.Connection, sql: str) -> list[Any]:
    return [row[0] for row in connection.execute(sql)]
