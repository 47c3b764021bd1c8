"""``operator-core actions replay``: imports recorded tool calls, with their results as outcomes."""

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, Final, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from operator_core.cli import views
from operator_core.cli.call_log import BrokenLine, Entry, Source, read_log
from operator_core.cli.formatting import plain
from operator_core.cli.options import (
    Actor,
    AsJson,
    DbPath,
    Place,
    Url,
    choose,
    complain,
    reported,
    who,
)
from operator_core.cli.output import print_json, print_lines
from operator_core.cli.replay import Tally, replay

__all__ = ["app"]

app = typer.Typer()

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
    as_json: AsJson = False,
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
        if as_json:
            print_json({"error": line.problem, "line": line.line}, error=True)
            return
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
                _print_tally(tally, name, place, as_json)
            raise
    _print_tally(tally, name, place, as_json)
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


def _print_tally(tally: Tally, source: str, place: Place, as_json: bool) -> None:
    if as_json:
        names = ("completed", "failed", "waiting", "already", "broken")
        print_json({name: getattr(tally, name) for name in names})
        return
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
