"""A connection that reads a SQLite file while others write."""

from pathlib import Path
from typing import Any, Generic, TypeVar

from operator_core.db.sql.errors import read_damaged
from operator_core.db.sql.sqlite_library import dbapi
from operator_core.db.sql.unit import Unit
from operator_core.db.sqlite.files import IMMUTABLE, FileIdentity, reading
from operator_core.db.sqlite.handle import SqliteHandle, connect

__all__ = ["ReadingOpener", "SqliteReader"]

C = TypeVar("C", bound=SqliteHandle)
T = TypeVar("T")


class ReadingOpener:
    """Connects to an existing file, and detects changes of a file that it opened as immutable."""

    def __init__(
        self,
        path: str,
        *,
        busy_timeout: float,
        changes_nothing: bool,
        query_only: bool,
        any_thread: bool,
    ) -> None:
        self._path = path
        self._busy_timeout = busy_timeout
        self._changes_nothing = changes_nothing
        self.query_only = query_only
        """Whether the next connection refuses writes."""
        self._any_thread = any_thread
        self._immutable_state: Any = None

    def __call__(self) -> dbapi.Connection:
        how = reading(self._path) if self._changes_nothing else "rw"
        self._immutable_state = self._state() if how == IMMUTABLE else None
        return connect(
            self._path,
            busy_timeout=self._busy_timeout,
            how=how,
            read_only=self.query_only,
            any_thread=self._any_thread,
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


class SqliteReader(Generic[C]):
    """A reading connection, which `opener` opens, and the number of callers that wait for it."""

    __slots__ = ("_file", "_opener", "connection", "waiting")

    def __init__(self, connection: C, opener: ReadingOpener, file: FileIdentity) -> None:
        self.connection = connection
        self._opener = opener
        self._file = file
        self.waiting = 0

    def read(self, unit: Unit[T]) -> T:
        """Runs `unit`; only one thread at a time may call it, and for a `SqliteConnection` only its own."""
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
