"""Which ledger a command works on, and how whatever goes wrong with it is told."""

import asyncio
import os
import sqlite3
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, Protocol, TypeVar

import typer
from rich.console import Console
from rich.text import Text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from operator_core.actions.errors import ActionError
from operator_core.cli.checkup import open_read_only, revision_of
from operator_core.cli.overview import OverviewDB
from operator_core.cli.text import one_line
from operator_core.db import migrate
from operator_core.db.driver_errors import translate
from operator_core.db.postgresql import parse_url
from operator_core.db.sqlite_connection import MEMORY

__all__ = ["AsJson", "DbPath", "Place", "Run", "Url", "choose", "complain", "fail", "reported"]

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
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


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
        """As `existing_file`, for what works with a ledger on a server too; and it is not behind."""
        if self.on_server:
            return
        with reported(self), open_read_only(self.existing_file()) as connection:
            revision = revision_of(connection)
            tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        # Opening would adopt or upgrade it, which is for whoever decides, not for whoever looks.
        if revision in migrate.REVISIONS[:-1] or (revision is None and tables):
            fail(
                f"{self.name}: its schema is at {revision or 'no revision'}; see "
                "`operator-core db check`, and `operator-core db upgrade --help`"
            )

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
    def opened(self, actor: str = "agent") -> Generator[tuple[Run, OverviewDB]]:
        """The ledger, open, and what runs its coroutines.

        Between them no event loop runs, so what the block does itself, such as to wait for input,
        blocks none, and Ctrl-C ends it at once.
        """
        with asyncio.Runner() as runner:
            db = OverviewDB(self.url, actor=actor)
            runner.run(db.open())
            try:
                yield runner.run, db
            finally:
                runner.run(db.close())


def choose(db_path: Path | None, url: str | None) -> Place:
    """The place that the options, the environment or the default name."""
    if db_path is not None and url is not None:
        raise typer.BadParameter("--db-path and --url can't be given together")
    if db_path is not None:
        return _file(str(db_path))
    if url is not None:
        if "://" not in url:
            raise typer.BadParameter(
                "must be a database URL; a path is --db-path", param_hint="--url"
            )
        return _url(url, "--url")
    named = os.environ.get(migrate.URL_VARIABLE)
    if not named:
        return _url(migrate.DEFAULT_URL, "--url")
    return _url(named, migrate.URL_VARIABLE) if "://" in named else _file(named)


def _file(path: str) -> Place:
    return Place(URL.create("sqlite", database=path), path)


def _url(text: str, origin: str) -> Place:
    try:
        url = parse_url(text)
    except ArgumentError:
        raise typer.BadParameter("is not a database URL", param_hint=origin) from None
    if url.get_backend_name() == "sqlite":
        return Place(url, url.database or MEMORY)
    if url.get_backend_name() != "postgresql":
        problem = f"must be of SQLite or PostgreSQL, not {url.get_backend_name()}"
        raise typer.BadParameter(problem, param_hint=origin)
    return Place(url, url.render_as_string(hide_password=True))


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
