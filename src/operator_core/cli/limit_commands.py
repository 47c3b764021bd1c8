"""``operator-core limits list``, ``set`` and ``remove``."""

import json
from datetime import timedelta
from typing import Annotated, Any, cast

import typer

from operator_core.actions.errors import InvalidValue
from operator_core.actions.types import Limit, LimitUse
from operator_core.cli.formatting import one_line, span, when
from operator_core.cli.halt_commands import ActionName, By, Why
from operator_core.cli.options import AsJson, DbPath, Url, choose, reported, who
from operator_core.cli.output import print_json, print_lines
from operator_core.cli.table import Line
from operator_core.cli.times import to_span

__all__ = ["app"]

app = typer.Typer(help="Limits of what may start: list, set, remove.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The name of the limit.")]
Agent = Annotated[
    str | None,
    typer.Option(
        "--agent",
        metavar="ID",
        help="Only this agent, and proposals that name no agent.",
        show_default=False,
    ),
]


@app.command("list")
def list_command(
    *,
    db_path: DbPath = None,
    url: Url = None,
    all_: Annotated[bool, typer.Option("--all", help="Also the removed ones.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the open limits, and what is used of each in the window that ends now."""
    place = choose(db_path, url)
    place.require_existing()
    with reported(place), place.opened() as (run, db):
        limits = run(db.limits(active=not all_))
    if as_json:
        for each in limits:
            print_json(_as_json(each))
        return
    print_lines([_line(each.limit, _used(each)) for each in limits])


@app.command("set")
def set_command(
    *,
    name: Name,
    db_path: DbPath = None,
    url: Url = None,
    window: Annotated[
        timedelta,
        typer.Option(
            "--window", parser=to_span, metavar="TIME", help="The length of the window, such as 1h."
        ),
    ],
    starts: Annotated[
        int | None,
        typer.Option("--starts", metavar="N", help="How many may start.", show_default=False),
    ] = None,
    sum_of: Annotated[
        str | None,
        typer.Option(
            "--sum-of",
            metavar="PATH",
            help="The integer in the parameters that is added up: a key, or a JSON list of keys and indices.",
            show_default=False,
        ),
    ] = None,
    max_sum: Annotated[
        int | None,
        typer.Option("--sum", metavar="N", help="The largest sum.", show_default=False),
    ] = None,
    action: ActionName = None,
    agent: Agent = None,
    reason: Why,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Set a limit for every program: so many starts, or so much of a parameter, in any window of this length.

    An open limit of this name is replaced. What has started in the window before counts.
    """
    place = choose(db_path, url)
    place.require_existing()
    with reported(place), place.opened() as (run, db):
        run(
            db.set_limit(
                name,
                action_name=action,
                agent_id=agent,
                window=window.total_seconds(),
                max_starts=starts,
                sum_of=_path(sum_of),
                max_sum=max_sum,
                by=who(by),
                reason=reason,
            )
        )
        limits = [each for each in run(db.limits()) if each.limit.name == name]
    if as_json:
        for each in limits:
            print_json(_as_json(each))
    else:
        print_lines([_line(each.limit, _used(each)) for each in limits])


@app.command("remove")
def remove_command(
    *,
    name: Name,
    db_path: DbPath = None,
    url: Url = None,
    reason: Why,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Remove an open limit. The exit status is 1 if there is none of this name."""
    place = choose(db_path, url)
    place.require_existing()
    with reported(place), place.opened() as (run, db):
        removed = run(db.remove_limit(name, by=who(by), reason=reason))
    if as_json:
        print_json(removed)
    else:
        print_lines([_line(removed, f"removed by {one_line(who(by))}")])


def _path(text: str | None) -> list[str | int] | None:
    if text is None or not text.startswith("["):
        return None if text is None else [text]
    try:
        return cast("list[str | int]", json.loads(text))
    except ValueError:
        raise InvalidValue("sum_of", "must be a key, or a JSON list of keys and indices") from None


def _used(use: LimitUse) -> str:
    limit = use.limit
    if limit.removed_at is not None:
        return f"removed at {when(limit.removed_at)} by {one_line(limit.removed_by or '')}"
    parts: list[str] = []
    if limit.max_starts is not None:
        parts.append(f"{use.starts:,} of {limit.max_starts:,} starts used")
    if limit.max_sum is not None:
        parts.append(f"{use.spent:,} of {limit.max_sum:,} used")
    if use.free_at is not None:
        parts.append(f"free at {when(use.free_at)}")
    return ", ".join(parts)


def _line(limit: Limit, what: str) -> Line:
    scope = [
        f"{name} {one_line(value)}"
        for name, value in (("action", limit.action_name), ("agent", limit.agent_id))
        if value is not None
    ]
    if limit.sum_of is not None:
        scope.append(f"sum of {one_line(json.dumps(list(limit.sum_of)))}")
    return [
        (f" {one_line(limit.name)}", "bold"),
        (f" in {span(timedelta(seconds=limit.window))}", ""),
        (f": {', '.join(scope) or 'everything'}, {what}", ""),
        (f", by {one_line(limit.set_by)}: {one_line(limit.reason)}", "dim"),
    ]


def _as_json(use: LimitUse) -> dict[str, Any]:
    free = None if use.free_at is None else use.free_at.isoformat()
    return {
        **use.limit.model_dump(mode="json"),
        "used_starts": use.starts,
        "used_sum": use.spent,
        "free_at": free,
    }
