"""Views for people: a table of proposals, the page of a proposal, and the table of a replay."""

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import zip_longest
from typing import Any, Final, NamedTuple

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from operator_core.actions.errors import ExclusiveBusy, InvalidTransition, LimitReached
from operator_core.actions.types import (
    ActionEvent,
    ActionStatus,
    EventType,
    HaltMode,
    StoredProposal,
    StoredRecord,
)
from operator_core.cli.formatting import clock, compact, json_text, one_line, plain, when
from operator_core.cli.replay import Outcomes, Tally
from operator_core.cli.status_lines import lease_span, outcome_span, remarks, status_line
from operator_core.cli.table import Column, Line, Span, laid_out, to_text

__all__ = ["Page", "framed", "page", "proposal_table", "tally_table", "what_happened", "who"]

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
        yield [id_, list(_words(status)), [(name, "")], [(at, "")], [(by, "")], free]
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


class Page(NamedTuple):
    """The page of one proposal: its facts, its executions and its history."""

    title: Line
    facts: list[tuple[str, Line]]
    executions: list[tuple[str, list[tuple[str, Line]]]]
    history: list[tuple[Line, Line, Line]]

    def for_terminal(self) -> RenderableType:
        """Returns the page for a terminal, with long lines folded."""
        parts: list[RenderableType] = [to_text(self.title), Text(), _folded(self.facts)]
        for title, facts in self.executions:
            parts += [Text(), Text(title, "bold"), _folded(facts)]
        history = Table.grid(padding=(0, 2, 0, 0))
        history.add_column(no_wrap=True)
        history.add_column(overflow="fold")
        history.add_column(overflow="fold")
        for cells in self.history:
            history.add_row(*(Text.assemble(*cell) for cell in cells))
        parts += [Text(), Text("history", "bold"), history]
        return Padding(Group(*parts), (1, 1), expand=False)

    def for_pipe(self) -> Iterator[Line]:
        """Yields the page as lines that are neither cut nor folded."""
        yield []
        yield self.title
        yield []
        yield from _unfolded(self.facts)
        for title, facts in self.executions:
            yield []
            yield [(title, "")]
            yield from _unfolded(facts)
        yield []
        yield [("history", "")]
        for time, what, by in self.history:
            yield [*time, ("  ", ""), *what, ("  ", ""), *by]
        yield []


def _folded(facts: Iterable[tuple[str, Line]]) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True, min_width=10)
    grid.add_column(overflow="fold")
    for name, fact in facts:
        grid.add_row(name, Text.assemble(*fact))
    return grid


def _unfolded(facts: Iterable[tuple[str, Line]]) -> Iterator[Line]:
    for name, fact in facts:
        # The further lines of a text are indented like its first line.
        yield [
            (f"{name:<12}", ""),
            *((text.replace("\n", "\n" + " " * 12), "") for text, _ in fact),
        ]


def page(
    proposal: StoredProposal,
    records: Sequence[StoredRecord],
    history: Iterable[ActionEvent],
    now: datetime,
    hindrance: InvalidTransition | None = None,
) -> Page:
    """Returns the page of a proposal at the time `now`; `hindrance` says why it can't start."""
    last = records[-1] if records else None
    name = one_line(proposal.action_name)
    title: list[Span] = [(f"proposal {proposal.id}", "bold"), (f"  {name}  ", "")]
    title += _words(status_line(proposal.status, last))
    return Page(
        title,
        [*_proposal_facts(proposal, last), *_waiting(hindrance)],
        [(f"execution {record.id}", list(_record_facts(record, now))) for record in records],
        [_happened(event) for event in history],
    )


def _waiting(hindrance: InvalidTransition | None) -> Iterator[tuple[str, Line]]:
    if isinstance(hindrance, LimitReached):
        limit = f"limit {hindrance.limit_id}, {one_line(hindrance.name)}, is reached"
        free = "never starts under it"
        if hindrance.retry_at is not None:
            free = f"may start at {when(hindrance.retry_at)}"
        yield "waits", [(f"{limit} ({hindrance.used:,} used): it {free}", "yellow")]
    elif isinstance(hindrance, ExclusiveBusy):
        yield (
            "waits",
            [(f"for proposal {hindrance.proposal_id}, with the same exclusive key", "yellow")],
        )


def _words(line: Line) -> Iterator[Span]:
    for index, (text, style) in enumerate(line):
        yield (f" {text}" if index else text, style)


def _proposal_facts(
    proposal: StoredProposal, last: StoredRecord | None
) -> Iterator[tuple[str, Line]]:
    yield "type", [(proposal.action_type.value, "")]
    yield "parameters", _json(proposal.parameters)
    yield "reason", [(plain(proposal.reason), "")]
    if proposal.ticket_id is not None:
        yield "ticket", [(str(proposal.ticket_id), "")]
    if proposal.priority:
        yield "priority", [(str(proposal.priority), "")]
    yield "proposed", [(f"{when(proposal.proposed_at)} by {one_line(proposal.proposed_by)}", "")]
    yield from _origin(proposal)
    if proposal.content_digest is not None:
        yield "digest", [(proposal.content_digest, "")]
    yield from _moments(("not before", proposal.scheduled_at), ("expires", proposal.expires_at))
    yield from _moments(("validated", proposal.validated_at), ("cancelled", proposal.cancelled_at))
    if proposal.end_code is not None:
        yield "end code", [(proposal.end_code.value, "")]
    if proposal.max_retries:
        yield "retries", [(f"{proposal.retry_count} of {proposal.max_retries}", "")]
    yield from _moments(("next retry", proposal.next_retry_at))
    over = proposal.status is ActionStatus.COMPLETED or (last is not None and last.outcome_unknown)
    if proposal.last_error is not None and not over:
        yield "last error", [(plain(proposal.last_error), "red")]


def _origin(proposal: StoredProposal) -> Iterator[tuple[str, Line]]:
    kind = "" if proposal.requester_type is None else f" ({proposal.requester_type.value})"
    for name, value in (
        ("requester", proposal.requester_id and proposal.requester_id + kind),
        ("agent", proposal.agent_id),
        ("run", proposal.run_id),
        ("parent", proposal.parent_id),
        ("call", proposal.call_id),
        ("trace", proposal.traceparent),
        ("exclusive", proposal.exclusive_key),
    ):
        if value is not None:
            yield name, [(one_line(str(value)), "")]
    if proposal.requester_id is None and kind:
        yield "requester", [(kind.strip(), "")]


def _record_facts(record: StoredRecord, now: datetime) -> Iterator[tuple[str, Line]]:
    if record.worker is not None:
        yield "worker", [(one_line(record.worker), "")]
    yield from _moments(("started", record.started_at), ("ended", record.completed_at), exact=True)
    if record.lease_expires_at is not None and record.completed_at is None:
        until = f"until {when(record.lease_expires_at)}, "
        yield "lease", [(until, ""), lease_span(record.lease_expires_at, now)]
    yield "outcome", [outcome_span(record)]
    if record.error_message is not None and not record.outcome_unknown:
        yield "error", [(plain(record.error_message), "red")]
    if record.result_data is not None:
        yield "result", _json(record.result_data)


def _moments(
    *moments: tuple[str, datetime | None], exact: bool = False
) -> Iterator[tuple[str, Line]]:
    for name, moment in moments:
        if moment is not None:
            yield name, [(when(moment, exact=exact), "")]


def _json(value: dict[str, Any]) -> Line:
    return [(json_text(json.dumps(value, ensure_ascii=False, indent=2)), "")]


_RECORD_EVENTS: Final = {
    EventType.RECORD_STARTED: "started",
    EventType.RECORD_FINISHED: "ended",
    EventType.OUTCOME_RESOLVED: "resolved",
}


def _happened(event: ActionEvent) -> tuple[Line, Line, Line]:
    """Returns the cells for the time, the change and the actor of an event."""
    by = f"by {who(event)}"
    # The page already shows the other reasons: the proposal's reason and the execution's error.
    if event.reason and (
        event.event_type is EventType.OUTCOME_RESOLVED
        or (event.event_type is not EventType.PROPOSAL_CREATED and not event.record_id)
    ):
        by += f": {one_line(event.reason)}"
    return [(when(event.occurred_at, exact=True), "dim")], what_happened(event), [(by, "")]


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
    if event.proposal_id is None:
        details = event.details or {}
        if "limit" in details:
            name = one_line(str(details.get("name")))
            return [
                (
                    f"{event.event_type.value.replace('_', ' ')} (limit {details['limit']}): {name}",
                    "bold",
                )
            ]
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
    return [(event.event_type.value.replace("_", " "), "")]


def _why(event: ActionEvent) -> Line:
    """Formats the end code of a move, unless it is the name of the status, and its cause."""
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
