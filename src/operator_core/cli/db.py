"""``operator-core db``: the schema of a ledger's database, and its health."""

from typing import Annotated, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from operator_core.cli.checkup import Finding, Verdict, check_up, open_read_only, revision_of
from operator_core.cli.options import DbPath, Url, choose, reported
from operator_core.cli.text import plain
from operator_core.db import migrate
from operator_core.db.schema import ACTIONS_SCHEMA_SQL, SCHEMA_SQL

__all__ = ["app"]

app = typer.Typer(help="The database: upgrade, current, check, sql.", no_args_is_help=True)

_STYLES: Final = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.BROKEN: "bold red"}


@app.command()
def upgrade(
    *,
    db_path: DbPath = None,
    url: Url = None,
    revision: Annotated[str, typer.Option(help="The revision to upgrade to.")] = "head",
    legacy_timezone: Annotated[
        str | None,
        typer.Option(
            metavar="TZ",
            help="The zone of a predecessor's naive times, such as Europe/Berlin; "
            "this machine's if not given.",
        ),
    ] = None,
) -> None:
    """Upgrade the schema; makes a new ledger where there is none."""
    known = ("head", *migrate.REVISIONS)
    if revision not in known:
        raise typer.BadParameter(f"must be one of {', '.join(known)}", param_hint="--revision")
    if legacy_timezone is not None:
        _check_zone(legacy_timezone)
    place = choose(db_path, url)
    place.require_folder()
    options = {} if legacy_timezone is None else {"legacy-timezone": legacy_timezone}
    with reported(place):
        migrate.upgrade(place.url, revision, options)
        if place.path is not None:
            with open_read_only(place.path) as connection:
                typer.echo(f"{place.name}: {_standing(revision_of(connection))}")


def _check_zone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        problem = f"is not a time zone that this machine knows: {name}"
        raise typer.BadParameter(problem, param_hint="--legacy-timezone") from None


@app.command()
def current(db_path: DbPath = None, url: Url = None) -> None:
    """Print the revision that the database is at."""
    place = choose(db_path, url)
    path = place.existing_file()
    with reported(place), open_read_only(path) as connection:
        typer.echo(f"{place.name}: {_standing(revision_of(connection))}")


def _standing(revision: str | None) -> str:
    if revision == migrate.HEAD:
        return f"{revision} (head)"
    if revision is None:
        return f"no revision (head is {migrate.HEAD})"
    if revision in migrate.REVISIONS:
        return f"{revision} (behind head, which is {migrate.HEAD})"
    return f"{revision} (newer than this release, whose head is {migrate.HEAD})"


@app.command()
def check(db_path: DbPath = None, url: Url = None) -> None:
    """Look the SQLite file over, every page and row of it; exit status 1 if something is broken."""
    place = choose(db_path, url)
    path = place.existing_file()
    errors = Console(stderr=True)
    with reported(place), errors.status(Text(f"checking {plain(place.name)}")):
        findings = list(check_up(path))
    out = Console()
    out.print()
    out.print(Text(f" {plain(place.name)}", "bold"), soft_wrap=True)
    out.print()
    out.print(Padding(_as_table(findings), (0, 1), expand=False))
    out.print()
    if any(finding.verdict is Verdict.BROKEN for finding in findings):
        raise typer.Exit(1)


def _as_table(findings: list[Finding]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for finding in findings:
        verdict = Text(finding.verdict.value, _STYLES[finding.verdict])
        grid.add_row(verdict, finding.subject, Text(plain(finding.text)))
    return grid


@app.command()
def sql() -> None:
    """Print the schema at head as a SQLite script."""
    typer.echo(SCHEMA_SQL + "\n" + ACTIONS_SCHEMA_SQL, nl=False)
