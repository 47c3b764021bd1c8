"""Blocks that hold a claim: they send heartbeats while the block runs, and end the execution with it."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Final

from operator_core.actions.errors import (
    ActionError,
    Busy,
    CommitOutcomeUnknown,
    HaltRequested,
    InvalidValue,
    LeaseLost,
    NotFound,
    OutcomeUnknown,
    StorageFull,
    StorageUnavailable,
)
from operator_core.actions.results import describe, keep, storable
from operator_core.actions.types import Claim
from operator_core.actions.values import MAX_TEXT
from operator_core.db.run.cancellation import finish
from operator_core.db.verbs import arguments
from operator_core.db.verbs.arguments import check
from operator_core.db.verbs.executions import (
    BEATS,
    LEASE,
    Names,
    ResultData,
    Types,
    WorkVerbs,
    lease_of,
)

__all__ = ["Execution", "HoldingVerbs", "Lease", "hold"]

logger = logging.getLogger(__name__)

_UNKNOWN: Final = ": whether it was done is not known"

_AGAIN: Final = 1.0
"""Seconds after which a failed heartbeat is sent again, if the lease leaves time for it."""

_PASSING: Final = (Busy, CommitOutcomeUnknown, StorageFull, StorageUnavailable)


class Execution:
    """A claim that a block holds, and the result that the block sets."""

    def __init__(self, claim: Claim) -> None:
        self.proposal = claim.proposal
        self.record = claim.record
        self.result_data: object = None
        """The result of the block, of any type; `operator_core.actions.results.keep` describes how it is stored."""
        self.halt: HaltRequested | None = None
        """Set when a heartbeat has told of a halt. A block that finishes in spite of it may look at it and end early."""


class Lease:
    """The times of a lease that heartbeats extend, by the clock of this process."""

    def __init__(self, seconds: float, since: float) -> None:
        self.seconds = seconds
        self._rest = seconds / BEATS
        self.until = since + seconds
        """When the lease counts as lost, unless another heartbeat arrives."""

    def rest(self, now: float) -> float:
        """The seconds before the next heartbeat is sent; 0 or less if the lease counts as lost."""
        return min(self._rest, self.until - now)

    def arrived(self, sent: float) -> None:
        """Extends the lease by a heartbeat that was sent at the time `sent`."""
        self.until = sent + self.seconds
        self._rest = self.seconds / BEATS

    def failed(self) -> None:
        """Notes a heartbeat that did not reach the ledger: the next one is sent earlier."""
        self._rest = min(self._rest, _AGAIN)


class HoldingVerbs(WorkVerbs):
    """The verbs of workers, and blocks that hold a claim."""

    _UNKNOWN_ENDS: tuple[type[BaseException], ...] = (
        asyncio.CancelledError,
        GeneratorExit,
        OutcomeUnknown,
    )
    """The exceptions that make the outcome unknown: those that interrupt a block at any point, and the block's own."""

    @asynccontextmanager
    async def claimed(
        self,
        worker: str,
        *,
        lease: timedelta = LEASE,
        action_names: Names = None,
        action_types: Types = None,
        actor: str | None = None,
        reason: str | None = None,
        finish: bool = False,
    ) -> AsyncGenerator[Execution | None]:
        """Claims one proposal for a block and holds it as `holding` does; yields None if no proposal is due."""
        finishes = check(arguments.FLAG, finish, "finish")
        requested_at = self._clock()
        taken = await self.claim(
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
        async with self._hold(taken[0], seconds, requested_at, finishes=finishes) as execution:
            yield execution

    @asynccontextmanager
    async def holding(
        self, claim: Claim, *, lease: timedelta | None = None, finish: bool = False
    ) -> AsyncGenerator[Execution]:
        """Sends heartbeats for a claim while the block runs, and ends its execution at the end of the block.

        `lease` is by default the claim's own. The end of the block completes the execution with the `result_data`
        that the block has set. A result that is not a JSON object is stored as ``{"result": ...}``. A result that the
        ledger can't store is replaced by a note, and the log has a warning. An exception fails the execution and
        propagates. A cancellation makes the outcome unknown, and so does `OutcomeUnknown`.

        If the lease is lost, the block is cancelled and `LeaseLost` is raised. The same happens if no heartbeat has
        reached the ledger for the length of the lease, by the clock of the event loop.

        If a halt covers the execution, the block is cancelled too: it fails with an unknown outcome, and `HaltRequested`
        is raised. A block that has ended before that is completed. With `finish`, the block goes on, and finds the halt
        in its `halt`.

        The first heartbeat is sent before the block starts. If it fails, the block does not run. It raises
        `LeaseLost` if the lease is lost already, `HaltRequested` if a halt covers the execution, and the error of the last attempt if the ledger can't be reached for
        the length of the lease.
        """
        check(arguments.CLAIM, claim, "claim")
        finishes = check(arguments.FLAG, finish, "finish")
        async with self._hold(claim, lease_of(claim, lease), None, finishes=finishes) as execution:
            yield execution

    @asynccontextmanager
    async def _hold(
        self, claim: Claim, seconds: float, since: float | None, *, finishes: bool = False
    ) -> AsyncGenerator[Execution]:
        """As `holding`; `since` is the time of the claim by the loop's clock, which saves the first heartbeat."""
        if since is None or self._clock() - since > seconds / BEATS:
            try:
                since = await self._first_heartbeat(claim.record.id, seconds, finishes=finishes)
            except (asyncio.CancelledError, HaltRequested):
                await finish(self._give_back([claim]))
                raise
        async with self._held(claim, seconds, since, finishes=finishes) as execution:
            yield execution

    @asynccontextmanager
    async def _held(
        self, claim: Claim, seconds: float, since: float, *, finishes: bool
    ) -> AsyncGenerator[Execution]:
        record_id = claim.record.id
        body = asyncio.current_task()
        assert body is not None
        # The task may have cancellations by others, which must not be undone here.
        cancelled_before = body.cancelling()
        lost: list[ActionError] = []
        halted: list[HaltRequested] = []
        ended = asyncio.Event()
        execution = Execution(claim)

        async def end(call: Callable[[], Awaitable[None]]) -> None:
            await finish(self._end_with_retries(record_id, call, seconds))

        def lose(error: ActionError) -> None:
            if not ended.is_set():
                lost.append(error)
                body.cancel()

        def halt(error: HaltRequested) -> None:
            execution.halt = error
            # Once: the block may take some time to end.
            if not finishes and not ended.is_set() and not halted:
                halted.append(error)
                body.cancel()

        beating = asyncio.create_task(self._keep_alive(record_id, seconds, since, lose, halt))
        try:
            try:
                yield execution
                ended.set()
            except BaseException as error:
                ended.set()
                stopped = [*lost, *halted]
                for _ in stopped:
                    body.uncancel()
                ours = bool(stopped) and body.cancelling() <= cancelled_before
                by_us = ours and isinstance(error, asyncio.CancelledError)
                if not lost:
                    why = halted[0] if by_us else None
                    with suppress(LeaseLost):
                        await end(partial(self._fail_held, execution, error, why))
                if by_us:
                    raise stopped[0] from None
                raise
            for _ in (*lost, *halted):
                # The block ended in spite of the cancellation, or before it was delivered.
                body.uncancel()
            if lost:
                raise lost[0]
            await end(partial(self._complete_held, execution))
        finally:
            beating.cancel()
            # A cancellation during this wait comes from the caller.
            await asyncio.wait({beating})

    async def _complete_held(self, execution: Execution) -> None:
        record = execution.record
        await self._with_result(
            execution, lambda result: self.complete(record.id, result, actor=record.worker)
        )

    async def _fail_held(
        self, execution: Execution, error: BaseException, cause: ActionError | None = None
    ) -> None:
        """Fails an execution because of `error`, which has the `cause`, if one is known."""
        record = execution.record
        # A block that is cancelled can't tell how far it came.
        unknown = isinstance(error, self._UNKNOWN_ENDS)
        if isinstance(error, OutcomeUnknown) and error.why.strip():
            why = storable(error.why)
        else:
            why = describe(cause or error)
            if unknown:
                why = why[: MAX_TEXT - len(_UNKNOWN)] + _UNKNOWN
        await self._with_result(
            execution,
            lambda result: self.fail(
                record.id, why, result, outcome_unknown=unknown, actor=record.worker
            ),
        )

    async def _with_result(
        self, execution: Execution, end: Callable[[ResultData], Awaitable[None]]
    ) -> None:
        """Ends the execution with a storable form of its result: the action was done, whatever its result."""
        kept = keep(execution.result_data, self._max_json_bytes)
        if kept.problem is not None:
            logger.warning("the result of record %s: %s", execution.record.id, kept.problem)
        try:
            await end(kept.result)
        except InvalidValue as error:
            logger.warning("the result of record %s is dropped: %s", execution.record.id, error)
            await end(None)

    async def _first_heartbeat(
        self, record_id: int, seconds: float, *, finishes: bool = False
    ) -> float:
        """Sends a heartbeat and returns when; retries for the length of the lease if the ledger can't be reached.

        Raises `HaltRequested` unless the block `finishes` in spite of a halt.
        """
        deadline = self._clock() + seconds
        lease = timedelta(seconds=seconds)
        attempt = 0
        while True:
            attempt += 1
            sent = self._clock()
            try:
                await self.heartbeat(record_id, lease)
                return sent
            except HaltRequested:
                if not finishes:
                    raise
                return sent
            except _PASSING as error:
                if self._clock() > deadline:
                    raise
                logger.warning("no heartbeat for record %s: %s", record_id, error)
            await self._pause(attempt)

    async def _keep_alive(
        self,
        record_id: int,
        seconds: float,
        since: float,
        lose: Callable[[ActionError], None],
        halt: Callable[[HaltRequested], None],
    ) -> None:
        """Sends heartbeats until the lease is lost, or has expired because none arrived; then calls `lose` at once.

        Calls `halt` after each heartbeat that tells of one; the lease is extended all the same.
        """
        clock = self._clock
        lease, length = Lease(seconds, since), timedelta(seconds=seconds)
        beat: asyncio.Task[object] | None = None
        try:
            while (rest := lease.rest(clock())) > 0:
                await asyncio.sleep(rest)
                sent = clock()
                beat = asyncio.create_task(self.heartbeat(record_id, length))
                await asyncio.wait({beat}, timeout=max(0, lease.until - sent))
                if not beat.done():
                    break
                try:
                    beat.result()
                    lease.arrived(sent)
                except (LeaseLost, NotFound) as error:
                    lose(error)
                    return
                except HaltRequested as error:
                    lease.arrived(sent)
                    halt(error)
                except ActionError as error:
                    logger.warning("no heartbeat for record %s: %s", record_id, error)
                    lease.failed()
            lose(LeaseLost(record_id, "unreachable"))
        finally:
            if beat is not None:
                beat.cancel()
                await asyncio.wait({beat})

    async def _end_with_retries(
        self, record_id: int, end: Callable[[], Awaitable[None]], seconds: float
    ) -> None:
        """Ends an execution; retries for the length of the lease if the ledger can't be reached."""
        deadline = self._clock() + seconds
        unknown = False
        for attempt in count(1):
            try:
                await end()
                break
            except _PASSING as error:
                if self._clock() > deadline:
                    raise
                logger.warning("record %s is not ended yet: %s", record_id, error)
                unknown |= isinstance(error, CommitOutcomeUnknown)
            except LeaseLost as error:
                # An earlier attempt, whose answer was lost, has ended it.
                if unknown and error.cause == "ended":
                    break
                raise
            await self._pause(attempt)


def hold(
    ledger: HoldingVerbs, claim: Claim, lease: timedelta, since: float
) -> AbstractAsyncContextManager[Execution]:
    """As `HoldingVerbs.holding`, without the first heartbeat if the claim is recent.

    `since` is the time by the event loop's clock at which the claim was requested.
    """
    seconds = check(arguments.LEASE, lease, "lease")
    return ledger._hold(claim, seconds, since)  # pyright: ignore[reportPrivateUsage]
