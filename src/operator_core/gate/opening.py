"""What the gates with and without an event loop are opened with."""

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from operator_core.actions.errors import InvalidValue
from operator_core.actions.types import RequesterType
from operator_core.db.verbs import arguments
from operator_core.db.verbs.arguments import check
from operator_core.db.verbs.executions import LEASE
from operator_core.db.verbs.ledger import ActionLedger
from operator_core.gate.core import Core
from operator_core.gate.settings import Settings
from operator_core.gate.tools import F, OnCancel, Tools

__all__ = ["Opened"]

L = TypeVar("L")

Execute: TypeAlias = Literal["here", "worker"]
Repeat: TypeAlias = Literal["refuse", "allow"]


class Opened(Generic[L]):
    """A gate on a ledger, with its tools: the class of the event loop, or of none, adds the calls."""

    def __init__(
        self,
        db: L,
        *,
        run_id: str,
        agent_id: str | None = None,
        requester: str | None = None,
        requester_type: RequesterType | str = RequesterType.USER,
        parent_id: int | None = None,
        tools: Tools | Iterable[Callable[..., Any]] | None = None,
        execute: Execute = "here",
        worker: str | None = None,
        lease: timedelta = LEASE,
        repeat: Repeat = "refuse",
    ) -> None:
        if execute not in ("here", "worker"):
            raise InvalidValue("execute", "must be 'here' or 'worker'")
        if repeat not in ("refuse", "allow"):
            raise InvalidValue("repeat", "must be 'refuse' or 'allow'")
        known = check(arguments.NAME, run_id, "run_id")
        if known is None:
            raise InvalidValue("run_id", "must be given")
        check(arguments.LEASE, lease, "lease")
        who = f"gate {known}"[:255] if worker is None else worker
        self.tools = tools if isinstance(tools, Tools) else Tools(tools or ())
        """The tools by name. A gate without any takes every call, and needs a handler for each."""
        self._db = db
        self._verbs = self._verbs_of(db)
        self._core = Core(
            self._verbs,
            self.tools,
            Settings(
                run_id=known,
                # It proposes, too.
                agent_id=None if agent_id is None else check(arguments.ACTOR, agent_id, "agent_id"),
                requester=check(arguments.NAME, requester, "requester"),
                requester_type=check(arguments.TYPE, requester_type, "requester_type"),
                parent_id=check(arguments.OPTIONAL_ID, parent_id, "parent_id"),
                runs_here=execute == "here",
                worker=check(arguments.ACTOR, who, "worker"),
                lease=lease,
                refuses_repeats=repeat == "refuse",
            ),
        )

    def _verbs_of(self, db: L) -> ActionLedger:
        """The verbs of the ledger as coroutines."""
        raise NotImplementedError

    def _check_tool(self, function: Callable[..., Any], on_cancel: OnCancel) -> None:
        """Raises `InvalidValue` for a function that this gate can't run so."""
        raise NotImplementedError

    def tool(
        self,
        name: str | None = None,
        *,
        expires_in: timedelta | None = None,
        max_retries: int = 0,
        on_cancel: OnCancel = "unknown",
    ) -> Callable[[F], F]:
        """Makes a function a tool: its signature says which arguments are accepted.

        In an event loop, it is a coroutine function, or a plain function, which runs in a thread; without one, a plain
        function. A call that has not begun after `expires_in` is cancelled. `max_retries` is for a tool that may be
        repeated without harm. With `on_cancel` "not done", a cancellation in the middle of the tool means that nothing
        was done. Raises `InvalidValue` for that with a function in a thread, which goes on after a cancellation.
        """

        def add(function: F) -> F:
            self._check_tool(function, on_cancel)
            self.tools.add(
                function,
                name=name,
                expires_in=expires_in,
                max_retries=max_retries,
                on_cancel=on_cancel,
            )
            return function

        return add
