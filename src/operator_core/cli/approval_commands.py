"""``operator-core actions approve``, ``reject``, ``withdraw``, ``inbox`` and ``amend``, for people who decide."""

import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from operator_core.actions.errors import InvalidValue, NotFound
from operator_core.actions.statuses import RequesterType
from operator_core.actions.tool_calls import parse_object
from operator_core.actions.types import ApprovalStatus, PendingApproval, StoredProposal
from operator_core.cli.approval_views import counted_by, missing, pending_json
from operator_core.cli.formatting import compact, json_text, one_line, plain, span, when
from operator_core.cli.options import (
    AsJson,
    By,
    ByType,
    DbPath,
    ProposalId,
    Run,
    Url,
    Why,
    choose,
    confirmed,
    exit_over,
    reported,
    who,
)
from operator_core.cli.output import print_json, print_lines, terminal_width
from operator_core.cli.overview import OverviewDB
from operator_core.cli.pages import print_page, question
from operator_core.cli.status_lines import status_line
from operator_core.cli.table import Column, Line, Span, laid_out
from operator_core.cli.views import framed
from operator_core.db.sql.rows import Listing

__all__ = ["app"]

app = typer.Typer()

Roles = Annotated[
    list[str] | None,
    typer.Option(
        "--role",
        metavar="ROLE",
        help="A role in which you decide; can be repeated.",
        show_default=False,
    ),
]


@app.command("approve")
def approve_command(
    *,
    id: ProposalId,
    db_path: DbPath = None,
    url: Url = None,
    by: By = None,
    by_type: ByType = RequesterType.USER,
    roles: Roles = None,
    digest: Annotated[
        str | None,
        typer.Option(
            metavar="DIGEST",
            help="The digest of what you have seen: approve without a question.",
            show_default=False,
        ),
    ] = None,
    comment: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A comment in the history.")
    ] = None,
    requirement: Annotated[
        int | None,
        typer.Option(min=1, metavar="ID", help="Approve for this requirement only."),
    ] = None,
    validate: Annotated[
        bool,
        typer.Option(
            "--validate/--no-validate",
            help="Whether the last approval moves the proposal to validated.",
        ),
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Approve a proposal, exactly as it is shown.

    It shows the parameters, who asks, what is required and the digest of all that, and asks. Nothing else can be run
    with your approval: it names the digest. With --digest it does not ask; other content than that is refused.
    """
    if as_json and digest is None:
        raise typer.BadParameter("--json needs --digest, since it shows nothing to a person")
    place = choose(db_path, url)
    place.require_existing()
    decider = who(by)
    with reported(place), place.opened() as (run, db):
        if not as_json:
            proposal = _existing(run, db, id)
            print_page(question(proposal, run(db.approvals(id))))
            if digest is None:
                asked = "Approve exactly this?"
                if not confirmed(asked, f"--digest {proposal.digest} approves what is shown"):
                    print_lines([[(" not approved", "")]])
                    raise typer.Exit(1)
                digest = proposal.digest
        decision = run(
            db.approve_proposal(
                id,
                by=decider,
                by_type=by_type,
                digest=digest,
                roles=roles or (),
                comment=comment,
                requirement_id=requirement,
                validate=validate,
            )
        )
        if as_json:
            print_json(decision)
            return
        name, which = one_line(decider), f"(decision {decision.id})"
        what = f" approved by {name} {which}"
        if decision.repeated:
            what = f" {name} has approved it already {which}: nothing was written"
        print_lines([[(what, "")], _state_line(run, db, id)])


def _existing(run: Run, db: OverviewDB, id_: int) -> StoredProposal:
    proposal = run(db.get_proposal(id_))
    if proposal is None:
        raise NotFound("proposal", id_)
    return proposal


def _state_line(run: Run, db: OverviewDB, id_: int) -> Line:
    """Formats what is still missing, or what became of the proposal."""
    proposal, approvals = _existing(run, db, id_), run(db.approvals(id_))
    if lacking := missing(approvals.requirements):
        return [(f" still missing: {lacking}", "yellow")]
    line: list[Span] = [(f" nothing is missing; proposal {id_} is ", "")]
    line += status_line(proposal.status)
    if proposal.approval is ApprovalStatus.HELD:
        line.append((", held by a halt until it is resumed", "yellow"))
    return line


@app.command("reject")
def reject_command(
    *,
    id: ProposalId,
    db_path: DbPath = None,
    url: Url = None,
    reason: Why,
    by: By = None,
    by_type: ByType = RequesterType.USER,
    roles: Roles = None,
    as_json: AsJson = False,
) -> None:
    """Reject a proposal: it is cancelled for good, or the retry of a failed one is called off."""
    place = choose(db_path, url)
    place.require_existing()
    decider = who(by)
    with reported(place), place.opened() as (run, db):
        decision = run(
            db.reject_proposal(id, by=decider, by_type=by_type, reason=reason, roles=roles or ())
        )
        if as_json:
            print_json(decision)
            return
        what = f" rejected by {one_line(decider)} (decision {decision.id}); proposal {id} is "
        print_lines([[(what, ""), *status_line(_existing(run, db, id).status)]])


@app.command("withdraw")
def withdraw_command(
    *,
    id: ProposalId,
    db_path: DbPath = None,
    url: Url = None,
    reason: Why,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Withdraw your approval of a proposal that has not started."""
    place = choose(db_path, url)
    place.require_existing()
    decider = who(by)
    with reported(place), place.opened() as (run, db):
        decision = run(db.withdraw_approval(id, by=decider, reason=reason))
        if as_json:
            print_json(decision)
            return
        what = f" the approval of {one_line(decider)} is withdrawn (decision {decision.id})"
        print_lines([[(what, "")], _state_line(run, db, id)])


@app.command("inbox")
def inbox_command(
    *,
    db_path: DbPath = None,
    url: Url = None,
    for_: Annotated[
        str | None,
        typer.Option(
            "--for", metavar="NAME", help="Only what this person may approve and has not."
        ),
    ] = None,
    roles: Annotated[
        list[str] | None,
        typer.Option(
            "--role",
            metavar="ROLE",
            help="Only what somebody with this role may approve; can be repeated.",
            show_default=False,
        ),
    ] = None,
    action_name: Annotated[
        str | None, typer.Option("--action", help="Only proposals with this action name.")
    ] = None,
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="ID", help="Only proposals of this agent.")
    ] = None,
    run_id: Annotated[
        str | None, typer.Option("--run", metavar="ID", help="Only proposals of this run.")
    ] = None,
    approved: Annotated[
        bool,
        typer.Option("--approved", help="What people have approved and no worker has started."),
    ] = False,
    after: Annotated[
        int | None, typer.Option(min=1, help="Only proposals with a higher id.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=1000, help="The largest number of proposals.")
    ] = 50,
    as_json: AsJson = False,
) -> None:
    """List the proposals that wait for approvals, oldest first, and what is missing of each."""
    filters: dict[str, Any] = {"run_id": run_id, "agent_id": agent, "action_name": action_name}
    if approved and (for_ is not None or roles or any(filters.values())):
        raise typer.BadParameter("--approved can only be used with --after and --limit")
    place = choose(db_path, url)
    place.require_existing()
    with reported(place), place.opened() as (run, db):
        found: Listing[PendingApproval]
        if approved:
            found = run(db.approved_not_started(after=after, limit=limit))
        else:
            found = run(
                db.pending_approvals(for_, roles or None, after=after, limit=limit, **filters)
            )
    if as_json:
        for each in found:
            print_json(pending_json(each))
    elif found:
        print_lines(_inbox_table(found, approved))
        if len(found) == limit:
            print_lines([[(f" later ones: --after {found[-1].proposal.id}", "dim")]])
        if not approved:
            hint = " look at one and decide: operator-core actions approve ID, or reject ID"
            print_lines([[(hint, "dim")]])
    elif not found.corrupt:
        nothing = (
            "nothing approved waits for a worker" if approved else "nothing waits for approval"
        )
        print_lines([[(f" {nothing}", "")]])
    exit_over(found.corrupt)


def _inbox_table(found: Sequence[PendingApproval], approved: bool) -> Iterator[Line]:
    """Yields the table: two lines for each on a terminal, and one that is not cut elsewhere."""
    width = terminal_width()
    last = "approved by" if approved else "missing"
    known = [Column("id", right=True)]
    rest = [Column("for, by", most=24), Column("age", right=True), Column("expires")]
    rows: list[Sequence[Line]] = []
    if width is None:
        columns = [*known, Column("action", most=32), *rest]
        columns.append(Column(f"{last}; parameters, reason", share=1))
    else:
        columns = [*known, Column("action, parameters\nreason", share=2), *rest]
        columns.append(Column(last, share=1))
    for each in found:
        of, until = each.proposal, each.lapses_at
        name, reason = one_line(of.action_name), one_line(of.reason)
        who = [one_line(who) for who in (of.requester_id, of.agent_id or of.proposed_by) if who]
        expires = ("never", "dim") if until is None else (when(until), "")
        states = counted_by(each.requirements) if approved else missing(each.requirements)
        age: Line = [(span(each.age), "")]
        if width is None:
            text = f"{states}; {compact(of.parameters, None)}  {reason}"
            row = ([(name, "")], [(", ".join(who), "")], age, [expires], [(text, "")])
            rows.append(([(str(of.id), "")], *row))
            continue
        call: Line = [(name, "bold"), (f"  {compact(of.parameters)}", "")]
        rows.append(([(str(of.id), "")], call, [(who[0], "")], age, [expires], [(states, "")]))
        rows.append(((), [(reason, "dim")], [(" ".join(who[1:]), "dim")], (), (), ()))
    return framed(laid_out(columns, rows, None if width is None else width - 2))


@app.command("amend")
def amend_command(
    *,
    id: ProposalId,
    parameters: Annotated[
        str,
        typer.Option(
            metavar="JSON",
            help="The new parameters: a JSON object, or @FILE with one.",
            show_default=False,
        ),
    ],
    db_path: DbPath = None,
    url: Url = None,
    reason: Why,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Replace a pending proposal by one with other parameters.

    The old one is cancelled and the new one is subject to the rules as they are now. No approval is carried over.
    """
    given = _parsed(parameters)
    place = choose(db_path, url)
    place.require_existing()
    decider = who(by)
    with reported(place), place.opened() as (run, db):
        old = _existing(run, db, id)
        new = run(db.amend_proposal(id, parameters=given, by=decider, reason=reason))
        if as_json:
            print_json(new)
            return
        print_lines(framed(_difference(old, new)))
        what = f" proposal {new.id} supersedes proposal {id}, by {one_line(decider)}; it is "
        digest: Line = [(" digest ", ""), (new.digest, "bold")]
        print_lines([[(what, ""), *status_line(new.status)], digest])
        if lacking := missing(run(db.approvals(new.id)).requirements):
            print_lines([[(f" missing: {lacking}", "yellow")]])


def _parsed(parameters: str) -> dict[str, Any]:
    try:
        if parameters.startswith("@"):
            text = Path(parameters[1:]).read_text(encoding="utf-8")
        else:
            text = parameters
        return parse_object(text)
    except OSError as error:
        problem = plain(f"can't be read: {parameters[1:]} ({error.strerror})")
    except UnicodeDecodeError:
        problem = plain(f"is not UTF-8: {parameters[1:]}")
    except InvalidValue as error:
        problem = str(error)
    raise typer.BadParameter(problem, param_hint="--parameters")


_STYLES: Final = {"+": "green", "-": "red"}


def _difference(old: StoredProposal, new: StoredProposal) -> Iterator[Line]:
    """Yields the difference of the parameters as JSON: with - the lines that go, with + those that come."""
    before, after = _json_lines(old), _json_lines(new)
    if before == after:
        yield [("the parameters are the same", "")]
        return
    # Without the names of files.
    for line in list(difflib.unified_diff(before, after, lineterm=""))[2:]:
        yield [(line, _STYLES.get(line[0], ""))]


def _json_lines(proposal: StoredProposal) -> list[str]:
    text = json.dumps(proposal.parameters, ensure_ascii=False, indent=2)
    return json_text(text).split("\n")
