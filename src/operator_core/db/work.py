"""The verbs of workers: claim, hold, end; and what becomes of work that nobody ends."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias, cast

from pydantic import BaseModel

from operator_core.actions.errors import ActionError, LeaseLost
from operator_core.actions.types import ActionRecord, ActionStatus, ActionType, Claim
from operator_core.actions.values import MAX_TEXT
from operator_core.db import checks, claims, endings, moves, recovery
from operator_core.db.records import prepare_result
from operator_core.db.verbs import Verbs

__all__ = ["LEASE", "Execution", "WorkVerbs"]

logger = logging.getLogger(__name__)

LEASE: Final = timedelta(minutes=5)
"""How long a worker is believed to be alive without a word from it, unless it says otherwise."""

MAX_CLAIMS: Final = 1000

_BEATS: Final = 3
"""How many heartbeats are sent in the time of a lease: two may be late."""

Names: TypeAlias = str | Iterable[str] | None
Types: TypeAlias = ActionType | Iterable[ActionType] | None
ResultData: TypeAlias = Mapping[str, Any] | BaseModel | None


class Execution:
    """A claim that is held: what it is, and the result that its block sets."""

    def __init__(self, claim: Claim) -> None:
        self.proposal = claim.proposal
        self.record = claim.record
        self.result_data: ResultData = None
        """What `complete` is told at the end of the block."""


class WorkVerbs(Verbs):
    """What workers ask of the ledger. Times are the database's; a worker's clock decides nothing."""

    async def claim(
        self,
        worker: str,
        *,
        limit: int = 1,
        lease: timedelta = LEASE,
        action_names: Names = None,
        action_types: Types = None,
    ) -> list[Claim]:
        """Takes up to `limit` (1 to 1,000) validated proposals that are due, each for this worker alone.

        Those of the highest priority first, and of these the one that has been due longest. Each is
        executing afterwards, with an open record, and the worker is believed in for the time of the
        `lease` (1 ms to 7 days). What can't be read is passed over. Whatever is overdue in the ledger
        is seen to in the same call: see `recover_expired`, `expires_at` and `max_retries`.
        """
        checks.check_count(limit, "limit", MAX_CLAIMS)
        wanted = claims.Wanted(
            checks.check_actor(worker, "worker"),
            limit,
            checks.check_lease(lease),
            checks.check_names(action_names, "action_names"),
            checks.check_types(action_types, "action_types"),
        )
        taken, overdue = await self._units.write(claims.claim(wanted), single=True)
        if overdue:
            try:
                await self._units.write(recovery.sweep)
                if len(taken) < limit:
                    rest = wanted._replace(limit=limit - len(taken))
                    more, _ = await self._units.write(claims.claim(rest), single=True)
                    taken += more
            except ActionError as error:
                if not taken:
                    raise
                # What is taken must reach the worker; the next claim sees to the rest.
                logger.warning("what is overdue has to wait: %s", error)
        return taken

    async def heartbeat(self, record_id: int | None, lease: timedelta = LEASE) -> datetime:
        """Says that the worker is alive: the lease ends so long from now, at the time that it returns.

        Raises `LeaseLost` if the execution has ended or its proposal is no longer executing, for
        instance because somebody cancelled it: then stop. Raises `NotFound` for an unknown record.
        """
        known, seconds = checks.check_id(record_id, "record_id"), checks.check_lease(lease)
        return await self._units.write(endings.heartbeat(known, seconds), single=True)

    async def complete(self, record_id: int | None, result_data: ResultData = None) -> None:
        """Ends an execution well, and completes its proposal.

        Raises `LeaseLost` if the lease was taken away meanwhile, and changes nothing. A lease that has
        merely run out is no obstacle. A proposal that was cancelled meanwhile stays cancelled; its
        record has the outcome. Raises `NotFound` for an unknown record.
        """
        await self._end_one(self._ending(record_id, result_data, None), success=True)

    async def fail(
        self, record_id: int | None, error_message: str, result_data: ResultData = None
    ) -> None:
        """Ends an execution that went wrong; its proposal fails, and is run again if it may be.

        Raises as `complete`.
        """
        message = checks.check_error(error_message)
        await self._end_one(self._ending(record_id, result_data, message), success=False)

    async def complete_many(
        self, results: Mapping[int, ResultData] | Iterable[int | None]
    ) -> list[int]:
        """As `complete`, for many in one round: record ids, each with its result if it has one.

        Returns the ids of those that had ended already, or were never there: their leases are lost.
        """
        if not isinstance(results, Mapping):
            results = dict.fromkeys(checks.check_id(each, "record_id") for each in results)
        given = cast(Mapping[int, ResultData], results)
        return await self._end_many(
            [self._ending(each, result, None) for each, result in given.items()], success=True
        )

    async def fail_many(self, errors: Mapping[int, str]) -> list[int]:
        """As `fail`, for many in one round: record ids, each with its error message."""
        return await self._end_many(
            [self._ending(each, None, checks.check_error(why)) for each, why in errors.items()],
            success=False,
        )

    def _ending(
        self, record_id: int | None, result_data: ResultData, error: str | None
    ) -> endings.Ending:
        known = checks.check_id(record_id, "record_id")
        return endings.Ending(known, prepare_result(result_data, self._max_json_bytes), error)

    async def _end_one(self, ending: endings.Ending, *, success: bool) -> None:
        unit = endings.end([ending], success=success, actor=self._actor)
        if not await self._units.write(unit, single=True):
            raise await self._units.read(lambda conn: endings.lost(conn, ending.record_id))

    async def _end_many(self, ended: Sequence[endings.Ending], *, success: bool) -> list[int]:
        if not ended:
            return []
        unit = endings.end(ended, success=success, actor=self._actor)
        done = await self._units.write(unit, single=True)
        return [each.record_id for each in ended if each.record_id not in done]

    async def recover_expired(self) -> list[ActionRecord]:
        """Ends executions whose lease has run out, at most 100, and returns their records.

        Their outcome is unknown: the record says so (`outcome_unknown`) and has no `success`. The
        proposal fails, and is never run again by itself unless it has retries left. `claim` does this
        by itself; it need not be called.
        """
        return await self._units.write(recovery.recover)

    async def retry(
        self, id: int | None, *, actor: str | None = None, reason: str | None = None
    ) -> None:
        """Puts a failed proposal back among those that are claimed, now, by somebody's decision.

        That is possible however often it was run before, and counts as none of its own retries.
        Raises `NotFound`, or `InvalidTransition` for one that has not failed.
        """
        move = moves.Move(
            checks.check_id(id),
            ActionStatus.VALIDATED,
            self._who(actor),
            checks.check_reason(reason),
            source=ActionStatus.FAILED,
        )
        await self._units.write(moves.plain_update(move), single=True)

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
        async with self.holding(taken[0], lease=lease) as execution:
            yield execution

    @asynccontextmanager
    async def holding(self, claim: Claim, *, lease: timedelta = LEASE) -> AsyncGenerator[Execution]:
        """Keeps a claim alive while the block runs, and ends it with the block.

        At its end the execution is completed with what the block has set as `result_data`; an
        exception, and a cancellation too, fails it and goes on. If the lease is lost the block is
        cancelled, and `LeaseLost` raised. If the ledger can't be reached the block goes on as long as
        the lease does.
        """
        execution = Execution(claim)
        record_id = claim.record.id
        body = asyncio.current_task()
        assert body is not None
        gone: list[LeaseLost] = []

        async def beat() -> None:
            while True:
                await asyncio.sleep(lease.total_seconds() / _BEATS)
                try:
                    await self.heartbeat(record_id, lease)
                except LeaseLost as error:
                    gone.append(error)
                    body.cancel()
                    return
                except ActionError as error:
                    logger.warning("no heartbeat for record %s: %s", record_id, error)

        checks.check_lease(lease)
        beating = asyncio.create_task(beat())
        try:
            try:
                yield execution
            finally:
                beating.cancel()
                with suppress(asyncio.CancelledError):
                    await beating
        except BaseException as error:
            if gone and isinstance(error, asyncio.CancelledError) and body.uncancel() == 0:
                raise gone[0] from None
            with suppress(LeaseLost):
                await asyncio.shield(self.fail(record_id, describe(error), execution.result_data))
            raise
        if gone:
            # It was cancelled as it ended.
            body.uncancel()
            raise gone[0]
        await self.complete(record_id, execution.result_data)


def describe(error: BaseException) -> str:
    """An exception as an error message that the ledger can keep."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return (
        text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()[:MAX_TEXT]
    )
