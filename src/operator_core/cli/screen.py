"""What `watch` shows: how many stand where, what is being executed, and what happened last."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from operator_core.actions.types import ActionEvent, ActionStatus
from operator_core.cli.overview import MOST, Execution, Overview
from operator_core.cli.standing import lease_text, status_text
from operator_core.cli.text import clock, one_line, span, when
from operator_core.cli.views import CUT, new_table, what_happened

__all__ = ["EVENTS", "Events", "event_line", "screen"]

EVENTS: Final = 50
"""How many of the latest events are kept: more than a screen shows."""

_ALWAYS: Final = 12
"""Lines of a screen that are neither executions nor events."""


class Events(NamedTuple):
    """The latest events, oldest first, and what the proposals that they are about are to do."""

    events: Sequence[ActionEvent]
    names: Mapping[int, str]


def screen(
    place: str,
    overview: Overview,
    latest: Events,
    *,
    now: datetime,
    width: int,
    height: int | None = None,
    notice: str = "",
) -> RenderableType:
    """All of it for a terminal of this size; without a height, as a page of its own.

    A `notice`, of what is in the way, stands under the title.
    """
    executions, events = overview.executions, latest.events[-10:]
    if height is not None:
        room = max(height - _ALWAYS, 2)
        executions = executions[: _share(len(executions), room)]
        # The heading of executions, a line that counts the others, or one that says there are none.
        used = max(len(executions), 1) + (len(executions) < len(overview.executions))
        events = latest.events[-max(room - used, 1) :]
    title = Table.grid(expand=True)
    title.add_column(**CUT)
    title.add_column(justify="right", no_wrap=True)
    title.add_row(Text(one_line(place), "bold"), Text(when(now), "dim"))
    told = Text(one_line(notice), "bold red", no_wrap=True, overflow="ellipsis")
    parts: list[RenderableType] = [title, told, _counts(overview.counts, width), Text()]
    parts += _executing(executions, overview, now)
    parts += [Text(), Text("latest events", "bold")]
    parts += [
        event_line(event, latest.names, clock(event.occurred_at, now)) for event in reversed(events)
    ]
    if height is not None:
        parts += [Text(), Text("q or Ctrl-C ends this", "dim")]
    return Padding(Group(*parts), (0, 1))


def _share(wanted: int, room: int) -> int:
    """How many executions are shown where `room` lines are for them and the events."""
    most = max(room - 5, room * 2 // 3, 1)
    return wanted if wanted <= most else most - 1


def _counts(counts: Mapping[ActionStatus, int], width: int) -> RenderableType:
    table = new_table()
    if width < 64:  # where all of them have just enough room
        table.padding = 0
    for status in ActionStatus:
        table.add_column(status_text(status), justify="right", no_wrap=True)
    numbers = (Text(f"{count:,}", "bold" if count else "dim") for count in counts.values())
    table.add_row(*numbers)
    return table


def _executing(
    executions: Sequence[Execution], overview: Overview, now: datetime
) -> list[RenderableType]:
    if not executions:
        return [Text("nothing is being executed", "dim")]
    table = new_table()
    table.expand = True
    table.add_column("id", justify="right", no_wrap=True)
    table.add_column("executing", ratio=1, **CUT)
    table.add_column("worker", ratio=1, **CUT)
    table.add_column("since", justify="right", no_wrap=True)
    table.add_column("lease left", justify="right", no_wrap=True)
    for each in executions:
        name = Text(one_line(each.action_name))
        if each.status is not ActionStatus.EXECUTING:
            # First, as it must not be cut off: the worker goes on with something that was called off.
            name = Text.assemble("(", status_text(each.status), ") ", name)
        table.add_row(
            str(each.proposal_id),
            name,
            Text(one_line(each.worker or "")),
            "" if each.since is None else span(now - each.since),
            lease_text(each.lease_until, now),
        )
    found = len(overview.executions)
    if found == len(executions):
        return [table]
    more = f"and {found - len(executions)}{' or more' if found == MOST else ''} others"
    return [table, Text(more, "dim")]


def event_line(event: ActionEvent, names: Mapping[int, str], time: str) -> Text:
    """An event on one line, which is cut where there is no more room for it."""
    line = Text(no_wrap=True, overflow="ellipsis")
    name = one_line(names.get(event.proposal_id, "?"))
    line.append_text(Text.assemble((time, "dim"), f"  {event.proposal_id} ", what_happened(event)))
    line.append_text(Text.assemble("  ", (name, "bold"), (f" by {one_line(event.actor)}", "dim")))
    # An execution's error stands on the proposal's own line too.
    if event.reason and event.record_id is None:
        line.append(f": {one_line(event.reason)}", "dim")
    return line
