"""Holding a claim for the time of a block: alive while it runs, ended with it."""

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
    InvalidValue,
    LeaseLost,
    NotFound,
    StorageFull,
    StorageUnavailable,
)
from operator_core.actions.results import describe, keep
from operator_core.actions.types import Claim
from operator_core.actions.values import MAX_TEXT
from operator_core.db.run.backoff import pause
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

__all__ = ["Execution", "HoldingVerbs", "hold"]

logger = logging.getLogger(__name__)

_UNKNOWN: Final = ": whether it was done is not known"

_AGAIN: Final = 1.0
"""Seconds after which a heartbeat that did not reach the ledger is sent again, if the lease leaves time."""

_PASSING: Final = (Busy, CommitOutcomeUnknown, StorageFull, StorageUnavailable)


class Execution:
    """A claim that is held: what it is, and the result that its block sets."""

    def __init__(self, claim: Claim) -> None:
        self.proposal = claim.proposal
        self.record = claim.record
        self.result_data: object = None
        """What the block gives back: kept as `operator_core.actions.results.keep` says, whatever it is."""


class HoldingVerbs(WorkVerbs):
    """The verbs of workers, and the blocks that use them."""

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
    ) -> AsyncGenerator[Execution | None]:
        """Claims one proposal for the block, or gives None if none is due; as `holding` from there."""
        asked = asyncio.get_running_loop().time()
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
        async with self._hold(taken[0], check(arguments.LEASE, lease, "lease"), asked) as execution:
            yield execution

    @asynccontextmanager
    async def holding(
        self, claim: Claim, *, lease: timedelta | None = None
    ) -> AsyncGenerator[Execution]:
        """Keeps a claim alive while the block runs, and ends it with the block; by default for its own lease.

        At its end the execution is completed with what the block has set as `result_data`. A result that is no JSON
        object is kept as ``{"result": ...}``; one that the ledger can't keep is replaced by a note, with a warning
        in the log. An exception fails the execution and goes on; after a cancellation its outcome is unknown. If the lease is
        lost the block is cancelled, and `LeaseLost` raised; so it is if no heartbeat has reached the ledger for the
        time of the lease, by the clock of the event loop.

        It begins with a heartbeat: a claim that has been lost already raises `LeaseLost`, and one that
        the ledger can't be asked about for the time of a lease what is in the way; the block is not run.
        """
        check(arguments.CLAIM, claim, "claim")
        async with self._hold(claim, lease_of(claim, lease), None) as execution:
            yield execution

    @asynccontextmanager
    async def _hold(
        self, claim: Claim, seconds: float, since: float | None
    ) -> AsyncGenerator[Execution]:
        """As `holding`; `since`: when it was claimed by the loop's clock, which saves the first heartbeat."""
        clock = asyncio.get_running_loop().time
        if since is None or clock() - since > seconds / BEATS:
            try:
                since = await self._confirmed(claim.record.id, seconds)
            except asyncio.CancelledError:
                await finish(self._give_back([claim]))
                raise
        async with self._held(claim, claim.record.id, seconds, since) as execution:
            yield execution

    @asynccontextmanager
    async def _held(
        self, claim: Claim, record_id: int, seconds: float, since: float
    ) -> AsyncGenerator[Execution]:
        body = asyncio.current_task()
        assert body is not None
        # Others may have asked for its end before, which is not ours to take back.
        asked = body.cancelling()
        lost: list[ActionError] = []
        ended = asyncio.Event()
        execution = Execution(claim)

        async def end(call: Callable[[], Awaitable[None]]) -> None:
            await finish(self._surely(record_id, call, seconds))

        def lose(error: ActionError) -> None:
            if not ended.is_set():
                lost.append(error)
                body.cancel()

        beating = asyncio.create_task(self._keep_alive(record_id, seconds, since, lose))
        try:
            try:
                yield execution
                ended.set()
            except BaseException as error:
                ended.set()
                if lost:
                    ours = body.uncancel() <= asked
                    if ours and isinstance(error, asyncio.CancelledError):
                        raise lost[0] from None
                    raise
                failed = partial(self._fail_held, execution, error)
                with suppress(LeaseLost):
                    await end(failed)
                raise
            if lost:
                # It was to be cancelled in the very turn in which it ended.
                body.uncancel()
                raise lost[0]
            await end(partial(self._complete_held, execution))
        finally:
            beating.cancel()
            # A cancellation that comes meanwhile is the caller's.
            await asyncio.wait({beating})

    async def _complete_held(self, execution: Execution) -> None:
        record = execution.record
        await self._with_result(
            execution, lambda result: self.complete(record.id, result, actor=record.worker)
        )

    async def _fail_held(self, execution: Execution, error: BaseException) -> None:
        record, why = execution.record, describe(error)
        # Who is cancelled in the middle can't tell how far it came.
        unknown = isinstance(error, asyncio.CancelledError | GeneratorExit)
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
        """Ends with what can be kept of the result: what has been done is never undone for its sake."""
        kept = keep(execution.result_data, self._max_json_bytes)
        if kept.problem is not None:
            logger.warning("the result of record %s: %s", execution.record.id, kept.problem)
        try:
            await end(kept.result)
        except InvalidValue as error:
            logger.warning("the result of record %s is dropped: %s", execution.record.id, error)
            await end(None)

    async def _confirmed(self, record_id: int, seconds: float) -> float:
        """Sends a heartbeat, again and again for the time of a lease if the ledger can't be reached; when."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds
        lease = timedelta(seconds=seconds)
        attempt = 0
        while True:
            attempt += 1
            sent = clock()
            try:
                await self.heartbeat(record_id, lease)
                return sent
            except _PASSING as error:
                if clock() > deadline:
                    raise
                logger.warning("no heartbeat for record %s: %s", record_id, error)
            await pause(attempt, first=0.05)

    async def _keep_alive(
        self, record_id: int, seconds: float, since: float, lose: Callable[[ActionError], None]
    ) -> None:
        """Sends heartbeats until the lease is lost, or has run out with none that arrived; says so at once."""
        clock = asyncio.get_running_loop().time
        lease = timedelta(seconds=seconds)
        until, rest = since + seconds, seconds / BEATS
        beat: asyncio.Task[object] | None = None
        try:
            while (left := until - clock()) > 0:
                await asyncio.sleep(min(rest, left))
                sent = clock()
                beat = asyncio.create_task(self.heartbeat(record_id, lease))
                await asyncio.wait({beat}, timeout=max(0, until - sent))
                if not beat.done():
                    break
                try:
                    beat.result()
                    until, rest = sent + seconds, seconds / BEATS
                except (LeaseLost, NotFound) as error:
                    lose(error)
                    return
                except ActionError as error:
                    logger.warning("no heartbeat for record %s: %s", record_id, error)
                    rest = min(rest, _AGAIN)
            lose(LeaseLost(record_id, "unreachable"))
        finally:
            if beat is not None:
                beat.cancel()
                await asyncio.wait({beat})

    async def _surely(
        self, record_id: int, end: Callable[[], Awaitable[None]], seconds: float
    ) -> None:
        """Ends an execution, again and again for the time of a lease if the ledger can't be reached."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds
        unknown = False
        for attempt in count(1):
            try:
                await end()
                break
            except _PASSING as error:
                if clock() > deadline:
                    raise
                logger.warning("record %s is not ended yet: %s", record_id, error)
                unknown |= isinstance(error, CommitOutcomeUnknown)
            except LeaseLost as error:
                # Or it was ended by the attempt whose answer was lost.
                if unknown and error.cause == "ended":
                    break
                raise
            await pause(attempt, first=0.05)


def hold(
    ledger: HoldingVerbs, claim: Claim, lease: timedelta, since: float
) -> AbstractAsyncContextManager[Execution]:
    """As `holding`, for who asked for the claim at the time `since` of the event loop: no heartbeat confirms it."""
    seconds = check(arguments.LEASE, lease, "lease")
    return ledger._hold(claim, seconds, since)  # pyright: ignore[reportPrivateUsage]
