"""``operator-core db``: the commands for the schema of a ledger's database, and its check."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from sqlalchemy import Connection

from operator_core.actions.errors import UnmanagedSchema
from operator_core.cli.checkup import check_up, open_read_only, revision_of
from operator_core.cli.findings import Finding, Verdict
from operator_core.cli.formatting import json_line, plain
from operator_core.cli.options import AsJson, DbPath, Place, Url, choose, fail, reported
from operator_core.cli.output import print_lines
from operator_core.cli.server_checkup import check_up_server
from operator_core.cli.table import Line
from operator_core.db import migrate
from operator_core.db.migrate import postgresql
from operator_core.db.schema import ACTIONS_SCHEMA_SQL, SCHEMA_SQL
from operator_core.db.sql.sqlite_library import describe

__all__ = ["app"]

app = typer.Typer(
    help="Work with the database: upgrade, current, check, grants, sql.", no_args_is_help=True
)

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
            "the default is this machine's zone.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Upgrade the schema, or create it in a new database.

    The revisions are in the package, so no checkout is needed. In a checkout, `alembic upgrade head` does the same.
    """
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
        if place.path is not None or place.on_server:
            now_at = _revision_at(place)
            if as_json:
                line = {"database": place.name, "revision": now_at, "head": migrate.HEAD}
                typer.echo(json_line(line))
            else:
                typer.echo(plain(f"{place.name}: {_standing(now_at)}"))


def _check_zone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        problem = plain(f"this machine does not know the time zone {name}")
        raise typer.BadParameter(problem, param_hint="--legacy-timezone") from None


@app.command()
def current(db_path: DbPath = None, url: Url = None, as_json: AsJson = False) -> None:
    """Print the revision of the database, and on SQLite the library in use."""
    place = choose(db_path, url)
    with reported(place):
        revision = _revision_at(place)
    if as_json:
        line = {"database": place.name, "revision": revision, "head": migrate.HEAD}
        typer.echo(json_line(line | {"sqlite_library": _library_of(place)}))
        return
    typer.echo(plain(f"{place.name}: {_standing(revision)}"))
    if not place.on_server:
        typer.echo(f"SQLite library: {describe()}")


def _library_of(place: Place) -> dict[str, str] | None:
    if place.on_server:
        return None
    module, version = describe().split()
    return {"module": module, "version": version}


def _revision_at(place: Place) -> str | None:
    if place.on_server:
        return migrate.look(place.url, migrate.current_revision)
    with open_read_only(place.existing_file()) as connection:
        return revision_of(connection)


def _standing(revision: str | None) -> str:
    if revision == migrate.HEAD:
        return f"{revision} (head)"
    if revision is None:
        return f"no revision (head is {migrate.HEAD})"
    if revision in migrate.REVISIONS:
        return f"{revision} (behind head, which is {migrate.HEAD})"
    return f"{revision} (newer than this release, whose head is {migrate.HEAD})"


@app.command()
def check(db_path: DbPath = None, url: Url = None, as_json: AsJson = False) -> None:
    """Check the database, including every row; the exit status is 1 if something is broken."""
    place = choose(db_path, url)
    path = None if place.on_server else place.existing_file()
    errors = Console(stderr=True)
    with reported(place), errors.status(Text(f"checking {plain(place.name)}")):
        findings = list(check_up_server(place.url) if path is None else check_up(path))
    if as_json:
        for finding in findings:
            typer.echo(json_line(asdict(finding)))
    else:
        _print(place, findings)
    if any(finding.verdict is Verdict.BROKEN for finding in findings):
        raise typer.Exit(1)


def _print(place: Place, findings: list[Finding]) -> None:
    out = Console()
    out.print()
    out.print(Text(f" {plain(place.name)}", "bold"), soft_wrap=True)
    out.print()
    if out.is_terminal:
        out.print(Padding(_as_table(findings), (0, 1), expand=False))
    else:
        # One line for each finding, for grep.
        print_lines(_as_lines(findings))
    out.print()


def _as_table(findings: list[Finding]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for finding in findings:
        verdict = Text(finding.verdict.value, _STYLES[finding.verdict])
        grid.add_row(verdict, finding.subject, Text(plain(finding.text)))
    return grid


def _as_lines(findings: list[Finding]) -> Iterator[Line]:
    longest = max(len(finding.subject) for finding in findings)
    for each in findings:
        yield [(f" {each.verdict.value:<7}  {each.subject:<{longest}}  {plain(each.text)}", "")]


@app.command()
def sql(
    *,
    postgresql: Annotated[
        bool, typer.Option("--postgresql", help="For PostgreSQL instead of SQLite.")
    ] = False,
) -> None:
    """Print the schema at head as an SQL script for a new database."""
    if postgresql:
        typer.echo(migrate.postgresql_script(), nl=False)
    else:
        typer.echo(SCHEMA_SQL + "\n" + ACTIONS_SCHEMA_SQL, nl=False)


@app.command()
def grants(
    *,
    role: Annotated[str, typer.Argument(metavar="ROLE", help="The role that the service uses.")],
    role_for: Annotated[
        postgresql.Duty | None,
        typer.Option(help="Only what this duty takes; the default is everything."),
    ] = None,
    url: Url = None,
) -> None:
    """Print the GRANTs for a service on PostgreSQL; they allow no DDL and no change to the history.

    GRANTs add up: for a role with one duty, make a new role.
    """
    if not role:
        raise typer.BadParameter("must not be empty", param_hint="ROLE")
    place = choose(None, url)
    if not place.on_server:
        fail(f"{place.name}: SQLite has no roles and no GRANTs")
    with reported(place):
        schema = migrate.look(place.url, _schema_of)
    typer.echo(postgresql.grants(schema, role, migrate.VERSION_TABLE, role_for))


def _schema_of(conn: Connection) -> str:
    if migrate.current_revision(conn) is None:
        raise UnmanagedSchema(["the database's search_path contains no ledger"])
    # A schema behind head may lack objects that the GRANTs name.
    migrate.check_current(conn)
    return str(conn.exec_driver_sql("SELECT current_schema()").scalar())
