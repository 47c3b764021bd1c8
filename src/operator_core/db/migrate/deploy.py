"""Upgrades from inside a program, and work on a ledger without a concurrent migration."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import URL

from operator_core.actions.errors import Busy, InvalidValue
from operator_core.db.migrate import postgresql, sqlite
from operator_core.db.migrate.revisions import check_known, current_revision
from operator_core.db.migrate.scripts import upgrade_on
from operator_core.db.postgresql.connect import make_engine
from operator_core.db.sql.errors import translate
from operator_core.db.sql.urls import check_path, parse_url
from operator_core.db.sqlite.files import FILE_MODE, make_file
from operator_core.db.sqlite.handle import MEMORY, connect, over
from operator_core.db.sqlite.wal import use_wal

__all__ = ["DEFAULT_URL", "LOCK_TIMEOUT", "URL_VARIABLE", "look", "run_locked", "upgrade"]

T = TypeVar("T")

URL_VARIABLE: Final = "OPERATOR_DATABASE_URL"
"""The environment variable with the ledger's URL or path."""

DEFAULT_URL: Final = "sqlite:///ledger.db"

LOCK_TIMEOUT: Final = 60.0
"""Seconds that a deploy waits for another deploy's migration before it fails."""


def upgrade(url: str | URL, revision: str = "head", options: Mapping[str, str] = {}) -> None:
    """Runs ``alembic upgrade`` from inside a program; `options` are Alembic's ``-x`` options.

    Several processes may run it at once: one migrates, and the others wait and find the schema current. Raises
    `Busy` if it can't get a lock in time. Nothing is changed then, and a retry is safe.
    """

    def work(conn: Connection) -> None:
        check_known(conn)
        upgrade_on(conn, revision, options)

    run_locked(url, work, options)


def run_locked(
    url: str | URL, work: Callable[[Connection], T], options: Mapping[str, str] = {}
) -> T:
    """Runs `work` on a connection to `url`, or to a file by its path, without a concurrent migration.

    All its changes are committed at its end, or none if it raises. If an event loop runs in this thread,
    `work` on a server runs in another thread.
    """
    if isinstance(url, str):
        url = (
            parse_url(url)
            if "://" in url
            else URL.create("sqlite", database=check_path(url, "url"))
        )
    url = parse_url(url)
    if url.get_backend_name() == "postgresql":
        return _run_on_server(url, work, postgresql.table_timeout(options))
    if url.get_backend_name() != "sqlite":
        raise InvalidValue("url", f"must be of SQLite or PostgreSQL, not {url.get_backend_name()}")
    if url.query:
        raise InvalidValue("url", "must have no options behind a question mark")
    path = url.database or MEMORY
    if path != MEMORY:
        make_file(path, FILE_MODE)
    conn = over(connect(path, busy_timeout=LOCK_TIMEOUT))
    try:
        with sqlite.locked(conn):
            result = work(conn)
        if current_revision(conn) is not None:
            use_wal(conn, busy_timeout=LOCK_TIMEOUT)
        return result
    finally:
        conn.close()


def look(url: URL, work: Callable[[Connection], T]) -> T:
    """Runs `work` in a transaction on a server, and rolls it back."""

    def undone(conn: Connection) -> T:
        result = work(conn)
        conn.rollback()
        return result

    return _on_server(url, undone)


def _run_on_server(url: URL, work: Callable[[Connection], T], table_timeout: float) -> T:
    def locked(conn: Connection) -> T:
        postgresql.lock(conn, wait=LOCK_TIMEOUT, tables=table_timeout)
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
            translated = translate(error, server=True)
            if translated is error:
                raise
            raise translated from error
        finally:
            await engine.dispose()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run())
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, run()).result()
