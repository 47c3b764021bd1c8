"""``operator-core actions``: the commands ``replay``, ``list`` and ``show``."""

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, BinaryIO, Final, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from operator_core.actions.errors import NotFound
from operator_core.actions.types import ActionStatus, EndCode, StoredProposal, StoredRecord
from operator_core.cli import views
from operator_core.cli.approval_views import approvals_json
from operator_core.cli.call_log import BrokenLine, Entry, Source, read_log
from operator_core.cli.formatting import plain
from operator_core.cli.options import (
    TIME_FORMATS,
    Actor,
    AsJson,
    DbPath,
    Place,
    ProposalId,
    Url,
    choose,
    complain,
    exit_over,
    reported,
    who,
)
from operator_core.cli.output import print_json, print_lines, terminal_width
from operator_core.cli.pages import page, print_page
from operator_core.cli.replay import Tally, replay
from operator_core.cli.status_lines import with_records
from operator_core.db.sql.rows import Listing

__all__ = ["app"]

app = typer.Typer(
    help="Work with proposals: replay, list, show, approve, execute, cancel, watch.",
    no_args_is_help=True,
)

_LONG: Final = 200
"""Lines after which a replay shows its progress."""

_IN_MEMORY: Final = 1 << 20
"""Bytes of standard input that are held in memory; a longer input goes to a temporary file."""

Entries = Iterator[Entry]


@app.command("replay")
def replay_command(
    *,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A file of tool calls as JSON lines; - is standard input."
        ),
    ],
    db_path: DbPath = None,
    url: Url = None,
    actor: Actor = None,
) -> None:
    """Import recorded tool calls into the ledger, with their results as outcomes.

    A line is a tool call, or a message or response with calls, in the format of Anthropic, OpenAI or LangChain.
    It may also be an object with name, arguments (an object, or its JSON text) and optionally id or call_id,
    reason and result. A result that is text and begins with Error is a failure. A call without a result stays
    proposed. Broken lines are reported and left out, and the exit status is 1.

    Replaying a file again writes nothing twice, so an interrupted replay can be repeated. The SHA-256 of the
    whole file and the line identify a call. For this reason, standard input is read to its end first.
    """
    place = choose(db_path, url)
    place.require_folder()
    tally = Tally()
    errors = Console(stderr=True)

    def report(line: BrokenLine) -> None:
        complain(line.problem, mark=f"line {line.line} left out:", console=errors)

    with reported(place), _opened(file) as stream:
        name = "stdin" if str(file) == "-" else os.fsencode(file.name).decode(errors="replace")
        source = Source.of(stream, name)
        try:
            with (
                place.opened(who(actor), new=True) as (run, db),
                _progress(errors, stream) as shown,
            ):
                replay(run, db, shown(read_log(stream, source)), tally, report)
        except BaseException:
            if tally.actions or tally.already:
                _print_tally(tally, name, place)
            raise
    _print_tally(tally, name, place)
    if tally.broken:
        raise typer.Exit(1)


@contextmanager
def _opened(file: Path) -> Generator[BinaryIO]:
    """Opens `file` as a stream that can be read twice."""
    if str(file) == "-":
        with _kept(sys.stdin.buffer) as kept:
            yield kept
        return
    try:
        stream = file.open("rb")
    except OSError as error:
        problem = plain(f"can't be read: {file} ({error.strerror})")
        raise typer.BadParameter(problem, param_hint="FILE") from None
    with stream:
        if stream.seekable():
            yield stream
        else:
            with _kept(stream) as kept:
                yield kept


@contextmanager
def _kept(stream: BinaryIO) -> Generator[BinaryIO]:
    """Copies a stream that can be read only once."""
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as copy:
        shutil.copyfileobj(stream, copy)
        copy.seek(0)
        yield cast(BinaryIO, copy)


@contextmanager
def _progress(console: Console, stream: BinaryIO) -> Generator[Callable[[Entries], Entries]]:
    """Shows a progress bar for a long file on a terminal; it counts bytes, so the file is read only once."""
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
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    task = bar.add_task("", total=size, lines=0)

    def shown(entries: Entries) -> Entries:
        for count, entry in enumerate(entries, 1):
            if count == _LONG:
                bar.start()
            if count % 16 == 0:
                bar.update(task, lines=entry.line, completed=stream.tell())
            yield entry

    try:
        yield shown
    finally:
        if bar.live.is_started:
            bar.stop()


def _print_tally(tally: Tally, source: str, place: Place) -> None:
    out = Console()
    written = tally.completed + tally.failed + tally.waiting
    calls = written + tally.already
    if written:
        print_lines(views.tally_table(tally))
    line = Text.assemble(
        f" {_counted(calls, 'call')} of {plain(source)} in ", (plain(place.name), "bold")
    )
    if tally.already:
        line.append(f", {tally.already:,} already there", "yellow")
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
        typer.Option(help="Only proposals with this status; can be repeated."),
    ] = None,
    action_name: Annotated[
        str | None, typer.Option(help="Only proposals with this action name.")
    ] = None,
    ticket_id: Annotated[
        int | None, typer.Option(min=1, help="Only proposals for this ticket.")
    ] = None,
    proposed_by: Annotated[
        str | None, typer.Option(help="Only proposals by this proposer.")
    ] = None,
    requester_id: Annotated[
        str | None, typer.Option(help="Only proposals for this requester.")
    ] = None,
    agent_id: Annotated[str | None, typer.Option(help="Only proposals of this agent.")] = None,
    run_id: Annotated[str | None, typer.Option(help="Only proposals of this run.")] = None,
    parent_id: Annotated[
        int | None,
        typer.Option(min=1, help="Only proposals that were proposed in this one's execution."),
    ] = None,
    call_id: Annotated[
        str | None, typer.Option(help="Only the proposal of this tool call.")
    ] = None,
    end_code: Annotated[
        EndCode | None, typer.Option(help="Only proposals that have ended so.")
    ] = None,
    actor: Annotated[
        str | None, typer.Option(help="Only proposals that this actor moved last.")
    ] = None,
    worker: Annotated[
        str | None, typer.Option(help="Only proposals that this worker has executed.")
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(formats=TIME_FORMATS, help="Only proposals created at this time or later."),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(formats=TIME_FORMATS, help="Only proposals created before this time."),
    ] = None,
    before: Annotated[
        int | None, typer.Option(min=1, help="Only proposals with a lower id.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="The largest number of proposals.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List proposals, newest first. A time without an offset is local time."""
    place = choose(db_path, url)
    place.require_existing()
    with reported(place), place.opened() as (run, db):
        proposals = run(
            db.list_proposals(
                status or None,
                action_name=action_name,
                ticket_id=ticket_id,
                proposed_by=proposed_by,
                requester_id=requester_id,
                agent_id=agent_id,
                run_id=run_id,
                parent_id=parent_id,
                call_id=call_id,
                end_code=end_code,
                actor=actor,
                worker=worker,
                created_after=since,
                created_before=until,
                before=before,
                limit=limit,
            )
        )
        records = run(db.last_records([] if as_json else with_records(proposals)))
        now = run(db.now())
    if as_json:
        for proposal in proposals:
            print_json(proposal)
    else:
        _print_list(proposals, records, now, limit)
    exit_over(proposals.corrupt)


def _print_list(
    proposals: Listing[StoredProposal], records: Iterable[StoredRecord], now: datetime, limit: int
) -> None:
    ids = [each.id for each in proposals] + [each.id for each in proposals.corrupt]
    if proposals:
        print_lines(views.proposal_table(proposals, records, now, terminal_width()))
    elif not ids:
        print_lines([[(" no such proposals", "")]])
    if len(ids) == limit:
        print_lines([[(f" older ones: --before {min(ids)}", "dim")]])


@app.command("show")
def show_command(
    *, id: ProposalId, db_path: DbPath = None, url: Url = None, as_json: AsJson = False
) -> None:
    """Show a proposal, what is required of it, its executions and its history."""
    place = choose(db_path, url)
    place.require_existing()
    with reported(place), place.opened() as (run, db):
        proposal = run(db.get_proposal(id))
        if proposal is None:
            raise NotFound("proposal", id)
        records = run(db.get_records_for_proposal(id))
        history = run(db.history(id))
        approvals = run(db.approvals(id))
        now = run(db.now())
        waits = proposal.status is ActionStatus.VALIDATED
        hindrance = run(db.hindrance(id)) if waits else None
    if as_json:
        print_json(
            {
                "proposal": proposal,
                "records": records,
                "approvals": approvals_json(approvals),
                "history": history,
            }
        )
        exit_over((*records.corrupt, *history.corrupt))
        return
    print_page(
        page(
            proposal,
            records=records,
            approvals=approvals,
            history=history,
            now=now,
            hindrance=hindrance,
        )
    )
    exit_over((*records.corrupt, *history.corrupt))
