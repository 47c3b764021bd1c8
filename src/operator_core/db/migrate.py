"""Which schema a database has, and how it becomes this code's: alone, under a lock, or not at all.

Alembic is imported only where there is something for it to do: most programs open a ledger that is
current, and that costs one SELECT.
"""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import Connection, Table, inspect
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import SchemaItem

from operator_core.actions.errors import (
    Busy,
    InvalidValue,
    SchemaOutdated,
    SchemaTooNew,
    UnmanagedSchema,
)
from operator_core.db import postgresql_schema, sqlite_schema
from operator_core.db.driver_errors import translate
from operator_core.db.postgresql import make_engine, parse_url
from operator_core.db.postgresql_errors import sqlstate
from operator_core.db.schema import ACTIONS_SCHEMA_SQL, SCHEMA_SQL
from operator_core.db.sqlite_connection import MEMORY, connect, over
from operator_core.db.sqlite_files import FILE_MODE, make_file
from operator_core.db.urls import check_path

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = [
    "DEFAULT_URL",
    "HEAD",
    "LOCK_TIMEOUT",
    "REVISIONS",
    "URL_VARIABLE",
    "VERSION_TABLE",
    "alembic_config",
    "check_current",
    "check_known",
    "check_usable",
    "current_revision",
    "include_name",
    "include_object",
    "is_current",
    "look",
    "make_current",
    "postgresql_script",
    "recognise",
    "run_locked",
    "upgrade",
    "upgrade_on",
]

T = TypeVar("T")

REVISIONS: Final = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008")
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

_LOOK: Final = f"SELECT version_num, ({sqlite_schema.disguised('count(*)', VERSION_TABLE)}) FROM {VERSION_TABLE}"

_UNDEFINED_TABLE: Final = "42P01"

# Alembic keeps the migration under way in globals of its modules: one at a time in a process.
_ALEMBIC: Final = threading.Lock()


def current_revision(conn: Connection, *, alone: bool = False) -> str | None:
    """The database's revision, or None if it has none.

    One SELECT on SQLite, and on a server too if `conn` is `alone`: in no transaction, which a
    statement that fails would end.
    """
    if conn.dialect.name == "postgresql" and not alone:
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
    """The database's revision; raises `SchemaTooNew` for one that this code has never heard of."""
    revision = current_revision(conn, alone=alone)
    if revision is not None and revision not in REVISIONS:
        raise SchemaTooNew(revision, HEAD)
    return revision


def check_current(conn: Connection, *, alone: bool = False) -> None:
    """Raises `SchemaOutdated` or `SchemaTooNew` unless the database is at `HEAD`; changes nothing."""
    revision = check_known(conn, alone=alone)
    if revision != HEAD:
        raise SchemaOutdated(revision, HEAD)


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
    sqlite_schema.refuse_disguised(conn, VERSION_TABLE)
    if check_known(conn) is None:
        _refuse_strangers(_others(conn))
    check_current(conn)


def make_current(conn: Connection, *, busy_timeout: float) -> None:
    """Brings a SQLite database to `HEAD`; on one that is there already this is one SELECT.

    An empty database is filled, one that is behind is upgraded, a predecessor's is adopted; one
    with only strangers' tables in it is refused with `UnmanagedSchema`, untouched: whoever wants
    the ledger beside them says so with ``alembic upgrade head``. So is one with views in the tables' places.
    """
    sqlite_schema.refuse_disguised(conn, VERSION_TABLE)
    revision = check_known(conn)
    if revision == HEAD:
        return
    if conn.connection.driver_connection.in_transaction:  # pyright: ignore
        # A service's engine may begin one with the first statement; settings are changed outside.
        conn.exec_driver_sql("ROLLBACK")
    if revision is None:
        others = _others(conn)
        if not others:
            sqlite_schema.use_wal(conn, busy_timeout=busy_timeout)
            if _fill(conn):
                return
        else:
            _refuse_strangers(others)
    with sqlite_schema.locked(conn):
        recognise(conn)
        # Whoever held the lock before may have done it, too.
        if check_known(conn) != HEAD:
            upgrade_on(conn)
    sqlite_schema.use_wal(conn, busy_timeout=busy_timeout)


def upgrade(url: str | URL, revision: str = "head", options: Mapping[str, str] = {}) -> None:
    """``alembic upgrade`` from inside a program; `options` are Alembic's ``-x`` ones.

    Safe to run from several processes at once: one does it, the others wait and find it done. Raises
    `Busy` if a lock was not to be had in time; nothing was changed then, and trying again is safe.
    """

    def work(conn: Connection) -> None:
        check_known(conn)
        upgrade_on(conn, revision, options)

    run_locked(url, work, options)


def recognise(conn: Connection) -> None:
    """Writes `HEAD` into a SQLite database that the schema's text was run on, and so is there already."""
    if (
        conn.dialect.name == "sqlite"
        and current_revision(conn) is None
        and "action_events" in sqlite_schema.tables(conn)
    ):
        reference = over(connect(MEMORY, busy_timeout=0))
        try:
            sqlite_schema.run_script(reference, SCHEMA_SQL + ACTIONS_SCHEMA_SQL)
            if sqlite_schema.catalogue(reference) <= sqlite_schema.catalogue(conn):
                _stamp(conn)
        finally:
            reference.close()


def run_locked(
    url: str | URL, work: Callable[[Connection], T], options: Mapping[str, str] = {}
) -> T:
    """Runs `work` on a connection to `url`, or to the file of that path, while no one else migrates it.

    All that it does is committed at its end, or nothing if it raises. Where an event loop runs in this
    thread, a server is talked to in another thread meanwhile.
    """
    if isinstance(url, str):
        url = (
            parse_url(url)
            if "://" in url
            else URL.create("sqlite", database=check_path(url, "url"))
        )
    url = parse_url(url)
    if url.get_backend_name() == "postgresql":
        return _run_on_server(url, work, postgresql_schema.table_timeout(options))
    if url.get_backend_name() != "sqlite":
        raise InvalidValue("url", f"must be of SQLite or PostgreSQL, not {url.get_backend_name()}")
    if url.query:
        raise InvalidValue("url", "must have no options behind a question mark")
    path = url.database or MEMORY
    if path != MEMORY:
        make_file(path, FILE_MODE)
    conn = over(connect(path, busy_timeout=LOCK_TIMEOUT))
    try:
        with sqlite_schema.locked(conn):
            result = work(conn)
        if current_revision(conn) is not None:
            sqlite_schema.use_wal(conn, busy_timeout=LOCK_TIMEOUT)
        return result
    finally:
        conn.close()


def look(url: URL, work: Callable[[Connection], T]) -> T:
    """Runs `work` in a transaction on a server, of which nothing is kept."""

    def undone(conn: Connection) -> T:
        result = work(conn)
        conn.rollback()
        return result

    return _on_server(url, undone)


def _run_on_server(url: URL, work: Callable[[Connection], T], table_timeout: float) -> T:
    def locked(conn: Connection) -> T:
        postgresql_schema.lock(conn, wait=LOCK_TIMEOUT, tables=table_timeout)
        result = work(conn)
        conn.commit()
        return result

    try:
        return _on_server(url, locked)
    except Busy as error:
        what = "another migration, or a session that uses one of its tables"
        raise Busy(None, what) from error.__cause__


def _on_server(url: URL, work: Callable[[Connection], T]) -> T:
    async def run() -> T:
        engine = make_engine(url, pool_size=1, timeout=LOCK_TIMEOUT)
        try:
            async with engine.execution_options(isolation_level="READ COMMITTED").connect() as conn:
                return await conn.run_sync(work)
        except Exception as error:
            own = translate(error, server=True)
            if own is error:
                raise
            raise own from error
        finally:
            await engine.dispose()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run())
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, run()).result()


def _fill(conn: Connection) -> bool:
    """Makes the schema in an empty database from its text, without Alembic; False if it is not empty."""
    with sqlite_schema.immediate(conn):
        if _others(conn):
            return False
        sqlite_schema.run_script(conn, SCHEMA_SQL + ACTIONS_SCHEMA_SQL)
        _stamp(conn)
        return True


def _others(conn: Connection) -> frozenset[str]:
    return sqlite_schema.tables(conn) - {VERSION_TABLE}


def _refuse_strangers(others: frozenset[str]) -> None:
    if others and others.isdisjoint(sqlite_schema.OUR_TABLES):
        names = ", ".join(sorted(others))
        raise UnmanagedSchema([f"it has only tables of something else ({names})"])


def _stamp(conn: Connection) -> None:
    # As Alembic makes it; it is there already, and empty, after a downgrade to base.
    conn.exec_driver_sql(
        f"CREATE TABLE IF NOT EXISTS {VERSION_TABLE} (\n    version_num VARCHAR(32) NOT NULL, \n    "
        f"CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY (version_num)\n)"
    )
    conn.exec_driver_sql(f"INSERT INTO {VERSION_TABLE} VALUES ('{HEAD}')")


# ------ Alembic, from here on only


def alembic_config(options: Mapping[str, str] = {}) -> "Config":
    """Alembic's configuration for the ledger's revisions, wherever they are installed."""
    import argparse
    import sys

    from alembic.config import Config

    home = _home()
    # Alembic's own default is what stdout was when it was imported, which may be closed by now.
    config = Config(home / "alembic.ini", stdout=sys.stdout)
    config.cmd_opts = argparse.Namespace(x=[f"{key}={value}" for key, value in options.items()])
    return config


def postgresql_script() -> str:
    """The schema at head as a script for PostgreSQL, as ``alembic upgrade head --sql`` prints it."""
    import io

    from alembic import command

    config = alembic_config({"url": "postgresql://"})
    config.output_buffer = io.StringIO()
    with _ALEMBIC:
        command.upgrade(config, "head", sql=True)
    return config.output_buffer.getvalue()


def _home() -> Path:
    """The folder with ``alembic.ini`` and ``migrations``: the package, or the checkout it is in."""
    here = Path(__file__).resolve()
    for home in (here.parents[1], here.parents[3]):
        if (home / "migrations" / "env.py").is_file():
            return home
    raise FileNotFoundError("operator-core was installed without its migrations")


def upgrade_on(conn: Connection, revision: str = "head", options: Mapping[str, str] = {}) -> None:
    """Runs the revisions in the transaction that `conn` is in, which holds what lock there is to hold."""
    from alembic import command

    config = alembic_config(options)
    config.attributes["connection"] = conn
    config.attributes["locked"] = True
    while not _ALEMBIC.acquire(blocking=False):
        time.sleep(0.005)
        # Where this runs inside an event loop, the other migration may do so too and needs a turn.
        conn.exec_driver_sql("SELECT 1")
    try:
        command.upgrade(config, revision)
    finally:
        _ALEMBIC.release()


# ------ a service's own Alembic, which finds the ledger's tables and has never heard of them


def include_name(name: str | None, type_: str, parent_names: Mapping[Any, str | None]) -> bool:
    """For a service's ``env.py``: whether a name that Alembic found is not the ledger's.

    Give Alembic both this and `include_object`. Without them ``revision --autogenerate`` drops
    every table of the ledger, for none of them is in the service's metadata.
    """
    return type_ != "table" or not _is_ours(name, parent_names.get("schema_name"))


def include_object(
    item: SchemaItem,
    name: str | None,
    type_: str,
    reflected: bool,
    compare_to: SchemaItem | None,
) -> bool:
    """For a service's ``env.py``: whether something that Alembic would compare is not the ledger's.

    That goes for tables which the service's metadata declares too, say for its foreign keys.
    """
    return not (type_ == "table" and isinstance(item, Table) and _is_ours(name, item.schema))


def _is_ours(name: str | None, schema: str | None) -> bool:
    if name == VERSION_TABLE:
        return True
    return name in sqlite_schema.OUR_TABLES and _holds_ledger(schema)


def _holds_ledger(schema: str | None) -> bool:
    """Whether the ledger is in that schema of the database that Alembic looks at.

    Another one may have tables of the same names, such as workflows. True where it can't be told.
    """
    from alembic import context

    try:
        conn = context.get_context().connection
    except (NameError, AttributeError):
        # Both are Alembic's: before the first env.py that runs, and after the last.
        return True
    if conn is None:
        return True
    return inspect(conn).has_table(
        "action_proposals", schema=schema or conn.dialect.default_schema_name
    )
