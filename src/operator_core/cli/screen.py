"""The screen of `watch`: counts by status, running executions and the latest events."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from rich.cells import cell_len, set_cell_size

from operator_core.actions.types import ActionEvent, ActionStatus
from operator_core.cli.formatting import clock, one_line, span, when
from operator_core.cli.halt_views import halt_line
from operator_core.cli.overview import MOST, Execution, Overview
from operator_core.cli.status_lines import lease_span, status_line
from operator_core.cli.table import Column, Line, laid_out
from operator_core.cli.views import what_happened, who

__all__ = ["EVENTS", "Events", "event_line", "screen"]

EVENTS: Final = 50
"""Limit of the latest events in memory; more than a screen shows."""

_ALWAYS: Final = 12
"""Lines of a screen that are neither executions nor events, nor about what waits for a first worker."""


class Events(NamedTuple):
    """The latest events, oldest first, and the action names of their proposals by id."""

    events: Sequence[ActionEvent]
    names: Mapping[int, str]


def screen(
    place: str,
    overview: Overview,
    latest: Events,
    *,
    now: datetime,
    width: int | None,
    height: int | None = None,
    notice: str = "",
) -> Iterator[Line]:
    """Yields the lines of the screen for a terminal of this size; without a height, the lines of a page.

    Without a width, as for a pipe, nothing is cut. A `notice` about a problem appears under the title.
    """
    executions, events = overview.executions, latest.events[-10:]
    if height is not None:
        more = len(overview.halts) + bool(overview.unhandled)
        room = max(height - _ALWAYS - more, 2)
        executions = executions[: _share(len(executions), room)]
        # Besides the executions: a line that counts those not shown, or one that says there are none.
        used = max(len(executions), 1) + (len(executions) < len(overview.executions))
        events = latest.events[-max(room - used, 1) :]
    yield _title(one_line(place), when(now), width)
    yield [(one_line(notice), "bold red")]
    for halt in overview.halts:
        yield [("halted", "bold red"), *halt_line(halt)]
    yield from _counts(overview.counts, width)
    yield []
    yield from _executing(executions, overview, now, width)
    yield from unhandled_lines(overview.unhandled)
    yield []
    yield [("latest events", "bold")]
    for event in reversed(events):
        yield event_line(event, latest.names, clock(event.occurred_at, now))
    if height is not None:
        yield []
        yield [("q or Ctrl-C ends this", "dim")]


def _title(place: str, time: str, width: int | None) -> Line:
    room = cell_len(place) if width is None else width - cell_len(time) - 2
    if cell_len(place) > room:
        place = set_cell_size(place, max(room - 1, 0)) + "…"
    return [(set_cell_size(place, max(room, 0)), "bold"), ("  ", ""), (time, "dim")]


def _share(count: int, room: int) -> int:
    """Returns how many of `count` executions to show, if they and the events share `room` lines."""
    most = max(room - 5, room * 2 // 3, 1)
    return count if count <= most else most - 1


def _counts(counts: Mapping[ActionStatus, int], width: int | None) -> Iterator[Line]:
    columns = [Column(status.value, right=True) for status in ActionStatus]
    numbers = [[(f"{count:,}", "bold" if count else "dim")] for count in counts.values()]
    # Below 64 columns the numbers fit only with a smaller gap.
    return laid_out(columns, [numbers], width, gap=1 if width is not None and width < 64 else 2)


_EXECUTING: Final = (
    Column("id", right=True),
    Column("executing", share=1),
    Column("worker", share=1),
    Column("since", right=True),
    Column("lease left", right=True),
)


def _executing(
    executions: Sequence[Execution], overview: Overview, now: datetime, width: int | None
) -> Iterator[Line]:
    if not executions:
        yield [("nothing is being executed", "dim")]
        return
    yield from laid_out(_EXECUTING, [_execution(each, now) for each in executions], width)
    found = len(overview.executions)
    if found > len(executions):
        or_more = " or more" if found == MOST else ""
        yield [(f"and {found - len(executions)}{or_more} others", "dim")]


def unhandled_lines(names: Sequence[str]) -> Iterator[Line]:
    """Yields a line about actions that wait and that no worker has handled, if there are any."""
    if names:
        told = ", ".join(map(one_line, names))
        yield [("no worker has handled: ", "bold yellow"), (told, "")]


def _execution(each: Execution, now: datetime) -> Sequence[Line]:
    name: Line = [(one_line(each.action_name), "")]
    if each.status is not ActionStatus.EXECUTING:
        # First, so that it is never cut: the worker still runs an action that was cancelled.
        name = [("(", ""), *status_line(each.status), (") ", ""), *name]
    return [
        [(str(each.proposal_id), "")],
        name,
        [(one_line(each.worker or ""), "")],
        [("" if each.since is None else span(now - each.since), "")],
        [lease_span(each.lease_until, now)],
    ]


def event_line(event: ActionEvent, names: Mapping[int, str], time: str) -> Line:
    """Formats an event as one line."""
    line: Line = [(time, "dim")]
    if event.proposal_id is None:
        line += [("  ", ""), *what_happened(event)]
    else:
        name = one_line(names.get(event.proposal_id, "?"))
        line += [(f"  {event.proposal_id} ", ""), *what_happened(event)]
        line += [("  ", ""), (name, "bold")]
    line.append((f" by {who(event)}", "dim"))
    # The line of the proposal's event shows an execution's error too.
    if event.reason and event.record_id is None:
        line.append((f": {one_line(event.reason)}", "dim"))
    return line
