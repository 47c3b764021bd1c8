"""Checks a ledger's SQLite file: its integrity, its schema, its rows and the SQLite library.

It only reads, and changes no byte of the file.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from operator_core.actions.errors import UnmanagedSchema
from operator_core.cli.approval_checks import APPROVAL_CHECKS, check_identities
from operator_core.cli.findings import (
    SHOWN,
    Finding,
    Verdict,
    ask,
    check_revision,
    check_rows,
    compared,
    told,
)
from operator_core.cli.history_checks import HISTORY_CHECKS
from operator_core.cli.row_checks import LAST_ID, ROW_CHECKS
from operator_core.db import migrate
from operator_core.db.schema import ACTIONS_SCHEMA_SQL, SCHEMA_SQL
from operator_core.db.sql.sqlite_library import dbapi, describe
from operator_core.db.sql.tables import NUMBERED, TABLES, VIEWS
from operator_core.db.sqlite.files import open_read_only
from operator_core.db.sqlite.handle import MEMORY, connect, over

__all__ = ["check_up", "has_wal_reset_bug", "open_read_only", "revision_of"]


def revision_of(connection: dbapi.Connection) -> str | None:
    """The schema's revision; None if the database has none."""
    known = connection.execute(
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (migrate.VERSION_TABLE,)
    ).fetchone()
    if known is None:
        return None
    row = connection.execute(f"SELECT version_num FROM {migrate.VERSION_TABLE}").fetchone()  # noqa: S608
    return None if row is None else str(row[0])


def has_wal_reset_bug(version: tuple[int, int, int]) -> bool:
    """Whether this version of SQLite can damage a database in WAL mode, according to SQLite's release notes.

    These are 3.7.0 to 3.51.2, except 3.50.7, 3.44.6 and later versions in their series.
    """
    if version[:2] in ((3, 50), (3, 44)):
        return version[2] < {50: 7, 44: 6}[version[1]]
    return (3, 7, 0) <= version < (3, 51, 3)


def check_up(path: Path) -> Iterator[Finding]:
    """Yields the findings about the file; raises the driver's errors.

    It reads the whole file, which takes a while if the file is large.
    """
    with open_read_only(path) as connection:
        revision = revision_of(connection)
        tables = set(_column(connection, "SELECT name FROM sqlite_master WHERE type = 'table'"))
        yield check_revision(revision, lambda: _without_revision(connection, tables))
        yield _library()
        yield _journal_mode(connection)
        yield _integrity(connection)
        if revision != migrate.HEAD:
            yield _foreign_keys(connection, tables)
        else:
            yield from _schema(connection)
            yield from check_rows(partial(_rows, connection))
            yield check_identities(partial(_rows, connection))
            yield _next_ids(connection)
            # Last, because closing `conn` also closes `connection`.
            with over(connection) as conn:
                yield from ask(conn, (*ROW_CHECKS, *HISTORY_CHECKS, *APPROVAL_CHECKS))


def _without_revision(connection: dbapi.Connection, tables: set[str]) -> Finding:
    if "action_proposals" not in tables:
        return Finding("revision", Verdict.BROKEN, "none: this is not a ledger")
    if problem := _why_not_adoptable(connection):
        return Finding("revision", Verdict.BROKEN, f"none: {problem}")
    text = "none: a predecessor's ledger; `operator-core db upgrade` adopts it"
    return Finding("revision", Verdict.WARNING, text)


def _why_not_adoptable(connection: dbapi.Connection) -> str | None:
    """The reason why the file can't be adopted, from a trial with empty copies of its tables; None if it can be."""
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


def _library() -> Finding:
    text = describe()
    if not has_wal_reset_bug(dbapi.sqlite_version_info[:3]):
        return Finding("SQLite library", Verdict.OK, f"{text}, without the WAL-reset bug")
    return Finding(
        "SQLite library",
        Verdict.WARNING,
        f"{text} has the WAL-reset bug of SQLite 3.7.0 to 3.51.2. In rare cases, two connections that "
        "write or checkpoint at the same moment corrupt a database in WAL mode. Install a newer SQLite: "
        "`pip install 'operator-core[sqlite]'`, or upgrade the library that Python uses to 3.51.3 or later "
        "(or 3.50.7, or 3.44.6), and keep backups.",
    )


def _journal_mode(connection: dbapi.Connection) -> Finding:
    mode = str(_column(connection, "PRAGMA journal_mode")[0])
    if mode == "wal":
        return Finding("journal mode", Verdict.OK, mode)
    text = f"{mode}: readers and writers wait for each other; an upgrade sets wal"
    return Finding("journal mode", Verdict.WARNING, text)


def _integrity(connection: dbapi.Connection) -> Finding:
    try:
        found = _column(connection, f"PRAGMA integrity_check({SHOWN})")
    except dbapi.DatabaseError as error:
        found = [error]
    if found == ["ok"]:
        return Finding("integrity", Verdict.OK, "all pages and indexes are intact")
    return Finding("integrity", Verdict.BROKEN, "\n".join(str(each) for each in found))


def _foreign_keys(connection: dbapi.Connection, tables: set[str]) -> Finding:
    """The dangling references of a schema at any revision; at head, `ROW_CHECKS` checks more."""

    def dangling() -> Iterator[str]:
        for ours in TABLES:
            if ours in tables:
                for table, rowid, parent, _ in connection.execute(
                    f"PRAGMA foreign_key_check({ours})"
                ):
                    yield f"{table} row {rowid} refers to a row of {parent} that isn't there"

    return told("foreign keys", dangling(), "every referenced row exists")


def _schema(connection: dbapi.Connection) -> Iterator[Finding]:
    """Compares the schema with a fresh one, because other tools may have dropped, changed or added triggers."""
    fresh = dbapi.connect(":memory:", isolation_level=None)
    try:
        fresh.executescript(SCHEMA_SQL + ACTIONS_SCHEMA_SQL)
        expected = _objects(fresh)
    finally:
        fresh.close()
    try:
        actual = _objects(connection)
    except dbapi.DatabaseError as error:
        yield Finding("schema", Verdict.BROKEN, str(error))
        return

    def harmless(name: str) -> bool:
        table, sql = actual[name]
        # Another service owns tickets, and an index that is not unique refuses no row.
        return table == "tickets" or sql.upper().startswith("CREATE INDEX")

    yield from compared(expected, actual, harmless)


def _objects(connection: dbapi.Connection) -> dict[str, tuple[str, str]]:
    """The objects of the ledger's tables, by kind and name, with their table and SQL text."""
    ours = {*TABLES, *VIEWS, migrate.VERSION_TABLE}
    return {
        f"{kind} {name}": (table, sql)
        # SQLite stores the table name of a trigger in the letter case of its CREATE statement.
        for kind, name, table, sql in connection.execute(
            "SELECT type, name, lower(tbl_name), sql FROM sqlite_master WHERE sql IS NOT NULL"
        )
        if table in ours and name != migrate.VERSION_TABLE
    }


def _next_ids(connection: dbapi.Connection) -> Finding:
    """Checks the next ids: SQLite never lowers them, and inserts no rows after the largest possible one."""

    def wrong() -> Iterator[str]:
        for table in NUMBERED:
            (sound,) = connection.execute(
                f"SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = '{table}'), 0) "  # noqa: S608
                f"BETWEEN coalesce(max(id), 0) AND {LAST_ID - 1} FROM {table}"
            ).fetchone()
            if not sound:
                yield f"the next id of {table} was already used, or is out of range"

    return told("next ids", wrong(), "all are unused")


def _rows(
    connection: dbapi.Connection, table: str, columns: Sequence[str]
) -> Iterable[Sequence[Any]]:
    return connection.execute(f"SELECT {', '.join(columns)} FROM {table}")  # noqa: S608


def _catalogue(connection: dbapi.Connection) -> dict[str, str]:
    found = connection.execute(
        "SELECT type, name, sql FROM sqlite_master "
        "WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' "
        "ORDER BY CASE type WHEN 'table' THEN 1 WHEN 'index' THEN 2 ELSE 3 END"
    )
    return {f"{kind} {name}": sql for kind, name, sql in found}


def _column(connection: dbapi.Connection, sql: str) -> list[Any]:
    return [row[0] for row in connection.execute(sql)]
