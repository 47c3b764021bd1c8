"""`ActionDB`, the ledger as services use it."""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from sqlalchemy import Connection
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from operator_core.actions.errors import InvalidValue, WrongLoop
from operator_core.actions.values import MAX_JSON_BYTES
from operator_core.db import migrate
from operator_core.db.postgresql.connect import make_engine
from operator_core.db.postgresql.runner import ServerRunner
from operator_core.db.postgresql.settings import check_reported, look_at_session
from operator_core.db.run.joined import SessionRunner
from operator_core.db.run.loop_lock import Turns
from operator_core.db.run.runner import Runner
from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sql.urls import check_path, masked, parse_url, target_from_text
from operator_core.db.sqlite.connection import MEMORY
from operator_core.db.sqlite.engine_runner import SqliteEngineRunner
from operator_core.db.sqlite.files import FILE_MODE
from operator_core.db.sqlite.runner import SqliteRunner
from operator_core.db.verbs import arguments
from operator_core.db.verbs.arguments import check
from operator_core.db.verbs.ledger import ActionLedger

__all__ = ["ActionDB", "Target"]

Target: TypeAlias = str | os.PathLike[str] | URL | AsyncEngine | AsyncSession

BUSY_TIMEOUT: Final = 10.0

POOL_SIZE: Final = 10


class ActionDB(ActionLedger):
    """An action ledger: proposals, their executions and their history, in one database.

    `db_path` is where the ledger is: a path (or a plain string) is a SQLite file, ``":memory:"`` one that lasts
    as long as the object; a URL, as text with ``://`` or as `sqlalchemy.URL`; an `AsyncEngine` of
    the caller's, borrowed; an `AsyncSession`, joined: then everything is part of the caller's
    transaction.

    Use it as ``async with ActionDB(...) as db:``, or call `open` and `close`. Opening makes the
    schema in a new SQLite file and upgrades one that is behind. Many may be open on one file.

    With `upgrade` False, opening changes nothing: a SQLite file that is not there is
    `StorageUnavailable`, one that is behind or empty is `SchemaOutdated`, and one in a folder that can't be
    written can be read. A server's schema is never changed by opening, nor is a joined session's.

    `file_mode` is the permissions of a SQLite file that opening makes, and of those that SQLite puts
    beside it; it must let the owner read and write. A file that is there keeps its own.

    `actor` is who acts where a call does not say: ``agent`` if neither does, but for what ends an execution, which is then
    the worker's doing. `busy_timeout` is how many seconds (0 to 3,600) a
    write waits for other processes' writes before it raises `Busy`; on a borrowed engine that is for
    the engine's owner to set. `max_json_bytes` is the size limit of parameters and of result data as
    JSON, 2 bytes to 256 MiB.
    """

    def __init__(
        self,
        db_path: Target,
        *,
        actor: str | None = None,
        busy_timeout: float = BUSY_TIMEOUT,
        pool_size: int = POOL_SIZE,
        max_json_bytes: int = MAX_JSON_BYTES,
        upgrade: bool = True,
        file_mode: int = FILE_MODE,
    ) -> None:
        if actor is not None:
            check(arguments.ACTOR, actor, "actor")
        check(arguments.SECONDS, busy_timeout, "busy_timeout")
        check(arguments.count_up_to(1000), pool_size, "pool_size")
        check(arguments.SIZE, max_json_bytes, "max_json_bytes")
        check(arguments.FLAG, upgrade, "upgrade")
        _check_file_mode(file_mode)
        super().__init__(None, actor, max_json_bytes)
        self._database = _runner(db_path, busy_timeout, pool_size, upgrade, file_mode)
        self._place = _shown(db_path)
        # Opening and closing take turns, whoever asks for them.
        self._gate = Turns()

    @classmethod
    def from_env(cls, **settings: Any) -> Self:
        """The ledger that the environment variable ``OPERATOR_DATABASE_URL`` names.

        Raises `InvalidValue` if it is not set, or is a bare word, which is rather a mistake than a path.
        """
        text = os.environ.get(migrate.URL_VARIABLE, "")
        if not text:
            raise InvalidValue(migrate.URL_VARIABLE, "must be set to the ledger's URL or path")
        return cls(target_from_text(text, migrate.URL_VARIABLE), **settings)

    @property
    def db_path(self) -> Path | None:
        """The absolute path of the ledger's SQLite file; None if it is in no file that this object opened by its path."""
        return self._database.path if isinstance(self._database, SqliteRunner) else None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._place}>"

    async def open(self) -> Self:
        """Opens the ledger; raises `SchemaError` or `StorageError`. Opening an open one does nothing."""
        async with self._gate.taken():
            await self._database.open()
            self._runner = self._database
        return self

    async def close(self) -> None:
        """Refuses new calls, waits for those under way, and gives everything back.

        Raises `WrongLoop` for a ledger on a server that another event loop has opened.
        """
        async with self._gate.taken():
            runner, self._runner = self._runner, None
            try:
                await self._database.close()
            except WrongLoop:
                # It is as open as it was, for the loop that it belongs to.
                self._runner = runner
                raise

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[ActionLedger]:
        """What is called on the object that it yields is one transaction, all or nothing.

        This is the one place where the write lock is held while the caller thinks: other writers
        of the process queue behind it, those of other processes wait up to their `busy_timeout`.
        An exception or a cancellation rolls it back at once. Inside, call the yielded object's
        methods, not this one's.
        """
        async with self._units.transaction() as units:
            yield ActionLedger(units, self._actor, self._max_json_bytes)


def _runner(
    target: Target, busy_timeout: float, pool_size: int, upgrade: bool, file_mode: int
) -> Runner:
    if isinstance(target, AsyncSession):
        return SessionRunner(target, _check_session, _check_session_again)
    if isinstance(target, AsyncEngine):
        if _backend(target.dialect.name) == "sqlite":
            return SqliteEngineRunner(target, migrate, timeout=busy_timeout, upgrade=upgrade)
        return ServerRunner(target, _CHECK_SCHEMA, timeout=busy_timeout, owned=False)
    if isinstance(target, URL) or (isinstance(target, str) and "://" in target):
        try:
            url = parse_url(target)
        except ArgumentError:
            raise InvalidValue("db_path", "is not a database URL") from None
        if _backend(url.get_backend_name()) == "postgresql":
            engine = make_engine(url, pool_size=pool_size, timeout=busy_timeout)
            return ServerRunner(engine, _CHECK_SCHEMA, timeout=busy_timeout, owned=True)
        if url.query:
            raise InvalidValue("db_path", "must have no options behind a question mark")
        target = url.database or MEMORY
    path = _absolute(check_path(target))
    return SqliteRunner(
        path, migrate, busy_timeout=busy_timeout, upgrade=upgrade, file_mode=file_mode
    )


_CHECK_SCHEMA: Final = partial(migrate.check_current, alone=True)


def _check_session(conn: Connection) -> None:
    migrate.check_current(conn)
    if not is_sqlite(conn):
        look_at_session(conn)


def _check_session_again(conn: Connection) -> None:
    if not is_sqlite(conn):
        check_reported(conn)


def _check_file_mode(value: object) -> None:
    if type(value) is not int or value & ~0o777 or value & 0o600 != 0o600:
        raise InvalidValue(
            "file_mode",
            "must be permissions from 0o600 to 0o777 with which the owner can read and write",
        )


def _shown(target: Target) -> str:
    if isinstance(target, AsyncSession):
        return "on a session"
    return masked(target.url if isinstance(target, AsyncEngine) else target)


def _backend(name: str) -> str:
    if name not in ("sqlite", "postgresql"):
        raise InvalidValue("db_path", f"must be a SQLite or PostgreSQL database, not {name}")
    return name


def _absolute(path: str) -> str:
    # Connections are opened when they are needed, and the program may have gone elsewhere by then.
    return path if path == MEMORY else os.path.abspath(path)
