"""``operator-core actions unresolved`` and ``resolve``: executions whose outcome is unknown, and what became of them."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Final

import typer

from operator_core.actions.errors import CorruptRow
from operator_core.actions.types import ActionStatus, StoredProposal, StoredRecord
from operator_core.cli.formatting import one_line, when
from operator_core.cli.options import (
    Actor,
    AsJson,
    DbPath,
    Run,
    Url,
    choose,
    complain,
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


@app.command("unresolved")
def unresolved_command(
    *,
    db_path: DbPath = None,
    url: Url = None,
    after: Annotated[int | None, typer.Option(min=1, help="Only records with a higher id.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The largest number of records.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the executions whose outcome is unknown and that nobody has resolved, oldest first."""
    place = choose(db_path, url)
    place.require_existing()
    with reported(place), place.opened() as (run, db):
        records = run(db.unresolved(after=after, limit=limit))
        shown: Sequence[StoredRecord] = () if as_json else records
        proposals = {each.proposal_id: _readable(run, db, each.proposal_id) for each in shown}
    if as_json:
        for record in records:
            print_json(record)
    elif records:
        print_lines(_table(records, proposals))
        if len(records) == limit:
            print_lines([[(f" later ones: --after {records[-1].id}", "dim")]])
        hint = " look at each, then: operator-core actions resolve RECORD --done|--not-done --evidence TEXT"
        print_lines([[(hint, "dim")]])
    elif not records.corrupt:
        print_lines([[(" every outcome is known", "")]])
    for error in records.corrupt:
        complain(str(error))
    if records.corrupt:
        raise typer.Exit(1)


def _readable(run: Run, db: OverviewDB, proposal_id: int) -> StoredProposal | None:
    try:
        return run(db.get_proposal(proposal_id))
    except CorruptRow as error:
        complain(str(error))
        return None


_COLUMNS: Final = (
    Column("record", right=True),
    Column("proposal", right=True),
    Column("action", most=40),
    Column("worker", most=40),
    Column("ended"),
    Column("now"),
)


def _table(
    records: Sequence[StoredRecord], proposals: dict[int, StoredProposal | None]
) -> Iterator[Line]:
    rows: list[Sequence[Line]] = []
    for record in records:
        proposal = proposals[record.proposal_id]
        ended = record.completed_at
        rows.append(
            (
                [(str(record.id), "")],
                [(str(record.proposal_id), "")],
                [("" if proposal is None else one_line(proposal.action_name), "")],
                [(one_line(record.worker or ""), "")],
                [("" if ended is None else when(ended), "")],
                [] if proposal is None else list(status_line(proposal.status)),
            )
        )
    width = terminal_width()
    return framed(laid_out(_COLUMNS, rows, None if width is None else width - 2))


@app.command("resolve")
def resolve_command(
    *,
    record_id: Annotated[
        int, typer.Argument(min=1, metavar="RECORD_ID", help="The record's id: see unresolved.")
    ],
    done: Annotated[
        bool,
        typer.Option("--done/--not-done", help="Whether the action was done.", show_default=False),
    ],
    evidence: Annotated[
        str, typer.Option(metavar="TEXT", help="How you know.", show_default=False)
    ],
    db_path: DbPath = None,
    url: Url = None,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Record what became of an execution whose outcome is unknown.

    If it was done and was the proposal's last execution, a failed proposal is completed. If it was not done, the
    proposal stays failed, and it is safe to run it again.
    """
    place = choose(db_path, url)
    place.require_existing()
    by = who(actor)
    with reported(place), place.opened(by) as (run, db):
        found = run(db.resolve_outcome(record_id, by=by, succeeded=done, evidence=evidence))
        proposal = _readable(run, db, found.proposal_id)
    if as_json:
        print_json(found)
        return
    outcome = "was done" if found.succeeded else "was not done"
    line: list[Span] = [(f" execution {record_id} {outcome}, by {one_line(by)}", "")]
    if proposal is not None:
        line += [(f"; proposal {proposal.id} is ", ""), *status_line(proposal.status)]
    print_lines([line])
    if proposal is None:
        return
    if not done and proposal.status is ActionStatus.FAILED:
        hint = f" to run it again: operator-core actions retry {proposal.id}"
        print_lines([[(hint, "dim")]])
    if done and proposal.status is ActionStatus.VALIDATED:
        hint = f" it will run again, unless: operator-core actions cancel {proposal.id}"
        print_lines([[(hint, "dim")]])
