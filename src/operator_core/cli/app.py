"""The program: its groups of commands, ``--version`` and its output streams."""

import sys
from typing import Annotated

import typer

from operator_core import __version__
from operator_core.cli import (
    actions,
    approval_commands,
    db,
    grant_commands,
    halt_commands,
    limit_commands,
    outcome_commands,
    rule_commands,
    rule_load_command,
    stop_command,
    watch,
    work_commands,
)
from operator_core.cli.output import shield_streams, unwritten

__all__ = ["app", "run"]

app = typer.Typer(
    name="operator-core",
    help="Work with an action ledger: its proposals, their executions, the rules for them, and its database.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    # A bug shows Python's plain traceback: a pretty one prints variables, which may hold parameters of proposals.
    pretty_exceptions_enable=False,
)
actions.app.add_typer(approval_commands.app)
actions.app.add_typer(work_commands.app)
actions.app.add_typer(outcome_commands.app)
actions.app.add_typer(stop_command.app)
actions.app.add_typer(halt_commands.app)
actions.app.add_typer(watch.app)
app.add_typer(actions.app, name="actions")
rule_commands.app.add_typer(rule_load_command.app)
app.add_typer(rule_commands.app, name="rules")
app.add_typer(grant_commands.app, name="grants")
app.add_typer(limit_commands.app, name="limits")
app.add_typer(db.app, name="db")


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"operator-core {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    pass


def run() -> None:
    """Runs the program with the arguments of this process."""
    shield_streams()
    try:
        app()
    except SystemExit as end:
        if why := unwritten():
            typer.echo(f"error: standard output: {why}", err=True)
            sys.exit(end.code or 1)
        raise
