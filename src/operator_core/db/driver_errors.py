"""Driver exceptions become the ledger's own; no other kind leaves the facade."""

import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
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
from operator_core.db.postgresql_errors import from_postgresql, is_refused, scrub, unreachable

__all__ = ["is_refusal", "read_damaged", "text_or_bytes", "translate"]

T = TypeVar("T")

_PRIMARY_CODE = 0xFF
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
# A write past RLIMIT_FSIZE or a quota is an I/O error to SQLite, with the errno lost on the way.
_WRITE_FAILED = {
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
}


def translate(
    error: BaseException, *, busy_timeout: float | None = None, server: bool = False
) -> BaseException:
    """The ledger's exception for `error`, with `error` as its cause; others come back as they are.

    From a `server`, an error of the operating system is one of the connection too. The cause of an error from PostgreSQL has lost what may hold the values of a row.
    """
    if isinstance(error, ActionError):
        return error
    driver_error = error.orig if isinstance(error, DBAPIError) else error
    found: ActionError | None
    if isinstance(driver_error, sqlite3.Error):
        found = _from_sqlite(driver_error, busy_timeout)
    elif isinstance(error, PoolTimeout):
        found = Busy(busy_timeout, "every connection of the pool is in use")
    elif server and isinstance(error, OSError):
        found = unreachable(error)
    elif (found := from_postgresql(error, busy_timeout)) is not None:
        scrub(error)
    elif isinstance(error, SQLAlchemyError):
        found = StorageUnavailable(f"the database failed: {type(error).__name__}")
    if found is None:
        return error
    found.__cause__ = error
    return found


def _from_sqlite(error: sqlite3.Error, busy_timeout: float | None) -> ActionError:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return StorageUnavailable(f"SQLite could not do it: {type(error).__name__}")
    primary = code & _PRIMARY_CODE
    if primary in _LOCKED:
        return Busy(busy_timeout)
    if primary == sqlite3.SQLITE_FULL or code in _WRITE_FAILED:
        return StorageFull(f"no room left for the ledger ({error.sqlite_errorname})")
    if primary == sqlite3.SQLITE_READONLY:
        return StorageReadOnly(f"the ledger can't be written ({error.sqlite_errorname})")
    if primary in _CORRUPT:
        return StorageCorrupt(f"not a SQLite database, or a damaged one ({error})")
    if primary == sqlite3.SQLITE_TOOBIG:
        return InvalidValue("", "is larger than SQLite can hold")
    if primary == sqlite3.SQLITE_CONSTRAINT:
        # The units know the constraints that callers can run into; what is left names itself.
        return ConstraintViolation(str(error))
    return StorageUnavailable(f"SQLite could not do it: {error} ({error.sqlite_errorname})")


def is_refusal(error: DBAPIError) -> bool:
    """Whether the database has refused this one change, by a constraint or a lock, and would take others."""
    if isinstance(error.orig, sqlite3.Error):
        return isinstance(error.orig, sqlite3.IntegrityError)
    return is_refused(error)


def read_damaged(conn: Connection, unit: Callable[[Connection], T]) -> T:
    """Runs a reading `unit`, again if SQLite's driver finds text that is no UTF-8, and raw then.

    The driver gives up on the whole result for one such value. With the bytes in its place, the
    rows are read and the one that can't be is a `CorruptRow`. Not done at once, because a converter
    of our own for each text costs more than reading the row.
    """
    try:
        return unit(conn)
    except DBAPIError as error:
        if not str(error.orig).startswith("Could not decode to UTF-8"):
            raise
    driver_connection: Any = conn.connection.driver_connection
    driver_connection.text_factory = text_or_bytes
    try:
        return unit(conn)
    finally:
        driver_connection.text_factory = str


def text_or_bytes(value: bytes) -> str | bytes:
    """A `text_factory` for sqlite3 that gives up on no value; readers of rows say which is no text."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
