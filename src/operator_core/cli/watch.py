"""``operator-core actions watch``: shows the changes of a ledger as they happen."""

import asyncio
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextlib import aclosing
from datetime import timedelta
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import typer
from rich.console import Console, Group, RenderableType
from rich.padding import Padding

from operator_core.actions.errors import ActionError, Busy, StorageUnavailable
from operator_core.actions.types import ActionEvent
from operator_core.cli.formatting import span, when
from operator_core.cli.options import AsJson, DbPath, Url, choose, complain, reported
from operator_core.cli.output import print_json, print_lines, reader_left, terminal_width
from operator_core.cli.overview import Overview, OverviewDB, overview_json
from operator_core.cli.screen import EVENTS, Events, event_line, screen
from operator_core.cli.table import fitted, to_text
from operator_core.cli.terminal import taken, until_signal
from operator_core.cli.views import framed
from operator_core.db.sql.postgresql_errors import Trouble, trouble
from operator_core.db.sql.sqlite_library import ERRORS

__all__ = ["app"]

app = typer.Typer()

T = TypeVar("T")

_TICK: Final = 1.0
"""Seconds between two drawings without a change, because the remaining time of leases shrinks."""

_LOOK_EVERY: Final = 5.0
"""Seconds after which the ledger is read without a notification, for example behind PgBouncer."""

_PAUSE: Final = 0.1
"""The shortest time between two reads, in seconds."""

_LONGEST_PAUSE: Final = 15.0
"""The longest time between two reads, in seconds; a read may take long because its server was away."""

_LAST: Final = 10
"""Number of earlier events that are printed first."""


@app.command("watch")
def watch_command(
    *,
    db_path: DbPath = None,
    url: Url = None,
    once: Annotated[bool, typer.Option("--once", help="Print the screen once and exit.")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch the counts, the running executions and the latest events.

    On a terminal, the screen is redrawn after each change, until q or Ctrl-C. If standard output is not a terminal,
    the command prints the last ten events and then each further event on a line, until Ctrl-C or SIGTERM. The exit
    status is 0 in both cases. If the connection to the server is lost, the command reports it and continues when
    the server is back.
    """
    place = choose(db_path, url)
    place.require_existing()
    console = Console()
    with reported(place), place.opened() as (run, db):
        if once and as_json:
            overview = run(db.overview())
            print_json(overview_json(overview))
        elif once:
            overview, latest = run(_looked_at(db))
            width = terminal_width()
            room = None if width is None else width - 2
            shown = screen(place.name, overview, latest, now=overview.now, width=room)
            print_lines(framed(fitted(line, room) for line in shown))
        elif as_json:
            run(until_signal(_print_events(db, as_json=True)))
        elif sys.stdout.isatty() and not console.is_dumb_terminal:
            run(until_signal(_Watch(db, place.name, console).run()))
        else:
            run(until_signal(_print_events(db)))


async def _looked_at(db: OverviewDB) -> tuple[Overview, Events]:
    overview = await db.overview()
    events, _ = await _latest_events(db)
    return overview, await _named(db, events)


async def _latest_events(db: OverviewDB) -> tuple[list[ActionEvent], int]:
    """Returns the latest events, and the id of the newest one."""
    newest = await db.newest_event_id()
    # Ids may have gaps, so there may be fewer events; that is acceptable.
    return list(await db.history(after=max(newest - EVENTS, 0), limit=EVENTS)), newest


async def _named(db: OverviewDB, events: Iterable[ActionEvent]) -> Events:
    events = list(events)
    return Events(events, await db.action_names(_proposals(events)))


def _proposals(events: Iterable[ActionEvent]) -> set[int]:
    return {event.proposal_id for event in events if event.proposal_id is not None}


Lost: TypeAlias = Callable[[ActionError], None]
"""Called with the error before the next attempt."""


async def _patiently(call: Callable[[], Coroutine[Any, Any, T]], lost: Lost) -> T:
    """Repeats a call until the server is available, without a limit, and returns its result."""
    while True:
        try:
            return await call()
        except ActionError as error:
            if not _passes(error):
                raise
            lost(error)
        await asyncio.sleep(_TICK)


def _passes(error: ActionError) -> bool:
    """Whether the error is temporary: the server is away, or all its connections are in use."""
    if isinstance(error, Busy):
        return True
    cause = error.__cause__
    if not isinstance(error, StorageUnavailable) or cause is None:
        return False
    # SQLite has no connection to lose.
    return not isinstance(getattr(cause, "orig", cause), ERRORS) and (
        trouble(cause) is Trouble.LOST
    )


async def _new_events(
    db: OverviewDB, known: Iterable[ActionEvent], newest: int, lost: Lost
) -> AsyncGenerator[ActionEvent]:
    shown = {event.id for event in known}
    while True:
        try:
            async with aclosing(db.events(after=newest, follow=True)) as events:
                async for event in events:
                    newest = event.id or newest
                    # A server orders events by transaction, so some of these may be known already.
                    if event.id not in shown:
                        yield event
        except ActionError as error:
            if not _passes(error):
                raise
            lost(error)
        await asyncio.sleep(_TICK)


async def _print_events(db: OverviewDB, *, as_json: bool = False) -> None:
    """Prints the last events, and then each further one, until the reader of the output exits."""
    reported_loss = False

    def lost(error: ActionError) -> None:
        nonlocal reported_loss
        if not reported_loss:
            complain(f"{error}; waiting for it", mark="warning:")
        reported_loss = True

    known, newest = await _latest_events(db)
    for event in known[-_LAST:]:
        await _print_event(db, event, lost, as_json)
    if reader_left():
        return
    async with aclosing(_new_events(db, known, newest, lost)) as events:
        async for event in events:
            await _print_event(db, event, lost, as_json)
            if reader_left():
                return
            reported_loss = False


async def _print_event(db: OverviewDB, event: ActionEvent, lost: Lost, as_json: bool) -> None:
    if as_json:
        print_json(event)
        return
    names = await _patiently(lambda: db.action_names(_proposals([event])), lost)
    print_lines([event_line(event, names, when(event.occurred_at, exact=True))])


def _raise_if_ended(task: asyncio.Task[None]) -> None:
    if task.done():
        task.result()


class _Watch:
    """The screen, and the tasks that redraw it."""

    def __init__(self, db: OverviewDB, place: str, console: Console) -> None:
        self._db = db
        self._place = place
        self._console = console
        self._events: deque[ActionEvent] = deque(maxlen=EVENTS)
        self._news = asyncio.Event()
        self._notice = ""

    async def run(self) -> None:
        """Shows the screen until it is cancelled or q is pressed."""
        known, newest = await _latest_events(self._db)
        self._events.extend(known)
        await self._look()
        task = asyncio.current_task()

        def press(key: str) -> None:
            if key in "qQ" and task is not None:
                task.cancel()

        with taken(self._console, self._draw, press) as redraw:
            following = asyncio.create_task(self._follow(newest))
            try:
                async with self._db.changes() as changed:
                    changed.set()
                    while True:
                        await self._show(changed, following, redraw)
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    async def _follow(self, newest: int) -> None:
        known = list(self._events)
        async with aclosing(_new_events(self._db, known, newest, self._lose)) as events:
            async for event in events:
                self._events.append(event)
                self._news.set()

    def _lose(self, error: ActionError) -> None:
        self._notice = str(error)

    async def _show(
        self, changed: asyncio.Event, following: asyncio.Task[None], redraw: Callable[[], None]
    ) -> None:
        """Reads the ledger if that is due, draws, and waits for the next change or tick."""
        stale = time.monotonic() - self._looked >= _LOOK_EVERY
        due = changed.is_set() or self._news.is_set() or stale
        rest = self._looked + self._rest - time.monotonic()
        if due and rest > 0:
            # The read must wait, but the remaining time of leases shrinks meanwhile.
            redraw()
            await asyncio.wait({following}, timeout=min(rest, _TICK))
            _raise_if_ended(following)
            return
        if due:
            # Cleared before the read, so that a commit during it causes another one.
            changed.clear()
            self._news.clear()
            await self._look_patiently(redraw)
        redraw()
        waits = [asyncio.create_task(event.wait()) for event in (changed, self._news)]
        try:
            await asyncio.wait(
                {following, *waits}, timeout=_TICK, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for each in waits:
                each.cancel()
        _raise_if_ended(following)

    async def _look_patiently(self, redraw: Callable[[], None]) -> None:
        """Reads the ledger; until that succeeds, shows the last state with its age and the problem."""

        def lose(error: ActionError) -> None:
            self._lose(error)
            redraw()

        looking = asyncio.create_task(_patiently(self._look, lose))
        try:
            while not (await asyncio.wait({looking}, timeout=_LOOK_EVERY))[0]:
                self._notice = self._notice or "the ledger does not answer"
                redraw()
            looking.result()
            self._notice = ""
        finally:
            looking.cancel()
            await asyncio.wait({looking})

    async def _look(self) -> None:
        started = time.monotonic()
        self._overview = await self._db.overview()
        self._latest = await _named(self._db, self._events)
        self._looked = time.monotonic()
        # Counting a large ledger takes a while, and must not load it all the time.
        self._rest = min(max(_PAUSE, 5 * (self._looked - started)), _LONGEST_PAUSE)

    def _draw(self) -> RenderableType:
        """Draws the screen for the present time by the database's clock, computed from the last read."""
        age = timedelta(seconds=time.monotonic() - self._looked)
        width, height = self._console.size
        shown = screen(
            self._place,
            self._overview,
            self._latest,
            now=self._overview.now + age,
            width=width - 2,
            height=height,
            notice=self._notice and f"state of {span(age)} ago: {self._notice}",
        )
        return Padding(Group(*map(to_text, shown)), (0, 1))
