"""``operator-core actions claim``, ``complete``, ``fail``, ``retry``, ``recover``: work, by hand or in a script."""

import re
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated, Any, Final

import typer

from operator_core.actions.errors import InvalidValue
from operator_core.actions.tool_calls import parse_object
from operator_core.actions.types import ActionType, Claim, StoredRecord
from operator_core.actions.values import MAX_DELAY
from operator_core.cli.formatting import compact, one_line, when
from operator_core.cli.options import (
    Actor,
    AsJson,
    DbPath,
    Place,
    Reason,
    Run,
    Url,
    choose,
    reported,
    who,
)
from operator_core.cli.output import print_json, print_lines, terminal_width
from operator_core.cli.overview import OverviewDB
from operator_core.cli.status_lines import status_line
from operator_core.cli.table import Column, Line, Span, laid_out
from operator_core.cli.views import framed

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
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Take what is due, for this worker alone, and print it."""
    if not 0.001 <= lease <= MAX_DELAY:
        problem = f"must be from 0.001 to {MAX_DELAY:,} seconds"
        raise typer.BadParameter(problem, param_hint="--lease")
    place = choose(db_path, url)
    with _opened(place, actor) as (run, db):
        claims = run(
            db.claim(
                worker,
                limit=limit,
                lease=timedelta(seconds=lease),
                action_names=action_name or None,
                action_types=action_type or None,
                actor=who(actor),
            )
        )
    if as_json:
        for claim in claims:
            print_json({"proposal": claim.proposal, "record": claim.record})
    elif claims:
        print_lines(_claim_table(claims))
        hint = " end each: operator-core actions complete RECORD, or fail RECORD MESSAGE"
        print_lines([[(hint, "dim")]])
    else:
        print_lines([[(" nothing is due", "")]])


@contextmanager
def _opened(place: Place, actor: str | None) -> Generator[tuple[Run, OverviewDB]]:
    """A ledger that is there already: nobody works on one that is made by a slip of the keyboard."""
    place.require_existing()
    with reported(place), place.opened(who(actor)) as opened:
        yield opened


def _claim_table(claims: Sequence[Claim]) -> Iterator[Line]:
    columns = [
        Column("record", right=True),
        Column("proposal", right=True),
        Column("action, parameters\nlease until", share=1),
    ]
    rows: list[Sequence[Line]] = []
    for proposal, record in claims:
        # Whoever is to carry it out needs all of it.
        call = f"  {compact(proposal.parameters, None)}"
        ids: list[Line] = [[(str(each), "")] for each in (record.id, proposal.id)]
        rows.append([*ids, [(one_line(proposal.action_name), "bold"), (call, "")]])
        if record.lease_expires_at is not None:
            rows.append([(), (), [(when(record.lease_expires_at), "dim")]])
    return framed(laid_out(columns, rows, None))


@app.command("complete")
def complete_command(
    *,
    record_id: RecordId,
    db_path: DbPath = None,
    url: Url = None,
    result: Result = None,
    actor: Actor = None,
) -> None:
    """End an execution well."""
    data = _parsed(result)
    with _opened(choose(db_path, url), actor) as (run, db):
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
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Whether the action was done is not known.")
    ] = False,
    actor: Actor = None,
) -> None:
    """End an execution that went wrong."""
    data = _parsed(result)
    with _opened(choose(db_path, url), actor) as (run, db):
        run(db.fail(record_id, message, data, outcome_unknown=unknown))
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
    line: list[Span] = [(f" execution {record_id} has ended, proposal {proposal.id} is ", "")]
    line += status_line(proposal.status)
    if proposal.next_retry_at is not None:
        line.append((f"; next retry {when(proposal.next_retry_at)}", ""))
    print_lines([line])


@app.command("retry")
def retry_command(
    *,
    id: Annotated[int, typer.Argument(min=1, metavar="ID", help="The proposal's id.")],
    db_path: DbPath = None,
    url: Url = None,
    actor: Actor = None,
    reason: Reason = None,
) -> None:
    """Put a failed proposal back among those that are claimed, now."""
    with _opened(choose(db_path, url), actor) as (run, db):
        run(db.retry(id, reason=reason))
    print_lines([[(f" proposal {id} is due again", "")]])


_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _length(text: str) -> timedelta:
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhd]?)", text, re.ASCII)
    if match is None:
        raise typer.BadParameter("must be a number of seconds, or one with s, m, h or d behind it")
    return timedelta(seconds=float(match[1]) * _SECONDS[match[2]])


@app.command("recover")
def recover_command(
    *,
    db_path: DbPath = None,
    url: Url = None,
    older_than: Annotated[
        timedelta | None,
        typer.Option(
            parser=_length,
            metavar="TIME",
            help="Also end what has been executing without a lease for longer than this: seconds, or 90s, 15m, 1h, 2d.",
            show_default=False,
        ),
    ] = None,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """End the executions whose lease ran out.

    Whether these were done is not known, and their records say so. A claim does it too, by itself. What was
    started by hand has no lease, and nothing else ends it if it is abandoned: --older-than does.
    """
    found = False
    with _opened(choose(db_path, url), actor) as (run, db):
        # So many at a time; what is printed has happened, also if the next ones can't be had.
        while records := run(db.recover_expired(older_than=older_than, actor=who(actor))):
            found = True
            if as_json:
                for record in records:
                    print_json(record)
            else:
                print_lines(_recovered_table(records))
    if as_json:
        return
    if found:
        hint = " look at each; to do it once more: operator-core actions retry PROPOSAL"
        print_lines([[(hint, "dim")]])
    else:
        nothing = "no lease has run out"
        if older_than is not None:
            nothing += ", and nothing without one is so old"
        print_lines([[(f" {nothing}", "")]])


_RECOVERED: Final = (
    Column("record", right=True),
    Column("proposal", right=True),
    Column("worker", most=40),
    Column("lease ran out"),
)


def _recovered_table(records: Sequence[StoredRecord]) -> Iterator[Line]:
    rows: list[Sequence[Line]] = []
    for record in records:
        until = record.lease_expires_at
        cells = (
            str(record.id),
            str(record.proposal_id),
            one_line(record.worker or ""),
            "none" if until is None else when(until),
        )
        rows.append([[(cell, "")] for cell in cells])
    width = terminal_width()
    return framed(laid_out(_RECOVERED, rows, None if width is None else width - 2))
