"""Which schema a database has, and how it becomes this code's: alone, under a lock, or not at all.

Alembic is imported only where there is something for it to do: most programs open a ledger that is
current, and that costs one SELECT.
"""

import sqlite3
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError

from operator_core.actions.errors import (
    InvalidValue,
    SchemaOutdated,
    SchemaTooNew,
    UnmanagedSchema,
)
from operator_core.db.schema import ACTIONS_SCHEMA_SQL, SCHEMA_SQL
from operator_core.db.sqlite_connection import MEMORY, connect, over

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = [
    "DEFAULT_URL",
    "HEAD",
    "REVISIONS",
    "URL_VARIABLE",
    "VERSION_TABLE",
    "alembic_config",
    "check_current",
    "check_known",
    "current_revision",
    "is_current",
    "locked",
    "make_current",
    "recognise",
    "upgrade",
    "use_wal",
]

REVISIONS: Final = ("0001", "0002")
"""Every revision, oldest first, so that a stranger's is known to be newer without asking Alembic."""

HEAD: Final = REVISIONS[-1]
"""The revision that this code works with."""

VERSION_TABLE: Final = "operator_core_alembic_version"
"""A name of its own, so that a service's own Alembic history can live beside the ledger's."""

URL_VARIABLE: Final = "OPERATOR_DATABASE_URL"
"""The environment variable that says where the ledger is."""

DEFAULT_URL: Final = "sqlite:///ledger.db"

LOCK_TIMEOUT: Final = 60.0
"""Seconds that a deploy waits for another one's migration before it fails."""

_OUR_TABLES: Final = ("tickets", "action_proposals", "action_records", "action_events")

# Alembic keeps the migration under way in globals of its modules: one at a time in a process.
_ALEMBIC: Final = threading.Lock()


def current_revision(conn: Connection) -> str | None:
    """The database's revision, or None if it has none; one SELECT."""
    try:
        return conn.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar()
    except DBAPIError as error:
        if isinstance(error.orig, sqlite3.OperationalError) and "no such table" in str(error.orig):
            return None
        raise


def check_known(conn: Connection) -> str | None:
    """The database's revision; raises `SchemaTooNew` for one that this code has never heard of."""
    revision = current_revision(conn)
    if revision is not None and revision not in REVISIONS:
        raise SchemaTooNew(revision, HEAD)
    return revision


def check_current(conn: Connection) -> None:
    """Raises `SchemaOutdated` or `SchemaTooNew` unless the database is at `HEAD`; changes nothing."""
    revision = check_known(conn)
    if revision != HEAD:
        raise SchemaOutdated(revision, HEAD)


def is_current(connection: sqlite3.Connection) -> bool:
    """Whether there is nothing for `make_current` to do; False too if that can't be told.

    The same SELECT, asked of the driver: SQLAlchemy would need three times as long to put it.
    """
    try:
        found = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()
    except sqlite3.Error:
        return False
    return found == (HEAD,)


def make_current(conn: Connection, *, busy_timeout: float) -> None:
    """Brings a SQLite database to `HEAD`; on one that is there already this is one SELECT.

    An empty database is filled, one that is behind is upgraded, a predecessor's is adopted; one
    with only strangers' tables in it is refused with `UnmanagedSchema`, untouched: whoever wants
    the ledger beside them says so with ``alembic upgrade head``.
    """
    revision = check_known(conn)
    if revision == HEAD:
        return
    if conn.connection.driver_connection.in_transaction:  # pyright: ignore
        # A service's engine may begin one with the first statement; settings are changed outside.
        conn.exec_driver_sql("ROLLBACK")
    if revision is None:
        tables = _tables(conn)
        if not tables:
            use_wal(conn, busy_timeout=busy_timeout)
            if _fill(conn):
                return
        elif tables.isdisjoint(_OUR_TABLES):
            names = ", ".join(sorted(tables))
            raise UnmanagedSchema([f"it has only tables of something else ({names})"])
    with _locked(conn):
        recognise(conn)
        # Whoever held the lock before may have done it, too.
        if check_known(conn) != HEAD:
            _run_alembic_upgrade(conn, "head")
    use_wal(conn, busy_timeout=busy_timeout)


def upgrade(url: str | URL, revision: str = "head", options: Mapping[str, str] = {}) -> None:
    """``alembic upgrade`` from inside a program; `options` are Alembic's ``-x`` ones.

    Safe to run from several processes at once: one does it, the others wait and find it done.
    """
    with locked(url) as conn:
        check_known(conn)
        _run_alembic_upgrade(conn, revision, options)


def recognise(conn: Connection) -> None:
    """Writes `HEAD` into a database that the schema's text was run on, and so is there already."""
    if current_revision(conn) is None and "action_events" in _tables(conn):
        reference = over(connect(MEMORY, busy_timeout=0))
        try:
            _run(reference, SCHEMA_SQL + ACTIONS_SCHEMA_SQL)
            if _catalogue(reference) <= _catalogue(conn):
                _stamp(conn)
        finally:
            reference.close()


@contextmanager
def locked(url: str | URL) -> Generator[Connection]:
    """A connection to `url`, or to the file of that path, on which no one else can write meanwhile.

    All that is done in the block is committed at its end, or nothing if it raises.
    """
    if isinstance(url, str) and "://" not in url:
        url = URL.create("sqlite", database=url)
    url = make_url(url)
    if url.get_backend_name() != "sqlite":
        raise InvalidValue("url", f"must be of SQLite, not {url.get_backend_name()}")
    if url.query:
        raise InvalidValue("url", "must have no options behind a question mark")
    conn = over(connect(url.database or MEMORY, busy_timeout=LOCK_TIMEOUT))
    try:
        with _locked(conn):
            yield conn
        if current_revision(conn) is not None:
            use_wal(conn, busy_timeout=LOCK_TIMEOUT)
    finally:
        conn.close()


def use_wal(conn: Connection, *, busy_timeout: float) -> None:
    """Write-ahead logging, so that readers and the writer do not wait for each other.

    It is a property of the file; asking again costs nothing. SQLite does not wait for locks here
    as it does elsewhere, so a race between two that open a new file is waited out by hand.
    """
    deadline = time.monotonic() + busy_timeout
    while True:
        try:
            conn.exec_driver_sql("PRAGMA journal_mode = WAL").scalar()
            return
        except DBAPIError as error:
            code = getattr(error.orig, "sqlite_errorcode", 0)
            if code & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.005)


@contextmanager
def _locked(conn: Connection) -> Generator[None]:
    # Both are ignored inside a transaction, so they come first. Rebuilding a table with foreign
    # keys on would delete or orphan the rows that refer to it; with the legacy rename, foreign
    # keys elsewhere go on naming the table and not its old copy (SQLite, "ALTER TABLE", section 7).
    foreign_keys = _pragma(conn, "foreign_keys")
    legacy = _pragma(conn, "legacy_alter_table")
    conn.exec_driver_sql("PRAGMA foreign_keys = OFF")
    conn.exec_driver_sql("PRAGMA legacy_alter_table = ON")
    try:
        with _immediate(conn):
            yield
            _check_references(conn)
    finally:
        conn.exec_driver_sql(f"PRAGMA foreign_keys = {foreign_keys}")
        conn.exec_driver_sql(f"PRAGMA legacy_alter_table = {legacy}")


def _check_references(conn: Connection) -> None:
    # Of the ledger's tables only: what a service's own refer to is not checked here.
    present = _tables(conn)
    for name in (each for each in _OUR_TABLES if each in present):
        dangling = conn.exec_driver_sql(f"PRAGMA foreign_key_check({name})").fetchmany(10)
        if dangling:
            raise UnmanagedSchema(
                f"{table} row {rowid} refers to a row of {parent} that isn't there"
                for table, rowid, parent, _ in dangling
            )


@contextmanager
def _immediate(conn: Connection) -> Generator[None]:
    conn.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        yield
        conn.exec_driver_sql("COMMIT")
    except BaseException:
        # Some failures (a full disk) have rolled back already; then there is nothing to end.
        if conn.connection.driver_connection.in_transaction:  # pyright: ignore
            conn.exec_driver_sql("ROLLBACK")
        raise


def _fill(conn: Connection) -> bool:
    """Makes the schema in an empty database from its text, without Alembic; False if it is not empty."""
    with _immediate(conn):
        if _tables(conn):
            return False
        _run(conn, SCHEMA_SQL + ACTIONS_SCHEMA_SQL)
        _stamp(conn)
        return True


def _stamp(conn: Connection) -> None:
    # As Alembic makes it; it is there already, and empty, after a downgrade to base.
    conn.exec_driver_sql(
        f"CREATE TABLE IF NOT EXISTS {VERSION_TABLE} (\n    version_num VARCHAR(32) NOT NULL, \n    "
        f"CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY (version_num)\n)"
    )
    conn.exec_driver_sql(f"INSERT INTO {VERSION_TABLE} VALUES ('{HEAD}')")


def _run(conn: Connection, script: str) -> None:
    for statement in _statements(script):
        conn.exec_driver_sql(statement)


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _tables(conn: Connection) -> frozenset[str]:
    names = conn.exec_driver_sql(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    )
    return frozenset(names.scalars()) - {VERSION_TABLE}


def _catalogue(conn: Connection) -> frozenset[tuple[Any, ...]]:
    rows = conn.exec_driver_sql("SELECT type, name, tbl_name, sql FROM sqlite_master")
    return frozenset(tuple(row) for row in rows)


def _pragma(conn: Connection, name: str) -> Any:
    return conn.exec_driver_sql(f"PRAGMA {name}").scalar()


# ------ Alembic, from here on only


def alembic_config(options: Mapping[str, str] = {}) -> "Config":
    """Alembic's configuration for the ledger's revisions, wherever they are installed."""
    import argparse

    from alembic.config import Config

    home = _home()
    config = Config(home / "alembic.ini")
    config.cmd_opts = argparse.Namespace(x=[f"{key}={value}" for key, value in options.items()])
    return config


def _home() -> Path:
    """The folder with ``alembic.ini`` and ``migrations``: the package, or the checkout it is in."""
    here = Path(__file__).resolve()
    for home in (here.parents[1], here.parents[3]):
        if (home / "migrations" / "env.py").is_file():
            return home
    raise FileNotFoundError("operator-core was installed without its migrations")


def _run_alembic_upgrade(conn: Connection, revision: str, options: Mapping[str, str] = {}) -> None:
    from alembic import command

    config = alembic_config(options)
    config.attributes["connection"] = conn
    while not _ALEMBIC.acquire(blocking=False):
        time.sleep(0.005)
        # Where this runs inside an event loop, the other migration may do so too and needs a turn.
        conn.exec_driver_sql("SELECT 1")
    try:
        command.upgrade(config, revision)
    finally:
        _ALEMBIC.release()
