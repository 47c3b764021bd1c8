"""``operator-core actions``: replay tool calls into a ledger, list proposals, show one."""

import io
import os
import shlex
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from operator_core.actions.errors import CorruptRow, NotFound
from operator_core.actions.types import ActionProposal, ActionRecord, ActionStatus
from operator_core.cli import views
from operator_core.cli.options import (
    AsJson,
    DbPath,
    Place,
    Url,
    choose,
    complain,
    reported,
)
from operator_core.cli.replay import Tally, replay
from operator_core.cli.standing import with_records
from operator_core.cli.text import json_line, plain
from operator_core.cli.tool_calls import BrokenLine, ToolCall, read_tool_calls
from operator_core.db.rows import Listing

__all__ = ["app"]

app = typer.Typer(
    help="Proposals: replay, list, show; carry them out; watch.", no_args_is_help=True
)

_LONG: Final = 200
"""Lines after which a replay shows how far it is."""

Lines = Iterator[ToolCall | BrokenLine]

Id = Annotated[int, typer.Argument(min=1, metavar="ID", help="The proposal's id.")]


@app.command("replay")
def replay_command(
    *,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="JSON lines of tool calls; - is standard input."),
    ],
    db_path: DbPath = None,
    url: Url = None,
    actor: Annotated[
        str, typer.Option(metavar="NAME", help="Whom the history names as acting.")
    ] = "replay",
) -> None:
    """Take recorded tool calls through the ledger, their results as outcomes.

    A line is an object with name, arguments (an object, or its JSON text) and, if known, id or
    call_id, reason and result. A result that is text and begins with Error is a failure. Lines
    that are broken are reported and left out, and the exit status is 1.
    """
    place = choose(db_path, url)
    place.require_folder()
    tally = Tally()
    errors = Console(stderr=True)

    def report(line: BrokenLine) -> None:
        complain(line.problem, mark=f"line {line.line} left out:", console=errors)

    with reported(place), _opened(file) as stream:
        source = "stdin" if stream is _stdin() else file.name
        source = os.fsencode(source).decode(errors="replace")
        try:
            with place.opened(actor) as (run, db), _progress(errors, stream) as shown:
                replay(run, db, shown(read_tool_calls(stream, source)), tally, report)
        except BaseException:
            if tally.actions:
                _print_tally(tally, source, place)
            raise
    _print_tally(tally, source, place)
    if tally.broken:
        raise typer.Exit(1)


def _stdin() -> BinaryIO:
    return sys.stdin.buffer


@contextmanager
def _opened(file: Path) -> Generator[BinaryIO]:
    if str(file) == "-":
        yield _stdin()
        return
    try:
        stream = file.open("rb")
    except OSError as error:
        problem = f"can't be read: {file} ({error.strerror})"
        raise typer.BadParameter(problem, param_hint="FILE") from None
    with stream:
        yield stream


@contextmanager
def _progress(console: Console, stream: BinaryIO) -> Generator[Callable[[Lines], Lines]]:
    """In the block, a bar for a long file and a person who watches; by bytes, to read it only once."""
    if not console.is_interactive:
        yield lambda lines: lines
        return
    bar = Progress(
        TextColumn("replaying"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[lines]:,} lines"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    size = _size(stream)
    task = bar.add_task("", total=size, lines=0)

    def shown(lines: Lines) -> Lines:
        for count, line in enumerate(lines, 1):
            if count == _LONG:
                bar.start()
            if count % 16 == 0:
                bar.update(task, lines=count, completed=None if size is None else stream.tell())
            yield line

    try:
        yield shown
    finally:
        if bar.live.is_started:
            bar.stop()


def _size(stream: BinaryIO) -> int | None:
    try:
        return os.fstat(stream.fileno()).st_size if stream.seekable() else None
    except (OSError, io.UnsupportedOperation):
        return None


def _print_tally(tally: Tally, source: str, place: Place) -> None:
    out = Console()
    calls = tally.completed + tally.failed + tally.waiting
    if calls:
        out.print(views.tally_table(tally))
    line = Text.assemble(
        f" {_counted(calls, 'call')} of {plain(source)} in ", (plain(place.name), "bold")
    )
    if tally.broken:
        line.append(f", {_counted(tally.broken, 'broken line')} left out", "red")
    out.print(line, soft_wrap=True)
    if calls and place.path is not None:
        what, which = ("failures", "--status failed ") if tally.failed else ("list", "")
        command = f"operator-core actions list {which}--db-path {shlex.quote(str(place.path))}"
        out.print(Text(f" {what}: {plain(command)}", "dim"), soft_wrap=True)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


@app.command("list")
def list_command(
    *,
    db_path: DbPath = None,
    url: Url = None,
    status: Annotated[
        list[ActionStatus] | None,
        typer.Option(help="Only proposals in this status; may be given several times."),
    ] = None,
    action_name: Annotated[str | None, typer.Option(help="Only proposals of this action.")] = None,
    ticket_id: Annotated[
        int | None, typer.Option(min=1, help="Only those for this ticket.")
    ] = None,
    proposed_by: Annotated[str | None, typer.Option(help="Only those of this proposer.")] = None,
    before: Annotated[int | None, typer.Option(min=1, help="Only ids below this one.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at the most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List proposals, newest first."""
    place = choose(db_path, url)
    place.require_existing()
    with reported(place), place.opened() as (run, db):
        proposals = run(
            db.list_proposals(
                status or None,
                action_name=action_name,
                ticket_id=ticket_id,
                proposed_by=proposed_by,
                before=before,
                limit=limit,
            )
        )
        records = run(db.last_records([] if as_json else with_records(proposals)))
        now = run(db.now())
    if as_json:
        for proposal in proposals:
            typer.echo(proposal.model_dump_json())
    else:
        _print_list(proposals, records, now, limit)
    _exit_over(proposals.corrupt)


def _print_list(
    proposals: Listing[ActionProposal], records: Iterable[ActionRecord], now: datetime, limit: int
) -> None:
    out = Console()
    ids = [each.id or 0 for each in proposals] + [each.id for each in proposals.corrupt]
    if proposals:
        out.print(views.proposal_table(proposals, records, now, out.width))
    elif not ids:
        out.print(" no such proposals")
    if len(ids) == limit:
        out.print(Text(f" older ones: --before {min(ids)}", "dim"))


@app.command("show")
def show_command(
    *, id: Id, db_path: DbPath = None, url: Url = None, as_json: AsJson = False
) -> None:
    """Show a proposal, its executions and its history."""
    place = choose(db_path, url)
    place.require_existing()
    with reported(place), place.opened() as (run, db):
        proposal = run(db.get_proposal(id))
        if proposal is None:
            raise NotFound("proposal", id)
        records = run(db.get_records_for_proposal(id))
        history = run(db.history(id))
        now = run(db.now())
    if as_json:
        found = {"proposal": proposal, "records": records, "history": history}
        typer.echo(json_line(found))
    else:
        Console().print(views.proposal_page(proposal, records, history, now))
    _exit_over((*records.corrupt, *history.corrupt))


def _exit_over(corrupt: Iterable[CorruptRow]) -> None:
    """Reports rows that could not be read; then the exit status is 1."""
    problems = [str(error) for error in corrupt]
    for problem in problems:
        complain(problem)
    if problems:
        raise typer.Exit(1)
