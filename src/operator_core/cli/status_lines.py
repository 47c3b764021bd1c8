"""Short texts about a proposal and its executions, with facts that the status does not show."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final

from operator_core.actions.lifecycle import PENDING_STATUSES
from operator_core.actions.types import ActionStatus, EndCode, StoredProposal, StoredRecord
from operator_core.cli.formatting import clock, one_line, plain, span
from operator_core.cli.table import Line, Span

__all__ = ["in_a_row", "lease_span", "outcome_span", "remarks", "status_line", "with_records"]

_STYLES: Final = {
    ActionStatus.PROPOSED: "cyan",
    ActionStatus.VALIDATED: "blue",
    ActionStatus.EXECUTING: "yellow",
    ActionStatus.COMPLETED: "green",
    ActionStatus.FAILED: "bold red",
    ActionStatus.CANCELLED: "dim",
}

_PLAIN_ENDS: Final = (None, EndCode.CANCELLED, EndCode.FAILED, EndCode.OUTCOME_UNKNOWN)
"""The end codes that the status and the last record tell already."""

_UNKNOWN: Final = "bold magenta"
"""Neither the colour of success nor that of failure."""


def status_line(status: ActionStatus, last: StoredRecord | None = None) -> Line:
    """Formats a status in its colour, one span per word; a `last` execution with an unknown outcome adds a word."""
    if status is ActionStatus.FAILED and last is not None and last.outcome_unknown:
        return [(status.value, _UNKNOWN), ("(unknown)", _UNKNOWN)]
    return [(status.value, _STYLES[status])]


def in_a_row(status: Line) -> Iterator[Span]:
    """Yields the words of a status with a blank between them."""
    for index, (text, style) in enumerate(status):
        yield (f" {text}" if index else text, style)


def outcome_span(record: StoredRecord) -> Span:
    """Formats the outcome of an execution."""
    if record.outcome_unknown:
        return (
            f"unknown: {plain(record.error_message or 'its worker stopped responding')}",
            _UNKNOWN,
        )
    if record.success is None:
        return "none yet", "yellow"
    return ("succeeded", "green") if record.success else ("failed", "bold red")


def lease_span(until: datetime | None, now: datetime) -> Span:
    """Formats the remaining time of a lease, or the time since it expired."""
    if until is None:
        return "none", "dim"
    if until > now:
        return span(until - now), ""
    return f"expired {span(now - until)} ago", "bold red"


def with_records(proposals: Iterable[StoredProposal]) -> list[int]:
    """Returns the ids of the proposals for which `remarks` needs the last record."""
    statuses = (ActionStatus.EXECUTING, ActionStatus.FAILED)
    return [each.id for each in proposals if each.status in statuses]


def remarks(proposal: StoredProposal, last: StoredRecord | None, now: datetime) -> Iterator[Line]:
    """Yields lines about the worker and its lease, the last error, and what happens next."""
    executing = proposal.status is ActionStatus.EXECUTING
    if executing and last is not None and last.completed_at is None and last.worker is not None:
        since = "" if last.started_at is None else f" for {span(now - last.started_at)}"
        yield [(f"at {one_line(last.worker)}{since}", "")]
        yield [("lease ", ""), lease_span(last.lease_expires_at, now)]
    if proposal.status in PENDING_STATUSES:
        if proposal.priority:
            yield [(f"priority {proposal.priority}", "")]
        if proposal.depends_on:
            yield [(f"after {' '.join(map(str, proposal.depends_on))}", "")]
        if proposal.scheduled_at is not None:
            yield [(f"not before {clock(proposal.scheduled_at, now)}", "")]
        if proposal.expires_at is not None:
            yield [(f"expires {clock(proposal.expires_at, now)}", "")]
    if proposal.last_error is not None and proposal.status is not ActionStatus.COMPLETED:
        if last is not None and last.outcome_unknown:
            why = f"{last.worker or 'worker'} stopped responding"
            yield [(f"outcome unknown: {one_line(last.error_message or why)}", _UNKNOWN)]
        else:
            yield [(f"last error: {one_line(proposal.last_error)}", "red")]
    if proposal.end_code not in _PLAIN_ENDS:
        yield [(f"end code {proposal.end_code}", "")]
    if proposal.next_retry_at is not None:
        yield [(f"next retry {clock(proposal.next_retry_at, now)}", "yellow")]
