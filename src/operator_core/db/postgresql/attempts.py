"""Decides what the failure of a unit on a server means: a retry, an error, or an unknown outcome."""

from typing import Final

from sqlalchemy.exc import DBAPIError

from operator_core.actions.errors import ActionError, CommitOutcomeUnknown, StorageUnavailable
from operator_core.db.sql.errors import translate
from operator_core.db.sql.postgresql_errors import LOSSES, Limits, Trouble, scrub, trouble

__all__ = [
    "Attempt",
    "check_worth_another",
    "not_kept",
    "outcome_unknown",
    "own_error",
    "worth_another",
]

_MAX_CONFLICTS: Final = 8
"""The number of retries of a unit that conflicts with another transaction."""


class Attempt:
    """The progress of one run of a unit, which decides what its failure means."""

    __slots__ = ("alone", "committing", "connected")

    def begin(self) -> None:
        self.connected = False
        self.committing = False
        self.alone = False

    def may_have_committed(self, kind: Trouble, error: BaseException) -> bool:
        """Whether the unit's change may be committed although the unit failed with this `kind`."""
        if kind is Trouble.LOST:
            return self.committing
        # A statement that the server did not read changed nothing. But a SELECT may come after the statement that
        # changed something.
        statement = error.statement if isinstance(error, DBAPIError) else None
        select = (statement or "").lstrip()[:6].upper() == "SELECT"
        return kind is Trouble.UNSENT and self.alone and select

    def may_stop(self) -> bool:
        """Whether a cancellation can end the run without leaving anything half done."""
        return not self.connected


def worth_another(kind: Trouble, failures: int, *, late: bool) -> bool:
    """Whether a unit is retried after `failures` earlier failures; `late` means that its time is over."""
    if kind is Trouble.CONFLICT:
        return failures < _MAX_CONFLICTS
    if kind is Trouble.READ_ONLY:
        return failures == 0
    return kind in LOSSES and not late


def check_worth_another(attempt: Attempt, error: Exception, failures: int, *, late: bool) -> None:
    """Raises the error of a unit whose `attempt` failed with `error`, unless the unit is retried.

    See `worth_another` for `failures` and `late`.
    """
    kind = trouble(error)
    if attempt.may_have_committed(kind, error):
        raise outcome_unknown(error) from error
    if not worth_another(kind, failures, late=late):
        raise error


def not_kept() -> StorageUnavailable:
    """The error for a connection that was lost before anything could be committed."""
    return StorageUnavailable(
        "the connection was lost before anything was committed: nothing was kept"
    )


def own_error(error: BaseException, timeout: float, limits: Limits) -> BaseException:
    """Returns the ledger's exception for `error` of a call that waited for at most `timeout` seconds."""
    # One of the ledger's own says what is known, also where its cause alone would say less.
    if not isinstance(error, ActionError) and trouble(error) is Trouble.UNSENT:
        scrub(error)
        return not_kept()
    return translate(error, busy_timeout=timeout, server=True, limits=limits)


def outcome_unknown(error: BaseException) -> CommitOutcomeUnknown:
    """The error for a connection that was lost during a COMMIT, or during a statement that is its own COMMIT."""
    scrub(error)
    unknown = CommitOutcomeUnknown(
        "the connection was lost during the commit: the change is whole or absent"
    )
    unknown.__cause__ = error
    return unknown
