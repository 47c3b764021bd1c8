"""A connection that reads a SQLite file while others write."""

from pathlib import Path
from typing import Any, TypeVar

from operator_core.db.sql.errors import read_damaged
from operator_core.db.sql.sqlite_library import dbapi
from operator_core.db.sql.unit import Unit
from operator_core.db.sqlite.connection import SqliteConnection, connect
from operator_core.db.sqlite.files import IMMUTABLE, FileIdentity, reading

__all__ = ["ReadingOpener", "SqliteReader"]

T = TypeVar("T")


class ReadingOpener:
    """Connects to an existing file, and detects changes of a file that it opened as immutable."""

    def __init__(
        self, path: str, *, busy_timeout: float, changes_nothing: bool, query_only: bool
    ) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self._changes_nothing = changes_nothing
        self._query_only = query_only
        self._immutable_state: Any = None

    def __call__(self) -> dbapi.Connection:
        how = reading(self._path) if self._changes_nothing else "rw"
        self._immutable_state = self._state() if how == IMMUTABLE else None
        return connect(
            self._path, busy_timeout=self._busy_timeout, how=how, read_only=self._query_only
        )

    @property
    def is_outdated(self) -> bool:
        """Whether a file that was opened as immutable has changed."""
        return self._immutable_state is not None and self._immutable_state != self._state()

    def _state(self) -> object:
        try:
            found = Path(self._path).stat()
        except OSError:
            return "gone"
        return reading(self._path), found.st_mtime_ns, found.st_size


class SqliteReader:
    """A reading connection, and the number of callers that wait for it."""

    __slots__ = ("_file", "_opener", "connection", "waiting")

    def __init__(self, opener: ReadingOpener, file: FileIdentity, *, busy_timeout: float) -> None:
        self._opener = opener
        self._file = file
        self.connection = SqliteConnection(opener, busy_timeout=busy_timeout)
        self.waiting = 0

    def read(self, unit: Unit[T]) -> T:
        """Runs `unit`; called in the connection's thread."""
        while True:
            try:
                result = read_damaged(self.connection.wrapped, unit)
            except Exception:
                if not self._opener.is_outdated:
                    raise
            else:
                if not self._opener.is_outdated:
                    self._file.check()
                    return result
            self.connection.drop()
