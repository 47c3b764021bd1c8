"""``operator-core actions halt``, ``resume``, ``mode`` and ``halts``, for an engineer on call."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

import typer

from operator_core.actions.errors import ActionError
from operator_core.actions.types import Halt, HaltMode, HaltReport
from operator_core.cli.formatting import one_line, span, when
from operator_core.cli.halt_views import halt_line
from operator_core.cli.options import (
    AsJson,
    By,
    DbPath,
    Place,
    Run,
    Url,
    Why,
    choose,
    complain,
    confirmed,
    exit_over,
    fail,
    reported,
    who,
)
from operator_core.cli.output import print_json, print_lines
from operator_core.cli.overview import OverviewDB
from operator_core.cli.table import Line
from operator_core.cli.times import to_later

__all__ = ["app"]

app = typer.Typer()

ActionName = Annotated[
    str | None,
    typer.Option(
        "--action",
        metavar="PATTERN",
        help="Only actions of this name; * is any text and ? any character.",
        show_default=False,
    ),
]
Agent = Annotated[
    str | None,
    typer.Option(
        "--agent", metavar="ID", help="Only this agent and its sub-agents.", show_default=False
    ),
]
RunId = Annotated[
    str | None, typer.Option("--run", metavar="ID", help="Only this run.", show_default=False)
]


@app.command("halt")
def halt_command(
    *,
    db_path: DbPath = None,
    url: Url = None,
    reason: Why,
    by: By = None,
    observe: Annotated[
        bool, typer.Option("--observe", help="Actions can still be proposed.")
    ] = False,
    action: ActionName = None,
    agent: Agent = None,
    run_id: RunId = None,
    valid_from: Annotated[
        datetime | None,
        typer.Option("--from", parser=to_later, metavar="TIME", help="A freeze begins then."),
    ] = None,
    valid_until: Annotated[
        datetime | None,
        typer.Option("--until", parser=to_later, metavar="TIME", help="A freeze ends then."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Do not cancel what is pending.")] = False,
    terminate: Annotated[
        bool, typer.Option("--terminate", help="End the server processes that are in the way.")
    ] = False,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout", metavar="SECONDS", help="How long to wait for open transactions."
        ),
    ] = 5.0,
    yes: Annotated[
        bool, typer.Option("--yes", help="Halt the whole ledger without a question.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Stop everything, or what the options name, for every program, until it is resumed.

    Nothing is proposed, validated or started, and what is pending is cancelled. With --observe, or for a freeze, nothing is
    cancelled. What is running is listed: its workers
    learn of the halt by their next heartbeat. The exit status is 1 if an open transaction is in the way. Without
    --action, --agent and --run it is everything, so it asks first.
    """
    place = choose(db_path, url)
    place.require_existing()
    if action is None and agent is None and run_id is None and not yes:
        what = "proposes and starts nothing" if not observe else "starts nothing"
        asked = f"Halt the whole ledger {place.name}, so that every program {what}?"
        if not confirmed(asked, "--yes halts the whole ledger"):
            print_lines([[(" nothing was halted", "")]])
            raise typer.Exit(1)
    decider = who(by)
    mode = HaltMode.OBSERVE if observe else HaltMode.HALTED
    with reported(place), place.opened() as (run, db):
        report = run(
            db.halt(
                by=decider,
                reason=reason,
                mode=mode,
                action_name=action,
                agent_id=agent,
                run_id=run_id,
                cancel=not keep,
                valid_from=valid_from,
                valid_until=valid_until,
                terminate=terminate,
                timeout=timeout,
            )
        )
        _print_report(report, as_json)
        _warn_of_typos(place, run, db, agent, run_id)
    _exit_unless_complete(place, report)


def _warn_of_typos(
    place: Place, run: Run, db: OverviewDB, agent: str | None, run_id: str | None
) -> None:
    if agent is not None and not run(db.list_proposals(agent_id=agent, limit=1)):
        complain(f"{place.name}: no proposal is of the agent {agent}", mark="warning:")
    if run_id is not None and not run(db.list_proposals(run_id=run_id, limit=1)):
        complain(f"{place.name}: no proposal is of the run {run_id}", mark="warning:")


def _print_report(report: HaltReport, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "halt": report.halt,
                "complete": report.complete,
                "cancelled": report.cancelled,
                "running": [_fields(each) for each in report.running],
                "blockers": [_fields(each) for each in report.blockers],
            }
        )
    else:
        print_lines(_report_lines(report))


def _fields(value: NamedTuple) -> dict[str, Any]:
    return {
        name: field.isoformat() if isinstance(field, datetime) else field
        for name, field in value._asdict().items()
    }


def _exit_unless_complete(place: Place, report: HaltReport) -> None:
    begins = report.halt.valid_from
    if not report.complete and (begins is None or begins <= datetime.now(UTC)):
        why = report.unknown or "an open transaction may still start something"
        fail(f"{place.name}: not complete: {why}")


@app.command("resume")
def resume_command(
    *,
    halt_id: Annotated[
        int | None, typer.Argument(metavar="[HALT]", help="The halt's id.", show_default=False)
    ] = None,
    db_path: DbPath = None,
    url: Url = None,
    reason: Why,
    by: By = None,
    action: ActionName = None,
    agent: Agent = None,
    run_id: RunId = None,
    as_json: AsJson = False,
) -> None:
    """End a halt, or all halts of exactly the scope that the options name.

    Without any, these are the halts of the whole ledger. The exit status is 1 if there was none.
    """
    place = choose(db_path, url)
    place.require_existing()
    with reported(place), place.opened() as (run, db):
        resumed = run(
            db.resume(
                halt_id,
                by=who(by),
                reason=reason,
                action_name=action,
                agent_id=agent,
                run_id=run_id,
            )
        )
        if as_json:
            for halt in resumed:
                print_json(halt)
        else:
            print_lines([halt_line(halt, f"resumed by {one_line(who(by))}") for halt in resumed])
            try:
                rest = run(db.halts())
            except ActionError as error:
                complain(f"{place.name}: {error}", mark="warning:")
                return
            print_lines([halt_line(halt, "is still open") for halt in rest])
    if not resumed:
        complain(f"{place.name}: no open halt of this scope")
        raise typer.Exit(1)


@app.command("mode")
def mode_command(
    *,
    db_path: DbPath = None,
    url: Url = None,
    action: ActionName = None,
    agent: Agent = None,
    run_id: RunId = None,
    as_json: AsJson = False,
) -> None:
    """Print what is allowed now (execute, observe or halted), and the open halts."""
    place = choose(db_path, url)
    place.require_existing()
    with reported(place), place.opened() as (run, db):
        mode = run(db.mode(action_name=action, agent_id=agent, run_id=run_id))
        halts = run(db.halts())
    if as_json:
        print_json({"mode": mode, "halts": [halt.model_dump(mode="json") for halt in halts]})
        return
    style = "green" if mode is HaltMode.EXECUTE else "bold red"
    print_lines([[(" ", ""), (mode.value, style)], *(halt_line(halt, "") for halt in halts)])


@app.command("halts")
def halts_command(
    *,
    halt_id: Annotated[
        int | None,
        typer.Argument(min=1, metavar="[HALT]", help="The halt's id.", show_default=False),
    ] = None,
    db_path: DbPath = None,
    url: Url = None,
    all_: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the open halts, or print what one halt has reached until now.

    For one halt, the exit status is 1 while an open transaction is in the way.
    """
    place = choose(db_path, url)
    place.require_existing()
    with reported(place), place.opened() as (run, db):
        if halt_id is not None:
            report = run(db.halt_report(halt_id))
            _print_report(report, as_json)
            _exit_unless_complete(place, report)
            return
        halts = run(db.halts(active=not all_))
    if as_json:
        for halt in halts:
            print_json(halt)
    elif halts:
        print_lines([halt_line(halt, _end_of(halt)) for halt in halts])
    else:
        print_lines([[(" no halts" if all_ else " no open halts", "")]])
    exit_over(halts.corrupt)


def _end_of(halt: Halt) -> str:
    if halt.resumed_at is None:
        return ""
    return f"resumed by {one_line(halt.resumed_by or '')} at {when(halt.resumed_at)}"


def _report_lines(report: HaltReport) -> Iterator[Line]:
    now = datetime.now(UTC)
    yield halt_line(report.halt, "")
    yield [(f" {_counted(report.cancelled, 'proposal')} cancelled", "")]
    for each in report.running:
        record = "no record" if each.record_id is None else f"record {each.record_id}"
        worker = one_line(each.worker or "unknown worker")
        line: Line = [(f" running: proposal {each.proposal_id} ", "bold red")]
        since = "" if each.since is None else f" for {span(now - each.since)}"
        if each.ended_at is not None:
            line = [(f" was running: proposal {each.proposal_id} ", "")]
            since = f", ended at {when(each.ended_at)}"
        line += [(one_line(each.action_name), ""), (f", {record}, {worker}{since}", "dim")]
        yield line
    for blocker in report.blockers:
        process = "a prepared transaction" if blocker.pid is None else f"process {blocker.pid}"
        since = "" if blocker.since is None else f", open for {span(now - blocker.since)}"
        name = one_line(blocker.application or "unknown application")
        yield [(f" in the way: {process}", "bold red"), (f", {name}{since}", "")]


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
