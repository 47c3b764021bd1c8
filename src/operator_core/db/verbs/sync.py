"""The verbs for callers without an event loop: those of `ActionLedger`, each run to its end in the calling thread."""

import threading
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterator,
    Sequence,
)
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from operator_core.actions.policies import Policy
from operator_core.actions.types import Claim
from operator_core.db.run.blocking import BlockingUnits, NeverSuspending, finished
from operator_core.db.verbs import arguments
from operator_core.db.verbs.arguments import check
from operator_core.db.verbs.blocking import BlockingVerbs, SyncExecution
from operator_core.db.verbs.executions import LEASE, Names, Types, lease_of
from operator_core.db.verbs.ledger import ActionLedger

__all__ = ["SyncActionLedger", "coroutines_of", "give_back", "hold"]

P = ParamSpec("P")
T = TypeVar("T")


def _call(
    verb: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["SyncActionLedger", P], T]:
    """The method that runs a verb to its end, with the parameters and the docstring of the verb."""

    @wraps(verb)
    def call(ledger: "SyncActionLedger", *args: P.args, **kwargs: P.kwargs) -> T:
        return finished(verb(ledger._verbs, *args, **kwargs))  # pyright: ignore[reportPrivateUsage]

    return call


def _iterator(
    verb: Callable[Concatenate[Any, P], AsyncIterator[T]],
) -> Callable[Concatenate["SyncActionLedger", P], Iterator[T]]:
    """As `_call`, for a verb that yields."""

    @wraps(verb)
    def iterate(ledger: "SyncActionLedger", *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        items = verb(ledger._verbs, *args, **kwargs)  # pyright: ignore[reportPrivateUsage]
        return _drive(cast(AsyncGenerator[T], items))

    return iterate


def _drive(items: AsyncGenerator[T]) -> Iterator[T]:
    try:
        while True:
            try:
                item = finished(_next(items))
            except StopAsyncIteration:
                return
            yield item
    finally:
        finished(items.aclose())


async def _next(items: AsyncGenerator[T]) -> T:
    return await anext(items)


class SyncActionLedger:
    """The verbs of the ledger without ``async``: see `ActionLedger`. Several threads may call them at the same time.

    They block the calling thread, so they are not for the thread of an event loop.
    """

    def __init__(
        self,
        units: BlockingUnits,
        actor: str | None,
        max_json_bytes: int,
        policy: Policy | None = None,
    ) -> None:
        self._units = units
        self._verbs = BlockingVerbs(NeverSuspending(units), actor, max_json_bytes, policy)

    create_proposal = _call(ActionLedger.create_proposal)
    create_proposals = _call(ActionLedger.create_proposals)
    get_proposal = _call(ActionLedger.get_proposal)
    find_call = _call(ActionLedger.find_call)
    list_proposals = _call(ActionLedger.list_proposals)
    iter_proposals = _iterator(ActionLedger.iter_proposals)
    count_proposals = _call(ActionLedger.count_proposals)

    update_proposal_status = _call(ActionLedger.update_proposal_status)
    cancel_proposal = _call(ActionLedger.cancel_proposal)
    cancel_all_pending = _call(ActionLedger.cancel_all_pending)
    retry = _call(ActionLedger.retry)

    create_record = _call(ActionLedger.create_record)
    get_record = _call(ActionLedger.get_record)
    get_records_for_proposal = _call(ActionLedger.get_records_for_proposal)
    update_record = _call(ActionLedger.update_record)

    claim = _call(ActionLedger.claim)
    claim_proposal = _call(ActionLedger.claim_proposal)
    heartbeat = _call(ActionLedger.heartbeat)
    complete = _call(ActionLedger.complete)
    fail = _call(ActionLedger.fail)
    complete_many = _call(ActionLedger.complete_many)
    fail_many = _call(ActionLedger.fail_many)
    recover_expired = _call(ActionLedger.recover_expired)

    add_rule = _call(ActionLedger.add_rule)
    revoke_rule = _call(ActionLedger.revoke_rule)
    rules = _call(ActionLedger.rules)
    explain = _call(ActionLedger.explain)
    grant = _call(ActionLedger.grant)
    revoke_grant = _call(ActionLedger.revoke_grant)
    grants = _call(ActionLedger.grants)

    approve_proposal = _call(ActionLedger.approve_proposal)
    reject_proposal = _call(ActionLedger.reject_proposal)
    withdraw_approval = _call(ActionLedger.withdraw_approval)
    approvals = _call(ActionLedger.approvals)
    is_approved = _call(ActionLedger.is_approved)
    pending_approvals = _call(ActionLedger.pending_approvals)
    approved_not_started = _call(ActionLedger.approved_not_started)
    amend_proposal = _call(ActionLedger.amend_proposal)

    resolve_outcome = _call(ActionLedger.resolve_outcome)
    unresolved = _call(ActionLedger.unresolved)

    wait_for = _call(ActionLedger.wait_for)
    wait_until = _call(ActionLedger.wait_until)
    history = _call(ActionLedger.history)
    events = _iterator(ActionLedger.events)
    newest_event_id = _call(ActionLedger.newest_event_id)

    create_workflow = _call(ActionLedger.create_workflow)
    get_workflow = _call(ActionLedger.get_workflow)
    list_workflow_actions = _call(ActionLedger.list_workflow_actions)
    workflow_status = _call(ActionLedger.workflow_status)
    cancel_workflow = _call(ActionLedger.cancel_workflow)

    halt = _call(ActionLedger.halt)
    resume = _call(ActionLedger.resume)
    mode = _call(ActionLedger.mode)
    halts = _call(ActionLedger.halts)
    halt_report = _call(ActionLedger.halt_report)

    set_limit = _call(ActionLedger.set_limit)
    remove_limit = _call(ActionLedger.remove_limit)
    limits = _call(ActionLedger.limits)

    @contextmanager
    def claimed(
        self,
        worker: str,
        *,
        lease: timedelta = LEASE,
        action_names: Names = None,
        action_types: Types = None,
        actor: str | None = None,
        reason: str | None = None,
        finish: bool = False,
    ) -> Generator[SyncExecution | None]:
        """Claims one proposal for a block and holds it as `holding` does; yields None if no proposal is due."""
        finishes = check(arguments.FLAG, finish, "finish")
        requested_at = time.monotonic()
        taken = self.claim(
            worker,
            lease=lease,
            action_names=action_names,
            action_types=action_types,
            actor=actor,
            reason=reason,
        )
        if not taken:
            yield None
            return
        seconds = check(arguments.LEASE, lease, "lease")
        with self._verbs.hold(taken[0], seconds, requested_at, finishes=finishes) as execution:
            yield execution

    @contextmanager
    def holding(
        self, claim: Claim, *, lease: timedelta | None = None, finish: bool = False
    ) -> Generator[SyncExecution]:
        """Sends heartbeats for a claim while the block runs, and ends its execution at the end of the block.

        It is `ActionLedger.holding` but for three things. The heartbeats come from a thread of their own. If the lease
        is lost, the block continues, because a thread can't be cancelled: `LeaseLost` is raised at the end of the
        block. A long block looks at `execution.lost` and stops, or waits for it instead of sleeping.

        Nor does a halt end the block: `execution.halt` is set, a long block looks at it, and what the block has done by its end is
        completed. Only a block that has not begun is refused, unless `finish` is True.

        An exception fails the execution and propagates. KeyboardInterrupt makes the outcome unknown.
        """
        check(arguments.CLAIM, claim, "claim")
        finishes = check(arguments.FLAG, finish, "finish")
        with self._verbs.hold(claim, lease_of(claim, lease), None, finishes=finishes) as execution:
            yield execution

    def changes(self) -> AbstractContextManager[threading.Event]:
        """Returns a context manager whose `threading.Event` is set after every possible commit of any process.

        It is set within about 50 ms of the commit. In a loop, clear it, look at the ledger, then wait for it. Wait
        with a timeout: nothing sets it when a scheduled time is reached.
        """
        return self._units.changes()


def hold(
    ledger: SyncActionLedger, claim: Claim, lease: timedelta, since: float
) -> AbstractContextManager[SyncExecution]:
    """As `SyncActionLedger.holding`, without the first heartbeat if the claim is recent.

    `since` is the time by `time.monotonic` at which the claim was requested.
    """
    seconds = check(arguments.LEASE, lease, "lease")
    return ledger._verbs.hold(claim, seconds, since)  # pyright: ignore[reportPrivateUsage]


def coroutines_of(ledger: SyncActionLedger) -> BlockingVerbs:
    """The verbs of a ledger as coroutines that never wait in an event loop: see `finished`."""
    return ledger._verbs  # pyright: ignore[reportPrivateUsage]


def give_back(ledger: SyncActionLedger, claims: Sequence[Claim]) -> None:
    """Fails claims that nobody will run as not begun, as an interrupted `claim` does. Raises no `ActionError`."""
    finished(ledger._verbs._give_back(claims))  # pyright: ignore[reportPrivateUsage]
