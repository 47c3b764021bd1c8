"""What a tool call came to, as errors: not executed, not decided yet, or executed without a result."""

from operator_core.actions.errors import ActionError

__all__ = [
    "Cancelled",
    "Denied",
    "EffectUnknown",
    "Executed",
    "ExecutionFailed",
    "Expired",
    "GateError",
    "Halted",
    "NotExecuted",
    "Pending",
    "Refused",
    "Rejected",
    "Superseded",
    "Undecided",
]


class GateError(ActionError):
    """Why a tool call has no result.

    `proposal_id` is the proposal of the call, or None if nothing was written. `reason` is the text of whoever ended it,
    `by` who that was, and `end_code` the code in the ledger, if there is one.
    """

    summary = "the call has no result"

    def __init__(
        self,
        proposal_id: int | None,
        reason: str | None = None,
        *,
        by: str | None = None,
        end_code: str | None = None,
    ) -> None:
        of = "" if proposal_id is None else f"proposal {proposal_id}: "
        why = "" if reason is None else f": {reason}"
        who = "" if by is None else f" (by {by})"
        super().__init__(f"{of}{self.summary}{who}{why}")
        self.proposal_id = proposal_id
        self.reason = reason
        self.by = by
        self.end_code = end_code


class NotExecuted(GateError):
    """The tool was not executed, and will not be for this call."""

    summary = "it was not executed"


class Refused(NotExecuted):
    """The gate refused the call: an unknown tool, arguments that don't fit, or a repetition. `reason` says which."""

    summary = "the call was refused"


class Rejected(NotExecuted):
    """A person rejected it."""

    summary = "it was rejected"


class Denied(NotExecuted):
    """A rule denies it."""

    summary = "a rule denies it"


class Undecided(NotExecuted):
    """Nobody decided in time, or it was not started while its approvals were good."""

    summary = "it was not approved in time"


class Expired(NotExecuted):
    """It was not started before it expired."""

    summary = "it expired before it was started"


class Halted(NotExecuted):
    """The ledger is halted: nothing was proposed, or what was proposed was cancelled."""

    summary = "it was halted"


class Superseded(NotExecuted):
    """Somebody replaced it by a proposal with other parameters."""

    summary = "it was replaced by another proposal"


class Cancelled(NotExecuted):
    """It was cancelled for another reason: `end_code` and `reason` say which."""

    summary = "it was cancelled"


class Pending(GateError):
    """It is not decided, or could not start yet. The same call can be settled later."""

    summary = "it is not decided, or can't start yet"


class Executed(GateError):
    """The tool was started."""

    summary = "it was executed"


class ExecutionFailed(Executed):
    """The tool raised an error; `reason` is its text."""

    summary = "it failed"


class EffectUnknown(Executed):
    """The tool was started, and whether it was done is not known: it must not simply be called again."""

    summary = "whether it was done is not known"
