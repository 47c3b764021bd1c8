"""``operator-core actions list``, ``count`` and ``export``."""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final

import typer
from pydantic_core import to_json

from operator_core.actions.errors import CorruptRow
from operator_core.actions.types import ActionStatus, StoredProposal, StoredRecord
from operator_core.cli import views
from operator_core.cli.agentack import trace
from operator_core.cli.columns import COLUMNS, column_table, csv_rows, to_columns
from operator_core.cli.filters import filtered
from operator_core.cli.options import AsJson, DbPath, Url, choose, exit_over, reported
from operator_core.cli.output import print_json, print_lines, reader_left, terminal_width, write
from operator_core.cli.overview import OverviewDB
from operator_core.cli.status_lines import status_line, with_records
from operator_core.cli.story import story_json, told
from operator_core.cli.table import Column, Line, laid_out
from operator_core.db.sql.rows import Listing

__all__ = ["app"]

app = typer.Typer()

_PAGE: Final = 200
"""The number of proposals that an export holds in memory."""


@app.command("list")
@filtered
def list_command(
    *,
    db_path: DbPath = None,
    url: Url = None,
    oldest_first: Annotated[
        bool, typer.Option("--oldest-first", help="The oldest first, not the newest.")
    ] = False,
    before: Annotated[
        int | None, typer.Option(min=1, help="Only proposals with a lower id.")
    ] = None,
    after: Annotated[
        int | None, typer.Option(min=1, help="Only proposals with a higher id.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="The largest number of proposals.")] = 50,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            parser=to_columns,
            metavar="NAME,...",
            help=f"The columns, and their order: {', '.join(COLUMNS)}.",
            show_default=False,
        ),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, with a header.")] = False,
    as_json: AsJson = False,
    **filters: Any,
) -> None:
    """List proposals, newest first.

    A TIME is 2026-11-28T14:00, 14:00, today, 'yesterday 14:00', or how long ago, such as 90s, 15m, 2h, 3d. Without an
    offset it is local time.
    """
    if as_csv and as_json:
        raise typer.BadParameter("--csv and --json can't be used together")
    place = choose(db_path, url)
    place.require_existing()
    plain = columns is None and not (as_csv or as_json)
    with reported(place), place.opened() as (run, db):
        proposals = run(
            db.list_proposals(
                filters.pop("status", None),
                oldest_first=oldest_first,
                before=before,
                after=after,
                limit=limit,
                **filters,
            )
        )
        records = run(db.last_records(with_records(proposals) if plain else []))
        now = run(db.now())
    chosen = None if columns is None else [name for some in columns for name in some]
    if as_json:
        for proposal in proposals:
            print_json(proposal if chosen is None else _chosen(proposal, chosen))
    elif as_csv:
        for line in csv_rows(proposals, chosen or COLUMNS):
            write(line)
    else:
        _print_list(proposals, records, now, chosen)
        _print_next(proposals, limit, oldest_first)
    exit_over(proposals.corrupt)


def _chosen(proposal: StoredProposal, columns: list[str]) -> dict[str, Any]:
    row = proposal.model_dump(mode="json", include=set(columns))
    return {name: row[name] for name in columns}


def _print_list(
    proposals: Listing[StoredProposal],
    records: Iterable[StoredRecord],
    now: datetime,
    columns: list[str] | None,
) -> None:
    if not proposals:
        if not proposals.corrupt:
            print_lines([[(" no such proposals", "")]])
    elif columns is None:
        print_lines(views.proposal_table(proposals, records, now, terminal_width()))
    else:
        print_lines(column_table(proposals, columns, terminal_width()))


def _print_next(proposals: Listing[StoredProposal], limit: int, oldest_first: bool) -> None:
    ids = [each.id for each in (*proposals, *proposals.corrupt)]
    if len(ids) == limit:
        next_ = (
            f"later ones: --after {max(ids)}"
            if oldest_first
            else f"older ones: --before {min(ids)}"
        )
        print_lines([[(f" {next_}", "dim")]])


@app.command("count")
@filtered
def count_command(
    *, db_path: DbPath = None, url: Url = None, as_json: AsJson = False, **filters: Any
) -> None:
    """Count proposals by status. A TIME is as for list."""
    wanted: list[ActionStatus] = filters.pop("status", None) or list(ActionStatus)
    place = choose(db_path, url)
    place.require_existing()
    with reported(place), place.opened() as (run, db):
        counts = run(db.count_proposals(**filters))
    shown = {status: counts[status] for status in ActionStatus if status in wanted}
    total = sum(shown.values())
    if as_json:
        print_json({**{status.value: count for status, count in shown.items()}, "total": total})
        return
    columns = [Column("status"), Column("proposals", right=True)]
    rows: list[list[Line]] = [
        [list(status_line(status)), [(f"{count:,}", "" if count else "dim")]]
        for status, count in shown.items()
    ]
    footer: list[Line] = [[("total", "bold")], [(f"{total:,}", "bold")]]
    print_lines(views.framed(laid_out(columns, rows, None, footer=footer)))


class Format(StrEnum):
    """A form of an export."""

    JSONL = "jsonl"
    AGENTACK = "agentack"


@app.command("export")
@filtered
def export_command(
    *,
    db_path: DbPath = None,
    url: Url = None,
    format_: Annotated[Format, typer.Option("--format", help="What the lines are.")] = Format.JSONL,
    **filters: Any,
) -> None:
    """Print the whole story of proposals as JSON lines, oldest first.

    With jsonl, each line has a proposal, its executions, what was required and decided, and its history. Memory stays
    constant. With agentack, the lines are a trace for `agentack check`; only --run selects then. A TIME is as for list.
    """
    place = choose(db_path, url)
    place.require_existing()
    if format_ is Format.AGENTACK:
        if filters.keys() - {"run_id"}:
            raise typer.BadParameter("only --run selects with agentack", param_hint="--format")
        with reported(place), place.opened() as (run, db):
            run(_trace(db, filters.get("run_id")))
        return
    with reported(place), place.opened() as (run, db):
        corrupt = run(_export(db, filters))
    exit_over(corrupt)


async def _trace(db: OverviewDB, run_id: str | None) -> None:
    proposals = db.iter_proposals(oldest_first=True, run_id=run_id)
    async for line in trace(db, proposals, run_id):
        write(to_json(line).decode() + "\n")


async def _export(db: OverviewDB, filters: dict[str, Any]) -> list[CorruptRow]:
    statuses, after = filters.pop("status", None), None
    corrupt: list[CorruptRow] = []
    while True:
        page = await db.list_proposals(
            statuses, oldest_first=True, after=after, limit=_PAGE, **filters
        )
        for proposal in page:
            story = await told(db, proposal)
            corrupt += story.corrupt
            print_json(story_json(story))
            if reader_left():
                return corrupt
        corrupt += page.corrupt
        ids = [each.id for each in (*page, *page.corrupt)]
        if len(ids) < _PAGE:
            return corrupt
        after = max(ids)
