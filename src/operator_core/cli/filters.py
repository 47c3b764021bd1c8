"""The options that select proposals; `list`, `count` and `export` take the same."""

import inspect
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Final, TypeVar

import typer

from operator_core.actions.types import ActionStatus, EndCode
from operator_core.cli.times import to_moment

__all__ = ["filtered"]

F = TypeVar("F", bound=Callable[..., None])


def _option(name: str, metavar: str, what: str, **more: Any) -> Any:
    return typer.Option(name, metavar=metavar, help=f"Only proposals {what}.", **more)


_FILTERS: Final[dict[str, Any]] = {
    "status": Annotated[
        list[ActionStatus] | None,
        typer.Option("--status", help="Only proposals with this status; can be repeated."),
    ],
    "action_name": Annotated[str | None, _option("--action", "NAME", "with this action name")],
    "search": Annotated[
        str | None,
        _option("--search", "TEXT", "whose parameters, reason or last error contain this text"),
    ],
    "since": Annotated[
        datetime | None,
        _option("--since", "TIME", "created at this time or later", parser=to_moment),
    ],
    "until": Annotated[
        datetime | None, _option("--until", "TIME", "created before this time", parser=to_moment)
    ],
    "proposed_by": Annotated[str | None, _option("--proposed-by", "NAME", "by this proposer")],
    "requester_id": Annotated[str | None, _option("--requester", "ID", "for this requester")],
    "agent_id": Annotated[str | None, _option("--agent", "ID", "of this agent")],
    "run_id": Annotated[str | None, _option("--run", "ID", "of this run")],
    "call_id": Annotated[str | None, _option("--call", "ID", "of the tool call with this id")],
    "parent_id": Annotated[
        int | None,
        _option("--parent", "ID", "that were proposed in this one's execution", min=1),
    ],
    "ticket_id": Annotated[int | None, _option("--ticket", "ID", "for this ticket", min=1)],
    "end_code": Annotated[
        EndCode | None, typer.Option("--end-code", help="Only proposals that have ended so.")
    ],
    "actor": Annotated[
        str | None, _option("--actor", "NAME", "that this actor moved last", show_default=False)
    ],
    "worker": Annotated[
        str | None, _option("--worker", "NAME", "that this worker has executed, or executes")
    ],
}

_CALLED: Final = {"since": "created_after", "until": "created_before"}
"""The options that the facade calls otherwise."""


def filtered(command: F) -> F:
    """Gives a command the options of all filters; it gets those that are used as its keyword arguments."""

    def with_filters(**options: Any) -> None:
        chosen = {name: options.pop(name) for name in _FILTERS}
        used = {
            _CALLED.get(name, name): value
            for name, value in chosen.items()
            if value is not None and value != []
        }
        command(**options, **used)

    signature = inspect.signature(command, eval_str=True)
    own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in _FILTERS.items()
    ]
    with_filters.__doc__ = command.__doc__
    with_filters.__name__ = command.__name__
    # Typer makes the options of the signature.
    with_filters.__signature__ = signature.replace(parameters=[*extra, *own])  # type: ignore[attr-defined]
    with_filters.__annotations__ = {each.name: each.annotation for each in [*extra, *own]}
    return with_filters  # type: ignore[return-value]
