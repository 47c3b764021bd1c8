"""What people see: proposals as a table or a page, and what a replay did."""

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from operator_core.actions.types import (
    ActionEvent,
    ActionProposal,
    ActionRecord,
    ActionStatus,
    EventType,
)
from operator_core.cli.replay import Tally
from operator_core.cli.standing import lease_text, outcome_text, remarks, status_text
from operator_core.cli.text import clock, compact, one_line, plain, when

__all__ = ["CUT", "new_table", "proposal_page", "proposal_table", "tally_table", "what_happened"]

_WIDE: Final = 130
"""Columns from which a proposal's parameters and reason stand side by side, not below each other."""

_NARROW: Final = 80
"""Columns below which a time is only as long as it must be."""

CUT: Final[dict[str, Any]] = {"no_wrap": True, "overflow": "ellipsis"}


def new_table(*, header: bool = True) -> Table:
    """A table as all of them are."""
    # Blank lines and one rule, no boxes: what is read at night should be quiet.
    return Table(
        box=box.SIMPLE_HEAD,
        show_header=header,
        header_style="bold",
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


def proposal_table(
    proposals: Sequence[ActionProposal], records: Iterable[ActionRecord], now: datetime, width: int
) -> RenderableType:
    """Proposals for a terminal of `width` columns: a line each, or two where one has no room.

    What there is to remark on one follows on lines of its own, for which `records` are its last ones.
    """
    last = {each.proposal_id: each for each in records}
    table = new_table()
    table.add_column("id", justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    if width >= _WIDE:
        table.add_column("action", max_width=32, **CUT)
        table.add_column("parameters", ratio=1, **CUT)
        table.add_column("reason", ratio=2, **CUT)
        table.add_column("by", max_width=16, **CUT)
        table.add_column("proposed at", no_wrap=True)
    else:
        table.add_column("action, parameters\nreason", ratio=1, **CUT)
        table.add_column("proposed at\nby", **CUT)
    table.expand = True
    for each in proposals:
        record = last.get(each.id or 0)
        cells = _cells(each, list(remarks(each, record, now)), now, width)
        # Where it is of two words they stand one below the other.
        status = Text("\n").join(status_text(each.status, record).split(" "))
        table.add_row(str(each.id), status, *cells)
    return Padding(table, (1, 1), expand=False)


def _cells(proposal: ActionProposal, more: list[Text], now: datetime, width: int) -> Iterator[Text]:
    name = Text(one_line(proposal.action_name))
    parameters = compact(proposal.parameters)
    reason = one_line(proposal.reason)
    by = one_line(proposal.proposed_by)
    at = when(proposal.proposed_at) if width >= _NARROW else clock(proposal.proposed_at, now)
    if width >= _WIDE:
        said = Text("\n").join([Text(reason), *more])
        yield from (name, Text(parameters), said, Text(by), Text(at))
    else:
        call = Text.assemble((name.plain, "bold"), "  ", parameters)
        yield Text("\n").join([call, Text(reason, "dim"), *more])
        yield Text("\n").join([Text(at), Text(by, "dim")])


def proposal_page(
    proposal: ActionProposal,
    records: Sequence[ActionRecord],
    history: Iterable[ActionEvent],
    now: datetime,
) -> RenderableType:
    """All that is known of one proposal, to be read from top to bottom."""
    last = records[-1] if records else None
    title = Text.assemble(
        (f"proposal {proposal.id}", "bold"),
        "  ",
        one_line(proposal.action_name),
        "  ",
        status_text(proposal.status, last),
    )
    parts: list[RenderableType] = [title, Text(), _facts(_proposal_facts(proposal, last))]
    for record in records:
        parts += [
            Text(),
            Text(f"execution {record.id}", "bold"),
            _facts(_record_facts(record, now)),
        ]
    parts += [Text(), Text("history", "bold"), _history(history)]
    return Padding(Group(*parts), (1, 1), expand=False)


def _proposal_facts(
    proposal: ActionProposal, last: ActionRecord | None
) -> Iterator[tuple[str, RenderableType]]:
    yield "type", Text(proposal.action_type.value)
    yield "parameters", _json(proposal.parameters)
    yield "reason", Text(plain(proposal.reason))
    if proposal.ticket_id is not None:
        yield "ticket", Text(str(proposal.ticket_id))
    if proposal.priority:
        yield "priority", Text(str(proposal.priority))
    yield "proposed", Text(f"{when(proposal.proposed_at)} by {one_line(proposal.proposed_by)}")
    yield from _moments(("not before", proposal.scheduled_at), ("expires", proposal.expires_at))
    yield from _moments(("validated", proposal.validated_at), ("cancelled", proposal.cancelled_at))
    if proposal.max_retries:
        yield "retries", Text(f"{proposal.retry_count} of {proposal.max_retries}")
    yield from _moments(("next retry", proposal.next_retry_at))
    over = proposal.status is ActionStatus.COMPLETED or (last is not None and last.outcome_unknown)
    if proposal.last_error is not None and not over:
        yield "last error", Text(plain(proposal.last_error), "red")


def _record_facts(record: ActionRecord, now: datetime) -> Iterator[tuple[str, RenderableType]]:
    if record.worker is not None:
        yield "worker", Text(one_line(record.worker))
    yield from _moments(("started", record.started_at), ("ended", record.completed_at), exact=True)
    if record.lease_expires_at is not None and record.completed_at is None:
        until = Text(f"until {when(record.lease_expires_at)}, ")
        yield "lease", until + lease_text(record.lease_expires_at, now)
    yield "outcome", outcome_text(record)
    if record.error_message is not None and not record.outcome_unknown:
        yield "error", Text(plain(record.error_message), "red")
    if record.result_data is not None:
        yield "result", _json(record.result_data)


def _moments(
    *moments: tuple[str, datetime | None], exact: bool = False
) -> Iterator[tuple[str, RenderableType]]:
    for name, moment in moments:
        if moment is not None:
            yield name, Text(when(moment, exact=exact))


def _facts(facts: Iterable[tuple[str, RenderableType]]) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True, min_width=10)
    grid.add_column(overflow="fold")
    for name, fact in facts:
        grid.add_row(name, fact)
    return grid


def _json(value: dict[str, Any]) -> Text:
    return Text(plain(json.dumps(value, ensure_ascii=False, indent=2)))


_RECORD_EVENTS: Final = {
    EventType.RECORD_STARTED: "started",
    EventType.RECORD_FINISHED: "ended",
}


def _history(events: Iterable[ActionEvent]) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_column(overflow="fold")
    for event in events:
        by = Text(f"by {one_line(event.actor)}")
        # The reasons of the other events stand above, as the proposal's and as the error.
        if event.reason and event.event_type is EventType.STATUS_CHANGED:
            by.append(f": {one_line(event.reason)}")
        grid.add_row(when(event.occurred_at, exact=True), what_happened(event), by)
    return grid


def what_happened(event: ActionEvent) -> Text:
    """An event in a word, or a few."""
    if event.to_status is None:
        finished = event.event_type is EventType.RECORD_FINISHED
        unknown = ", outcome unknown" if finished else ""
        outcome = {None: unknown, True: ", succeeded", False: ", failed"}[event.success]
        word = _RECORD_EVENTS.get(event.event_type, event.event_type.value)
        return Text(f"execution {event.record_id} {word}{outcome}")
    return status_text(event.to_status)


def tally_table(tally: Tally) -> RenderableType:
    """How the calls of each action ended, and all of them together."""
    table = new_table()
    table.show_footer = True
    table.footer_style = "bold"
    table.add_column("action", Text("total"), overflow="fold")
    table.add_column("completed", _count(tally.completed, "green"), justify="right")
    table.add_column("failed", _count(tally.failed, "red"), justify="right")
    if tally.waiting:
        table.add_column("not executed", _count(tally.waiting, "yellow"), justify="right")
    for name, outcomes in sorted(tally.actions.items()):
        waiting = [_count(outcomes.waiting, "yellow")] if tally.waiting else []
        table.add_row(
            Text(one_line(name)),
            _count(outcomes.completed, "green"),
            _count(outcomes.failed, "red"),
            *waiting,
        )
    return Padding(table, (1, 1), expand=False)


def _count(number: int, style: str) -> Text:
    return Text(f"{number:,}", style if number else "dim")
