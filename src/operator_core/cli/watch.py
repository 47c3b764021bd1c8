"""``operator-core actions watch``: what happens in a ledger, while it happens."""

import asyncio
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextlib import aclosing
from datetime import timedelta
from typing import Annotated, Any, Final

import typer
from rich.console import Console, RenderableType

from operator_core.actions.types import ActionEvent
from operator_core.cli.options import DbPath, Url, choose, reported
from operator_core.cli.overview import Overview, OverviewDB
from operator_core.cli.screen import EVENTS, Events, event_line, screen
from operator_core.cli.terminal import on_signals, taken
from operator_core.cli.text import when

__all__ = ["app"]

app = typer.Typer()

_TICK: Final = 1.0
"""Seconds after which it is drawn again though nothing happened: what is left of a lease grows less."""

_LOOK_EVERY: Final = 5.0
"""Seconds after which the ledger is looked at though nothing was heard of it, as behind PgBouncer."""

_PAUSE: Final = 0.1
"""Seconds between two looks at the least."""

_LAST: Final = 10
"""How many events are printed that happened before."""


@app.command("watch")
def watch_command(
    *,
    db_path: DbPath = None,
    url: Url = None,
    once: Annotated[bool, typer.Option("--once", help="Print it once, and exit.")] = False,
) -> None:
    """Watch counts, what is being executed, and the latest events.

    On a terminal it is shown until q or Ctrl-C, anew whenever something happens. Where standard
    output is no terminal, the last ten events are printed, a line each, and then each further one
    as it happens, until Ctrl-C or SIGTERM. The exit status is 0 in any case.
    """
    place = choose(db_path, url)
    place.require_existing()
    console = Console()
    with reported(place), place.opened() as (run, db):
        if once:
            overview, latest = run(_looked_at(db))
            console.print()
            shown = screen(place.name, overview, latest, now=overview.now, width=console.width)
            console.print(shown)
            console.print()
        elif sys.stdout.isatty() and not console.is_dumb_terminal:
            run(_until_told(_Watch(db, place.name, console).run()))
        else:
            run(_until_told(_print_events(db, console)))


async def _looked_at(db: OverviewDB) -> tuple[Overview, Events]:
    overview = await db.overview()
    events, _ = await _latest_events(db)
    return overview, await _named(db, events)


async def _latest_events(db: OverviewDB) -> tuple[list[ActionEvent], int]:
    """The latest events, and from where to go on."""
    newest = await db.newest_event_id()
    # Ids may have gaps: there may be less of them, which nobody misses.
    return list(await db.history(after=max(newest - EVENTS, 0), limit=EVENTS)), newest


async def _named(db: OverviewDB, events: Iterable[ActionEvent]) -> Events:
    events = list(events)
    return Events(events, await db.action_names({event.proposal_id for event in events}))


async def _until_told(work: Coroutine[Any, Any, None]) -> None:
    """Runs what has no end of its own, until Ctrl-C or SIGTERM, or until it is cancelled."""
    running = asyncio.create_task(work)
    with on_signals(running.cancel, signal.SIGINT, signal.SIGTERM):
        await asyncio.wait({running})
    if not running.cancelled():
        running.result()


async def _new_events(
    db: OverviewDB, known: Iterable[ActionEvent], newest: int
) -> AsyncGenerator[ActionEvent]:
    shown = {event.id for event in known}
    async with aclosing(db.events(after=newest, follow=True)) as events:
        async for event in events:
            # On a server, whose order is that of transactions, some may have been read already.
            if event.id not in shown:
                yield event


async def _print_events(db: OverviewDB, console: Console) -> None:
    """Prints the last few events, and then each further one."""
    known, newest = await _latest_events(db)
    for event in known[-_LAST:]:
        await _print_event(db, console, event)
    async with aclosing(_new_events(db, known, newest)) as events:
        async for event in events:
            await _print_event(db, console, event)


async def _print_event(db: OverviewDB, console: Console, event: ActionEvent) -> None:
    names = await db.action_names([event.proposal_id])
    line = event_line(event, names, when(event.occurred_at, exact=True))
    console.print(line, soft_wrap=True)


class _Watch:
    """The screen, and what makes it be drawn again."""

    def __init__(self, db: OverviewDB, place: str, console: Console) -> None:
        self._db = db
        self._place = place
        self._console = console
        self._events: deque[ActionEvent] = deque(maxlen=EVENTS)
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Shows it until it is cancelled, or q is pressed."""
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
        async with aclosing(_new_events(self._db, known, newest)) as events:
            async for event in events:
                self._events.append(event)
                self._news.set()

    async def _show(
        self, changed: asyncio.Event, following: asyncio.Task[None], redraw: Callable[[], None]
    ) -> None:
        """Looks at the ledger if there is a reason, draws, and waits until there is one again."""
        stale = time.monotonic() - self._looked >= _LOOK_EVERY
        if changed.is_set() or self._news.is_set() or stale:
            # What is committed while it is read is read again.
            changed.clear()
            self._news.clear()
            await self._look()
            redraw()
            await asyncio.sleep(self._rest)
        else:
            redraw()
        waits = [asyncio.create_task(event.wait()) for event in (changed, self._news)]
        try:
            await asyncio.wait(
                {following, *waits}, timeout=_TICK, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for each in waits:
                each.cancel()
        if following.done():
            following.result()

    async def _look(self) -> None:
        started = time.monotonic()
        self._overview = await self._db.overview()
        self._latest = await _named(self._db, self._events)
        self._looked = time.monotonic()
        # To count a large ledger takes a while, and it has better things to do all the time.
        self._rest = max(_PAUSE, 5 * (self._looked - started))

    def _draw(self) -> RenderableType:
        """As of this moment, by the database's clock, which was read when it was looked at."""
        now = self._overview.now + timedelta(seconds=time.monotonic() - self._looked)
        width, height = self._console.size
        return screen(
            self._place, self._overview, self._latest, now=now, width=width, height=height
        )
