"""``operator-core workflows create``, ``show`` and ``cancel``."""

from collections.abc import Mapping
from typing import Annotated, Any, cast

import typer

from operator_core.actions.errors import InvalidValue, NotFound
from operator_core.actions.types import (
    ProposalRequest,
    StoredProposal,
    Workflow,
    WorkflowProposal,
    WorkflowStatus,
)
from operator_core.cli import views
from operator_core.cli.formatting import one_line, when
from operator_core.cli.options import (
    Actor,
    AsJson,
    DbPath,
    Reason,
    Url,
    choose,
    exit_over,
    reported,
    who,
)
from operator_core.cli.output import print_json, print_lines, terminal_width
from operator_core.cli.propose_commands import to_object
from operator_core.cli.status_lines import with_records

__all__ = ["app"]

app = typer.Typer(
    help="Workflows, proposals that depend on each other: create, show, cancel.",
    no_args_is_help=True,
)

WorkflowId = Annotated[int, typer.Argument(min=1, metavar="ID", help="The workflow's id.")]


@app.command("create")
def create_command(
    *,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file with a JSON object.")],
    db_path: DbPath = None,
    url: Url = None,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Create a workflow from a JSON object with name, description, ticket_id and proposals.

    A proposal is an object with the fields of a ProposalRequest, such as action_name, parameters and reason. Its field
    after is a list of the positions, from 0, of those that it depends on.
    """
    spec = to_object(f"@{file}", "FILE")
    place = choose(db_path, url)
    place.require_existing()
    with reported(place), place.opened(who(actor)) as (run, db):
        workflow, proposals, after = _parsed(spec)
        created, stored = run(db.create_workflow(workflow, proposals, after=after))
    if as_json:
        print_json({"workflow": created, "proposals": stored})
        return
    ids = " ".join(str(each.id) for each in stored)
    print_lines([[(f" workflow {created.id} has the proposals {ids}", "")]])


def _parsed(
    spec: dict[str, Any],
) -> tuple[WorkflowProposal, list[ProposalRequest], dict[int, list[int]]]:
    actions = spec.pop("proposals", None)
    if not isinstance(actions, list):
        raise InvalidValue("proposals", "must be a list of objects")
    after: dict[int, list[int]] = {}
    proposals: list[ProposalRequest] = []
    for position, action in enumerate(cast("list[object]", actions)):
        at = f"proposals[{position}]"
        if not isinstance(action, Mapping):
            raise InvalidValue(at, "must be an object")
        fields = dict(cast("Mapping[str, Any]", action))
        if (before := fields.pop("after", None)) is not None:
            after[position] = before
        try:
            proposals.append(ProposalRequest.model_validate(fields))
        except InvalidValue as error:
            raise InvalidValue(f"{at}.{error.path}", error.problem) from None
    return WorkflowProposal.model_validate(spec), proposals, after


@app.command("show")
def show_command(
    *, id: WorkflowId, db_path: DbPath = None, url: Url = None, as_json: AsJson = False
) -> None:
    """Show a workflow, its status and its proposals."""
    place = choose(db_path, url)
    place.require_existing()
    with reported(place), place.opened() as (run, db):
        workflow = run(db.get_workflow(id))
        if workflow is None:
            raise NotFound("workflow", id)
        status = run(db.workflow_status(id))
        proposals = run(db.list_workflow_actions(id))
        records = run(db.last_records([] if as_json else with_records(proposals)))
        now = run(db.now())
    if as_json:
        print_json(
            {"workflow": workflow, "status": status, "proposals": list[StoredProposal](proposals)}
        )
    else:
        print_lines([_title(workflow, status)])
        if workflow.description is not None:
            print_lines([[(f" {one_line(workflow.description)}", "dim")]])
        print_lines(views.proposal_table(proposals, records, now, terminal_width()))
    exit_over(proposals.corrupt)


def _title(workflow: Workflow, status: WorkflowStatus) -> list[tuple[str, str]]:
    created = f", created {when(workflow.created_at)}"
    return [
        (f" workflow {workflow.id}", "bold"),
        (f"  {one_line(workflow.name)}  {status.value}", ""),
        (created, "dim"),
    ]


@app.command("cancel")
def cancel_command(
    *,
    id: WorkflowId,
    db_path: DbPath = None,
    url: Url = None,
    actor: Actor = None,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Cancel what has not started of a workflow, and print the number."""
    place = choose(db_path, url)
    place.require_existing()
    with reported(place), place.opened(who(actor)) as (run, db):
        cancelled = run(db.cancel_workflow(id, reason=reason))
    if as_json:
        print_json({"cancelled": cancelled})
        return
    print_lines([[(f" {cancelled:,} proposal{'' if cancelled == 1 else 's'} cancelled", "")]])
