"""`ActionDB`, the ledger as services use it."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, cast

from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from operator_core.actions.errors import InvalidValue, WrongLoop
from operator_core.actions.values import MAX_JSON_BYTES
from operator_core.db import checks, migrate
from operator_core.db.engine import Runner
from operator_core.db.joined import SessionRunner
from operator_core.db.ledger import ActionLedger
from operator_core.db.pooled_sqlite import SqliteEngineRunner
from operator_core.db.postgresql import make_engine, parse_url
from operator_core.db.server import ServerRunner
from operator_core.db.sqlite import SqliteRunner
from operator_core.db.sqlite_connection import MEMORY

__all__ = ["ActionDB", "Target"]

Target: TypeAlias = str | os.PathLike[str] | URL | AsyncEngine | AsyncSession

BUSY_TIMEOUT: Final = 10.0

POOL_SIZE: Final = 10


class ActionDB(ActionLedger):
    """An action ledger: proposals, their executions and their history, in one database.

    `target` says where: a path (or a plain string) is a SQLite file, ``":memory:"`` one that lasts
    as long as the object; a URL, as text with ``://`` or as `sqlalchemy.URL`; an `AsyncEngine` of
    the caller's, borrowed; an `AsyncSession`, joined: then everything is part of the caller's
    transaction.

    Use it as ``async with ActionDB(...) as db:``, or call `open` and `close`. Opening makes the
    schema in a new SQLite file and upgrades one that is behind. Many may be open on one file.

    `actor` is who acts where a call does not say. `busy_timeout` is how many seconds (0 to 3,600) a
    write waits for other processes' writes before it raises `Busy`; on a borrowed engine that is for
    the engine's owner to set. `max_json_bytes` is the size limit of parameters and of result data as
    JSON, 2 bytes to 256 MiB.
    """

    def __init__(
        self,
        target: Target,
        *,
        actor: str = "agent",
        busy_timeout: float = BUSY_TIMEOUT,
        pool_size: int = POOL_SIZE,
        max_json_bytes: int = MAX_JSON_BYTES,
    ) -> None:
        checks.check_actor(actor)
        checks.check_seconds(busy_timeout, "busy_timeout")
        checks.check_count(pool_size, "pool_size", 1000)
        checks.check_size(max_json_bytes, "max_json_bytes")
        super().__init__(None, actor, max_json_bytes)
        self._database = _runner(target, busy_timeout, pool_size)
        # Opening and closing take turns, whoever asks for them.
        self._gate = asyncio.Lock()

    @classmethod
    def from_env(cls, **settings: Any) -> Self:
        """The ledger that the environment variable ``OPERATOR_DATABASE_URL`` names.

        Raises `InvalidValue` if it is not set.
        """
        url = os.environ.get(migrate.URL_VARIABLE, "")
        if not url:
            raise InvalidValue(migrate.URL_VARIABLE, "must be set to the ledger's URL or path")
        return cls(url, **settings)

    async def open(self) -> Self:
        """Opens the ledger; raises `SchemaError` or `StorageError`. Opening an open one does nothing."""
        async with self._gate:
            await self._database.open()
            self._runner = self._database
        return self

    async def close(self) -> None:
        """Refuses new calls, waits for those under way, and gives everything back.

        Raises `WrongLoop` for a ledger on a server that another event loop has opened.
        """
        async with self._gate:
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


def _runner(target: Target, busy_timeout: float, pool_size: int) -> Runner:
    if isinstance(target, AsyncSession):
        return SessionRunner(target)
    if isinstance(target, AsyncEngine):
        if _backend(target.dialect.name) == "sqlite":
            return SqliteEngineRunner(target, timeout=busy_timeout)
        return ServerRunner(target, timeout=busy_timeout, owned=False)
    if isinstance(target, str) and "://" in target:
        try:
            target = parse_url(target)
        except ArgumentError:
            raise InvalidValue("target", "is not a database URL") from None
    if isinstance(target, URL):
        if _backend(target.get_backend_name()) == "postgresql":
            engine = make_engine(target, pool_size=pool_size, timeout=busy_timeout)
            return ServerRunner(engine, timeout=busy_timeout, owned=True)
        if target.query:
            raise InvalidValue("target", "must have no options behind a question mark")
        return SqliteRunner(_absolute(target.database or MEMORY), busy_timeout=busy_timeout)
    if not isinstance(cast(object, target), str | os.PathLike) or not os.fspath(target):
        raise InvalidValue("target", "must be a path, a URL, an AsyncEngine or an AsyncSession")
    return SqliteRunner(_absolute(os.fspath(target)), busy_timeout=busy_timeout)


def _backend(name: str) -> str:
    if name not in ("sqlite", "postgresql"):
        raise InvalidValue("target", f"must be a SQLite or PostgreSQL database, not {name}")
    return name


def _absolute(path: str) -> str:
    # Connections are opened when they are needed, and the program may have gone elsewhere by then.
    return path if path == MEMORY else os.path.abspath(path)
