"""``operator-core worker run``."""

import importlib
import logging
import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, cast

import typer

from operator_core.cli.formatting import one_line
from operator_core.cli.options import DbPath, Url, choose, reported
from operator_core.cli.times import to_span
from operator_core.db.verbs.executions import LEASE
from operator_core.worker import Handler, run_worker

__all__ = ["app"]

app = typer.Typer(help="Workers, which execute proposals: run.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `run` a command of a group, though it is the only one."""


@app.command("run")
def run_command(
    *,
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:HANDLERS",
            help="A module and, in it, a dict of handlers by the name of the action.",
        ),
    ],
    db_path: DbPath = None,
    url: Url = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="The worker's name in the history; the default is the machine and the process.",
            show_default=False,
        ),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, max=1000, help="How many executions run at a time.")
    ] = 1,
    lease: Annotated[
        timedelta | None,
        typer.Option(parser=to_span, metavar="TIME", help="The length of a lease.  [default: 5m]"),
    ] = None,
) -> None:
    """Run a worker: it claims what its handlers can do and executes it, until SIGTERM or Ctrl-C.

    It then claims nothing more, and ends after what is running. Modules are found in the current folder too. The log
    goes to stderr.
    """
    handlers = _handlers(target)
    place = choose(db_path, url)
    place.require_existing()
    # The zone is named.
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S %Z",
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    names = ", ".join(sorted(map(one_line, handlers)))
    with reported(place), place.opened() as (run, db):
        typer.echo(f"{one_line(place.name)}: waiting for {names}", err=True)
        count = run(
            run_worker(
                db,
                handlers,
                worker=name,
                concurrency=concurrency,
                lease=LEASE if lease is None else lease,
            )
        )
    typer.echo(f"{count:,} execution{'' if count == 1 else 's'}", err=True)


def _handlers(target: str) -> Mapping[str, Handler]:
    module, colon, attribute = target.partition(":")
    if not (module and colon and attribute) or module.startswith("."):
        raise typer.BadParameter("must be MODULE:HANDLERS", param_hint="MODULE:HANDLERS")
    # As for python -m: an installed script has its own folder there.
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        # One that the module itself lacks is its own bug, with a traceback.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise typer.BadParameter(f"there is no module {module}", param_hint="MODULE") from None
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, Mapping) or not found:
        problem = f"{attribute} of {module} must be a dict of handlers by the name of the action"
        raise typer.BadParameter(problem, param_hint="HANDLERS")
    handlers = cast("Mapping[Any, Any]", found)
    for key, handler in handlers.items():
        if not isinstance(key, str) or not callable(handler):
            problem = f"{attribute} of {module} has {key!r}, which is no name with a function"
            raise typer.BadParameter(problem, param_hint="HANDLERS")
    return cast("Mapping[str, Handler]", handlers)
