"""`SyncActionDB`, the facade of the ledger for programs without an event loop."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias, cast

from sqlalchemy.engine import URL

from operator_core.actions.errors import InvalidValue
from operator_core.actions.policies import Policy
from operator_core.actions.values import MAX_JSON_BYTES
from operator_core.db import migrate
from operator_core.db.actions import (
    BUSY_TIMEOUT,
    CHECK_SCHEMA,
    POOL_SIZE,
    check_settings,
    server_or_path,
    target_from_env,
)
from operator_core.db.postgresql.connect import make_sync_engine
from operator_core.db.postgresql.sync_runner import SyncServerRunner
from operator_core.db.run.blocking import BlockingRunner
from operator_core.db.sql.urls import masked
from operator_core.db.sqlite.files import FILE_MODE
from operator_core.db.sqlite.opening import Opening
from operator_core.db.sqlite.sync_runner import SyncSqliteRunner
from operator_core.db.verbs.sync import SyncActionLedger

__all__ = ["SyncActionDB", "SyncTarget"]

SyncTarget: TypeAlias = str | os.PathLike[str] | URL


class SyncActionDB(SyncActionLedger):
    """`ActionDB` for scripts, Celery tasks and synchronous agents: the same verbs without ``async``.

    A verb runs in the calling thread, without an event loop. It takes the same arguments, returns the same results
    and raises the same errors.

    `db_path` and the settings are those of `ActionDB`, but for engines and sessions, which are not accepted. The
    driver of a server is psycopg.

    Use it as ``with SyncActionDB(...) as db:``, or call `open` and `close`. Several threads may share one object. On
    SQLite they take turns: on a connection that writes, and on one that reads, which does not wait for writes.
    """

    def __init__(
        self,
        db_path: SyncTarget,
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
        self._database = _runner(db_path, busy_timeout, pool_size, upgrade, file_mode)
        self._place = masked(db_path)
        self._settings = actor, max_json_bytes, policy
        super().__init__(self._database, actor, max_json_bytes, policy)

    @classmethod
    def from_env(cls, **settings: Any) -> Self:
        """Returns the ledger that ``OPERATOR_DATABASE_URL`` names, as `ActionDB.from_env` does."""
        return cls(target_from_env(), **settings)

    @property
    def db_path(self) -> Path | None:
        """The absolute path of the SQLite file, or None for a database in memory or on a server."""
        return self._database.path if isinstance(self._database, SyncSqliteRunner) else None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._place}>"

    def open(self) -> Self:
        """Opens the ledger; does nothing if it is open. Raises `SchemaError` or `StorageError`."""
        self._database.open()
        return self

    def close(self) -> None:
        """Closes the ledger: refuses new calls, waits for running ones, and releases all connections.

        Raises `ActionError` in a signal handler that has interrupted a call of the same thread.
        """
        self._database.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Generator[SyncActionLedger]:
        """Runs all calls on the yielded object in one transaction: it commits all of them or none.

        An exception rolls it back immediately. Inside the block, call the methods of the yielded object, not those of
        this one.

        On SQLite, this is the only call that holds the write lock while the caller's code runs. Other threads that
        write wait until the block ends, and other processes wait up to their `busy_timeout`.
        """
        with self._database.transaction() as units:
            yield SyncActionLedger(units, *self._settings)


def _runner(
    target: SyncTarget, busy_timeout: float, pool_size: int, upgrade: bool, file_mode: int
) -> BlockingRunner:
    if not isinstance(cast(object, target), str | os.PathLike | URL):
        raise InvalidValue("db_path", "must be a path or a URL")
    place = server_or_path(target)
    if isinstance(place, URL):
        engine = make_sync_engine(place, pool_size=pool_size, timeout=busy_timeout)
        return SyncServerRunner(engine, CHECK_SCHEMA, timeout=busy_timeout)
    return SyncSqliteRunner(
        Opening(
            place,
            migrate,
            busy_timeout=busy_timeout,
            upgrade=upgrade,
            file_mode=file_mode,
            any_thread=True,
        )
    )
