"""The options that select a ledger, and the report of its errors."""

import asyncio
import getpass
import os
import sys
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn, Protocol, TypeVar

import typer
from rich.console import Console
from rich.text import Text
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from operator_core.actions.actors import is_reserved
from operator_core.actions.errors import (
    ActionError,
    Busy,
    CorruptRow,
    InvalidValue,
    StorageUnavailable,
)
from operator_core.actions.statuses import RequesterType
from operator_core.cli.formatting import one_line, plain
from operator_core.cli.output import print_json, report_as_json, reports_as_json
from operator_core.cli.overview import OverviewDB
from operator_core.db import migrate
from operator_core.db.sql.errors import translate
from operator_core.db.sql.sqlite_library import ERRORS
from operator_core.db.sql.urls import check_path, masked, target_from_text
from operator_core.db.sqlite.handle import MEMORY

__all__ = [
    "Actor",
    "AsJson",
    "By",
    "ByType",
    "DbPath",
    "Place",
    "ProposalId",
    "Reason",
    "Run",
    "Url",
    "Why",
    "choose",
    "complain",
    "confirmed",
    "exit_over",
    "fail",
    "reported",
    "who",
]

T = TypeVar("T")

REFUSED: Final = 1
"""The exit status if the ledger refused something."""

UNREACHABLE: Final = 3
"""The exit status if the ledger could not be reached; 2 is that of a wrong command line."""

DbPath = Annotated[
    Path | None,
    typer.Option("--db-path", metavar="PATH", help="The ledger's SQLite file.", show_default=False),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The ledger's database URL. "
        f"Without --db-path and --url: {migrate.URL_VARIABLE} if set, else ./ledger.db.",
        show_default=False,
    ),
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print JSON lines for programs: one object per line, errors on stderr as well.",
        # Before the other options, whose errors are reported in this form too.
        is_eager=True,
        callback=report_as_json,
    ),
]
Actor = Annotated[
    str | None,
    typer.Option(
        "--actor",
        metavar="NAME",
        help="The actor in the history; the default is your login name.",
        show_default=False,
    ),
]
Reason = Annotated[
    str | None,
    typer.Option("--reason", metavar="TEXT", help="The reason in the history.", show_default=False),
]
By = Annotated[
    str | None,
    typer.Option(
        "--by",
        metavar="NAME",
        help="Who decides this; the default is your login name.",
        show_default=False,
    ),
]
ByType = Annotated[
    RequesterType,
    typer.Option(
        "--by-type", help="What --by is: an agent's approval counts only where the rule allows it."
    ),
]
Why = Annotated[str, typer.Option("--reason", metavar="TEXT", help="The reason in the history.")]
ProposalId = Annotated[int, typer.Argument(min=1, metavar="ID", help="The proposal's id.")]


class Run(Protocol):
    """Runs a coroutine to its end."""

    def __call__(self, coro: Coroutine[Any, Any, T], /) -> T: ...


@dataclass(frozen=True)
class Place:
    """The location of a ledger: `url` for programs, `name` for people."""

    url: URL
    name: str

    @property
    def path(self) -> Path | None:
        """The SQLite file; None for a ledger in memory or on a server."""
        database = self.url.database
        if self.url.get_backend_name() != "sqlite" or database in (None, "", MEMORY):
            return None
        return Path(database)

    @property
    def on_server(self) -> bool:
        """Whether the ledger is on a server and so has no file."""
        return self.url.get_backend_name() == "postgresql"

    def existing_file(self) -> Path:
        """Returns the SQLite file, which must exist; a command that only reads never creates it."""
        path = self.path
        if path is None:
            fail(f"{self.name}: the ledger has no file", UNREACHABLE)
        if path.is_dir():
            fail(f"{self.name}: is a folder, not a ledger", UNREACHABLE)
        if not path.exists():
            fail(f"{self.name}: no such file, so no ledger to look at", UNREACHABLE)
        return path

    def require_existing(self) -> None:
        """Same as `existing_file`, for commands that also work on a server, where it checks nothing."""
        if not self.on_server:
            self.existing_file()

    def require_folder(self) -> None:
        """Requires the folder of the ledger's file; a command may create the file, but never its folder."""
        path = self.path
        if path is None:
            return
        if path.is_dir():
            fail(f"{self.name}: is a folder, not a ledger", UNREACHABLE)
        if not path.absolute().parent.is_dir():
            fail(f"{self.name}: there is no folder {path.parent} for it", UNREACHABLE)

    @contextmanager
    def opened(
        self, actor: str | None = None, *, new: bool = False
    ) -> Generator[tuple[Run, OverviewDB]]:
        """Opens the ledger and yields a function that runs its coroutines, and the ledger.

        Only with `new` is a ledger created or upgraded. The event loop runs only during a coroutine, so the block
        may wait for input, and Ctrl-C ends it at once.
        """
        settings: dict[str, Any] = {"upgrade": new}
        if actor is not None:
            settings["actor"] = actor
        with asyncio.Runner() as runner:
            db = OverviewDB(self.url, **settings)
            runner.run(db.open())
            try:
                yield runner.run, db
            finally:
                runner.run(db.close())


def who(actor: str | None) -> str:
    """Returns `actor`, or by default the login name."""
    if actor is not None:
        return actor
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return "operator-core"
    # A login name may be one of the reserved actor names.
    return f"user {name}" if is_reserved(name) else name


def choose(db_path: Path | None, url: str | None) -> Place:
    """Returns the place from the options, the environment or the default."""
    if db_path is not None and url is not None:
        raise typer.BadParameter("--db-path and --url can't be used together")
    if db_path is not None:
        return _named(lambda: check_path(db_path, "--db-path"), "--db-path")
    if url is not None and "://" not in url:
        raise typer.BadParameter(
            "must be a database URL; use --db-path for a path", param_hint="--url"
        )
    origin = "--url" if url is not None else migrate.URL_VARIABLE
    text = url or os.environ.get(migrate.URL_VARIABLE) or migrate.DEFAULT_URL
    return _named(lambda: target_from_text(text, origin), origin)


def _named(read: Callable[[], str | URL], origin: str) -> Place:
    try:
        target = read()
    except InvalidValue as error:
        problem = error.problem if error.path == origin else str(error)
        raise typer.BadParameter(problem, param_hint=origin) from None
    if isinstance(target, str):
        return Place(URL.create("sqlite", database=target), target)
    if target.get_backend_name() == "sqlite":
        return Place(target, target.database or MEMORY)
    if target.get_backend_name() != "postgresql":
        problem = f"must be of SQLite or PostgreSQL, not {target.get_backend_name()}"
        raise typer.BadParameter(problem, param_hint=origin)
    return Place(target, plain(masked(target)))


def complain(message: str, *, mark: str = "error:", console: Console | None = None) -> None:
    """Prints one line to stderr; with --json as an object with the mark as its key."""
    if reports_as_json():
        print_json({mark.rstrip(":"): message}, error=True)
        return
    line = Text.assemble((mark, "bold red"), " ", one_line(message))
    (console or Console(stderr=True)).print(line, soft_wrap=True)


def fail(message: str, status: int = REFUSED) -> NoReturn:
    """Prints one line to stderr and exits with this status."""
    complain(message)
    raise typer.Exit(status)


def exit_over(corrupt: Iterable[CorruptRow]) -> None:
    """Reports unreadable rows and exits with status 1 if there are any."""
    problems = [str(error) for error in corrupt]
    for problem in problems:
        complain(problem)
    if problems:
        raise typer.Exit(1)


def confirmed(question: str, otherwise: str) -> bool:
    """Asks a person who sees the output; exits with status 1 if there is no terminal, and names the options instead."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        fail(f"there is no terminal to ask at: {otherwise}")
    return typer.confirm(question, default=False)


@contextmanager
def reported(place: Place) -> Generator[None]:
    """Prints an error of the ledger in the block as one line to stderr, and exits with status 1, or 3 if it can't be reached."""
    try:
        yield
    except (ActionError, *ERRORS, SQLAlchemyError) as error:
        told = translate(error, server=place.on_server)
        # A ledger that is locked by another program, or whose server refuses connections, may answer later.
        away = isinstance(told, StorageUnavailable | Busy)
        fail(f"{place.name}: {told}", UNREACHABLE if away else REFUSED)
