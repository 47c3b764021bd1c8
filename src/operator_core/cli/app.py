"""The program: its groups of commands, ``--version``, and the streams that it writes to."""

import sys
from typing import Annotated

import typer

from operator_core import __version__
from operator_core.cli import actions, db, stop_command, watch, work_commands
from operator_core.cli.output import shield_streams, unwritten

__all__ = ["app", "run"]

app = typer.Typer(
    name="operator-core",
    help="The action ledger: what an agent proposed, what became of it, and the database it is in.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    # A bug shows as Python's plain traceback: a pretty one would print variables, and with them
    # the parameters of proposals.
    pretty_exceptions_enable=False,
)
actions.app.add_typer(work_commands.app)
actions.app.add_typer(stop_command.app)
actions.app.add_typer(watch.app)
app.add_typer(actions.app, name="actions")
app.add_typer(db.app, name="db")


def _print_version(wanted: bool) -> None:
    if wanted:
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
    """Runs the program on the arguments of this process."""
    shield_streams()
    try:
        app()
    except SystemExit as end:
        if why := unwritten():
            typer.echo(f"error: standard output: {why}", err=True)
            sys.exit(end.code or 1)
        raise
