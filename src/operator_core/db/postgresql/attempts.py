"""What the failure of a unit on a server means: run it again, give up, or nobody knows what became of it."""

from typing import Final

from sqlalchemy.exc import DBAPIError

from operator_core.actions.errors import CommitOutcomeUnknown, StorageUnavailable
from operator_core.db.sql.postgresql_errors import LOSSES, Trouble, scrub

__all__ = ["Attempt", "not_kept", "outcome_unknown", "worth_another"]

_MAX_CONFLICTS: Final = 8
"""How often a unit that lost to another transaction is run again."""


class Attempt:
    """How far one run of a unit has come, which decides what its failure means."""

    __slots__ = ("alone", "committing", "connected")

    def begin(self) -> None:
        self.connected = False
        self.committing = False
        self.alone = False

    def may_have_committed(self, kind: Trouble, error: BaseException) -> bool:
        """Whether a failure of this `kind` leaves it open if the unit's change was made."""
        if kind is Trouble.LOST:
            return self.committing
        # What was not read has changed nothing. A SELECT may come after the one statement that did.
        statement = error.statement if isinstance(error, DBAPIError) else None
        select = (statement or "").lstrip()[:6].upper() == "SELECT"
        return kind is Trouble.UNSENT and self.alone and select

    def may_stop(self) -> bool:
        """Whether there is nothing yet that a cancellation could leave half done."""
        return not self.connected


def worth_another(kind: Trouble, failures: int, *, late: bool) -> bool:
    """Whether a unit that has failed so often, and may still wait or is `late`, is run again."""
    if kind is Trouble.CONFLICT:
        return failures < _MAX_CONFLICTS
    if kind is Trouble.READ_ONLY:
        return failures == 0
    return kind in LOSSES and not late


def not_kept() -> StorageUnavailable:
    """The error for a connection that was lost while nothing could have been committed."""
    return StorageUnavailable(
        "the connection was lost before anything was committed: nothing was kept"
    )


def outcome_unknown(error: BaseException) -> CommitOutcomeUnknown:
    """The error for a connection that was lost while a COMMIT, or what is its own COMMIT, was under way."""
    scrub(error)
    unknown = CommitOutcomeUnknown(
        "the connection was lost while the change was committed: it is whole or absent"
    )
    unknown.__cause__ = error
    return unknown
