"""How a proposal and its executions stand, in a few words: above all what a status does not say."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final

from rich.text import Text

from operator_core.actions.lifecycle import PENDING_STATUSES
from operator_core.actions.types import ActionProposal, ActionRecord, ActionStatus
from operator_core.cli.text import clock, one_line, plain, span

__all__ = ["lease_text", "outcome_text", "remarks", "status_text", "with_records"]

_STYLES: Final = {
    ActionStatus.PROPOSED: "cyan",
    ActionStatus.VALIDATED: "blue",
    ActionStatus.EXECUTING: "yellow",
    ActionStatus.COMPLETED: "green",
    ActionStatus.FAILED: "bold red",
    ActionStatus.CANCELLED: "dim",
}

_UNKNOWN: Final = "bold magenta"
"""Neither the colour of success nor that of failure."""


def status_text(status: ActionStatus, last: ActionRecord | None = None) -> Text:
    """A status in its colour; after a `last` execution of unknown outcome it says so."""
    text = Text(status.value, _STYLES[status])
    if status is ActionStatus.FAILED and last is not None and last.outcome_unknown:
        text = Text.assemble((status.value, _UNKNOWN), " ", ("(unknown)", _UNKNOWN))
    return text


def outcome_text(record: ActionRecord) -> Text:
    """What came of an execution."""
    if record.outcome_unknown:
        return Text(f"unknown: {plain(record.error_message or 'its worker fell silent')}", _UNKNOWN)
    if record.success is None:
        return Text("none yet", "yellow")
    return Text("succeeded", "green") if record.success else Text("failed", "bold red")


def lease_text(until: datetime | None, now: datetime) -> Text:
    """What is left of a lease; without one nobody is missed."""
    if until is None:
        return Text("none", "dim")
    if until > now:
        return Text(span(until - now))
    return Text(f"ran out {span(now - until)} ago", "bold red")


def with_records(proposals: Iterable[ActionProposal]) -> list[int]:
    """Of which proposals `remarks` need the last record."""
    asked = (ActionStatus.EXECUTING, ActionStatus.FAILED)
    return [each.id or 0 for each in proposals if each.status in asked]


def remarks(proposal: ActionProposal, last: ActionRecord | None, now: datetime) -> Iterator[Text]:
    """What there is to say besides the status, a line each: who is at it, what went wrong, what comes."""
    executing = proposal.status is ActionStatus.EXECUTING
    if executing and last is not None and last.completed_at is None and last.worker is not None:
        since = "" if last.started_at is None else f" for {span(now - last.started_at)}"
        yield Text(f"at {one_line(last.worker)}{since}")
        yield Text.assemble("lease ", lease_text(last.lease_expires_at, now))
    if proposal.status in PENDING_STATUSES:
        if proposal.priority:
            yield Text(f"priority {proposal.priority}")
        if proposal.scheduled_at is not None:
            yield Text(f"not before {clock(proposal.scheduled_at, now)}")
        if proposal.expires_at is not None:
            yield Text(f"expires {clock(proposal.expires_at, now)}")
    if proposal.last_error is not None and proposal.status is not ActionStatus.COMPLETED:
        if last is not None and last.outcome_unknown:
            yield Text(
                f"outcome unknown, {one_line(last.worker or 'worker')} fell silent", _UNKNOWN
            )
        else:
            yield Text(f"last error: {one_line(proposal.last_error)}", "red")
    if proposal.next_retry_at is not None:
        yield Text(f"next retry {clock(proposal.next_retry_at, now)}", "yellow")
