"""``operator-core rules load``: makes the rules of a ledger those of a file."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from operator_core.actions.errors import InvalidValue
from operator_core.actions.types import StoredRule
from operator_core.cli.formatting import one_line, plain
from operator_core.cli.options import (
    AsJson,
    By,
    DbPath,
    Url,
    choose,
    confirmed,
    exit_over,
    fail,
    reported,
    who,
)
from operator_core.cli.output import print_json, print_lines
from operator_core.cli.overview import OverviewDB
from operator_core.cli.rule_commands import rule_spans
from operator_core.cli.rule_files import Changes, changed_fields, changes, read_rules
from operator_core.cli.table import Line

__all__ = ["app"]

app = typer.Typer()


@app.command("load")
def load_command(
    *,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A JSON or TOML file with a list named rules."),
    ],
    db_path: DbPath = None,
    url: Url = None,
    reason: Annotated[
        str | None,
        typer.Option(
            "--reason",
            metavar="TEXT",
            help="The reason in the history; the default names the file.",
            show_default=False,
        ),
    ] = None,
    by: By = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the difference, and change nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make the rules those of a file: it shows the difference, asks, and applies it in one transaction.

    The file is a list named rules, of objects (in TOML: tables) with the fields of a rule. Rules that are not in it are
    revoked. One of the same name with other content is revoked, and added as the file says. Loading a file again
    changes nothing.
    """
    if as_json and not (yes or dry_run):
        raise typer.BadParameter("--json needs --yes or --dry-run, since it asks no person")
    try:
        wanted = read_rules(file)
    except OSError as error:
        problem = plain(f"can't be read: {file} ({error.strerror})")
        raise typer.BadParameter(problem, param_hint="FILE") from None
    except InvalidValue as error:
        raise typer.BadParameter(plain(f"{file}: {error}"), param_hint="FILE") from None
    place = choose(db_path, url)
    place.require_existing()
    decider = who(by)
    why = f"loaded from {file.name}" if reason is None else reason
    with reported(place), place.opened() as (run, db):
        now = run(db.now())
        active = run(db.rules())
        exit_over(active.corrupt)
        found = changes(wanted, active, now)
        if as_json:
            for rule in found.add:
                print_json({"change": "add", "rule": rule})
            for rule in found.revoke:
                print_json({"change": "revoke", "rule": rule})
        else:
            print_lines(_changes_lines(found))
        if dry_run or not (found.add or found.revoke):
            return
        if not yes and not confirmed("Apply this?", "--yes applies it"):
            print_lines([[(" nothing was changed", "")]])
            raise typer.Exit(1)
        if not run(_apply(db, found, active, by=decider, reason=why)):
            fail(f"{place.name}: the rules have changed since they were shown; nothing was done")
    if not as_json:
        counts = f"{len(found.add)} added, {len(found.revoke)} revoked"
        print_lines([[(f" {counts}, by {one_line(decider)}", "")]])


def _changes_lines(found: Changes) -> Iterator[Line]:
    names = {rule.name: rule for rule in found.add}
    for rule in found.revoke:
        yield [(" - ", "red"), (f"rule {rule.id} ", "red"), *rule_spans(rule)]
        if (new := names.get(rule.name)) is not None:
            yield [(f"   another {', '.join(changed_fields(rule, new))}", "dim")]
    for rule in found.add:
        yield [(" + ", "green"), *rule_spans(rule)]
    for rule in found.over:
        yield [(f" left out, its time is over: {one_line(rule.name)}", "yellow")]
    if not found.add and not found.revoke:
        yield [(f" nothing to change: {len(found.same)} the same", "")]
    elif found.same:
        yield [(f" {len(found.same)} the same", "dim")]


async def _apply(
    db: OverviewDB, found: Changes, shown: Iterable[StoredRule], *, by: str, reason: str
) -> bool:
    """Applies the changes in one transaction; returns False if the rules are no longer those that were shown."""
    async with db.transaction() as ledger:
        if {rule.id for rule in await ledger.rules()} != {rule.id for rule in shown}:
            return False
        for rule in found.add:
            await ledger.add_rule(rule, by=by, reason=reason)
        for rule in found.revoke:
            await ledger.revoke_rule(rule.id, by=by, reason=reason)
    return True
