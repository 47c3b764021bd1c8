"""``operator-core actions show``, ``follow`` and ``history``."""

import asyncio
from collections.abc import Iterable
from contextlib import aclosing
from typing import Annotated

import typer

from operator_core.actions.errors import NotFound
from operator_core.actions.types import ActionEvent, ActionStatus, StoredProposal
from operator_core.cli.formatting import when
from operator_core.cli.options import AsJson, DbPath, ProposalId, Url, choose, exit_over, reported
from operator_core.cli.output import print_json, print_lines, reader_left
from operator_core.cli.overview import OverviewDB
from operator_core.cli.pages import page, print_page
from operator_core.cli.screen import event_line
from operator_core.cli.status_lines import in_a_row, status_line
from operator_core.cli.story import story_json, told
from operator_core.cli.terminal import until_signal

__all__ = ["app"]

app = typer.Typer()


@app.command("show")
def show_command(
    *, id: ProposalId, db_path: DbPath = None, url: Url = None, as_json: AsJson = False
) -> None:
    """Show a proposal, what is required of it, its executions and its history."""
    place = choose(db_path, url)
    place.require_existing()
    with reported(place), place.opened() as (run, db):
        story = run(told(db, run(_existing(db, id))))
        now = run(db.now())
        waits = story.proposal.status is ActionStatus.VALIDATED
        hindrance = run(db.hindrance(id)) if waits else None
    if as_json:
        print_json(story_json(story))
    else:
        print_page(page(story, now=now, hindrance=hindrance))
    exit_over(story.corrupt)


async def _existing(db: OverviewDB, id_: int) -> StoredProposal:
    proposal = await db.get_proposal(id_)
    if proposal is None:
        raise NotFound("proposal", id_)
    return proposal


@app.command("follow")
def follow_command(
    *, id: ProposalId, db_path: DbPath = None, url: Url = None, as_json: AsJson = False
) -> None:
    """Print what has happened to a proposal and what happens, until its end.

    It ends when the proposal is completed, cancelled, or failed with no retry left. The exit status is 0 if it is
    completed, and 1 otherwise.
    """
    place = choose(db_path, url)
    place.require_existing()
    with reported(place), place.opened() as (run, db):
        proposal = run(_followed(db, run(_existing(db, id)), as_json))
    if not as_json:
        state = in_a_row(status_line(proposal.status))
        print_lines([[(f" proposal {id} is ", ""), *state]])
    if proposal.status is not ActionStatus.COMPLETED:
        raise typer.Exit(1)


async def _followed(db: OverviewDB, proposal: StoredProposal, as_json: bool) -> StoredProposal:
    ended = asyncio.create_task(db.wait_for(proposal.id))
    shown = 0
    try:
        async with db.changes() as changed:
            while not reader_left():
                changed.clear()
                # Looked at before the history is read, which then has the last event.
                is_over = ended.done()
                for event in await db.history(proposal.id, after=shown):
                    shown = event.id or shown
                    _print_events([event], {proposal.id: proposal.action_name}, as_json)
                if is_over:
                    break
                news = asyncio.create_task(changed.wait())
                await asyncio.wait({ended, news}, timeout=1, return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
        return ended.result() if ended.done() else await _existing(db, proposal.id)
    finally:
        ended.cancel()


def _print_events(events: Iterable[ActionEvent], names: dict[int, str], as_json: bool) -> None:
    for event in events:
        if as_json:
            print_json(event)
        else:
            print_lines([event_line(event, names, when(event.occurred_at, exact=True))])


@app.command("history")
def history_command(
    *,
    id: Annotated[
        int | None,
        typer.Argument(min=1, metavar="[ID]", help="Only the events of this proposal."),
    ] = None,
    db_path: DbPath = None,
    url: Url = None,
    after: Annotated[int | None, typer.Option(min=0, help="Only events after this one.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The largest number of events.")] = 50,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Print each further event as it happens, until Ctrl-C."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print events, oldest first: the latest, or those after --after.

    With --follow and without --after, it prints only events that happen from then on.
    """
    if follow and id is not None:
        raise typer.BadParameter("follows all proposals; for one: operator-core actions follow ID")
    place = choose(db_path, url)
    place.require_existing()
    is_paged = id is not None or after is not None
    with reported(place), place.opened() as (run, db):
        if follow:
            run(until_signal(_follow_all(db, after, as_json)))
            return
        if after is None and id is None:
            # Ids may have gaps, so there may be fewer.
            after = max(run(db.newest_event_id()) - limit, 0)
        if id is not None:
            run(_existing(db, id))
        events = run(db.history(id, after=after, limit=limit))
        names = run(db.action_names({each.proposal_id for each in events if each.proposal_id}))
        _print_events(events, names, as_json)
        if is_paged and len(events) == limit and not as_json:
            print_lines([[(f" later ones: --after {events[-1].id}", "dim")]])
    exit_over(events.corrupt)


async def _follow_all(db: OverviewDB, after: int | None, as_json: bool) -> None:
    start = await db.newest_event_id() if after is None else after
    async with aclosing(db.events(after=start, follow=True)) as events:
        async for event in events:
            names = await db.action_names({event.proposal_id} if event.proposal_id else ())
            _print_events([event], names, as_json)
            if reader_left():
                return
