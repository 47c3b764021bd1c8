"""Which ledger a command works on, and how whatever goes wrong with it is told."""

import asyncio
import getpass
import os
import sqlite3
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, Protocol, TypeVar

import typer
from rich.console import Console
from rich.text import Text
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from operator_core.actions.actors import is_reserved
from operator_core.actions.errors import ActionError, InvalidValue
from operator_core.cli.formatting import one_line, plain
from operator_core.cli.overview import OverviewDB
from operator_core.db import migrate
from operator_core.db.sql.errors import translate
from operator_core.db.sql.urls import check_path, masked, target_from_text
from operator_core.db.sqlite.connection import MEMORY

__all__ = [
    "Actor",
    "AsJson",
    "DbPath",
    "Place",
    "Reason",
    "Run",
    "Url",
    "choose",
    "complain",
    "fail",
    "reported",
    "who",
]

T = TypeVar("T")

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
        f"Without either: {migrate.URL_VARIABLE}, or else ./ledger.db.",
        show_default=False,
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON lines for programs: one object a line.")
]
Actor = Annotated[
    str | None,
    typer.Option(
        "--actor",
        metavar="NAME",
        help="Whom the history names as acting; your login name if not given.",
        show_default=False,
    ),
]
Reason = Annotated[
    str | None,
    typer.Option("--reason", metavar="TEXT", help="Why, for the history.", show_default=False),
]


class Run(Protocol):
    """Runs a coroutine to its end."""

    def __call__(self, coro: Coroutine[Any, Any, T], /) -> T: ...


@dataclass(frozen=True)
class Place:
    """Where a ledger is: `url` for programs, `name` for people."""

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
        """Whether it is a database on a server, where there is no file to look at."""
        return self.url.get_backend_name() == "postgresql"

    def existing_file(self) -> Path:
        """The SQLite file, which must be there already: looking at a ledger makes none."""
        path = self.path
        if path is None:
            fail(f"{self.name}: there is no file to look at")
        if path.is_dir():
            fail(f"{self.name}: is a folder, not a ledger")
        if not path.exists():
            fail(f"{self.name}: no such file, so no ledger to look at")
        return path

    def require_existing(self) -> None:
        """As `existing_file`, for what works with a ledger on a server too."""
        if not self.on_server:
            self.existing_file()

    def require_folder(self) -> None:
        """A new ledger's file may be made, but not the folder that it is to be in."""
        path = self.path
        if path is None:
            return
        if path.is_dir():
            fail(f"{self.name}: is a folder, not a ledger")
        if not path.absolute().parent.is_dir():
            fail(f"{self.name}: there is no folder {path.parent} for it")

    @contextmanager
    def opened(
        self, actor: str | None = None, *, new: bool = False
    ) -> Generator[tuple[Run, OverviewDB]]:
        """The ledger, open, and what runs its coroutines; only where it may be `new` is one made or upgraded.

        Between them no event loop runs, so what the block does itself, such as to wait for input,
        blocks none, and Ctrl-C ends it at once.
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
    """Who acts: the `actor` that is named, or else who is at the keyboard."""
    if actor is not None:
        return actor
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return "operator-core"
    # Some machines have a user of the ledger's own names, which stand for the ledger itself.
    return f"user {name}" if is_reserved(name) else name


def choose(db_path: Path | None, url: str | None) -> Place:
    """The place that the options, the environment or the default name."""
    if db_path is not None and url is not None:
        raise typer.BadParameter("--db-path and --url can't be given together")
    if db_path is not None:
        return _named(lambda: check_path(db_path, "--db-path"), "--db-path")
    if url is not None and "://" not in url:
        raise typer.BadParameter("must be a database URL; a path is --db-path", param_hint="--url")
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
    """One line on stderr."""
    line = Text.assemble((mark, "bold red"), " ", one_line(message))
    (console or Console(stderr=True)).print(line, soft_wrap=True)


def fail(message: str) -> NoReturn:
    """One line on stderr, and exit status 1."""
    complain(message)
    raise typer.Exit(1)


@contextmanager
def reported(place: Place) -> Generator[None]:
    """What the ledger refuses, in the block, becomes one line on stderr and exit status 1."""
    try:
        yield
    except (ActionError, sqlite3.Error, SQLAlchemyError) as error:
        fail(f"{place.name}: {translate(error, server=place.on_server)}")
