"""Converts errors of PostgreSQL and its drivers to the ledger's own, and tells which of them may be retried.

The SQLSTATE decides (PostgreSQL manual, appendix A); both drivers provide it. A server's message is kept: the ledger's
triggers write their own, and those of constraints contain only names. DETAIL may contain values of a row, so it
is dropped.
"""

import re
from collections.abc import Iterator
from enum import Enum, auto
from traceback import walk_tb
from typing import Any, Final, NamedTuple

from sqlalchemy.exc import DBAPIError

from operator_core.actions.errors import (
    ActionError,
    Busy,
    ConstraintViolation,
    InvalidValue,
    NotFound,
    PermissionDenied,
    StorageCorrupt,
    StorageFull,
    StorageReadOnly,
    StorageUnavailable,
)
from operator_core.db.sql.urls import without_secrets

__all__ = [
    "LOCK_NOT_AVAILABLE",
    "LOSSES",
    "NO_LIMITS",
    "Limits",
    "Trouble",
    "from_postgresql",
    "is_refused",
    "missing_key",
    "missing_row",
    "scrub",
    "sqlstate",
    "trouble",
    "unreachable",
]

_CONFLICTS: Final = ("40001", "40P01")
_READ_ONLY: Final = "25006"

LOCK_NOT_AVAILABLE: Final = "55P03"
_NO_CONNECTION_LEFT: Final = "53300"
_GONE: Final = {
    "57P01",  # terminated by the administrator
    "57P02",  # crash of another session
    "57P03",  # starting up, or in recovery
    _NO_CONNECTION_LEFT,
}
# The session waited too long for its client, so the server has not read the client's last statement.
_IDLE: Final = {
    "57P05",  # idle_session_timeout
}
_CANCELLED: Final = "57014"
_BUSY: Final = {
    LOCK_NOT_AVAILABLE: "a lock that a statement waited for",
    _CANCELLED: "a statement was cancelled, or took longer than statement_timeout",
    "25P03": "idle_in_transaction_session_timeout ended the transaction",
    _NO_CONNECTION_LEFT: "the server has no connection left",
    "40001": "conflicts with other transactions",
    "40P01": "deadlocks with other transactions",
}
_FULL: Final = {"53100", "53200", "54000"}


class Trouble(Enum):
    """The kind of a failure, which decides whether a retry is useful and safe."""

    REFUSED = auto()
    """The database has refused; a retry gets the same error."""
    CONFLICT = auto()
    """Serialization failure or deadlock: the transaction is rolled back, and a retry may succeed."""
    READ_ONLY = auto()
    """The server is a standby, or a former primary; nothing was changed."""
    LOST = auto()
    """The connection is lost, and the server may have executed the statement."""
    UNSENT = auto()
    """The connection is lost, and the server has not read the statement."""


LOSSES: Final = (Trouble.LOST, Trouble.UNSENT)


class Limits(NamedTuple):
    """The known timeouts of a call, in seconds; None is no timeout or an unknown one."""

    call: float | None = None
    """For a connection, and for an unreachable server."""
    lock: float | None = None
    statement: float | None = None


NO_LIMITS: Final = Limits()


def sqlstate(error: BaseException) -> str | None:
    """The SQLSTATE of a driver exception, wrapped by SQLAlchemy or not; None if it has none."""
    states = _states(error)
    if not states:
        return None
    # asyncpg raises its own state for a lost connection; the last error of the server may be its cause.
    return states[-1] if states[0] == _DOES_NOT_EXIST else states[0]


def _states(error: BaseException) -> list[str]:
    """All SQLSTATEs of a driver exception and its causes, the driver's own and the server's."""
    return [
        state for each in _chain(error) if isinstance(state := getattr(each, "sqlstate", None), str)
    ]


_DOES_NOT_EXIST: Final = "08003"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The driver exception, wrapped by SQLAlchemy or not, and its causes."""
    found: BaseException | None = _driver_error(error)
    seen: list[BaseException] = []
    while found is not None and found not in seen:
        seen.append(found)
        yield found
        found = found.__cause__


def _driver_error(error: BaseException) -> BaseException:
    return error.orig or error if isinstance(error, DBAPIError) else error


def _is_drivers(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in ("asyncpg", "psycopg")


_GONE_BEFORE: Final = ("connection is closed", "cannot switch to state")
"""Messages of drivers that had read the server's last error before the next statement was sent."""


def _was_gone_before(error: BaseException) -> bool:
    return any(words in str(each) for each in _chain(error) for words in _GONE_BEFORE)


def _was_preparing(error: BaseException) -> bool:
    """Whether asyncpg failed while it prepared the statement, which is a separate round trip once per connection."""
    return any(
        frame.f_code.co_name == "_get_statement"
        for each in _chain(error)
        for frame, _ in walk_tb(each.__traceback__)
    )


def trouble(error: BaseException) -> Trouble:
    """The kind of the failure `error`."""
    state = sqlstate(error)
    if state in _CONFLICTS:
        return Trouble.CONFLICT
    if state == _READ_ONLY:
        return Trouble.READ_ONLY
    if state in _IDLE or (state is None and _was_gone_before(error)):
        return Trouble.UNSENT
    if state is not None:
        # 08P01 is a message that the other side did not understand; a retry does not help. But PgBouncer reports every
        # failure with it, including a lost server: then asyncpg also reports the connection as lost.
        misunderstood = state == "08P01" and _DOES_NOT_EXIST not in _states(error)
        lost = state in _GONE or (state.startswith("08") and not misunderstood)
    elif isinstance(error, DBAPIError):
        # psycopg has no SQLSTATE for a failed connection attempt.
        lost = type(error.orig).__name__ == "OperationalError"
    else:
        # Not wrapped: it failed while connecting, or in a direct call of asyncpg.
        lost = isinstance(error, OSError) or _is_drivers(error)
    if not lost and not (isinstance(error, DBAPIError) and error.connection_invalidated):
        return Trouble.REFUSED
    return Trouble.UNSENT if _was_preparing(error) else Trouble.LOST


def is_refused(error: BaseException) -> bool:
    """Whether the database refused particular rows, so that a change of other rows may succeed.

    These are errors of values, constraints, locks, limits and triggers, of any SQLSTATE. Errors that the next statement
    would get too are not among them: connection, transaction, privileges, resources, server.
    """
    state = sqlstate(error) or "XX"
    return not state.startswith(("08", "25", "40", "42501", "53", "57P", "58", "XX"))


def from_postgresql(error: BaseException, limits: Limits = NO_LIMITS) -> ActionError | None:
    """Returns the ledger's error for an exception of a PostgreSQL driver; None for any other exception."""
    found = _driver_error(error)
    state = sqlstate(error)
    if state is None:
        if _is_drivers(found) or (isinstance(error, DBAPIError) and error.connection_invalidated):
            # psycopg has no SQLSTATE for a refused connection, only a message.
            name = type(found).__name__
            why = _message(found) if name == "OperationalError" else name
            return StorageUnavailable(f"the database can't be reached ({why})")
        return None
    if state in _BUSY:
        return _busy(state, limits)
    if state in _FULL:
        return StorageFull(f"no space left for the ledger (SQLSTATE {state})")
    if state == _READ_ONLY:
        return StorageReadOnly("the database server accepts no writes: it is a standby")
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
        return InvalidValue("", f"can't be stored by PostgreSQL (SQLSTATE {state})")
    if state[:2] in ("08", "28", "3D", "53", "57"):
        return StorageUnavailable(f"the database server can't be used: {message} ({state})")
    return StorageUnavailable(f"PostgreSQL failed: {message} (SQLSTATE {state})")


def _busy(state: str, limits: Limits) -> Busy:
    what = _BUSY[state]
    if state == LOCK_NOT_AVAILABLE:
        return Busy(limits.lock, what)
    if state == _CANCELLED and limits.statement is not None:
        # Only the localized message tells a cancelled statement from statement_timeout.
        what += f" ({limits.statement:g} s)"
    return Busy(limits.call if state == _NO_CONNECTION_LEFT else None, what)


def unreachable(error: OSError) -> StorageUnavailable:
    """Returns the ledger's error for an operating system error on the way to the server."""
    why = f"{type(error).__name__}: {error.strerror}" if error.strerror else type(error).__name__
    return StorageUnavailable(f"the database server can't be reached ({why})")


def _message(error: BaseException) -> str:
    """The first line of the server's message, without DETAIL, HINT, CONTEXT and the secrets of URLs."""
    diagnosis = getattr(error, "diag", None)
    primary = getattr(diagnosis, "message_primary", None)
    if primary is None:
        cause = error.__cause__ if hasattr(error.__cause__, "sqlstate") else error
        primary = getattr(cause, "message", None) or str(error)
    # SQLAlchemy puts the class of asyncpg's error before its message.
    line = re.sub(r"^<class '[^']*'>: ", "", str(primary)).partition("\n")[0]
    return without_secrets(line)


_KEY: Final = re.compile(r"\((\w+)\)=\((\d+)\)")


def missing_key(error: BaseException) -> tuple[str, int] | None:
    """Returns the column and the id that a foreign key did not find, from PostgreSQL's DETAIL; None for other errors.

    A query for the missing row would need a savepoint, because the failed statement has aborted the transaction. In
    every language of the server, DETAIL contains the key as ``(column)=(value)``.
    """
    found: Any = _driver_error(error)
    detail = getattr(found, "detail", None) or getattr(
        getattr(found, "diag", None), "message_detail", None
    )
    key = _KEY.search(detail) if isinstance(detail, str) else None
    return (key[1], int(key[2])) if key and sqlstate(error) == "23503" else None


def missing_row(error: BaseException) -> NotFound | None:
    """Returns `NotFound` for the row to which a proposal refers and that does not exist; None for other errors."""
    if (missing := missing_key(error)) is None:
        return None
    column, id_ = missing
    return NotFound({"ticket_id": "ticket", "workflow_id": "workflow"}.get(column, "proposal"), id_)


def scrub(error: BaseException | None) -> None:
    """Removes everything that may contain values of a row from `error` and from its causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, DBAPIError):
            error.hide_parameters = True
            error.params = None
            error.args = (f"({type(error.orig).__name__}) {_message(error.orig or error)}",)
        elif _is_drivers(error):
            error.args = (_message(error),)
            for name in ("detail", "hint", "where", "internal_query", "query"):
                if getattr(error, name, None) is not None and name in vars(error):
                    setattr(error, name, None)
        error = error.__cause__ or error.__context__
