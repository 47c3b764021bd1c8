"""``operator-core actions claim``, ``complete``, ``fail``, ``retry``, ``recover``, and more by hand or in a script."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated, Any, Final

import typer

from operator_core.actions.errors import InvalidValue
from operator_core.actions.tool_calls import parse_object
from operator_core.actions.types import ActionRecord, ActionType, Claim, StoredRecord
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
from operator_core.cli.times import to_span
from operator_core.cli.views import framed
from operator_core.db.verbs.executions import LEASE

__all__ = ["app"]

app = typer.Typer()

RecordId = Annotated[
    int, typer.Argument(min=1, metavar="RECORD_ID", help="The record's id, as printed by claim.")
]
Result = Annotated[
    str | None,
    typer.Option("--result", metavar="JSON", help="The result of the execution: a JSON object."),
]


@app.command("claim")
def claim_command(
    *,
    worker: Annotated[
        str,
        typer.Argument(
            metavar="WORKER", help="The name of the worker that executes the proposals."
        ),
    ],
    db_path: DbPath = None,
    url: Url = None,
    limit: Annotated[
        int, typer.Option(min=1, max=1000, help="The largest number of proposals.")
    ] = 1,
    lease: Annotated[
        timedelta | None,
        typer.Option(
            parser=to_span,
            metavar="TIME",
            help="The length of the lease, up to 7d; after it expires, the execution can be recovered.  [default: 5m]",
            show_default=False,
        ),
    ] = None,
    action_name: Annotated[
        list[str] | None,
        typer.Option("--action", help="Only proposals with this action name; can be repeated."),
    ] = None,
    proposal_id: Annotated[
        int | None,
        typer.Option(
            "--id", min=1, metavar="ID", help="Exactly this proposal, or the reason why not."
        ),
    ] = None,
    action_type: Annotated[
        list[ActionType] | None,
        typer.Option(help="Only proposals of this type; can be repeated."),
    ] = None,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Claim due proposals for a worker and print them."""
    length = LEASE if lease is None else lease
    if not 0.001 <= length.total_seconds() <= MAX_DELAY:
        problem = f"must be from 0.001 to {MAX_DELAY:,} seconds"
        raise typer.BadParameter(problem, param_hint="--lease")
    place = choose(db_path, url)
    with _opened(place, actor) as (run, db):
        claims = run(
            _one(db, proposal_id, worker, length, who(actor))
            if proposal_id is not None
            else db.claim(
                worker,
                limit=limit,
                lease=length,
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


async def _one(
    db: OverviewDB, proposal_id: int, worker: str, lease: timedelta, actor: str
) -> list[Claim]:
    return [await db.claim_proposal(proposal_id, worker, lease=lease, actor=actor)]


@contextmanager
def _opened(place: Place, actor: str | None) -> Generator[tuple[Run, OverviewDB]]:
    """Opens an existing ledger; a typing error in the path must not create one."""
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
        # The person who executes it needs all of it.
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
    as_json: AsJson = False,
) -> None:
    """End an execution as a success."""
    data = _parsed(result)
    with _opened(choose(db_path, url), actor) as (run, db):
        run(db.complete(record_id, data))
        _print_ended(run, db, record_id, as_json)


@app.command("fail")
def fail_command(
    *,
    record_id: RecordId,
    message: Annotated[str, typer.Argument(metavar="MESSAGE", help="The error message.")],
    db_path: DbPath = None,
    url: Url = None,
    result: Result = None,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="It is unknown whether the action was done.")
    ] = False,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """End an execution as a failure, or with an unknown outcome."""
    data = _parsed(result)
    with _opened(choose(db_path, url), actor) as (run, db):
        run(db.fail(record_id, message, data, outcome_unknown=unknown))
        _print_ended(run, db, record_id, as_json)


def _parsed(result: str | None) -> dict[str, Any] | None:
    try:
        return None if result is None else parse_object(result, "")
    except InvalidValue as error:
        raise typer.BadParameter(str(error), param_hint="--result") from None


def _print_ended(run: Run, db: OverviewDB, record_id: int, as_json: bool) -> None:
    record = run(db.get_record(record_id))
    proposal = None if record is None else run(db.get_proposal(record.proposal_id))
    if record is None or proposal is None:
        return
    if as_json:
        print_json({"proposal": proposal, "record": record})
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
    as_json: AsJson = False,
) -> None:
    """Make a failed proposal due again at once."""
    with _opened(choose(db_path, url), actor) as (run, db):
        run(db.retry(id, reason=reason))
        proposal = run(db.get_proposal(id)) if as_json else None
    if proposal is not None:
        print_json(proposal)
    else:
        print_lines([[(f" proposal {id} is due again", "")]])


@app.command("heartbeat")
def heartbeat_command(
    *,
    record_id: RecordId,
    db_path: DbPath = None,
    url: Url = None,
    lease: Annotated[
        timedelta | None,
        typer.Option(
            parser=to_span,
            metavar="TIME",
            help="The length of the lease from now on; the default is as before.",
            show_default=False,
        ),
    ] = None,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Extend the lease of an execution, and print until when.

    The exit status is 1 if the lease is lost, or if a halt asks to end the execution.
    """
    with _opened(choose(db_path, url), actor) as (run, db):
        until = run(db.heartbeat(record_id, lease))
    if as_json:
        print_json({"record_id": record_id, "lease_expires_at": until.isoformat()})
    else:
        print_lines([[(f" the lease of execution {record_id} is good until {when(until)}", "")]])


@app.command("record")
def record_command(
    *,
    id: Annotated[int, typer.Argument(min=1, metavar="ID", help="The proposal's id.")],
    db_path: DbPath = None,
    url: Url = None,
    succeeded: Annotated[
        bool | None,
        typer.Option("--succeeded/--failed", help="How it ended; without it, it has started."),
    ] = None,
    error: Annotated[
        str | None, typer.Option("--error", metavar="TEXT", help="The error of a failure.")
    ] = None,
    result: Result = None,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Write the record of an execution that was done by hand, outside the ledger. It does not move the proposal."""
    data = _parsed(result)
    with _opened(choose(db_path, url), actor) as (run, db):
        wanted = ActionRecord(
            proposal_id=id, success=succeeded, error_message=error, result_data=data
        )
        record = run(db.create_record(wanted))
    if as_json:
        print_json(record)
    else:
        print_lines([[(f" execution {record.id} of proposal {id} is recorded", "")]])


@app.command("recover")
def recover_command(
    *,
    db_path: DbPath = None,
    url: Url = None,
    older_than: Annotated[
        timedelta | None,
        typer.Option(
            parser=to_span,
            metavar="TIME",
            help="Also end executions without a lease that are older than this: seconds, or 90s, 15m, 1h, 2d.",
            show_default=False,
        ),
    ] = None,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """End the executions whose lease has expired.

    Their outcome is recorded as unknown. Every claim does the same automatically. An execution that was started by
    hand has no lease; if it is abandoned, only --older-than ends it.
    """
    found = False
    with _opened(choose(db_path, url), actor) as (run, db):
        # One call ends a limited number, and its records are printed even if the next call fails.
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
        hint = " check each one; to run it again: operator-core actions retry PROPOSAL"
        print_lines([[(hint, "dim")]])
    else:
        nothing = "no lease has expired"
        if older_than is not None:
            nothing += ", and no execution without a lease is that old"
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
