"""``operator-core actions claim``, ``complete``, ``fail``, ``retry``, ``recover``: work, by hand or in a script."""

import getpass
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.text import Text

from operator_core.actions.errors import InvalidValue
from operator_core.actions.types import ActionRecord, ActionType, Claim
from operator_core.actions.values import MAX_DELAY
from operator_core.cli.options import AsJson, DbPath, Place, Run, Url, choose, reported
from operator_core.cli.overview import OverviewDB
from operator_core.cli.standing import status_text
from operator_core.cli.text import compact, json_line, one_line, when
from operator_core.cli.tool_calls import parse_object
from operator_core.cli.views import CUT, new_table

__all__ = ["app"]

app = typer.Typer()

RecordId = Annotated[
    int, typer.Argument(min=1, metavar="RECORD_ID", help="The record's id, as claim printed it.")
]
Result = Annotated[
    str | None,
    typer.Option("--result", metavar="JSON", help="What the execution gave back: a JSON object."),
]


@app.command("claim")
def claim_command(
    *,
    worker: Annotated[str, typer.Argument(metavar="WORKER", help="Who will carry it out.")],
    db_path: DbPath = None,
    url: Url = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at the most.")] = 1,
    lease: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", help="How long it may take before it is given up, to 7 days."
        ),
    ] = 300.0,
    action_name: Annotated[
        list[str] | None,
        typer.Option(help="Only proposals of this action; may be given several times."),
    ] = None,
    action_type: Annotated[
        list[ActionType] | None,
        typer.Option(help="Only proposals of this type; may be given several times."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take what is due, for this worker alone, and print it."""
    if not 0.001 <= lease <= MAX_DELAY:
        problem = f"must be from 0.001 to {MAX_DELAY:,} seconds"
        raise typer.BadParameter(problem, param_hint="--lease")
    place = choose(db_path, url)
    with _opened(place, _user()) as (run, db):
        claims = run(
            db.claim(
                worker,
                limit=limit,
                lease=timedelta(seconds=lease),
                action_names=action_name or None,
                action_types=action_type or None,
            )
        )
    if as_json:
        for claim in claims:
            typer.echo(json_line({"proposal": claim.proposal, "record": claim.record}))
    elif claims:
        out = Console()
        out.print(_claim_table(claims))
        hint = " end each: operator-core actions complete RECORD, or fail RECORD MESSAGE"
        out.print(Text(hint, "dim"), soft_wrap=True)
    else:
        typer.echo(" nothing is due")


@contextmanager
def _opened(place: Place, actor: str) -> Generator[tuple[Run, OverviewDB]]:
    """A ledger that is there already: nobody works on one that is made by a slip of the keyboard."""
    place.require_existing()
    with reported(place), place.opened(actor) as opened:
        yield opened


def _claim_table(claims: Sequence[Claim]) -> RenderableType:
    table = new_table()
    table.add_column("record", justify="right", no_wrap=True)
    table.add_column("proposal", justify="right", no_wrap=True)
    table.add_column("action, parameters\nlease until", overflow="fold")
    for proposal, record in claims:
        call = Text.assemble((one_line(proposal.action_name), "bold"), "  ")
        # Whoever is to carry it out needs all of it, or to be told that this is not all.
        call.append(compact(proposal.parameters, 4000))
        if record.lease_expires_at is not None:
            call.append(f"\n{when(record.lease_expires_at)}", "dim")
        table.add_row(str(record.id), str(proposal.id), call)
    return Padding(table, (1, 1), expand=False)


@app.command("complete")
def complete_command(
    *, record_id: RecordId, db_path: DbPath = None, url: Url = None, result: Result = None
) -> None:
    """End an execution well."""
    data = _parsed(result)
    with _opened(choose(db_path, url), _user()) as (run, db):
        run(db.complete(record_id, data))
        _print_ended(run, db, record_id)


@app.command("fail")
def fail_command(
    *,
    record_id: RecordId,
    message: Annotated[str, typer.Argument(metavar="MESSAGE", help="What went wrong.")],
    db_path: DbPath = None,
    url: Url = None,
    result: Result = None,
) -> None:
    """End an execution that went wrong."""
    data = _parsed(result)
    with _opened(choose(db_path, url), _user()) as (run, db):
        run(db.fail(record_id, message, data))
        _print_ended(run, db, record_id)


def _parsed(result: str | None) -> dict[str, Any] | None:
    try:
        return None if result is None else parse_object(result, "")
    except InvalidValue as error:
        raise typer.BadParameter(str(error), param_hint="--result") from None


def _print_ended(run: Run, db: OverviewDB, record_id: int) -> None:
    record = run(db.get_record(record_id))
    proposal = None if record is None else run(db.get_proposal(record.proposal_id))
    if proposal is None:
        return
    line = Text.assemble(
        f" execution {record_id} has ended, proposal {proposal.id} is ",
        status_text(proposal.status),
    )
    if proposal.next_retry_at is not None:
        line.append(f"; next retry {when(proposal.next_retry_at)}")
    Console().print(line, soft_wrap=True)


def _user() -> str:
    """Who is at the keyboard, for the history, where no worker is known and nobody is named."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return "operator-core"


@app.command("retry")
def retry_command(
    *,
    id: Annotated[int, typer.Argument(min=1, metavar="ID", help="The proposal's id.")],
    db_path: DbPath = None,
    url: Url = None,
    actor: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Whom the history names as deciding so; your login name if not given.",
            show_default=False,
        ),
    ] = None,
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Why, for the history.")
    ] = None,
) -> None:
    """Put a failed proposal back among those that are claimed, now."""
    with _opened(choose(db_path, url), _user()) as (run, db):
        run(db.retry(id, actor=actor, reason=reason))
    typer.echo(f" proposal {id} is due again")


@app.command("recover")
def recover_command(*, db_path: DbPath = None, url: Url = None, as_json: AsJson = False) -> None:
    """End what fell silent: the executions whose lease ran out.

    Whether these were done is not known, and their records say so. A claim does it too, by itself.
    """
    out = Console()
    found = False
    with _opened(choose(db_path, url), _user()) as (run, db):
        # So many at a time; what is printed has happened, also if the next ones can't be had.
        while records := run(db.recover_expired()):
            found = True
            if as_json:
                for record in records:
                    typer.echo(record.model_dump_json())
            else:
                out.print(_recovered_table(records))
    if as_json:
        return
    if found:
        hint = " look at each; to do it once more: operator-core actions retry PROPOSAL"
        out.print(Text(hint, "dim"), soft_wrap=True)
    else:
        typer.echo(" no lease has run out")


def _recovered_table(records: Sequence[ActionRecord]) -> RenderableType:
    table = new_table()
    table.add_column("record", justify="right", no_wrap=True)
    table.add_column("proposal", justify="right", no_wrap=True)
    table.add_column("worker", ratio=1, **CUT)
    table.add_column("lease ran out", no_wrap=True)
    for record in records:
        until = record.lease_expires_at
        table.add_row(
            str(record.id),
            str(record.proposal_id),
            Text(one_line(record.worker or "")),
            "" if until is None else when(until),
        )
    return Padding(table, (1, 1), expand=False)
