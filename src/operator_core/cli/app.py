"""The program: its groups of commands, ``--version`` and its output streams."""

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from operator_core import __version__
from operator_core.cli import (
    approval_commands,
    db,
    gateway_command,
    grant_commands,
    halt_commands,
    limit_commands,
    list_commands,
    outcome_commands,
    propose_commands,
    replay_command,
    rule_commands,
    rule_load_command,
    show_commands,
    stop_command,
    watch,
    work_commands,
    worker_commands,
    workflow_commands,
)
from operator_core.cli.output import print_json, report_as_json, shield_streams, unwritten

__all__ = ["app", "run"]


class _Program(TyperGroup):
    """Reports a wrong command line as JSON too, if it has --json."""

    def main(self, args: Any = None, *rest: Any, **options: Any) -> Any:
        words = sys.argv[1:] if args is None else args
        words = words[: words.index("--")] if "--" in words else words
        if "--json" not in words or not options.get("standalone_mode", True):
            return super().main(args, *rest, **options)
        try:
            return sys.exit(super().main(args, *rest, **{**options, "standalone_mode": False}))
        except typer.Abort:
            print_json({"error": "aborted"}, error=True)
            return sys.exit(1)
        except Exception as error:
            # The base class of these errors has no public name.
            tell: Callable[[], str] | None = getattr(error, "format_message", None)
            if tell is None:
                raise
            print_json({"error": tell()}, error=True)
            return sys.exit(2)


app = typer.Typer(
    name="operator-core",
    cls=_Program,
    help="Work with an action ledger: its proposals, their executions, the rules for them, and its database.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    # A bug shows Python's plain traceback: a pretty one prints variables, which may hold parameters of proposals.
    pretty_exceptions_enable=False,
)
actions = typer.Typer(
    help="Work with proposals: propose, list, show, approve, execute, cancel, halt, watch.",
    no_args_is_help=True,
)
for group in (
    propose_commands,
    list_commands,
    show_commands,
    watch,
    halt_commands,
    stop_command,
    approval_commands,
    work_commands,
    outcome_commands,
    replay_command,
):
    actions.add_typer(group.app)
app.add_typer(actions, name="actions")
rule_commands.app.add_typer(rule_load_command.app)
app.add_typer(rule_commands.app, name="rules")
app.add_typer(grant_commands.app, name="grants")
app.add_typer(limit_commands.app, name="limits")
app.add_typer(worker_commands.app, name="worker")
app.add_typer(workflow_commands.app, name="workflows")
app.add_typer(db.app, name="db")
app.add_typer(gateway_command.app)


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
    report_as_json(False)


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
