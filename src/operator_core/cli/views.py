"""Views for people: a table of proposals, events, and the table of a replay."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import zip_longest
from typing import Final

from operator_core.actions.types import (
    ActionEvent,
    EventType,
    HaltMode,
    StoredProposal,
    StoredRecord,
)
from operator_core.cli.formatting import clock, compact, one_line, when
from operator_core.cli.replay import Outcomes, Tally
from operator_core.cli.status_lines import in_a_row, remarks, status_line
from operator_core.cli.table import Column, Line, laid_out

__all__ = ["framed", "proposal_table", "tally_table", "what_happened", "who"]

_WIDE: Final = 130
"""The width from which a proposal's parameters and reason are side by side."""

_NARROW: Final = 80
"""The width below which times are in their short form."""


def framed(lines: Iterable[Line]) -> Iterator[Line]:
    """Adds a blank line before and after the lines, and a space to the left of each."""
    yield []
    for line in lines:
        yield [(" ", ""), *line]
    yield []


def proposal_table(
    proposals: Sequence[StoredProposal],
    records: Iterable[StoredRecord],
    now: datetime,
    width: int | None,
) -> Iterator[Line]:
    """Yields the table of proposals for a terminal of `width` columns: one line each, or two if the width is small.

    Remarks on a proposal follow on lines of their own; they need its last record from `records`. Without a width,
    as for a pipe, each proposal is one line and nothing is cut.
    """
    last = {each.proposal_id: each for each in records}
    rows: list[Sequence[Line]] = []
    for each in proposals:
        record = last.get(each.id)
        notes = list(remarks(each, record, now))
        rows += _rows(each, status_line(each.status, record), notes, now, width)
    # The frame takes one column on each side.
    return framed(laid_out(_columns(width), rows, None if width is None else width - 2))


def _columns(width: int | None) -> list[Column]:
    known = [Column("id", right=True), Column("status")]
    if width is None:
        known += [Column("action", most=32), Column("proposed at"), Column("by", most=16)]
        return [*known, Column("parameters, reason", share=1)]
    if width >= _WIDE:
        known += [Column("action", most=32), Column("parameters", share=1)]
        return [*known, Column("reason", share=2), Column("by", most=16), Column("proposed at")]
    return [
        *known,
        Column("action, parameters\nreason", share=1),
        Column("proposed at\nby", most=24),
    ]


def _rows(
    proposal: StoredProposal, status: Line, notes: list[Line], now: datetime, width: int | None
) -> Iterator[Sequence[Line]]:
    id_: Line = [(str(proposal.id), "")]
    name = one_line(proposal.action_name)
    parameters: Line = [(compact(proposal.parameters, None if width is None else 200), "")]
    reason = one_line(proposal.reason)
    by = one_line(proposal.proposed_by)
    short = width is not None and width < _NARROW
    at = clock(proposal.proposed_at, now) if short else when(proposal.proposed_at)
    if width is None:
        more = [span for remark in notes for span in (("; ", ""), *remark)]
        free: Line = [*parameters, ("  ", ""), (reason, ""), *more]
        yield [id_, list(in_a_row(status)), [(name, "")], [(at, "")], [(by, "")], free]
        return
    # The words of a status are one below the other.
    statuses: list[Line] = [[word] for word in status]
    if width >= _WIDE:
        yield [id_, statuses[0], [(name, "")], parameters, [(reason, "")], [(by, "")], [(at, "")]]
        for word, remark in zip_longest(statuses[1:], notes, fillvalue=()):
            yield [(), word, (), (), remark, (), ()]
    else:
        lefts: list[Line] = [[(name, "bold"), ("  ", ""), *parameters], [(reason, "dim")], *notes]
        rights: list[Line] = [[(at, "")], [(by, "dim")]]
        yield from zip_longest([id_], statuses, lefts, rights, fillvalue=())


_RECORD_EVENTS: Final = {
    EventType.RECORD_STARTED: "started",
    EventType.RECORD_FINISHED: "ended",
    EventType.OUTCOME_RESOLVED: "resolved",
}


def who(event: ActionEvent) -> str:
    """Formats the actor of an event and, if the execution belongs to another worker, that worker."""
    actor = one_line(event.actor)
    if event.worker is None or event.worker == event.actor:
        return actor
    return f"{actor} (execution of {one_line(event.worker)})"


def what_happened(event: ActionEvent) -> Line:
    """Formats the change that an event describes, in a few words."""
    if event.record_id is not None:
        finished = event.event_type is EventType.RECORD_FINISHED
        unknown = ", outcome unknown" if finished else ""
        outcome = {None: unknown, True: ", succeeded", False: ", failed"}[event.success]
        word = _RECORD_EVENTS.get(event.event_type, event.event_type.value)
        return [(f"execution {event.record_id} {word}{outcome}", "")]
    if (
        event.event_type in (EventType.PROPOSAL_CREATED, EventType.STATUS_CHANGED)
        and event.to_status
    ):
        return [*status_line(event.to_status), *_why(event)]
    details = event.details or {}
    if event.event_type in (EventType.LIMIT_SET, EventType.LIMIT_REMOVED):
        name = one_line(str(details.get("name")))
        what = event.event_type.value.replace("_", " ")
        return [(f"{what} (limit {details.get('limit')}): {name}", "bold")]
    if event.event_type in (EventType.HALTED, EventType.RESUMED):
        limits = [
            f"{name} {one_line(str(details[name]))}"
            for name in ("action_name", "agent_id", "run_id")
            if name in details
        ]
        what = event.event_type.value
        if event.event_type is EventType.HALTED and details.get("mode") == HaltMode.OBSERVE:
            what += ", observe only"
        of = ", ".join(limits) or "the whole ledger"
        return [(f"{what} (halt {details.get('halt')}): {of}", "bold red")]
    return [(event.event_type.value.replace("_", " "), ""), *_why(event)]


def _why(event: ActionEvent) -> Line:
    """Formats the end code of a move, unless it is the name of the status, and what the event names."""
    told = [
        one_line(str(value)) if name == "end_code" else f"{name} {value}"
        for name, value in (event.details or {}).items()
        if name != "digest" and value != event.to_status
    ]
    return [(f" ({', '.join(told)})", "")] if told else []


def tally_table(tally: Tally) -> Iterator[Line]:
    """Yields the table of the outcomes by action, with their total."""
    columns = [Column("action"), Column("completed", right=True), Column("failed", right=True)]
    if tally.waiting:
        columns.append(Column("not executed", right=True))

    def row(name: str, style: str, outcomes: Outcomes | Tally) -> Sequence[Line]:
        counts = [(outcomes.completed, "green"), (outcomes.failed, "red")]
        counts += [(outcomes.waiting, "yellow")] if tally.waiting else []
        cells: list[Line] = [[(f"{count:,}", each if count else "dim")] for count, each in counts]
        return [[(one_line(name), style)], *cells]

    rows = [row(name, "", outcomes) for name, outcomes in sorted(tally.actions.items())]
    return framed(laid_out(columns, rows, None, footer=row("total", "bold", tally)))
