"""``operator-core grants``: votes that people give in advance."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from operator_core.actions.statuses import RequesterType
from operator_core.actions.types import Condition, Grant
from operator_core.cli.approval_views import scope
from operator_core.cli.conditions import to_condition
from operator_core.cli.formatting import one_line, when
from operator_core.cli.options import (
    AsJson,
    By,
    ByType,
    DbPath,
    Url,
    Why,
    choose,
    exit_over,
    reported,
    who,
)
from operator_core.cli.output import print_json, print_lines
from operator_core.cli.table import Line
from operator_core.cli.times import to_later, to_span

__all__ = ["app"]

app = typer.Typer(
    help="Work with grants: votes that people give in advance, bounded in time and uses.",
    no_args_is_help=True,
)


@app.command("list")
def list_command(
    *,
    db_path: DbPath = None,
    url: Url = None,
    every: Annotated[
        bool, typer.Option("--all", help="Also those that are revoked or over.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the grants with their uses, oldest first."""
    place = choose(db_path, url)
    place.require_existing()
    with reported(place), place.opened() as (run, db):
        grants = run(db.grants(active=not every))
    if as_json:
        for each in grants:
            print_json(each)
    elif grants:
        print_lines(line for each in grants for line in _grant_lines(each))
    elif not grants.corrupt:
        print_lines([[(" no grants", "")]])
    exit_over(grants.corrupt)


def _grant_lines(grant: Grant) -> Iterator[Line]:
    what = f"{scope(grant.action_name, grant.conditions)}: the vote of "
    yield [
        (f" grant {grant.id} ", "bold"),
        (what, ""),
        (one_line(grant.granted_by), "bold"),
        ("".join(f", {one_line(role)}" for role in grant.roles), ""),
        (f", {grant.uses} of {grant.max_uses:,} used, until {when(grant.valid_until)}", ""),
    ]
    yield [(f"   given at {when(grant.created_at)}: {one_line(grant.reason)}", "dim")]
    if grant.revoked_at is not None:
        revoked = f"   revoked by {one_line(grant.revoked_by or '?')} at {when(grant.revoked_at)}"
        yield [(f"{revoked}: {one_line(grant.revoke_reason or '')}", "red")]


@app.command("add")
def add_command(
    *,
    db_path: DbPath = None,
    url: Url = None,
    reason: Why,
    by: By = None,
    by_type: ByType = RequesterType.USER,
    action_name: Annotated[
        str,
        typer.Option(
            "--action", metavar="PATTERN", help="The actions; * is any text and ? any character."
        ),
    ],
    max_uses: Annotated[
        int, typer.Option(min=1, max=1_000_000, metavar="N", help="On how many proposals at most.")
    ],
    valid_for: Annotated[
        timedelta | None,
        typer.Option(
            parser=to_span,
            metavar="TIME",
            help="For how long: seconds, or 90s, 15m, 1h, 2d.",
            show_default=False,
        ),
    ] = None,
    valid_until: Annotated[
        datetime | None,
        typer.Option(parser=to_later, metavar="TIME", help="Until when.", show_default=False),
    ] = None,
    roles: Annotated[
        list[str] | None,
        typer.Option(
            "--role",
            metavar="ROLE",
            help="A role in which you vote; can be repeated.",
            show_default=False,
        ),
    ] = None,
    conditions: Annotated[
        list[Condition] | None,
        typer.Option(
            "--condition",
            parser=to_condition,
            metavar="CONDITION",
            help="What must hold of the parameters, such as 'amount le 100', or a JSON object; can be repeated.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Give your vote in advance on proposals that are created from now on, for a time that --valid-for or --valid-until says."""
    if (valid_for is None) == (valid_until is None):
        raise typer.BadParameter("needs either --valid-for or --valid-until")
    place = choose(db_path, url)
    place.require_existing()
    with reported(place), place.opened() as (run, db):
        # By the database's clock, which decides.
        until = run(db.now()).astimezone(UTC) + valid_for if valid_for else valid_until
        assert until is not None
        grant = run(
            db.grant(
                by=who(by),
                by_type=by_type,
                action_name=action_name,
                max_uses=max_uses,
                valid_until=until,
                reason=reason,
                roles=roles or (),
                conditions=conditions or (),
            )
        )
    if as_json:
        print_json(grant)
    else:
        print_lines(_grant_lines(grant))


@app.command("revoke")
def revoke_command(
    *,
    grant_id: Annotated[int, typer.Argument(min=1, metavar="GRANT", help="The grant's id.")],
    db_path: DbPath = None,
    url: Url = None,
    reason: Why,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Revoke a grant. The approvals that were given by it stay, and can be withdrawn."""
    place = choose(db_path, url)
    place.require_existing()
    with reported(place), place.opened() as (run, db):
        revoked = run(db.revoke_grant(grant_id, by=who(by), reason=reason))
    if as_json:
        print_json(revoked)
    else:
        print_lines(_grant_lines(revoked))
