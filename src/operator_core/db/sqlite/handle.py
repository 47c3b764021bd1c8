"""A SQLite connection with SQLAlchemy's over it, and the settings of all connections of the ledger."""

import logging
from collections.abc import Callable
from contextlib import closing
from typing import Final, NoReturn, cast

from sqlalchemy import Connection

from operator_core.db.sql.errors import translate
from operator_core.db.sql.sqlite_library import OPEN_OPTIONS, dbapi
from operator_core.db.sqlite.engine import over
from operator_core.db.sqlite.files import uri
from operator_core.db.sqlite.one_library import check_library

__all__ = ["MEMORY", "NO_TRUST", "TRUST", "SqliteHandle", "connect", "over"]

logger = logging.getLogger(__name__)

MEMORY = ":memory:"

_DEFENSIVE: Final = 1010  # SQLITE_DBCONFIG_DEFENSIVE

_SETTINGS: Final = (
    # SQLite's default is off, and each connection has its own setting.
    "PRAGMA foreign_keys = ON",
    # An acknowledged write survives a power failure. With NORMAL it would only survive a crash of the process.
    "PRAGMA synchronous = FULL",
    # SQLite detects a damaged page before it uses the page.
    "PRAGMA cell_size_check = ON",
    # SQLite's default, which a build can change. The schema holds under both; without recursion a trigger that
    # updates its own row runs once.
    "PRAGMA recursive_triggers = OFF",
)


def _json_is_innocuous() -> bool:
    """Whether CHECKs and triggers of an untrusted schema may use SQLite's JSON functions.

    Some releases, for example 3.40, mark these functions the wrong way round.
    """
    with closing(dbapi.connect(":memory:")) as connection:
        connection.execute("PRAGMA trusted_schema = OFF")
        try:
            connection.execute("CREATE TABLE probe (text TEXT CHECK (json_valid(text)))")
            connection.execute("INSERT INTO probe VALUES ('{}')")
        except dbapi.OperationalError:
            return False
    return True


NO_TRUST: Final = "PRAGMA trusted_schema = OFF"
"""The setting of a connection that only reads, or that checks a file of unknown origin.

The file's views and triggers can't use functions and virtual tables with side effects (SQLite, "Defense
Against The Dark Arts").
"""

TRUST: Final = NO_TRUST if _json_is_innocuous() else "PRAGMA trusted_schema = ON"
"""The setting of a connection that writes to a ledger: the ledger's triggers use SQLite's JSON functions."""


def connect(
    path: str,
    *,
    busy_timeout: float,
    how: str | None = None,
    read_only: bool = False,
    any_thread: bool = False,
) -> dbapi.Connection:
    """Returns a connection in autocommit mode: the ledger itself begins and ends transactions.

    With `how`, this opens an existing file (see `files.uri`). Without it, SQLite may create the file.
    With `any_thread`, several threads may use it, one at a time.
    """
    if path != MEMORY:
        check_library(path)
    connection = dbapi.connect(
        path if how is None else uri(path, how),
        uri=how is not None,
        timeout=busy_timeout,
        isolation_level=None,
        check_same_thread=not any_thread,
        cached_statements=256,
        **OPEN_OPTIONS,
    )
    try:
        # SQL can't write to the schema table or switch off the journal. Python's module offers this from 3.12 on.
        if (configure := getattr(connection, "setconfig", None)) is not None:
            configure(_DEFENSIVE, True)
        for setting in (*_SETTINGS, NO_TRUST if read_only else TRUST):
            connection.execute(setting)
        if read_only:
            # A unit that writes on a reading connection is a bug; this makes it fail.
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


# Keeps connections from the garbage collector, which would close them in an arbitrary thread.
_connected: Final[set[Connection | None]] = set()


class SqliteHandle:
    """A SQLite connection that is opened when it is needed, and again after `drop`; one thread at a time uses it.

    `opener` connects, and `prepare` runs after it. With `lasts`, the connection is never dropped: a database in memory
    is lost with its connection.
    """

    def __init__(
        self,
        opener: Callable[[], dbapi.Connection],
        *,
        busy_timeout: float,
        lasts: bool = False,
        prepare: Callable[[Connection], object] | None = None,
    ) -> None:
        self._opener = opener
        self._busy_timeout = busy_timeout
        self._lasts = lasts
        self._prepare = prepare
        self._raw: dbapi.Connection | None = None
        self._wrapped: Connection | None = None

    @property
    def raw(self) -> dbapi.Connection:
        """The sqlite3 connection."""
        if self._raw is None:
            self._connect_now()
        return cast(dbapi.Connection, self._raw)

    @property
    def wrapped(self) -> Connection:
        """The SQLAlchemy connection over `raw`."""
        if self._wrapped is None:
            self._connect_now()
        return cast(Connection, self._wrapped)

    def _connect_now(self) -> None:
        # If this fails, the next work connects again.
        try:
            self._raw = self._opener()
            self._wrapped = over(self._raw)
            _connected.add(self._wrapped)
            if self._prepare is not None:
                self._prepare(self._wrapped)
        except BaseException:
            self.disconnect()
            raise

    def begin(self) -> None:
        """Begins a transaction that holds the write lock from its start."""
        raw = self.raw
        if raw.in_transaction:
            # The rollback of the previous transaction failed.
            raw.execute("ROLLBACK")
        raw.execute("BEGIN IMMEDIATE")

    def undo(self) -> None:
        """Rolls back an open transaction, and drops the connection if that fails. Never raises."""
        raw = self._raw
        try:
            if raw is not None and raw.in_transaction:
                raw.execute("ROLLBACK")
        except BaseException:
            logger.exception("a transaction could not be rolled back; its connection is dropped")
            self.drop()

    def drop(self) -> None:
        """Closes the connection; the next work opens another one. Never raises."""
        if not self._lasts:
            self.disconnect()

    def disconnect(self) -> None:
        """Closes the connection, also a lasting one. Never raises."""
        wrapped, raw = self._wrapped, self._raw
        self._raw = self._wrapped = None
        _connected.discard(wrapped)
        for each in (wrapped, raw):
            try:
                if each is not None:
                    each.close()
            except BaseException:
                logger.exception("a connection could not be closed")

    def translate(self, error: BaseException) -> BaseException:
        """Returns the ledger's exception for an exception of the driver."""
        return translate(error, busy_timeout=self._busy_timeout)

    def raise_own(self, error: BaseException) -> NoReturn:
        """Raises the ledger's exception for `error`, and other exceptions unchanged."""
        own = self.translate(error)
        if own is error:
            raise error
        raise own from error
