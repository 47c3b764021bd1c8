"""The verbs of workers: claim an execution, extend its lease, end it, and recover expired ones."""

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
from operator_core.actions.errors import (
    ActionError,
    Busy,
    HaltRequested,
    InvalidValue,
    TamperedProposal,
)
from operator_core.actions.types import ActionType, Claim, StoredProposal, StoredRecord
from operator_core.actions.values import MAX_DELAY
from operator_core.db.ledger import claims, executions, recovery
from operator_core.db.ledger.status import check_start
from operator_core.db.run.cancellation import finish_or_give_back
from operator_core.db.sql.errors import read_damaged
from operator_core.db.sql.unit import SingleStatement
from operator_core.db.verbs import arguments
from operator_core.db.verbs.arguments import check
from operator_core.db.verbs.base import Verbs
from operator_core.db.verbs.records import prepare_result

__all__ = ["BEATS", "LEASE", "NOT_BEGUN", "Names", "ResultData", "Types", "WorkVerbs", "lease_of"]

logger = logging.getLogger(__name__)

LEASE: Final = timedelta(minutes=5)
"""The default length of a lease."""

BEATS: Final = 3
"""The number of heartbeats per length of a lease: two may be late."""

MAX_CLAIMS: Final = 1000

_ATTEMPTS: Final = 10
"""The number of attempts to claim a proposal that can be claimed, when it is read afterwards."""

_UNBEGUN: Final = "the claim was cancelled: it was not begun"
_TAMPERED: Final = (
    "it was changed after it was approved: it does not fit its digest, and was not begun"
)
NOT_BEGUN: Final = (_UNBEGUN, _TAMPERED)
"""The error messages of executions that were surely not begun."""

Names: TypeAlias = str | Iterable[str] | None
Types: TypeAlias = ActionType | Iterable[ActionType] | None
ResultData: TypeAlias = Mapping[str, Any] | BaseModel | None


class WorkVerbs(Verbs):
    """The verbs of workers. All times come from the database's clock; a worker's clock decides nothing."""

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
        """Claims up to `limit` (1 to 1,000) due proposals for one worker and returns them.

        It takes the highest `priority` first, then the proposal that has been due longest. Each claimed proposal is
        executing and belongs to this worker alone. It has an open record, whose lease lasts for `lease` (1 ms to
        7 days). Rows that can't be read are skipped. `actor` is the actor of the events, by default the worker.

        What does not fit the digest that people approved is not handed out: it fails with the end code `tampered`, which is
        logged as an error.

        The same call recovers expired leases (see `recover_expired`), cancels proposals that have passed their
        `expires_at`, and moves proposals whose retry is due back to `validated` (see `max_retries`).

        If the caller is cancelled, the claim finishes before the cancellation is raised. The claimed proposals then
        fail as not begun, and are retried if they have retries left. Raises `InvalidValue` for an invalid argument.
        """
        check(arguments.count_up_to(MAX_CLAIMS), limit, "limit")
        check(arguments.ACTOR, worker, "worker")
        types = check(arguments.TYPES, action_types, "action_types")
        request = claims.ClaimRequest(
            worker,
            limit,
            check(arguments.LEASE, lease, "lease"),
            check(arguments.NAMES, action_names, "action_names"),
            None if types is None else tuple(kind.value for kind in types),
            None if actor is None else check(arguments.ACTOR, actor, "actor"),
            check(arguments.REASON, reason, "reason"),
        )
        return await finish_or_give_back(self._claim(request), self._give_back)

    async def claim_proposal(
        self,
        proposal_id: int,
        worker: str,
        *,
        lease: timedelta = LEASE,
        actor: str | None = None,
        reason: str | None = None,
    ) -> Claim:
        """Claims this very proposal for one worker, as `claim` does; its priority and its place in the order don't count.

        Raises the error that says why it can't be claimed now: `NotFound`, `AlreadyClaimed`, `NotDue` (also for a failed
        proposal whose retry is due later), `TransitionHalted`, `TransitionUnapproved`, `TamperedProposal`, `Expired`,
        `DependencyPending`, `LimitReached`, `ExclusiveBusy`, `CorruptRow`, or `InvalidTransition` for any other status than
        `validated`. If other writers hold the proposal, it tries again for some seconds, and then
        raises `Busy`.
        """
        check(arguments.ACTOR, worker, "worker")
        request = claims.ClaimRequest(
            worker,
            1,
            check(arguments.LEASE, lease, "lease"),
            None,
            None,
            None if actor is None else check(arguments.ACTOR, actor, "actor"),
            check(arguments.REASON, reason, "reason"),
            check(arguments.ID, proposal_id, "proposal_id"),
        )
        (taken,) = await finish_or_give_back(self._claim_this(request), self._give_back)
        return taken

    async def _claim_this(self, request: claims.ClaimRequest) -> list[Claim]:
        this = cast(int, request.proposal_id)
        for attempt in range(1, _ATTEMPTS + 1):
            if taken := await self._claim(request):
                return taken
            if await self._units.read(partial(check_start, id=this)):
                # The sweep takes others first, if many are due.
                await self._units.write(partial(recovery.put_back, id=this))
            else:
                await self._pause(attempt)
        raise Busy(None, "other writers hold the proposal")

    async def _claim(self, request: claims.ClaimRequest) -> list[Claim]:
        taken, overdue, passed = await self._write_or_in_parts(
            _claim(request),
            lambda conn: read_damaged(conn, partial(claims.claim_in_parts, request=request)),
        )
        if overdue or passed:
            try:
                if overdue:
                    async with self._kept(taken, request.lease):
                        await self._units.write(recovery.sweep)
                goes_on = True
                while goes_on and len(taken) < request.limit:
                    rest = request._replace(limit=request.limit - len(taken))
                    more = await self._units.write(_claim(rest))
                    taken += more.claims
                    goes_on = more.passed and bool(more.claims)
            except ActionError as error:
                if not taken:
                    raise
                # The claimed proposals must reach the worker; the next claim sweeps again.
                logger.warning(
                    "the rest of a claim, or its sweep, failed and is left to the next claim: %s",
                    error,
                )
        tampered = [each for each in taken if _is_tampered(each.proposal)]
        if not tampered:
            return taken
        await self._refuse_tampered(tampered)
        if request.proposal_id is not None:
            raise TamperedProposal(request.proposal_id)
        return [each for each in taken if each not in tampered]

    async def _refuse_tampered(self, tampered: Sequence[Claim]) -> None:
        """Fails claimed proposals whose content is not what was approved."""
        for each in tampered:
            logger.error("%s", TamperedProposal(each.proposal.id))
        endings = [self._ending(each.record.id, None, _TAMPERED) for each in tampered]
        manner = executions.Manner(False, LEDGER, tampered=True)
        await self._end_many(endings, manner)

    @asynccontextmanager
    async def _kept(self, taken: Sequence[Claim], seconds: float) -> AsyncGenerator[None]:
        """A block during which the leases of `taken` are extended: a sweep of a long chain may take long."""

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
        """Fails claimed proposals that no worker will run, instead of leaving them to the end of their leases."""
        try:
            worker = next((known.record.worker for known in taken), None)
            unbegun = [self._ending(known.record.id, None, _UNBEGUN) for known in taken]
            await self._end_many(unbegun, self._manner(False, worker, None)._replace(begun=False))
        except ActionError as error:
            logger.warning(
                "the proposals of a cancelled claim wait for their leases to expire: %s", error
            )

    async def heartbeat(self, claim: Claim | int, lease: timedelta | None = None) -> datetime:
        """Extends the lease of an execution to `lease` (1 ms to 7 days) from now, and returns when it expires.

        `claim` is a `Claim`, or the id of its record. Without `lease`, a `Claim` is extended by the length of its own
        lease. For a record's id, the ledger does not know that length: the lease then lasts for at least five more
        minutes and is never shortened.

        Raises `HaltRequested` if a halt covers the execution: the lease is extended, and the worker should stop and end it.
        Raises `LeaseLost` if the execution has ended or its proposal is no longer executing, for example because
        somebody cancelled it; the worker must then stop. Raises `NotFound` for an unknown record.
        """
        if isinstance(claim, Claim):
            unit = executions.heartbeat(claim.record.id, lease_of(claim, lease))
        else:
            seconds = check(arguments.LEASE, LEASE if lease is None else lease, "lease")
            known = check(arguments.ID, claim, "record_id")
            unit = executions.heartbeat(known, seconds, may_shorten=lease is not None)
        until = await self._units.write(unit)
        if isinstance(until, HaltRequested):
            raise until
        return until

    async def complete(
        self,
        record_id: int,
        result_data: ResultData = None,
        *,
        actor: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Ends an execution successfully and completes its proposal, in one unit of work.

        The actor is `actor`, else the actor of the ledger, else the worker. An expired lease alone does not prevent the
        end. If the proposal was cancelled during the execution, it stays cancelled and the record has the outcome.

        Raises `LeaseLost` if the execution no longer belongs to the worker; its `cause` says why, and nothing is
        changed. Raises `NotFound` for an unknown record. Raises `InvalidValue` before any change for a result that the
        ledger can't store.
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
        """Ends an execution with an error, and fails its proposal; it is retried if it has retries left.

        With `outcome_unknown`, the record states that it is not known whether the action was done. `actor` and the
        errors raised are those of `complete`.
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
        """Completes many executions in one unit of work: ids of records, or a mapping of ids to results.

        Returns the ids that were not completed: their lease was lost, they do not exist, or the database refused the
        change, which is logged. Raises `InvalidValue` before any change, as `complete` does.
        """
        if not isinstance(results, Mapping):
            ids = [*check(arguments.COLLECTION, results, "results")]
            results = dict.fromkeys(check(arguments.ID, each, "record_id") for each in ids)
        by_id = cast(Mapping[int, ResultData], results)
        ended = [self._ending(each, result, None) for each, result in by_id.items()]
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
        """Fails many executions in one unit of work: a mapping of record ids to messages, and one of ids to results.

        Returns the ids that were not failed, as `complete_many` does. Raises `InvalidValue` before any change,
        also for a result whose id is not in `errors`.
        """
        unknown = check(arguments.FLAG, outcome_unknown, "outcome_unknown")
        messages = check(arguments.MAPPING, errors, "errors")
        by_id = check(arguments.MAPPING, results or {}, "results")
        if others := by_id.keys() - messages.keys():
            raise InvalidValue(
                "results", f"must have only ids that are in errors, not {min(others)}"
            )
        ended = [
            self._ending(
                each, by_id.get(each), check(arguments.ERROR_MESSAGE, why, "error_message")
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
        return executions.Manner(success, self._named(actor), why)

    async def _end_one(self, ending: executions.Ending, manner: executions.Manner) -> None:
        unit = executions.end([ending], manner)
        if not await self._units.write(unit):
            raise await self._units.read(lambda conn: executions.lost(conn, ending.record_id))

    async def _end_many(
        self, ended: Sequence[executions.Ending], manner: executions.Manner
    ) -> list[int]:
        if not ended:
            return []
        done = await self._write_or_in_parts(
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

        Their outcome is unknown: the record has `outcome_unknown` and no `success`. The proposal fails, and does not
        run again unless it has retries left. `claim` and `wait_for` do this too, so nothing needs to call it.

        `older_than` (a timedelta from 0 to 3,650 days) includes executions without a lease that are at least that old,
        because nothing else ends them. These are records that were created by hand, and executing proposals without
        an open record, for which one is written. `actor` is the actor of the events, by default the ledger.
        """
        seconds = check(arguments.AGE, older_than, "older_than")
        by = LEDGER if actor is None else check(arguments.ACTOR, actor, "actor")
        why = check(arguments.REASON, reason, "reason")
        unit = partial(recovery.recover, by=by, reason=why, older_than=seconds)
        return await self._units.write(partial(read_damaged, unit=unit))


def _is_tampered(proposal: StoredProposal) -> bool:
    """Whether a proposal that was approved is not what was approved."""
    if proposal.approval is None:
        return False
    try:
        return proposal.digest != proposal.content_digest
    except InvalidValue:
        return True


def lease_of(claim: Claim, lease: timedelta | None) -> float:
    """Returns `lease` in seconds, or else the claim's own lease; raises `InvalidValue`."""
    # The lease of a record that was read again may have been extended since the claim, beyond the maximum.
    own = min(claim.lease or LEASE, timedelta(seconds=MAX_DELAY))
    return check(arguments.LEASE, own if lease is None else lease, "lease")


def _claim(request: claims.ClaimRequest) -> SingleStatement[claims.Claimed]:
    """A claim that skips rows with text that is not UTF-8, instead of failing."""
    claim = claims.claim(request)
    return replace(claim, unit=partial(read_damaged, unit=claim.unit))
