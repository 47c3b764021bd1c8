"""Every error that the ledger raises, in one tree.

::

    ActionError
    ├── NotFound (LookupError)        no row with that id
    ├── InvalidTransition (ValueError) the lifecycle has no such step, or not now
    │   ├── NotDue                    it is scheduled for later
    │   ├── Expired                   it was not started before it expired
    │   └── DependencyPending         something that it depends on is not completed
    ├── InvalidValue (ValueError)     a value that the ledger can't keep
    ├── Conflict                      another caller was first
    │   └── VersionConflict           the proposal has changed since it was read
    ├── LeaseLost                     the execution is no longer the caller's; the error says why
    ├── ConstraintViolation           the database refused a change that breaks a promise
    ├── Busy                          a lock or a connection was not to be had; nothing happened
    ├── CommitOutcomeUnknown                the connection was lost while a change was being committed
    ├── NotOpen                       the ledger is not open, or closed already
    ├── WrongProcess                  a ledger opened before fork(), used after it
    ├── WrongLoop                     a ledger on a server, used from another event loop
    ├── CorruptRow                    a stored row that is no longer readable
    ├── StorageError
    │   ├── StorageFull               no room; nothing of the unit was kept
    │   ├── StorageReadOnly           the file or its folder can't be written
    │   ├── StorageCorrupt            not a database, or a damaged one
    │   ├── StorageUnavailable        can't be opened or reached, or an I/O error
    │   └── PermissionDenied          the database's role may not do it
    └── SchemaError
        ├── ForeignTransactions       restored from another server's dump: docs/postgresql.md
        ├── SchemaOutdated            older than this code: run ``operator-core db upgrade``
        ├── SchemaTooNew              written by a newer release of operator-core
        ├── UnmanagedSchema           tables that no release of operator-core made
        └── WouldLoseData             a downgrade that would delete rows or history

The facts stand in attributes. Messages carry names, ids and paths, and never the values of parameters; they
have at most `MAX_MESSAGE` characters. Every error can be pickled and copied, with its attributes.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

__all__ = [
    "MAX_MESSAGE",
    "ActionError",
    "Busy",
    "CommitOutcomeUnknown",
    "Conflict",
    "ConstraintViolation",
    "CorruptRow",
    "DependencyPending",
    "Expired",
    "ForeignTransactions",
    "InvalidTransition",
    "InvalidValue",
    "LeaseLost",
    "NotDue",
    "NotFound",
    "NotOpen",
    "PermissionDenied",
    "SchemaError",
    "SchemaOutdated",
    "SchemaTooNew",
    "StorageCorrupt",
    "StorageError",
    "StorageFull",
    "StorageReadOnly",
    "StorageUnavailable",
    "UnmanagedSchema",
    "VersionConflict",
    "WouldLoseData",
    "WrongLoop",
    "WrongProcess",
]


MAX_MESSAGE: Final = 2000
"""Characters of the longest message: some name what others wrote, and a log line has its limits."""


class ActionError(Exception):
    """Base of everything that the ledger raises."""

    def __init__(self, message: str = "") -> None:
        if len(message) > MAX_MESSAGE:
            message = message[: MAX_MESSAGE - 1] + "…"
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own calls the class with the message alone, which most of these do not take.
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[ActionError], args: tuple[Any, ...], facts: dict[str, Any]) -> ActionError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(facts)
    return error


class NotFound(ActionError, LookupError):
    """No row of `kind` has the id `id`."""

    def __init__(self, kind: str, id: int) -> None:
        super().__init__(f"no {kind} with id {id}")
        self.kind = kind
        self.id = id


class InvalidTransition(ActionError, ValueError):
    """A proposal can't go from `from_status` to `to_status`; `allowed` says where it can go."""

    def __init__(
        self,
        id: int,
        from_status: str,
        to_status: str,
        allowed: Iterable[str],
        *,
        problem: str | None = None,
    ) -> None:
        self.id = id
        self.from_status = from_status
        self.to_status = to_status
        self.allowed = tuple(allowed)
        why = problem or f"allowed: {', '.join(self.allowed) or 'nothing, it is final'}"
        super().__init__(f"proposal {id} can't go from {from_status} to {to_status} ({why})")


class NotDue(InvalidTransition):
    """A proposal can't start before `scheduled_at`."""

    def __init__(
        self, id: int, from_status: str, allowed: Iterable[str], scheduled_at: datetime
    ) -> None:
        problem = f"it is not due before {scheduled_at.isoformat()}"
        super().__init__(id, from_status, "executing", allowed, problem=problem)
        self.scheduled_at = scheduled_at


class Expired(InvalidTransition):
    """A proposal can't start after `expires_at`."""

    def __init__(
        self, id: int, from_status: str, allowed: Iterable[str], expires_at: datetime
    ) -> None:
        problem = f"it expired at {expires_at.isoformat()}"
        super().__init__(id, from_status, "executing", allowed, problem=problem)
        self.expires_at = expires_at


class DependencyPending(InvalidTransition):
    """A proposal can't start before the proposals `pending`, on which it depends, are completed."""

    def __init__(
        self, id: int, from_status: str, allowed: Iterable[str], pending: Sequence[int]
    ) -> None:
        self.pending = tuple(pending)
        some = ", ".join(map(str, self.pending[:10])) + (", ..." if len(self.pending) > 10 else "")
        super().__init__(
            id, from_status, "executing", allowed, problem=f"it waits for proposal {some}"
        )


class InvalidValue(ActionError, ValueError):
    """The value at `path` can't be kept in the ledger, and `problem` says why.

    `problems` holds all that were found, each a pair of path and problem.
    """

    def __init__(
        self, path: str, problem: str, *, problems: Iterable[tuple[str, str]] = ()
    ) -> None:
        self.path = path
        self.problem = problem
        self.problems = tuple(problems) or ((path, problem),)
        super().__init__("; ".join(f"{at}: {what}" if at else what for at, what in self.problems))


class Conflict(ActionError):
    """Another caller was first: the row `id` of `kind` already is `state`."""

    def __init__(self, kind: str, id: int, state: str) -> None:
        super().__init__(f"{kind} {id} is already {state}")
        self.kind = kind
        self.id = id
        self.state = state


class VersionConflict(Conflict):
    """Proposal `id` was expected in version `expected` and is in version `found`; nothing was changed."""

    def __init__(self, id: int, expected: int, found: int) -> None:
        super().__init__("proposal", id, f"at version {found}, not {expected}")
        self.expected = expected
        self.found = found


class LeaseLost(ActionError):
    """Record `record_id` is no longer the caller's to keep or to end; nothing was changed.

    `cause` says what has happened: ``"ended"`` (by complete, fail or update_record), ``"recovered"`` (as
    its lease had expired), ``"cancelled"`` (its proposal was), ``"moved"`` (its proposal is not executing it
    any more) or ``"unreachable"`` (no heartbeat has reached the ledger for the time of the lease). `by` is who
    did it, where the history says so. The proposal may be another worker's by now: whoever gets
    this stops what it does.
    """

    def __init__(self, record_id: int, cause: str = "ended", by: str | None = None) -> None:
        why = _CAUSES.get(cause, cause) + (f", by {by}" if by else "")
        super().__init__(f"the lease of record {record_id} is lost: {why}")
        self.record_id = record_id
        self.cause = cause
        self.by = by


_CAUSES: Final = {
    "ended": "the execution was ended",
    "recovered": "it expired, and the execution was ended as unknown",
    "cancelled": "the proposal was cancelled",
    "moved": "the proposal is not executing it any more",
    "unreachable": "it expired, and no heartbeat has reached the ledger",
}


class ConstraintViolation(ActionError):
    """The database itself refused a change: a CHECK, a foreign key or a trigger, named in the message."""


class Busy(ActionError):
    """What the call needed, `timeout` seconds did not bring; nothing happened, and trying again is safe.

    On SQLite the write lock. On a server a connection of the pool, a lock that a statement waited
    for, or an end to conflicts with other transactions; `what` says which.
    """

    def __init__(self, timeout: float | None = None, what: str = "another writer's lock") -> None:
        waited = "" if timeout is None else f" for {timeout:g} s"
        super().__init__(f"the ledger is busy ({what}){waited}; nothing was changed")
        self.timeout = timeout
        self.what = what


class CommitOutcomeUnknown(ActionError):
    """The connection was lost while a change was committed: it is whole or absent, and which is not known.

    Look, then decide. What the ledger was asked to do is never done by halves.
    """


class NotOpen(ActionError):
    """The ledger is not open: it was closed, or ``async with`` / ``open()`` is missing."""


class WrongProcess(ActionError):
    """The ledger was opened in process `opened_in`, and a fork of it, `used_in`, can't share it."""

    def __init__(self, opened_in: int, used_in: int) -> None:
        super().__init__(
            f"this ledger was opened in process {opened_in}; process {used_in} must open its own"
        )
        self.opened_in = opened_in
        self.used_in = used_in


class WrongLoop(ActionError):
    """The ledger's connections to its server belong to the event loop that it was opened in."""


class CorruptRow(ActionError):
    """Row `id` of `table` can't be read: `column` holds something that the ledger never writes."""

    def __init__(self, table: str, id: int, column: str, problem: str) -> None:
        super().__init__(f"{table} row {id} can't be read: {column} {problem}")
        self.table = table
        self.id = id
        self.column = column
        self.problem = problem


class StorageError(ActionError):
    """The place where the ledger is stored failed."""


class StorageFull(StorageError):
    """No room is left; nothing of the unit of work was kept."""


class StorageReadOnly(StorageError):
    """The ledger's file, or the folder it is in, can't be written."""


class StorageCorrupt(StorageError):
    """The file is not a database, or a damaged one; nothing was written to it."""


class StorageUnavailable(StorageError):
    """The ledger can't be opened or reached."""


class PermissionDenied(StorageError):
    """The role that the service uses lacks a right that the call needs."""


class SchemaError(ActionError):
    """The database's schema is not the one that this code works with."""


class SchemaOutdated(SchemaError):
    """The schema, at revision `found`, is behind `wanted`."""

    def __init__(self, found: str | None, wanted: str) -> None:
        super().__init__(
            f"the ledger's schema is at {found or 'no revision'}, this code needs {wanted}: "
            "run `operator-core db upgrade` (in a deploy `alembic upgrade head` at the root of a checkout does the same)"
        )
        self.found = found
        self.wanted = wanted


class SchemaTooNew(SchemaError):
    """The schema, at revision `found`, is unknown to this code, whose newest is `known`."""

    def __init__(self, found: str, known: str) -> None:
        super().__init__(
            f"the ledger's schema is at revision {found}, newer than this code's {known}: "
            "upgrade operator-core; nothing was changed"
        )
        self.found = found
        self.known = known


class UnmanagedSchema(SchemaError):
    """The database has tables that no release of operator-core made; `differences` names them."""

    def __init__(self, differences: Iterable[str]) -> None:
        self.differences = tuple(differences)
        super().__init__(
            "not a ledger that operator-core knows, nothing was changed: "
            + "; ".join(self.differences)
        )


class ForeignTransactions(SchemaError):
    """Events from a dump carry the transaction ids of the server that it was made on, which are no order here.

    docs/postgresql.md, "Restoring a dump", has the statement that mends it. Nobody can follow until then.
    """

    def __init__(self) -> None:
        super().__init__(
            "the events were restored from another server, whose transaction ids are ahead of this one's: "
            "see docs/postgresql.md, Restoring a dump"
        )


class WouldLoseData(SchemaError):
    """A downgrade would delete what `table` holds; Alembic's option ``-x option=yes`` allows it."""

    def __init__(self, table: str, option: str) -> None:
        super().__init__(
            f"{table} has rows that this downgrade would delete; nothing was changed "
            f"(say `-x {option}=yes` if that is what you want)"
        )
        self.table = table
        self.option = option
