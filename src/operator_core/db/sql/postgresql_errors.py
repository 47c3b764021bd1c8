"""What PostgreSQL and its drivers say becomes the ledger's own errors, and what may be tried again.

By SQLSTATE (PostgreSQL manual, appendix A), which both drivers give. A server's message may go on: the
ledger's own triggers write theirs, and those of constraints hold names only. DETAIL may hold the values
of a row, so it goes nowhere.
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
    "57P01",  # ended by the administrator
    "57P02",  # another session's crash
    "57P03",  # starting up, or in recovery
    _NO_CONNECTION_LEFT,
}
# A session that waited for its client too long: it has not read what the client said last.
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
    """What kind of failure it is, as far as trying again goes."""

    REFUSED = auto()
    """The database has answered; asking again gives the same answer."""
    CONFLICT = auto()
    """Serialization failure or deadlock: the transaction is undone, and the same may succeed now."""
    READ_ONLY = auto()
    """A standby, or a primary that no longer is one; nothing was done."""
    LOST = auto()
    """The connection is gone, with or without an answer on its way."""
    UNSENT = auto()
    """The connection is gone, and the server has not read the statement."""


LOSSES: Final = (Trouble.LOST, Trouble.UNSENT)


class Limits(NamedTuple):
    """How many seconds a call waits for what, as far as is known; None is for ever, or not known."""

    call: float | None = None
    """For a connection, and for a server that is away."""
    lock: float | None = None
    statement: float | None = None


NO_LIMITS: Final = Limits()


def sqlstate(error: BaseException) -> str | None:
    """The SQLSTATE of what a driver raised, wrapped by SQLAlchemy or not."""
    states = _states(error)
    if not states:
        return None
    # asyncpg's own, for a lost connection; behind it may be what the server said last.
    return states[-1] if states[0] == _DOES_NOT_EXIST else states[0]


def _states(error: BaseException) -> list[str]:
    """All SQLSTATEs that a driver gave for it, its own and the server's."""
    return [
        state for each in _chain(error) if isinstance(state := getattr(each, "sqlstate", None), str)
    ]


_DOES_NOT_EXIST: Final = "08003"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """What a driver raised, with what it says that came from, from SQLAlchemy's error or from that itself."""
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
"""What drivers say that have heard the server's last words before they were asked for the next statement."""


def _was_gone_before(error: BaseException) -> bool:
    return any(words in str(each) for each in _chain(error) for words in _GONE_BEFORE)


def _was_preparing(error: BaseException) -> bool:
    """Whether asyncpg failed while it had the statement prepared: in a round of its own, once a connection."""
    return any(
        frame.f_code.co_name == "_get_statement"
        for each in _chain(error)
        for frame, _ in walk_tb(each.__traceback__)
    )


def trouble(error: BaseException) -> Trouble:
    """What kind of failure `error` is."""
    state = sqlstate(error)
    if state in _CONFLICTS:
        return Trouble.CONFLICT
    if state == _READ_ONLY:
        return Trouble.READ_ONLY
    if state in _IDLE or (state is None and _was_gone_before(error)):
        return Trouble.UNSENT
    if state is not None:
        # 08P01 is a message that the other side did not understand; asked again, it won't either. But PgBouncer
        # says everything so, also that the server is gone: asyncpg then says the same of the connection.
        misunderstood = state == "08P01" and _DOES_NOT_EXIST not in _states(error)
        lost = state in _GONE or (state.startswith("08") and not misunderstood)
    elif isinstance(error, DBAPIError):
        # psycopg has no code for a connection that could not be made.
        lost = type(error.orig).__name__ == "OperationalError"
    else:
        # Not wrapped: it happened while connecting, or asyncpg was asked directly.
        lost = isinstance(error, OSError) or _is_drivers(error)
    if not lost and not (isinstance(error, DBAPIError) and error.connection_invalidated):
        return Trouble.REFUSED
    return Trouble.UNSENT if _was_preparing(error) else Trouble.LOST


def is_refused(error: BaseException) -> bool:
    """Whether it is about the rows that a statement was to change, and others may be changed all the same.

    Values, constraints, locks, limits, what a trigger says by whatever code. Not what the next statement
    would say too: the connection, the transaction, rights, resources, the server.
    """
    state = sqlstate(error) or "XX"
    return not state.startswith(("08", "25", "40", "42501", "53", "57P", "58", "XX"))


def from_postgresql(error: BaseException, limits: Limits = NO_LIMITS) -> ActionError | None:
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
        return _busy(state, limits)
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


def _busy(state: str, limits: Limits) -> Busy:
    what = _BUSY[state]
    if state == LOCK_NOT_AVAILABLE:
        return Busy(limits.lock, what)
    if state == _CANCELLED and limits.statement is not None:
        # Which of the two it was, the server says in its own language only.
        what += f" ({limits.statement:g} s)"
    return Busy(limits.call if state == _NO_CONNECTION_LEFT else None, what)


def unreachable(error: OSError) -> StorageUnavailable:
    """What it means that the operating system could not reach the server."""
    why = f"{type(error).__name__}: {error.strerror}" if error.strerror else type(error).__name__
    return StorageUnavailable(f"the database server can't be reached ({why})")


def _message(error: BaseException) -> str:
    """The server's message alone, without DETAIL, HINT and CONTEXT, and without a URL's secrets."""
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
    """Which column's id a foreign key did not find, from the DETAIL of PostgreSQL's error; None elsewhere.

    Asking afterwards which one it was would need a savepoint: the failed statement has ended the
    transaction. In every language of the server the key stands there as ``(column)=(value)``.
    """
    found: Any = _driver_error(error)
    detail = getattr(found, "detail", None) or getattr(
        getattr(found, "diag", None), "message_detail", None
    )
    key = _KEY.search(detail) if isinstance(detail, str) else None
    return (key[1], int(key[2])) if key and sqlstate(error) == "23503" else None


def missing_row(error: BaseException) -> NotFound | None:
    """What a proposal refers to and a foreign key did not find; None for any other error."""
    if (missing := missing_key(error)) is None:
        return None
    column, id_ = missing
    return NotFound({"ticket_id": "ticket", "workflow_id": "workflow"}.get(column, "proposal"), id_)


def scrub(error: BaseException | None) -> None:
    """Takes out of `error`, and of what it came from, all that may hold the values of a row."""
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
