"""Every error that the ledger raises, in one tree.

::

    ActionError
    ├── NotFound (LookupError)        no row with that id
    ├── InvalidTransition (ValueError) the lifecycle has no such move, or not at present
    │   ├── NotDue                    it is scheduled for a later time
    │   ├── Expired                   it did not start before it expired
    │   ├── DependencyPending         a proposal that it depends on is not completed
    │   ├── TransitionHalted          a halt is open (it is a Halted too)
    │   ├── LimitReached              a limit is reached
    │   ├── ExclusiveBusy             a proposal with the same exclusive key is executing
    │   ├── TransitionUnapproved      an approval is missing (it is an ApprovalRequired too)
    │   └── AlreadyClaimed            it is executing already
    ├── InvalidValue (ValueError)     a value that the ledger can't store
    ├── Conflict                      another caller was first
    │   └── VersionConflict           the proposal has changed since it was read
    ├── Halted                        a halt is open; nothing was changed
    ├── ApprovalRequired              a rule asks for approvals first; nothing was changed
    ├── NotEligible                   this person may not give an approval that is required
    ├── DigestMismatch                what was approved is not what would run; nothing was changed
    ├── TamperedProposal              a proposal was changed after it was approved; it does not run
    ├── HaltRequested                 a halt covers the execution: its worker should stop
    ├── LeaseLost                     the execution no longer belongs to the caller; the error says why
    ├── ConstraintViolation           the database refused a change that violates a constraint or a trigger
    ├── Busy                          a lock or a connection was not available; nothing was changed
    ├── OutcomeUnknown                raised by a handler or a tool that does not know whether it was done
    ├── CommitOutcomeUnknown          the connection was lost during a commit
    ├── NotOpen                       the ledger is not open, or already closed
    ├── WrongProcess                  a ledger that was opened before fork() and is used after it
    ├── WrongLoop                     a ledger on a server that is used from another event loop
    ├── CorruptRow                    a stored row that can't be read
    ├── StorageError
    │   ├── StorageFull               no space; nothing of the unit of work was kept
    │   ├── StorageReadOnly           the file or its folder can't be written
    │   ├── StorageCorrupt            not a database, or a damaged database
    │   ├── StorageUnavailable        can't be opened or reached, or has an I/O error
    │   └── PermissionDenied          the database role lacks a privilege
    └── SchemaError
        ├── ForeignTransactions       restored from another server's dump: docs/postgresql.md
        ├── SchemaOutdated            older than this code: run ``operator-core db upgrade``
        ├── SchemaTooNew              written by a newer release of operator-core
        ├── UnmanagedSchema           tables that no release of operator-core created
        └── WouldLoseData             a downgrade that would delete rows or history

Each error has its facts as attributes. A message contains names, ids and paths, and never the values of
parameters. It has at most `MAX_MESSAGE` characters. Every error can be pickled and copied, with its attributes.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

__all__ = [
    "MAX_MESSAGE",
    "ActionError",
    "AlreadyClaimed",
    "ApprovalRequired",
    "Busy",
    "CommitOutcomeUnknown",
    "Conflict",
    "ConstraintViolation",
    "CorruptRow",
    "DependencyPending",
    "DigestMismatch",
    "ExclusiveBusy",
    "Expired",
    "ForeignTransactions",
    "HaltRequested",
    "Halted",
    "InvalidTransition",
    "InvalidValue",
    "LeaseLost",
    "LimitReached",
    "NotDue",
    "NotEligible",
    "NotFound",
    "NotOpen",
    "OutcomeUnknown",
    "PermissionDenied",
    "SchemaError",
    "SchemaOutdated",
    "SchemaTooNew",
    "StorageCorrupt",
    "StorageError",
    "StorageFull",
    "StorageReadOnly",
    "StorageUnavailable",
    "TamperedProposal",
    "TransitionHalted",
    "TransitionUnapproved",
    "UnmanagedSchema",
    "VersionConflict",
    "WouldLoseData",
    "WrongLoop",
    "WrongProcess",
]


MAX_MESSAGE: Final = 2000
"""Limit of a message, in characters: it may quote names of any length, and log lines are limited."""


class ActionError(Exception):
    """Base of all errors that the ledger raises."""

    def __init__(self, message: str = "") -> None:
        if len(message) > MAX_MESSAGE:
            message = message[: MAX_MESSAGE - 1] + "…"
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception.__reduce__ calls the class with the message alone; most subclasses take other arguments.
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[ActionError], args: tuple[Any, ...], facts: dict[str, Any]) -> ActionError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(facts)
    return error


class NotFound(ActionError, LookupError):
    """No row of `kind` has the id `id`; no open limit has that name."""

    def __init__(self, kind: str, id: int | str) -> None:
        super().__init__(f"no {kind} {'with id' if isinstance(id, int) else 'named'} {id}")
        self.kind = kind
        self.id = id


class InvalidTransition(ActionError, ValueError):
    """A proposal can't move from `from_status` to `to_status`; `allowed` holds the statuses that it can move to."""

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
    """A proposal can't start before `scheduled_at`, which for a failed one is the time of its retry."""

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
    """A proposal can't start before its dependencies `pending`, ids of proposals, are completed."""

    def __init__(
        self, id: int, from_status: str, allowed: Iterable[str], pending: Sequence[int]
    ) -> None:
        self.pending = tuple(pending)
        some = ", ".join(map(str, self.pending[:10])) + (", ..." if len(self.pending) > 10 else "")
        super().__init__(
            id, from_status, "executing", allowed, problem=f"it waits for proposal {some}"
        )


class Halted(ActionError):
    """A halt is open, and nothing that it covers can be proposed, validated or started; nothing was changed.

    `halt_ids` holds the open halts that are in the way, oldest first. `mode` is the strictest of their modes, and `scope`
    what limits the oldest, by the names of the columns: it is empty for a halt of the whole ledger. If they could not be
    read, for example in a transaction of a service, `halt_ids` is empty.
    """

    def __init__(
        self,
        halt_ids: Sequence[int] = (),
        mode: str = "halted",
        scope: Mapping[str, str] | None = None,
        *,
        what: str = "no proposal was created",
    ) -> None:
        self.halt_ids = tuple(halt_ids)
        self.mode = mode
        self.scope = dict(scope or {})
        super().__init__(f"{_halts(self.halt_ids, mode, self.scope)}: {what}")


class TransitionHalted(Halted, InvalidTransition):
    """A proposal can't move to `validated` or `executing` while a halt covers it."""

    def __init__(
        self,
        id: int,
        from_status: str,
        to_status: str,
        allowed: Iterable[str],
        *,
        halt_ids: Sequence[int] = (),
        mode: str = "halted",
        scope: Mapping[str, str] | None = None,
    ) -> None:
        self.halt_ids = tuple(halt_ids)
        self.mode = mode
        self.scope = dict(scope or {})
        problem = _halts(self.halt_ids, mode, self.scope)
        InvalidTransition.__init__(self, id, from_status, to_status, allowed, problem=problem)


class LimitReached(InvalidTransition):
    """A proposal can't start while a limit is reached.

    `limit_id` and `name` are those of the limit, and `used` is what is used of it: starts, or the sum of their integers. The
    proposal can start at `retry_at`, unless others start before. `retry_at` is None if it can't start under this limit at
    all: its integer is missing, or greater than the whole limit.
    """

    def __init__(  # noqa: PLR0917 - all of them are facts
        self,
        id: int,
        from_status: str,
        allowed: Iterable[str],
        limit_id: int,
        name: str,
        used: int,
        retry_at: datetime | None,
    ) -> None:
        when = "never starts" if retry_at is None else f"may start at {retry_at.isoformat()}"
        problem = f"limit {limit_id}, {name}, is reached: {used} used, it {when}"
        super().__init__(id, from_status, "executing", allowed, problem=problem)
        self.limit_id = limit_id
        self.name = name
        self.used = used
        self.retry_at = retry_at


class ExclusiveBusy(InvalidTransition):
    """A proposal can't start while proposal `proposal_id` is executing: both have the exclusive key `key`."""

    def __init__(
        self, id: int, from_status: str, allowed: Iterable[str], key: str, proposal_id: int
    ) -> None:
        problem = f"proposal {proposal_id} is executing with the same exclusive key"
        super().__init__(id, from_status, "executing", allowed, problem=problem)
        self.key = key
        self.proposal_id = proposal_id


class ApprovalRequired(ActionError):
    """A rule asks for approvals before the proposal may be validated or start; nothing was changed.

    `missing` names the requirements that are not met, if they could be read.
    """

    def __init__(
        self, missing: Sequence[str] = (), *, what: str = "no proposal was created"
    ) -> None:
        self.missing = tuple(missing)
        super().__init__(f"{_approvals(self.missing)}: {what}")


class TransitionUnapproved(ApprovalRequired, InvalidTransition):
    """A proposal can't move to `validated` or `executing` before its requirements are met; `missing` names them.

    It never can if somebody has rejected it: `rejected_by`.
    """

    def __init__(
        self,
        id: int,
        from_status: str,
        to_status: str,
        allowed: Iterable[str],
        *,
        missing: Sequence[str] = (),
        rejected_by: str | None = None,
    ) -> None:
        self.missing = tuple(missing)
        self.rejected_by = rejected_by
        problem = _approvals(self.missing) if rejected_by is None else f"{rejected_by} rejected it"
        InvalidTransition.__init__(self, id, from_status, to_status, allowed, problem=problem)


def _approvals(missing: Sequence[str]) -> str:
    some = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
    return "an approval is missing" + (f" ({some})" if some else "")


class NotEligible(ActionError):
    """`by` may not give an approval that proposal `id` requires: not in a role, not named, or its own proposal."""

    def __init__(self, id: int, by: str) -> None:
        super().__init__(f"{by} may not give an approval that proposal {id} requires")
        self.id = id
        self.by = by


class DigestMismatch(ActionError):
    """The digest of a decision is not that of proposal `id`, which is `digest`; nothing was changed."""

    def __init__(self, id: int, digest: str | None) -> None:
        super().__init__(
            f"what was seen is not what proposal {id} would run: its digest is {digest}"
        )
        self.id = id
        self.digest = digest


class TamperedProposal(ActionError):
    """Proposal `id` was changed after it was approved: its content does not fit its digest. It was not run."""

    def __init__(self, id: int) -> None:
        super().__init__(f"proposal {id} does not fit its digest any more, and is not run")
        self.id = id


class HaltRequested(ActionError):
    """A halt covers the execution of record `record_id`: its worker should stop and end it.

    The execution still belongs to the worker: its lease is extended to `lease_expires_at`, and it can be completed or failed.
    `halt_ids`, `by` and `reason` are those of the open halts, and of the oldest of them.
    """

    def __init__(
        self,
        record_id: int,
        *,
        halt_ids: Sequence[int] = (),
        by: str | None = None,
        reason: str | None = None,
        lease_expires_at: datetime | None = None,
    ) -> None:
        self.record_id = record_id
        self.halt_ids = tuple(halt_ids)
        self.by = by
        self.reason = reason
        self.lease_expires_at = lease_expires_at
        who = f", by {by}" if by else ""
        why = f": {reason}" if reason else ""
        super().__init__(
            f"record {record_id} should stop ({_halts(self.halt_ids, 'halted', {})}{who}{why})"
        )


def _halts(ids: Sequence[int], mode: str, scope: Mapping[str, str]) -> str:
    some = ", ".join(map(str, ids[:10])) + (", ..." if len(ids) > 10 else "")
    limits = ", ".join(f"{name} {value}" for name, value in scope.items())
    named = f"halt {some}" if ids else "a halt"
    return f"{named} is open" + (f" for {limits}" if limits else "") + f", mode {mode}"


class AlreadyClaimed(InvalidTransition):
    """A proposal is executing already; `worker` has claimed it, or is None if it was started by hand."""

    def __init__(self, id: int, allowed: Iterable[str], worker: str | None) -> None:
        by = "" if worker is None else f" by {worker}"
        problem = f"it is executed{by} already"
        super().__init__(id, "executing", "executing", allowed, problem=problem)
        self.worker = worker


class InvalidValue(ActionError, ValueError):
    """The ledger can't store the value at `path`; `problem` says why.

    `problems` holds every problem that was found, each as a pair of path and problem.
    """

    def __init__(
        self, path: str, problem: str, *, problems: Iterable[tuple[str, str]] = ()
    ) -> None:
        self.path = path
        self.problem = problem
        self.problems = tuple(problems) or ((path, problem),)
        super().__init__("; ".join(f"{at}: {what}" if at else what for at, what in self.problems))


class Conflict(ActionError):
    """Another caller was first: row `id` of `kind` is already `state`."""

    def __init__(self, kind: str, id: int, state: str) -> None:
        super().__init__(f"{kind} {id} is already {state}")
        self.kind = kind
        self.id = id
        self.state = state


class VersionConflict(Conflict):
    """Proposal `id` is at version `found`, not at version `expected`; nothing was changed."""

    def __init__(self, id: int, expected: int, found: int) -> None:
        super().__init__("proposal", id, f"at version {found}, not {expected}")
        self.expected = expected
        self.found = found


class LeaseLost(ActionError):
    """The caller may no longer extend or end the execution of record `record_id`; nothing was changed.

    `cause` is one of:

    - ``"ended"``: the record was ended by complete, fail or update_record.
    - ``"recovered"``: the lease expired and the execution was recovered.
    - ``"cancelled"``: the proposal was cancelled.
    - ``"moved"``: the proposal is no longer executing this record.
    - ``"unreachable"``: no heartbeat reached the ledger for the time of the lease.

    `by` is the actor, if the history names one. Another worker may own the proposal, so the caller must stop
    the action.
    """

    def __init__(self, record_id: int, cause: str = "ended", by: str | None = None) -> None:
        why = _CAUSES.get(cause, cause) + (f", by {by}" if by else "")
        super().__init__(f"the lease of record {record_id} is lost: {why}")
        self.record_id = record_id
        self.cause = cause
        self.by = by


_CAUSES: Final = {
    "ended": "the execution was ended",
    "recovered": "it expired, and the execution was ended with an unknown outcome",
    "cancelled": "the proposal was cancelled",
    "moved": "the proposal is no longer executing it",
    "unreachable": "it expired, and no heartbeat has reached the ledger",
}


class ConstraintViolation(ActionError):
    """The database refused a change; the message names the CHECK, foreign key or trigger."""


class Busy(ActionError):
    """A lock or a connection was not available within `timeout` seconds; nothing was changed.

    It is safe to repeat the call. `what` names the cause. On SQLite it is the write lock. On a server it is a
    connection of the pool, a lock that a statement needed, or repeated conflicts with other transactions.
    """

    def __init__(self, timeout: float | None = None, what: str = "another writer's lock") -> None:
        waited = "" if timeout is None else f" for {timeout:g} s"
        super().__init__(f"the ledger is busy ({what}){waited}; nothing was changed")
        self.timeout = timeout
        self.what = what


class OutcomeUnknown(ActionError):
    """Raise this in a handler, a tool or a `holding` block that does not know whether the action was done.

    The execution ends with an unknown outcome, and not as failed. `why` is its error message.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class CommitOutcomeUnknown(ActionError):
    """The connection was lost during a commit: the change is complete or absent, and the ledger can't tell which.

    The caller must read the ledger to find out. A unit of work is never done in part.
    """


class NotOpen(ActionError):
    """The ledger is not open: it is closed, or ``async with`` / ``open()`` is missing."""


class WrongProcess(ActionError):
    """The ledger was opened in process `opened_in`; its fork, process `used_in`, can't use it."""

    def __init__(self, opened_in: int, used_in: int) -> None:
        super().__init__(
            f"this ledger was opened in process {opened_in}; process {used_in} must open its own"
        )
        self.opened_in = opened_in
        self.used_in = used_in


class WrongLoop(ActionError):
    """A ledger on a server is used outside the event loop in which it was opened, which owns its connections."""


class CorruptRow(ActionError):
    """Row `id` of `table` can't be read: `column` holds a value that the ledger never writes."""

    def __init__(self, table: str, id: int, column: str, problem: str) -> None:
        super().__init__(f"{table} row {id} can't be read: {column} {problem}")
        self.table = table
        self.id = id
        self.column = column
        self.problem = problem


class StorageError(ActionError):
    """The file or server that stores the ledger failed."""


class StorageFull(StorageError):
    """No space is left; nothing of the unit of work was kept."""


class StorageReadOnly(StorageError):
    """The ledger's file or its folder can't be written."""


class StorageCorrupt(StorageError):
    """The file is not a database, or is a damaged one; nothing was written to it."""


class StorageUnavailable(StorageError):
    """The ledger can't be opened or reached."""


class PermissionDenied(StorageError):
    """The database role of the service lacks a privilege that the call needs."""


class SchemaError(ActionError):
    """The database's schema is not the one that this code needs."""


class SchemaOutdated(SchemaError):
    """The schema is at revision `found`, older than the revision `wanted` that this code needs."""

    def __init__(self, found: str | None, wanted: str) -> None:
        super().__init__(
            f"the ledger's schema is at {found or 'no revision'}, this code needs {wanted}: "
            "run `operator-core db upgrade` (`alembic upgrade head` at the root of a checkout does the same)"
        )
        self.found = found
        self.wanted = wanted


class SchemaTooNew(SchemaError):
    """The schema is at revision `found`, which this code does not know; its newest revision is `known`."""

    def __init__(self, found: str, known: str) -> None:
        super().__init__(
            f"the ledger's schema is at revision {found}, newer than this code's {known}: "
            "upgrade operator-core; nothing was changed"
        )
        self.found = found
        self.known = known


class UnmanagedSchema(SchemaError):
    """The database has tables that no release of operator-core created; `differences` names them."""

    def __init__(self, differences: Iterable[str]) -> None:
        self.differences = tuple(differences)
        super().__init__(
            "no release of operator-core created this schema; nothing was changed: "
            + "; ".join(self.differences)
        )


class ForeignTransactions(SchemaError):
    """Restored events carry the transaction ids of another server, which don't order events on this one.

    No program can follow events until the statement in docs/postgresql.md, "Restoring a dump", has repaired them.
    """

    def __init__(self) -> None:
        super().__init__(
            "the events were restored from another server, and their transaction ids are ahead of this server's: "
            "see docs/postgresql.md, Restoring a dump"
        )


class WouldLoseData(SchemaError):
    """A downgrade would delete rows of `table`; Alembic's option ``-x {option}=yes`` allows it."""

    def __init__(self, table: str, option: str) -> None:
        super().__init__(
            f"{table} has rows that this downgrade would delete; nothing was changed "
            f"(pass `-x {option}=yes` to delete them)"
        )
        self.table = table
        self.option = option
