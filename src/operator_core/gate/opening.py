"""The arguments of a gate, checked."""

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, Literal, TypeAlias

from operator_core.actions.errors import InvalidValue
from operator_core.actions.types import RequesterType
from operator_core.db.verbs import arguments
from operator_core.db.verbs.arguments import check
from operator_core.gate.core import Settings
from operator_core.gate.tools import Tools

__all__ = ["Execute", "Repeat", "ToolsOrFunctions", "settings", "tools_of"]

Execute: TypeAlias = Literal["here", "worker"]
Repeat: TypeAlias = Literal["refuse", "allow"]
ToolsOrFunctions: TypeAlias = Tools | Iterable[Callable[..., Any]] | None


def tools_of(tools: ToolsOrFunctions) -> Tools:
    """The tools of a gate: those that it shares with others, or new ones."""
    return tools if isinstance(tools, Tools) else Tools(tools or ())


def settings(
    *,
    run_id: str,
    agent_id: str | None,
    requester: str | None,
    requester_type: RequesterType | str,
    parent_id: int | None,
    execute: Execute,
    worker: str | None,
    lease: timedelta,
    repeat: Repeat,
) -> Settings:
    """Checks the arguments of a gate; raises `InvalidValue`."""
    if execute not in ("here", "worker"):
        raise InvalidValue("execute", "must be 'here' or 'worker'")
    if repeat not in ("refuse", "allow"):
        raise InvalidValue("repeat", "must be 'refuse' or 'allow'")
    known = check(arguments.NAME, run_id, "run_id")
    if known is None:
        raise InvalidValue("run_id", "must be given")
    check(arguments.LEASE, lease, "lease")
    return Settings(
        run_id=known,
        # It proposes, too.
        agent_id=None if agent_id is None else check(arguments.ACTOR, agent_id, "agent_id"),
        requester=check(arguments.NAME, requester, "requester"),
        requester_type=check(arguments.TYPE, requester_type, "requester_type"),
        parent_id=check(arguments.OPTIONAL_ID, parent_id, "parent_id"),
        runs_here=execute == "here",
        worker=check(
            arguments.ACTOR, f"gate {known}"[:255] if worker is None else worker, "worker"
        ),
        lease=lease,
        refuses_repeats=repeat == "refuse",
    )
