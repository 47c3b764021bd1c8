"""Opens the connections of one ledger in SQLite, for both of its runners, and makes its schema current."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from operator_core.actions.errors import StorageUnavailable
from operator_core.db.sql.sqlite_library import dbapi
from operator_core.db.sqlite.files import FILE_MODE, FileIdentity, make_file
from operator_core.db.sqlite.handle import MEMORY, NO_TRUST, TRUST, SqliteHandle, connect
from operator_core.db.sqlite.one_library import hold
from operator_core.db.sqlite.reader import ReadingOpener
from operator_core.db.sqlite.schema import Schema
from operator_core.db.sqlite.wal import use_wal
from operator_core.db.sqlite.work_limit import WorkLimit

__all__ = ["Opening"]


class Opening:
    """A SQLite file or a database in memory, and the settings of its connections.

    With `upgrade`, opening creates a missing file with the permissions `file_mode`, and upgrades one that is behind.
    Without it, opening changes nothing. With `any_thread`, a connection may pass from one thread to another.
    """

    def __init__(
        self,
        path: str,
        schema: Schema,
        *,
        busy_timeout: float,
        upgrade: bool = True,
        file_mode: int = FILE_MODE,
        any_thread: bool = False,
    ) -> None:
        self.name = path
        self.busy_timeout = busy_timeout
        self.file = FileIdentity(path)
        self._schema = schema
        self._upgrade = upgrade
        self._file_mode = file_mode
        self._any_thread = any_thread
        self._first: ReadingOpener | None = None

    @property
    def in_memory(self) -> bool:
        """Whether the one connection is the database."""
        return self.name == MEMORY

    @property
    def path(self) -> Path | None:
        """The path of the file; None in memory."""
        return None if self.in_memory else Path(self.name)

    @property
    def check_files(self) -> Callable[..., None]:
        """The function that raises if the file that receives the writes is not the ledger's."""
        return _check_nothing if self.in_memory else self.file.check_log

    def make_ready(self, handle: SqliteHandle, limit: WorkLimit, owner: object) -> None:
        """Checks the database through its first connection, which from then on only reads; upgrades it if needed.

        `owner` holds the file from before the connection is opened: see `one_library.hold`.
        """
        if self.in_memory:
            self._schema.copy_template(handle.raw)
            return
        if self._upgrade:
            make_file(self.name, self._file_mode)
        elif not os.path.exists(self.name):
            raise StorageUnavailable(f"{self.name}: no such file, so no ledger to open")
        hold(owner, self.name)
        raw = handle.raw
        raw.execute(NO_TRUST)
        with limit.watching(raw):
            if not self._schema.is_current(raw):
                limit.allow_upgrade(os.path.getsize(self.name))
                if not self._upgrade:
                    self._schema.check_usable(handle.wrapped)
                raw.execute(TRUST)
                self._schema.make_current(handle.wrapped, busy_timeout=self.busy_timeout)
        raw.execute(NO_TRUST)
        raw.execute("PRAGMA query_only = ON")
        if self._first is not None:
            # For the connection after this one is dropped.
            self._first.query_only = True
        self.file.remember()

    def reading(self, *, query_only: bool = True) -> ReadingOpener:
        """The opener of a connection that reads the file; the first one, which may upgrade it, is not `query_only`."""
        opener = ReadingOpener(
            self.name,
            busy_timeout=self.busy_timeout,
            changes_nothing=not self._upgrade,
            query_only=query_only,
            any_thread=self._any_thread,
        )
        if not query_only:
            self._first = opener
        return opener

    def writing(self) -> dict[str, Any]:
        """The arguments of the `SqliteHandle` that writes to the file."""
        return {
            # Only opening creates a file.
            "opener": self._opener(self.name, how="rw"),
            "busy_timeout": self.busy_timeout,
            # The file may have been created or restored without WAL mode.
            "prepare": partial(use_wal, busy_timeout=self.busy_timeout),
        }

    def memory(self) -> dict[str, Any]:
        """The arguments of the `SqliteHandle` of a database in memory."""
        return {"opener": self._opener(MEMORY), "busy_timeout": self.busy_timeout, "lasts": True}

    def _opener(self, path: str, **how: str) -> Callable[[], dbapi.Connection]:
        return partial(
            connect, path, busy_timeout=self.busy_timeout, any_thread=self._any_thread, **how
        )


def _check_nothing(*, begun: bool) -> None:
    """There is no file."""
