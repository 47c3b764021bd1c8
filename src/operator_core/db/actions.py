"""`ActionDB`, the facade of the ledger for services."""

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
from operator_core.actions.policies import Policy
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
from operator_core.db.sqlite.engine_runner import SqliteEngineRunner
from operator_core.db.sqlite.files import FILE_MODE
from operator_core.db.sqlite.handle import MEMORY
from operator_core.db.sqlite.one_library import check_connection
from operator_core.db.sqlite.opening import Opening
from operator_core.db.sqlite.runner import SqliteRunner
from operator_core.db.verbs import arguments
from operator_core.db.verbs.arguments import check
from operator_core.db.verbs.ledger import ActionLedger

__all__ = [
    "CHECK_SCHEMA",
    "ActionDB",
    "Target",
    "check_settings",
    "server_or_path",
    "target_from_env",
]

Target: TypeAlias = str | os.PathLike[str] | URL | AsyncEngine | AsyncSession

BUSY_TIMEOUT: Final = 10.0

POOL_SIZE: Final = 10


class ActionDB(ActionLedger):
    """An action ledger: proposals, their executions and their history, in one database.

    `db_path` names the database:

    - a `Path` or a plain string: a SQLite file; ``":memory:"`` is a database that lasts as long as this object;
    - a `sqlalchemy.URL` or a string with ``://``: a database URL;
    - an `AsyncEngine` of the caller, which is borrowed and never disposed of;
    - an `AsyncSession` of the caller, which is joined: all changes become part of its transaction.

    Use it as ``async with ActionDB(...) as db:``, or call `open` and `close`. Opening creates the schema in a new
    SQLite file and upgrades an older schema. It never changes the schema of a server or of a joined session. Many
    `ActionDB` objects may be open on one file.

    With ``upgrade=False``, opening changes nothing. A missing SQLite file raises `StorageUnavailable`, and an empty
    file or an older schema raises `SchemaOutdated`. A file in a folder without write permission can be read.

    `file_mode` is the mode of a SQLite file that opening creates, and of the files that SQLite creates beside it. It
    must let the owner read and write. An existing file keeps its mode.

    `actor` is the default actor of calls, unless a method documents another one. If it is None, the default is
    ``agent``, or the worker for `complete` and `fail`. `busy_timeout` is the number of seconds (0 to 3,600) that a
    write waits for the writes of other processes before it raises `Busy`; on a borrowed engine, the owner of the
    engine sets it. `pool_size` (1 to 1,000) is the maximum number of connections to a server. `max_json_bytes` (2
    bytes to 256 MiB) limits the size of parameters and of result data as JSON.

    `policy` is called with each proposal before it is written, and returns what it adds to the rules in the database:
    a `Deny`, a `Require`, a list of `Require`, or None for nothing. It may be a coroutine function. It can't take
    anything away, and proposals of other programs don't pass it.
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
        policy: Policy | None = None,
    ) -> None:
        check_settings(
            actor=actor,
            busy_timeout=busy_timeout,
            pool_size=pool_size,
            max_json_bytes=max_json_bytes,
            upgrade=upgrade,
            file_mode=file_mode,
            policy=policy,
        )
        super().__init__(None, actor, max_json_bytes, policy)
        self._database = _runner(db_path, busy_timeout, pool_size, upgrade, file_mode)
        self._place = _shown(db_path)
        # Calls of `open` and `close` run one at a time, on any thread and event loop.
        self._gate = Turns()

    @classmethod
    def from_env(cls, **settings: Any) -> Self:
        """Returns the ledger that the environment variable ``OPERATOR_DATABASE_URL`` names.

        Raises `InvalidValue` if it is not set. It also raises that for a bare word, unless a file has that name:
        a bare word is more likely a mistake than a path.
        """
        return cls(target_from_env(), **settings)

    @property
    def db_path(self) -> Path | None:
        """The absolute path of the SQLite file, or None unless this object was opened by the path or URL of one."""
        return self._database.path if isinstance(self._database, SqliteRunner) else None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._place}>"

    async def open(self) -> Self:
        """Opens the ledger; does nothing if it is open. Raises `SchemaError` or `StorageError`."""
        async with self._gate.taken():
            await self._database.open()
            self._runner = self._database
        return self

    async def close(self) -> None:
        """Closes the ledger: refuses new calls, waits for running ones, and releases all connections.

        Raises `WrongLoop` for a ledger on a server that another event loop has opened.
        """
        async with self._gate.taken():
            runner, self._runner = self._runner, None
            try:
                await self._database.close()
            except WrongLoop:
                # It stays open for the event loop that it belongs to.
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
        """Runs all calls on the yielded object in one transaction: it commits all of them or none.

        An exception or a cancellation rolls it back immediately. Inside the block, call the methods of the yielded
        object, not those of this one.

        On SQLite, this is the only call that holds the write lock while the caller's code runs. Other writers of this
        process wait until the block ends, and those of other processes wait up to their `busy_timeout`.
        """
        async with self._units.transaction() as units:
            yield ActionLedger(units, self._actor, self._max_json_bytes, self._policy)


def _runner(
    target: Target, busy_timeout: float, pool_size: int, upgrade: bool, file_mode: int
) -> Runner:
    if isinstance(target, AsyncSession):
        return SessionRunner(target, _check_session, _check_session_again)
    if isinstance(target, AsyncEngine):
        if _backend(target.dialect.name) == "sqlite":
            return SqliteEngineRunner(target, migrate, timeout=busy_timeout, upgrade=upgrade)
        return ServerRunner(target, CHECK_SCHEMA, timeout=busy_timeout, owned=False)
    place = server_or_path(target)
    if isinstance(place, URL):
        engine = make_engine(place, pool_size=pool_size, timeout=busy_timeout)
        return ServerRunner(engine, CHECK_SCHEMA, timeout=busy_timeout, owned=True)
    return SqliteRunner(
        Opening(place, migrate, busy_timeout=busy_timeout, upgrade=upgrade, file_mode=file_mode)
    )


# From here on: also for `SyncActionDB`.

CHECK_SCHEMA: Final = partial(migrate.check_current, alone=True)


def check_settings(
    *,
    actor: str | None,
    busy_timeout: float,
    pool_size: int,
    max_json_bytes: int,
    upgrade: bool,
    file_mode: int,
    policy: Policy | None,
) -> None:
    """Raises `InvalidValue` for an invalid setting; `ActionDB` documents their ranges."""
    if actor is not None:
        check(arguments.ACTOR, actor, "actor")
    check(arguments.SECONDS, busy_timeout, "busy_timeout")
    check(arguments.count_up_to(1000), pool_size, "pool_size")
    check(arguments.SIZE, max_json_bytes, "max_json_bytes")
    check(arguments.FLAG, upgrade, "upgrade")
    if policy is not None and not callable(policy):
        raise InvalidValue("policy", "must be None or a function")
    _check_file_mode(file_mode)


def target_from_env() -> str | URL:
    """The target that ``OPERATOR_DATABASE_URL`` names; raises `InvalidValue`."""
    text = os.environ.get(migrate.URL_VARIABLE, "")
    if not text:
        raise InvalidValue(migrate.URL_VARIABLE, "must be set to the ledger's URL or path")
    return target_from_text(text, migrate.URL_VARIABLE)


def server_or_path(target: str | os.PathLike[str] | URL) -> URL | str:
    """Returns the URL of a PostgreSQL database, or the absolute path of a SQLite file, or ``":memory:"``."""
    if isinstance(target, URL) or (isinstance(target, str) and "://" in target):
        try:
            url = parse_url(target)
        except ArgumentError:
            raise InvalidValue("db_path", "is not a database URL") from None
        if _backend(url.get_backend_name()) == "postgresql":
            return url
        if url.query:
            raise InvalidValue("db_path", "must have no options behind a question mark")
        target = url.database or MEMORY
    return _absolute(check_path(target))


def _check_session(conn: Connection) -> None:
    if is_sqlite(conn):
        check_connection(conn)
    migrate.check_current(conn)
    if not is_sqlite(conn):
        look_at_session(conn)


def _check_session_again(conn: Connection) -> None:
    if is_sqlite(conn):
        check_connection(conn)
    else:
        check_reported(conn)


def _check_file_mode(value: object) -> None:
    if type(value) is not int or value & ~0o777 or value & 0o600 != 0o600:
        raise InvalidValue(
            "file_mode",
            "must be permissions from 0o600 to 0o777 that let the owner read and write",
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
    # Connections are opened later, and the working directory may have changed by then.
    return path if path == MEMORY else os.path.abspath(path)
