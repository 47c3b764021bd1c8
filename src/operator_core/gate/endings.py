"""What became of a call, as the ledger tells it."""

from typing import Final

from operator_core.actions.types import (
    ActionEvent,
    ActionStatus,
    EndCode,
    EventType,
    StoredProposal,
    StoredRecord,
)
from operator_core.db.verbs.executions import NOT_BEGUN
from operator_core.db.verbs.ledger import ActionLedger
from operator_core.gate.errors import (
    Cancelled,
    Denied,
    EffectUnknown,
    ExecutionFailed,
    Expired,
    GateError,
    Halted,
    NotExecuted,
    Refused,
    Rejected,
    Superseded,
    Undecided,
)
from operator_core.gate.results import kept
from operator_core.gate.tickets import Outcome, Ticket

__all__ = ["REFUSED", "ended", "has_ended", "has_failed", "is_rejected"]

_S = ActionStatus

REFUSED: Final = "refused: "
"""What the reason of a call begins with that the gate has cancelled."""

_NOT_EXECUTED: Final[dict[EndCode | None, type[NotExecuted]]] = {
    EndCode.REJECTED: Rejected,
    EndCode.DENIED: Denied,
    EndCode.UNDECIDED: Undecided,
    EndCode.APPROVAL_EXPIRED: Undecided,
    EndCode.EXPIRED: Expired,
    EndCode.HALTED: Halted,
    EndCode.SUPERSEDED: Superseded,
}
_NEVER_BEGUN: Final = (EndCode.NOT_BEGUN, EndCode.TAMPERED)


def has_ended(found: StoredProposal) -> bool:
    return found.status in (_S.COMPLETED, _S.CANCELLED) or has_failed(found)


def has_failed(found: StoredProposal) -> bool:
    return found.status is _S.FAILED and found.next_retry_at is None


async def ended(
    verbs: ActionLedger, found: StoredProposal, ticket: Ticket | None = None
) -> Outcome:
    """What became of a call that has ended."""
    call_id = found.call_id or ""
    records = await verbs.get_records_for_proposal(found.id)
    executed = [each for each in records if each.error_message not in NOT_BEGUN]
    last = executed[-1] if executed else None
    if found.status is _S.COMPLETED:
        value = None if last is None else kept(last.result_data)
        return Outcome(call_id, value, ticket=ticket)
    if last is None:
        error = await _why_not_executed(verbs, found)
    elif last.success:
        # Somebody cancelled it while it ran, and it was done all the same.
        return Outcome(call_id, kept(last.result_data), ticket=ticket)
    else:
        error = await _why_without_result(verbs, found, last)
    return Outcome(call_id, error=error, ticket=ticket)


async def _why_not_executed(verbs: ActionLedger, found: StoredProposal) -> GateError:
    code = found.end_code
    if found.status is _S.FAILED:
        rejection = await _rejection(verbs, found)
        if rejection is not None:
            return Rejected(found.id, rejection.reason, by=rejection.actor, end_code=code)
    last = [each for each in await verbs.history(found.id) if each.to_status][-1]
    if found.status is _S.FAILED:
        # It was not begun, written so, or moved by hand.
        kind = Cancelled if code in _NEVER_BEGUN else ExecutionFailed
        return kind(found.id, found.last_error or last.reason, end_code=code)
    is_new = last.event_type is EventType.PROPOSAL_CREATED
    reason = found.reason if is_new else last.reason or ""
    if code is EndCode.CANCELLED and reason.startswith(REFUSED):
        return Refused(found.id, reason.removeprefix(REFUSED))
    kind = _NOT_EXECUTED.get(code, Cancelled)
    return kind(found.id, last.reason, by=last.actor, end_code=code)


async def _why_without_result(
    verbs: ActionLedger, found: StoredProposal, last: StoredRecord
) -> GateError:
    code = found.end_code
    if last.success is False:
        return ExecutionFailed(found.id, last.error_message, end_code=code)
    for event in await verbs.history(found.id):
        is_found_out = event.event_type is EventType.OUTCOME_RESOLVED
        if is_found_out and event.record_id == last.id and event.success is False:
            why = f"it was not done: {event.reason}"
            return ExecutionFailed(found.id, why, end_code=code)
    return EffectUnknown(found.id, last.error_message, end_code=code)


async def is_rejected(verbs: ActionLedger, found: StoredProposal) -> bool:
    return found.end_code is EndCode.REJECTED or await _rejection(verbs, found) is not None


async def _rejection(verbs: ActionLedger, found: StoredProposal) -> ActionEvent | None:
    """The rejection of a failed proposal, which stays failed; only a rejected or a required one has an approval."""
    if found.status is not _S.FAILED or found.approval is None:
        return None
    events = await verbs.history(found.id)
    return next((each for each in events if each.event_type is EventType.REJECTED), None)
