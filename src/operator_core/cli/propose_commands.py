"""``operator-core actions propose`` and ``validate``."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from operator_core.actions.errors import InvalidValue
from operator_core.actions.tool_calls import parse_object
from operator_core.actions.types import (
    ActionStatus,
    ActionType,
    EndCode,
    ProposalRequest,
    RequesterType,
)
from operator_core.cli.approval_views import missing
from operator_core.cli.options import (
    Actor,
    AsJson,
    DbPath,
    Reason,
    Url,
    Why,
    choose,
    complain,
    reported,
    who,
)
from operator_core.cli.output import print_json, print_lines
from operator_core.cli.status_lines import status_line
from operator_core.cli.times import to_later

__all__ = ["app", "to_object"]

app = typer.Typer()


def to_object(text: str, option: str) -> dict[str, Any]:
    """Parses a JSON object, or the file that ``@FILE`` names."""
    try:
        if text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        return parse_object(text, "")
    except (InvalidValue, OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


@app.command("propose")
def propose_command(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the action.")],
    parameters: Annotated[
        str,
        typer.Option(
            "--parameters", metavar="JSON", help="The arguments: a JSON object, or @FILE."
        ),
    ] = "{}",
    reason: Why,
    db_path: DbPath = None,
    url: Url = None,
    actor: Actor = None,
    action_type: Annotated[
        ActionType, typer.Option("--type", help="The kind of component that performs it.")
    ] = ActionType.SUBJECT,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="KEY", help="With the same key, nothing is written twice."),
    ] = None,
    priority: Annotated[int, typer.Option(help="A higher one is claimed earlier.")] = 0,
    not_before: Annotated[
        datetime | None,
        typer.Option(parser=to_later, metavar="TIME", help="It does not start before this time."),
    ] = None,
    expires: Annotated[
        datetime | None,
        typer.Option(
            parser=to_later, metavar="TIME", help="It is cancelled if it has not started by then."
        ),
    ] = None,
    max_retries: Annotated[
        int, typer.Option(min=0, help="How often it may be retried without asking.")
    ] = 0,
    depends_on: Annotated[
        list[int] | None,
        typer.Option(min=1, metavar="ID", help="It starts after this one; can be repeated."),
    ] = None,
    exclusive_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="What it needs for itself alone.")
    ] = None,
    ticket_id: Annotated[
        int | None, typer.Option("--ticket", min=1, metavar="ID", help="The ticket it is for.")
    ] = None,
    requester_id: Annotated[
        str | None, typer.Option("--requester", metavar="ID", help="For whom it is proposed.")
    ] = None,
    requester_type: Annotated[
        RequesterType | None, typer.Option(help="What the requester is.")
    ] = None,
    agent_id: Annotated[
        str | None, typer.Option("--agent", metavar="ID", help="The agent that acts.")
    ] = None,
    run_id: Annotated[
        str | None, typer.Option("--run", metavar="ID", help="The run that it is part of.")
    ] = None,
    call_id: Annotated[
        str | None, typer.Option("--call", metavar="ID", help="The id of the tool call.")
    ] = None,
    parent_id: Annotated[
        int | None,
        typer.Option("--parent", min=1, metavar="ID", help="In whose execution it is proposed."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Propose an action, and print its proposal. It runs only after it is validated and approved as the rules ask."""
    arguments = to_object(parameters, "--parameters")
    place = choose(db_path, url)
    place.require_existing()
    by = who(actor)
    with reported(place), place.opened(by) as (run, db):
        request = ProposalRequest(
            action_name=name,
            action_type=action_type,
            parameters=arguments,
            reason=reason,
            priority=priority,
            scheduled_at=not_before,
            expires_at=expires,
            max_retries=max_retries,
            depends_on=tuple(depends_on or ()),
            exclusive_key=exclusive_key,
            ticket_id=ticket_id,
            requester_id=requester_id,
            requester_type=requester_type,
            agent_id=agent_id,
            run_id=run_id,
            call_id=call_id,
            parent_id=parent_id,
        )
        proposal = run(db.create_proposal(request, proposed_by=by, idempotency_key=key))
        approvals = run(db.approvals(proposal.id))
    is_denied = proposal.end_code is EndCode.DENIED
    if as_json:
        print_json(proposal)
    else:
        again = " was proposed before and is " if proposal.replayed else " is "
        line = [(f" proposal {proposal.id}{again}", ""), *status_line(proposal.status)]
        waits = is_denied or proposal.status is ActionStatus.PROPOSED
        if waits and (lacking := missing(approvals.requirements)):
            line.append((f", {'' if is_denied else 'missing '}{lacking}", ""))
        print_lines([line])
    if is_denied:
        raise typer.Exit(1)


@app.command("validate")
def validate_command(
    *,
    ids: Annotated[list[int], typer.Argument(min=1, metavar="ID...", help="The proposals' ids.")],
    db_path: DbPath = None,
    url: Url = None,
    actor: Actor = None,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Move proposals to validated, so that a worker may start them.

    Those that the ledger refuses are reported, and the exit status is 1.
    """
    place = choose(db_path, url)
    place.require_existing()
    refused = 0
    with reported(place), place.opened(who(actor)) as (run, db):
        for each in ids:
            try:
                run(db.update_proposal_status(each, ActionStatus.VALIDATED, reason=reason))
            except (LookupError, ValueError) as error:
                complain(f"{place.name}: {error}")
                refused += 1
                continue
            if as_json:
                print_json({"id": each, "status": ActionStatus.VALIDATED})
            else:
                print_lines([[(f" proposal {each} is ", ""), *status_line(ActionStatus.VALIDATED)]])
    if refused:
        raise typer.Exit(1)
