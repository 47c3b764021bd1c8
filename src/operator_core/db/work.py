"""The verbs of workers: claim, keep, end; and what becomes of work that nobody ends."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, TypeAlias, cast

from pydantic import BaseModel

from operator_core.actions.errors import ActionError
from operator_core.actions.types import ActionRecord, ActionStatus, ActionType, Claim
from operator_core.db import checks, claims, endings, moves, recovery
from operator_core.db.driver_errors import read_damaged
from operator_core.db.finishing import finish_or_give_back
from operator_core.db.plain import Plain
from operator_core.db.records import prepare_result
from operator_core.db.verbs import Verbs

__all__ = ["BEATS", "LEASE", "Names", "ResultData", "Types", "WorkVerbs"]

logger = logging.getLogger(__name__)

LEASE: Final = timedelta(minutes=5)
"""How long a worker is believed to be alive without a word from it, unless it says otherwise."""

BEATS: Final = 3
"""How many heartbeats are sent in the time of a lease: two may be late."""

MAX_CLAIMS: Final = 1000

_UNBEGUN: Final = "the claim was cancelled: it was not begun"

Names: TypeAlias = str | Iterable[str] | None
Types: TypeAlias = ActionType | Iterable[ActionType] | None
ResultData: TypeAlias = Mapping[str, Any] | BaseModel | None


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

        If the caller is cancelled meanwhile, what was taken fails before the cancellation goes on: it
        was not begun, and is run again if it may be.
        """
        checks.check_count(limit, "limit", MAX_CLAIMS)
        wanted = claims.Wanted(
            checks.check_actor(worker, "worker"),
            limit,
            checks.check_lease(lease),
            checks.check_names(action_names, "action_names"),
            checks.check_types(action_types, "action_types"),
        )
        return await finish_or_give_back(self._claim(wanted), self._give_back)

    async def _claim(self, wanted: claims.Wanted) -> list[Claim]:
        taken, overdue = await self._units.write(_claim(wanted), single=True)
        if overdue:
            try:
                async with self._kept(taken, wanted.lease):
                    await self._units.write(recovery.sweep)
                if len(taken) < wanted.limit:
                    rest = wanted._replace(limit=wanted.limit - len(taken))
                    more, _ = await self._units.write(_claim(rest), single=True)
                    taken += more
            except ActionError as error:
                if not taken:
                    raise
                # What is taken must reach the worker; the next claim sees to the rest.
                logger.warning("what is overdue has to wait: %s", error)
        return taken

    @asynccontextmanager
    async def _kept(self, taken: Sequence[Claim], seconds: float) -> AsyncGenerator[None]:
        """A block in which what was taken does not age: a sweep may take its time over a long chain."""

        async def beat() -> None:
            while True:
                await asyncio.sleep(seconds / BEATS)
                for known in taken:
                    with suppress(ActionError):
                        await self.heartbeat(known.record.id, timedelta(seconds=seconds))

        beating = asyncio.create_task(beat())
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.wait({beating})

    async def _give_back(self, taken: Sequence[Claim]) -> None:
        """Fails what nobody will carry out, which is better known than found out when its lease has ended."""
        try:
            await self.fail_many({known.record.id: _UNBEGUN for known in taken if known.record.id})
        except ActionError as error:
            logger.warning("what a cancelled claim took is left to its lease: %s", error)

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
            ids = checks.check_many(results, "results")
            results = dict.fromkeys(checks.check_id(each, "record_id") for each in ids)
        given = cast(Mapping[int, ResultData], results)
        return await self._end_many(
            [self._ending(each, result, None) for each, result in given.items()], success=True
        )

    async def fail_many(self, errors: Mapping[int, str]) -> list[int]:
        """As `fail`, for many in one round: record ids, each with its error message."""
        return await self._end_many(
            [
                self._ending(each, None, checks.check_error(why))
                for each, why in checks.check_mapping(errors, "errors").items()
            ],
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
        return await self._units.write(partial(read_damaged, unit=recovery.recover))

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


def _claim(wanted: claims.Wanted) -> Plain[tuple[list[Claim], bool]]:
    """A claim that text which is no UTF-8, in whichever row, does not stop."""
    plain = claims.claim(wanted)
    return replace(plain, unit=partial(read_damaged, unit=plain.unit))
