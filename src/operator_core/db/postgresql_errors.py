"""What PostgreSQL and its drivers say becomes the ledger's own errors, and what may be tried again.

By SQLSTATE (PostgreSQL manual, appendix A), which both drivers give. A server's message may go on: the
ledger's own triggers write theirs, and those of constraints hold names only. DETAIL may hold the values
of a row, so it goes nowhere.
"""

import re
from enum import Enum, auto
from typing import Any, Final

from sqlalchemy.exc import DBAPIError

from operator_core.actions.errors import (
    ActionError,
    Busy,
    ConstraintViolation,
    InvalidValue,
    PermissionDenied,
    StorageCorrupt,
    StorageFull,
    StorageReadOnly,
    StorageUnavailable,
)

__all__ = [
    "LOCK_NOT_AVAILABLE",
    "Trouble",
    "from_postgresql",
    "is_refused",
    "missing_key",
    "scrub",
    "sqlstate",
    "trouble",
    "unreachable",
]

_CONFLICTS: Final = ("40001", "40P01")
_READ_ONLY: Final = "25006"

LOCK_NOT_AVAILABLE: Final = "55P03"
_GONE: Final = {
    "57P01",  # ended by the administrator
    "57P02",  # another session's crash
    "57P03",  # starting up, or in recovery
    "53300",  # no connection left
}
_BUSY: Final = {
    LOCK_NOT_AVAILABLE: "a lock that a statement waited for",
    "57014": "a statement was cancelled, or took longer than statement_timeout",
    "25P03": "idle_in_transaction_session_timeout ended the transaction",
    "53300": "the server has no connection left",
    "40001": "conflicts with other transactions",
    "40P01": "deadlocks with other transactions",
}
_FULL: Final = {"53100", "53200", "54000"}


class Trouble(Enum):
    """What kind of failure it is, as far as trying again goes."""

    REFUSED = auto()
    """The database has answered; asking again gives the same answer."""
    CONFLICT = auto()
    """Serialization failure or deadlock: the transaction is undone, and the same may succeed now."""
    READ_ONLY = auto()
    """A standby, or a primary that no longer is one; nothing was done."""
    LOST = auto()
    """The connection is gone, with or without an answer on its way."""


def sqlstate(error: BaseException) -> str | None:
    """The SQLSTATE of what a driver raised, wrapped by SQLAlchemy or not."""
    found = getattr(_driver_error(error), "sqlstate", None)
    return found if isinstance(found, str) else None


def _driver_error(error: BaseException) -> BaseException:
    return error.orig or error if isinstance(error, DBAPIError) else error


def _is_drivers(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in ("asyncpg", "psycopg")


def trouble(error: BaseException) -> Trouble:
    """What kind of failure `error` is."""
    state = sqlstate(error)
    if state in _CONFLICTS:
        return Trouble.CONFLICT
    if state == _READ_ONLY:
        return Trouble.READ_ONLY
    if state is not None:
        # 08P01 is a message that the other side did not understand; asked again, it won't either.
        lost = state in _GONE or (state.startswith("08") and state != "08P01")
    elif isinstance(error, DBAPIError):
        # psycopg has no code for a connection that could not be made.
        lost = type(error.orig).__name__ == "OperationalError"
    else:
        # Not wrapped: it happened while connecting.
        lost = isinstance(error, OSError) or _is_drivers(error)
    invalidated = isinstance(error, DBAPIError) and error.connection_invalidated
    return Trouble.LOST if lost or invalidated else Trouble.REFUSED


def is_refused(error: BaseException) -> bool:
    """Whether it is about the rows that a statement was to change, and others may be changed all the same.

    Values, constraints, locks, limits, what a trigger says by whatever code. Not what the next statement
    would say too: the connection, the transaction, rights, resources, the server.
    """
    state = sqlstate(error) or "XX"
    return not state.startswith(("08", "25", "40", "42501", "53", "57P", "58", "XX"))


def from_postgresql(error: BaseException, timeout: float | None) -> ActionError | None:
    """The ledger's error for what came from a PostgreSQL driver; None for anything else."""
    found = _driver_error(error)
    state = sqlstate(error)
    if state is None:
        if _is_drivers(found) or (isinstance(error, DBAPIError) and error.connection_invalidated):
            # psycopg gives no code for a server that refuses a connection, only its words.
            name = type(found).__name__
            why = _message(found) if name == "OperationalError" else name
            return StorageUnavailable(f"the database can't be reached ({why})")
        return None
    if state in _BUSY:
        return Busy(timeout, _BUSY[state])
    if state in _FULL:
        return StorageFull(f"no room left for the ledger (SQLSTATE {state})")
    if state == _READ_ONLY:
        return StorageReadOnly("the database server takes no writes: it is a standby")
    message = _message(found)
    if state == "42501":
        return PermissionDenied(
            f"{message}: `operator-core db grants ROLE` prints what a service needs"
        )
    if state.startswith("23"):
        return ConstraintViolation(message)
    if state.startswith("XX"):
        return StorageCorrupt(f"the database is damaged (SQLSTATE {state})")
    if state[:2] == "22":
        return InvalidValue("", f"can't be kept by PostgreSQL (SQLSTATE {state})")
    if state[:2] in ("08", "28", "3D", "53", "57"):
        return StorageUnavailable(f"the database server can't be used: {message} ({state})")
    return StorageUnavailable(f"PostgreSQL could not do it: {message} (SQLSTATE {state})")


def unreachable(error: OSError) -> StorageUnavailable:
    """What it means that the operating system could not reach the server."""
    why = f"{type(error).__name__}: {error.strerror}" if error.strerror else type(error).__name__
    return StorageUnavailable(f"the database server can't be reached ({why})")


def _message(error: BaseException) -> str:
    """The server's message alone, without DETAIL, HINT and CONTEXT."""
    diagnosis = getattr(error, "diag", None)
    primary = getattr(diagnosis, "message_primary", None)
    if primary is None:
        cause = error.__cause__ if hasattr(error.__cause__, "sqlstate") else error
        primary = getattr(cause, "message", None) or str(error)
    # SQLAlchemy puts the class of asyncpg's error before its message.
    return re.sub(r"^<class '[^']*'>: ", "", str(primary)).partition("\n")[0]


_KEY: Final = re.compile(r"\((\w+)\)=\((\d+)\)")


def missing_key(error: DBAPIError) -> tuple[str, int] | None:
    """Which column's id a foreign key did not find, from the DETAIL of PostgreSQL's error; None elsewhere.

    Asking afterwards which one it was would need a savepoint: the failed statement has ended the
    transaction. In every language of the server the key stands there as ``(column)=(value)``.
    """
    found: Any = error.orig
    detail = getattr(found, "detail", None) or getattr(
        getattr(found, "diag", None), "message_detail", None
    )
    key = _KEY.search(detail) if isinstance(detail, str) else None
    return (key[1], int(key[2])) if key and sqlstate(error) == "23503" else None


def scrub(error: BaseException | None) -> None:
    """Takes out of `error`, and of what it came from, all that may hold the values of a row."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, DBAPIError):
            error.hide_parameters = True
            error.params = None
            error.args = (f"({type(error.orig).__name__}) {_message(error.orig or error)}",)
        elif isinstance(getattr(error, "sqlstate", None), str):
            error.args = (_message(error),)
            for name in ("detail", "hint", "where", "internal_query", "query"):
                if getattr(error, name, None) is not None and name in vars(error):
                    setattr(error, name, None)
        error = error.__cause__ or error.__context__
