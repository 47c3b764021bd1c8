"""The page of a proposal: all that the ledger says about it, or what a person must see to decide about it."""

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Final, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from operator_core.actions.digest import DIGEST_FIELDS
from operator_core.actions.errors import ExclusiveBusy, InvalidTransition, LimitReached
from operator_core.actions.lifecycle import PENDING_STATUSES
from operator_core.actions.types import (
    ActionEvent,
    ActionStatus,
    Approvals,
    EndCode,
    EventType,
    StoredProposal,
    StoredRecord,
)
from operator_core.cli.approval_views import approval_sections
from operator_core.cli.formatting import json_text, one_line, plain, when
from operator_core.cli.output import print_lines, terminal_width
from operator_core.cli.status_lines import in_a_row, lease_span, outcome_span, status_line
from operator_core.cli.story import Story
from operator_core.cli.table import Line, Span, to_text
from operator_core.cli.views import what_happened, who

__all__ = ["Page", "page", "print_page", "question"]


class Page(NamedTuple):
    """The page of one proposal: its facts, sections with a title of their own, and its history."""

    title: Line
    facts: list[tuple[str, Line]]
    sections: list[tuple[str, list[tuple[str, Line]]]]
    history: list[tuple[Line, Line, Line]]

    def for_terminal(self) -> RenderableType:
        """Returns the page for a terminal, with long lines folded."""
        parts: list[RenderableType] = [to_text(self.title), Text(), _folded(self.facts)]
        for title, facts in self.sections:
            parts += [Text(), Text(title, "bold"), _folded(facts)]
        if not self.history:
            return Padding(Group(*parts), (1, 1), expand=False)
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
        for title, facts in self.sections:
            yield []
            yield [(title, "")]
            yield from _unfolded(facts)
        yield []
        if not self.history:
            return
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


_WAITING: Final = frozenset({*PENDING_STATUSES, ActionStatus.FAILED})
"""A failed proposal may be retried, which its approvals have to allow again."""


def page(story: Story, *, now: datetime, hindrance: InvalidTransition | None = None) -> Page:
    """Returns the page of a proposal at the time `now`; `hindrance` says why it can't start."""
    proposal, records, approvals, history = story
    last = records[-1] if records else None
    executions = [
        (f"execution {record.id}", list(_record_facts(record, now))) for record in records
    ]
    return Page(
        _title(proposal, last),
        [*_proposal_facts(proposal, last), *_successor(history), *_waiting(hindrance)],
        [*approval_sections(approvals, waits=proposal.status in _WAITING), *executions],
        [_happened(event) for event in history],
    )


def question(proposal: StoredProposal, approvals: Approvals) -> Page:
    """Returns what a person must see of a proposal to decide about it: all of its content, and what is required."""
    facts = [(name, fact) for name, fact in _proposal_facts(proposal, None) if name != "digest"]
    for name, field in StoredProposal.model_fields.items():
        value = getattr(proposal, name)
        if name in DIGEST_FIELDS and name not in _SHOWN and value != field.default:
            facts.append((name.replace("_", " "), [(one_line(str(value)), "")]))
    # Of the content that is shown. What the ledger has stored may be that of another content.
    facts.append(("digest", [(proposal.digest, "bold")]))
    return Page(_title(proposal, None), facts, list(approval_sections(approvals)), [])


_SHOWN: Final = frozenset(
    {
        *("action_name", "action_type", "parameters", "ticket_id", "requester_id"),
        *("requester_type", "agent_id", "run_id", "parent_id", "scheduled_at", "expires_at"),
        *("max_retries", "depends_on", "exclusive_key"),
    }
)
"""The fields of the digest that every page of a proposal shows."""


def print_page(shown: Page) -> None:
    """Prints a page, folded to the width of a terminal."""
    if terminal_width() is None:
        print_lines(shown.for_pipe())
    else:
        Console().print(shown.for_terminal())


def _title(proposal: StoredProposal, last: StoredRecord | None) -> Line:
    name = one_line(proposal.action_name)
    title: list[Span] = [(f"proposal {proposal.id}", "bold"), (f"  {name}  ", "")]
    return [*title, *in_a_row(status_line(proposal.status, last))]


def _successor(history: Iterable[ActionEvent]) -> Iterator[tuple[str, Line]]:
    for event in history:
        details = event.details or {}
        if details.get("end_code") == EndCode.SUPERSEDED and "proposal" in details:
            yield "superseded", [(f"by proposal {details['proposal']}", "")]


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
    if proposal.supersedes_id is not None:
        yield "supersedes", [(f"proposal {proposal.supersedes_id}", "")]
    yield from _moments(("not before", proposal.scheduled_at), ("expires", proposal.expires_at))
    yield from _moments(("validated", proposal.validated_at), ("cancelled", proposal.cancelled_at))
    if proposal.depends_on:
        yield "depends on", [(" ".join(map(str, proposal.depends_on)), "")]
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
