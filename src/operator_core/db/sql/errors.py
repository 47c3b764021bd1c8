"""Converts driver exceptions to the ledger's own; the facade raises no others."""

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from operator_core.actions.errors import (
    ActionError,
    Busy,
    ConstraintViolation,
    InvalidValue,
    StorageCorrupt,
    StorageFull,
    StorageReadOnly,
    StorageUnavailable,
)
from operator_core.db.sql.postgresql_errors import (
    NO_LIMITS,
    Limits,
    from_postgresql,
    is_refused,
    scrub,
    unreachable,
)
from operator_core.db.sql.sqlite_library import ERRORS

__all__ = ["is_refusal", "read_damaged", "text_or_bytes", "translate", "violates_constraint"]

T = TypeVar("T")

_PRIMARY_CODE = 0xFF
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
# SQLite reports a write beyond RLIMIT_FSIZE or a quota as an I/O error, without its errno.
_WRITE_FAILED = {
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
}


def translate(
    error: BaseException,
    *,
    busy_timeout: float | None = None,
    server: bool = False,
    limits: Limits = NO_LIMITS,
) -> BaseException:
    """Returns the ledger's exception for `error`, with `error` as its cause; returns other exceptions unchanged.

    With `server`, an error of the operating system is an error of the connection. `limits` are the server's timeouts,
    for the messages. Everything that may contain values of rows is removed from the cause.
    """
    if isinstance(error, ActionError):
        # A unit may have raised it because of a driver exception.
        _scrub_sqlite(error)
        scrub(error.__cause__ or error.__context__)
        return error
    if isinstance(error, UnicodeDecodeError) and not server:
        # sqlite3 can't decode SQLite's message, which quotes a name from the damaged schema.
        found = StorageCorrupt("not a SQLite database, or a damaged one (its schema is not text)")
        found.__cause__ = error
        return found
    driver_error = error.orig if isinstance(error, DBAPIError) else error
    found: ActionError | None
    if isinstance(driver_error, ERRORS):
        _scrub_sqlite(error)
        found = _from_sqlite(driver_error, busy_timeout)
    elif isinstance(error, PoolTimeout):
        found = Busy(busy_timeout, "every connection of the pool is in use")
    elif server and isinstance(error, OSError):
        found = unreachable(error)
    elif (found := from_postgresql(error, limits)) is not None:
        scrub(error)
    elif isinstance(error, SQLAlchemyError):
        _scrub_sqlite(error)
        found = StorageUnavailable(f"the database failed: {type(error).__name__}")
    if found is None:
        return error
    found.__cause__ = error
    return found


def _from_sqlite(error: sqlite3.Error, busy_timeout: float | None) -> ActionError:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return StorageUnavailable(f"SQLite failed: {type(error).__name__}")
    primary = code & _PRIMARY_CODE
    if primary in _LOCKED:
        return Busy(busy_timeout)
    if primary == sqlite3.SQLITE_FULL or code in _WRITE_FAILED:
        return StorageFull(f"no space left for the ledger ({_name(error)})")
    if primary == sqlite3.SQLITE_READONLY:
        return StorageReadOnly(f"the ledger can't be written ({_name(error)})")
    if primary in _CORRUPT:
        return StorageCorrupt(f"not a SQLite database, or a damaged one ({error})")
    if primary == sqlite3.SQLITE_TOOBIG:
        return InvalidValue("", "is larger than SQLite can hold")
    if primary == sqlite3.SQLITE_CONSTRAINT:
        # The units convert the constraints that callers can violate; the message of every other one names it.
        return ConstraintViolation(str(error))
    return StorageUnavailable(f"SQLite failed: {error} ({_name(error)})")


def _name(error: sqlite3.Error) -> str:
    return _EXTENDED_NAMES.get(error.sqlite_errorcode, error.sqlite_errorname)


# pysqlite3 knows the extended codes, but not their names.
_EXTENDED_NAMES: Final = {
    code: name
    for name, code in vars(sqlite3).items()
    if name.startswith("SQLITE_")
    and not name.startswith("SQLITE_DBCONFIG")
    and code > _PRIMARY_CODE
}

_DECODING: Final = "Could not decode to UTF-8"


def _scrub_sqlite(error: BaseException) -> None:
    """Removes the values of rows from `error` and from its causes.

    A service's engine shows parameters in its messages unless `hide_parameters` is set. SQLite's own messages name only
    tables, columns and constraints, but the driver's message for text that is not UTF-8 quotes that text.
    """
    for link in _chain(error):
        if isinstance(link, StatementError):
            link.hide_parameters = True
            link.params = None
        text = str(link.args[0]) if link.args else ""
        if _DECODING in text:
            link.args = (text.partition(" with text ")[0],)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """`error`, with all its causes and contexts."""
    seen: set[int] = set()
    links = [error]
    while links:
        link = links.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            yield link
            links += [link.__cause__, link.__context__]


def is_refusal(error: DBAPIError) -> bool:
    """Whether the database refused this one change, by a constraint or a lock, and may accept others."""
    if isinstance(error.orig, ERRORS):
        return violates_constraint(error)
    return is_refused(error)


def violates_constraint(error: DBAPIError) -> bool:
    """Whether a constraint or a trigger refused the statement.

    With extended error codes, pysqlite3 raises a DatabaseError for it.
    """
    code = getattr(error.orig, "sqlite_errorcode", None) or 0
    return isinstance(error, IntegrityError) or code & _PRIMARY_CODE == sqlite3.SQLITE_CONSTRAINT


def read_damaged(conn: Connection, unit: Callable[[Connection], T]) -> T:
    """Runs a reading `unit`; if SQLite's driver finds text that is not UTF-8, runs it again with such text as bytes.

    The driver fails the whole result for one such value. With bytes in its place, all other rows are read, and the
    damaged one is a `CorruptRow`. The first run does not do this, because a converter for each text costs more than
    reading the row.
    """
    try:
        return unit(conn)
    except DBAPIError as error:
        if not str(error.orig).startswith(_DECODING):
            raise
    driver_connection: Any = conn.connection.driver_connection
    driver_connection.text_factory = text_or_bytes
    try:
        return unit(conn)
    finally:
        driver_connection.text_factory = str


def text_or_bytes(value: bytes) -> str | bytes:
    """A `text_factory` for sqlite3 that returns undecodable text as bytes, which the readers of rows refuse."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
