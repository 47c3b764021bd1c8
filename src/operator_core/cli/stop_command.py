"""``operator-core actions cancel`` and ``stop``, for an engineer on call."""

from typing import Annotated

import typer

from operator_core.actions.errors import ActionError
from operator_core.actions.types import ActionStatus
from operator_core.cli.options import (
    Actor,
    AsJson,
    DbPath,
    Reason,
    Url,
    choose,
    complain,
    confirmed,
    reported,
    who,
)
from operator_core.cli.output import print_json, print_lines

__all__ = ["app"]

app = typer.Typer()

Ids = Annotated[list[int], typer.Argument(min=1, metavar="ID...", help="The proposals' ids.")]


@app.command("cancel")
def cancel_command(
    *,
    ids: Ids,
    db_path: DbPath = None,
    url: Url = None,
    actor: Actor = None,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Cancel proposed, validated or executing proposals, and print the number.

    A worker that executes one notices at its next heartbeat. Proposals that can't be cancelled are reported,
    and the exit status is 1.
    """
    place = choose(db_path, url)
    place.require_existing()
    cancelled = 0
    with reported(place), place.opened(who(actor)) as (run, db):
        try:
            for each in ids:
                try:
                    run(db.update_proposal_status(each, ActionStatus.CANCELLED, reason=reason))
                except (LookupError, ValueError) as error:
                    complain(f"{place.name}: {error}")
                else:
                    cancelled += 1
        finally:
            _print_cancelled(cancelled, as_json)
    if cancelled < len(ids):
        raise typer.Exit(1)


@app.command("stop")
def stop_command(
    *,
    db_path: DbPath = None,
    url: Url = None,
    actor: Actor = None,
    reason: Reason = None,
    yes: Annotated[bool, typer.Option("--yes", help="Cancel them without a question.")] = False,
    as_json: AsJson = False,
) -> None:
    """Cancel all proposals that have not started, at once, and print the number.

    It asks first. Agents and workers go on: what keeps them from it is `operator-core actions halt`.
    Scheduled retries of failed proposals are cancelled too. Running executions continue: cancel each of them by
    its proposal's id.
    """
    place = choose(db_path, url)
    place.require_existing()
    if not yes and not confirmed(
        f"Cancel everything in {place.name} that has not started?", "--yes cancels it"
    ):
        print_lines([[(" nothing was cancelled", "")]])
        raise typer.Exit(1)
    with reported(place), place.opened(who(actor)) as (run, db):
        stopped = run(db.cancel_all_pending(reason=reason))
        _print_cancelled(stopped, as_json)
        if as_json:
            return
        try:
            executing = run(db.count_proposals())[ActionStatus.EXECUTING]
        except ActionError as error:
            # The cancellation is done; only the number of running executions is missing.
            complain(f"{place.name}: {error}", mark="warning:")
            return
    hint = " agents can go on; to keep them from it: operator-core actions halt"
    print_lines([[(hint, "dim")]])
    if executing:
        goes_on = (
            f" {_counted(executing)} being executed: operator-core actions list --status executing"
        )
        print_lines([[(goes_on, "bold red")]])


def _print_cancelled(number: int, as_json: bool) -> None:
    if as_json:
        print_json({"cancelled": number})
    else:
        print_lines([[(f" {_counted(number)} cancelled", "")]])


def _counted(number: int) -> str:
    return f"{number:,} proposal{'' if number == 1 else 's'}"
