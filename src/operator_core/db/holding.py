"""Holding a claim for the time of a block: alive while it runs, ended with it."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from itertools import count
from typing import Final

from operator_core.actions.errors import (
    ActionError,
    Busy,
    InvalidValue,
    LeaseLost,
    OutcomeUnknown,
    StorageUnavailable,
)
from operator_core.actions.types import Claim
from operator_core.actions.values import MAX_TEXT
from operator_core.db import checks
from operator_core.db.backoff import pause
from operator_core.db.finishing import finish
from operator_core.db.records import get_record
from operator_core.db.work import LEASE, Names, ResultData, Types, WorkVerbs

__all__ = ["Execution", "HoldingVerbs"]

logger = logging.getLogger(__name__)

_BEATS: Final = 3
"""How many heartbeats are sent in the time of a lease: two may be late."""


class Execution:
    """A claim that is held: what it is, and the result that its block sets."""

    def __init__(self, claim: Claim) -> None:
        self.proposal = claim.proposal
        self.record = claim.record
        self.result_data: ResultData = None
        """What `complete` is told at the end of the block."""


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
    ) -> AsyncGenerator[Execution | None]:
        """Claims one proposal for the block, or gives None if none is due; as `holding` from there."""
        taken = await self.claim(
            worker, lease=lease, action_names=action_names, action_types=action_types
        )
        if not taken:
            yield None
            return
        async with self._held(taken[0], lease) as execution:
            yield execution

    @asynccontextmanager
    async def holding(self, claim: Claim, *, lease: timedelta = LEASE) -> AsyncGenerator[Execution]:
        """Keeps a claim alive while the block runs, and ends it with the block.

        At its end the execution is completed with what the block has set as `result_data`; an
        exception, and a cancellation too, fails it and goes on. If the lease is lost the block is
        cancelled, and `LeaseLost` raised. If the ledger can't be reached the block goes on as long as
        the lease does. A claim that has been lost already raises `LeaseLost`, and the block is not run.
        """
        await self.heartbeat(claim.record.id, lease)
        async with self._held(claim, lease) as execution:
            yield execution

    @asynccontextmanager
    async def _held(self, claim: Claim, lease: timedelta) -> AsyncGenerator[Execution]:
        """As `holding`, for a claim that was made a moment ago."""
        seconds = checks.check_lease(lease)
        record_id = claim.record.id
        execution = Execution(claim)
        body = asyncio.current_task()
        assert body is not None
        lost: list[LeaseLost] = []
        ended = asyncio.Event()

        async def end(call: Callable[[], Awaitable[None]]) -> None:
            await finish(self._surely(record_id, call, seconds))

        async def beat() -> None:
            error = await self._keep_alive(record_id, lease)
            if not ended.is_set():
                lost.append(error)
                body.cancel()

        beating = asyncio.create_task(beat())
        try:
            try:
                yield execution
                ended.set()
            except BaseException as error:
                ended.set()
                if lost:
                    if isinstance(error, asyncio.CancelledError) and body.uncancel() == 0:
                        raise lost[0] from None
                    raise
                why, result = describe(error), execution.result_data
                with suppress(LeaseLost):
                    await end(lambda: self.fail(record_id, why, result))
                raise
            if lost:
                # It was to be cancelled in the very turn in which it ended.
                body.uncancel()
                raise lost[0]
            try:
                await end(lambda: self.complete(record_id, execution.result_data))
            except InvalidValue as error:
                # It is done, and its result is none that can be kept.
                why = describe(error)
                await end(lambda: self.fail(record_id, why))
                raise
        finally:
            beating.cancel()
            with suppress(asyncio.CancelledError):
                await beating

    async def _keep_alive(self, record_id: int | None, lease: timedelta) -> LeaseLost:
        """Sends heartbeats until the lease is lost."""
        while True:
            await asyncio.sleep(lease.total_seconds() / _BEATS)
            try:
                await self.heartbeat(record_id, lease)
            except LeaseLost as error:
                return error
            except ActionError as error:
                logger.warning("no heartbeat for record %s: %s", record_id, error)

    async def _surely(
        self, record_id: int | None, end: Callable[[], Awaitable[None]], seconds: float
    ) -> None:
        """Ends an execution, again and again for the time of a lease if the ledger can't be reached."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds
        unknown = False
        for attempt in count(1):
            try:
                await end()
                break
            except (Busy, OutcomeUnknown, StorageUnavailable) as error:
                if clock() > deadline:
                    raise
                logger.warning("record %s is not ended yet: %s", record_id, error)
                unknown |= isinstance(error, OutcomeUnknown)
            except LeaseLost:
                # Or it was ended by the attempt whose answer was lost.
                if unknown and await self._ended_by_itself(record_id):
                    break
                raise
            await pause(attempt, first=0.05)

    async def _ended_by_itself(self, record_id: int | None) -> bool:
        known = checks.check_id(record_id, "record_id")
        record = await self._units.read(lambda conn: get_record(conn, known))
        return record is not None and not record.outcome_unknown


def describe(error: BaseException) -> str:
    """An exception as an error message that the ledger can keep."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return (
        text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()[:MAX_TEXT]
    )
