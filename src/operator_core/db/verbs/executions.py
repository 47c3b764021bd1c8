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

from operator_core.actions.actors import LEDGER
from operator_core.actions.errors import ActionError, InvalidValue
from operator_core.actions.types import ActionType, Claim, StoredRecord
from operator_core.actions.values import MAX_DELAY
from operator_core.db.ledger import claims, executions, recovery
from operator_core.db.run.cancellation import finish_or_give_back
from operator_core.db.sql.errors import read_damaged
from operator_core.db.sql.unit import SingleStatement
from operator_core.db.verbs import arguments
from operator_core.db.verbs.arguments import check
from operator_core.db.verbs.base import Verbs
from operator_core.db.verbs.records import prepare_result

__all__ = ["BEATS", "LEASE", "Names", "ResultData", "Types", "WorkVerbs", "lease_of"]

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
        actor: str | None = None,
        reason: str | None = None,
    ) -> list[Claim]:
        """Takes up to `limit` (1 to 1,000) validated proposals that are due, each for this worker alone.

        Those of the highest priority first, and of these the one that has been due longest. Each is
        executing afterwards, with an open record, and the worker is believed in for the time of the
        `lease` (1 ms to 7 days). What can't be read is passed over. Whatever is overdue in the ledger
        is seen to in the same call: see `recover_expired`, `expires_at` and `max_retries`.

        `actor` is who claims, by default the worker itself. If the caller is cancelled meanwhile, what was
        taken fails before the cancellation goes on: it was not begun, and is run again if it may be.
        """
        check(arguments.count_up_to(MAX_CLAIMS), limit, "limit")
        check(arguments.ACTOR, worker, "worker")
        types = check(arguments.TYPES, action_types, "action_types")
        wanted = claims.Wanted(
            worker,
            limit,
            check(arguments.LEASE, lease, "lease"),
            check(arguments.NAMES, action_names, "action_names"),
            None if types is None else tuple(kind.value for kind in types),
            None if actor is None else check(arguments.ACTOR, actor, "actor"),
            check(arguments.REASON, reason, "reason"),
        )
        return await finish_or_give_back(self._claim(wanted), self._give_back)

    async def _claim(self, wanted: claims.Wanted) -> list[Claim]:
        taken, overdue = await self._write_what_can_be(
            _claim(wanted),
            lambda conn: read_damaged(conn, partial(claims.claim_what_can_be, wanted=wanted)),
        )
        if overdue:
            try:
                async with self._kept(taken, wanted.lease):
                    await self._units.write(recovery.sweep)
                if len(taken) < wanted.limit:
                    rest = wanted._replace(limit=wanted.limit - len(taken))
                    more, _ = await self._units.write(_claim(rest))
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
                        await self.heartbeat(known, timedelta(seconds=seconds))

        beating = asyncio.create_task(beat())
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.wait({beating})

    async def _give_back(self, taken: Sequence[Claim]) -> None:
        """Fails what nobody will carry out, which is better known than found out when its lease has ended."""
        try:
            worker = next((known.record.worker for known in taken), None)
            unbegun = {known.record.id: _UNBEGUN for known in taken if known.record.id}
            await self.fail_many(unbegun, actor=worker)
        except ActionError as error:
            logger.warning("what a cancelled claim took is left to its lease: %s", error)

    async def heartbeat(self, claim: Claim | int, lease: timedelta | None = None) -> datetime:
        """Says that the worker is alive: the lease ends so long from now, at the time that it returns.

        `claim` is what `claim` returned, or the id of its record. Without a `lease` (1 ms to 7 days) a claim is extended by
        its own; of a record's id the ledger does not know that: it has at least five minutes then, and what it has is never
        shortened. Raises `LeaseLost` if the execution has ended or its proposal is no longer executing, for
        instance because somebody cancelled it: then stop. Raises `NotFound` for an unknown record.
        """
        if isinstance(claim, Claim):
            unit = executions.heartbeat(claim.record.id, lease_of(claim, lease))
        else:
            seconds = check(arguments.LEASE, LEASE if lease is None else lease, "lease")
            known = check(arguments.ID, claim, "record_id")
            unit = executions.heartbeat(known, seconds, may_shorten=lease is not None)
        return await self._units.write(unit)

    async def complete(
        self,
        record_id: int,
        result_data: ResultData = None,
        *,
        actor: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Ends an execution well, and completes its proposal.

        `actor` is who says so: whom the call or the ledger names, or else the worker. Raises `LeaseLost`, which says
        why, if the lease was taken away meanwhile, and changes nothing. A lease that has merely expired is no obstacle.
        A proposal that was cancelled meanwhile stays cancelled; its record has the outcome. Raises `NotFound` for an unknown
        record, and `InvalidValue` for a result that the ledger can't keep, before anything is changed.
        """
        ending = self._ending(record_id, result_data, None)
        await self._end_one(ending, self._manner(True, actor, reason))

    async def fail(
        self,
        record_id: int,
        error_message: str,
        result_data: ResultData = None,
        *,
        outcome_unknown: bool = False,
        actor: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Ends an execution that went wrong; its proposal fails, and is run again if it may be.

        With `outcome_unknown` it is not known whether the action was done, and the record says so. `actor` and errors are
        as for `complete`.
        """
        message = check(arguments.ERROR_MESSAGE, error_message, "error_message")
        unknown = check(arguments.FLAG, outcome_unknown, "outcome_unknown")
        ending = self._ending(record_id, result_data, message)
        manner = self._manner(None if unknown else False, actor, reason)
        await self._end_one(ending, manner)

    async def complete_many(
        self,
        results: Mapping[int, ResultData] | Iterable[int],
        *,
        actor: str | None = None,
        reason: str | None = None,
    ) -> list[int]:
        """As `complete`, for many in one round: record ids, each with its result if it has one.

        Returns the ids that were not completed: their lease was lost, they do not exist, or the database refused it, which
        is logged.
        """
        if not isinstance(results, Mapping):
            ids = [*check(arguments.COLLECTION, results, "results")]
            results = dict.fromkeys(check(arguments.ID, each, "record_id") for each in ids)
        given = cast(Mapping[int, ResultData], results)
        ended = [self._ending(each, result, None) for each, result in given.items()]
        return await self._end_many(ended, self._manner(True, actor, reason))

    async def fail_many(
        self,
        errors: Mapping[int, str],
        results: Mapping[int, ResultData] | None = None,
        *,
        outcome_unknown: bool = False,
        actor: str | None = None,
        reason: str | None = None,
    ) -> list[int]:
        """As `fail`, for many in one round: record ids, each with its error message, and with its result if it has one."""
        unknown = check(arguments.FLAG, outcome_unknown, "outcome_unknown")
        messages = check(arguments.MAPPING, errors, "errors")
        given = check(arguments.MAPPING, results or {}, "results")
        if others := given.keys() - messages.keys():
            raise InvalidValue("results", f"must be of records in errors, and {min(others)} is not")
        ended = [
            self._ending(
                each, given.get(each), check(arguments.ERROR_MESSAGE, why, "error_message")
            )
            for each, why in messages.items()
        ]
        manner = self._manner(None if unknown else False, actor, reason)
        return await self._end_many(ended, manner)

    def _ending(
        self, record_id: int, result_data: ResultData, error: str | None
    ) -> executions.Ending:
        known = check(arguments.ID, record_id, "record_id")
        return executions.Ending(known, prepare_result(result_data, self._max_json_bytes), error)

    def _manner(
        self, success: bool | None, actor: str | None, reason: str | None
    ) -> executions.Manner:
        why = check(arguments.REASON, reason, "reason")
        return executions.Manner(success, self._said(actor), why)

    async def _end_one(self, ending: executions.Ending, manner: executions.Manner) -> None:
        unit = executions.end([ending], manner)
        if not await self._units.write(unit):
            raise await self._units.read(lambda conn: executions.lost(conn, ending.record_id))

    async def _end_many(
        self, ended: Sequence[executions.Ending], manner: executions.Manner
    ) -> list[int]:
        if not ended:
            return []
        done = await self._write_what_can_be(
            executions.end(ended, manner), lambda conn: executions.end_in_parts(conn, ended, manner)
        )
        return [each.record_id for each in ended if each.record_id not in done]

    async def recover_expired(
        self,
        *,
        older_than: timedelta | None = None,
        actor: str | None = None,
        reason: str | None = None,
    ) -> list[StoredRecord]:
        """Ends executions whose lease has expired, at most 100, and returns their records.

        Their outcome is unknown: the record says so (`outcome_unknown`) and has no `success`. The
        proposal fails, and is never run again by itself unless it has retries left. `claim` does this
        by itself; it need not be called.

        With `older_than` (a timedelta from 0 to 3,650 days) also those that have no lease and have been executing for so long,
        as nobody else ends them: records that were made by hand, and proposals that are executing without an open record, for which
        one is written. `actor` is who decides so, by default the ledger.
        """
        seconds = check(arguments.AGE, older_than, "older_than")
        by = LEDGER if actor is None else check(arguments.ACTOR, actor, "actor")
        why = check(arguments.REASON, reason, "reason")
        unit = partial(recovery.recover, by=by, reason=why, older_than=seconds)
        return await self._units.write(partial(read_damaged, unit=unit))


def lease_of(claim: Claim, lease: timedelta | None) -> float:
    """The seconds of `lease`, or of the claim's own; raises `InvalidValue`."""
    # That of a record which was read again later may have been extended since.
    own = min(claim.lease or LEASE, timedelta(seconds=MAX_DELAY))
    return check(arguments.LEASE, own if lease is None else lease, "lease")


def _claim(wanted: claims.Wanted) -> SingleStatement[tuple[list[Claim], bool]]:
    """A claim that text which is no UTF-8, in whichever row, does not stop."""
    claim = claims.claim(wanted)
    return replace(claim, unit=partial(read_damaged, unit=claim.unit))
