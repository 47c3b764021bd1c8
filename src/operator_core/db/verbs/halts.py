"""The verbs of the stop: halt, resume, and what is stopped."""

import logging
from datetime import datetime
from functools import partial
from typing import Final

from operator_core.actions.errors import (
    ActionError,
    Busy,
    CommitOutcomeUnknown,
    InvalidValue,
)
from operator_core.actions.types import Blocker, Halt, HaltMode, HaltReport
from operator_core.db.ledger import halts
from operator_core.db.ledger.halted import Subject, covering, mode_of
from operator_core.db.ledger.stops import Stop, cancel_free, cancel_free_in_parts
from operator_core.db.sql.rows import Listing
from operator_core.db.verbs import arguments
from operator_core.db.verbs.arguments import check
from operator_core.db.verbs.base import Verbs

__all__ = ["HaltVerbs"]

logger = logging.getLogger(__name__)

_AT_ONCE: Final = 1000
"""The number of proposals that one unit of work cancels."""

_FIRST_LOOK: Final = 0.002
_LAST_LOOK: Final = 0.1
"""Seconds between two looks at the transactions in the way, at first and at most."""

_ENDS_WITHIN: Final = 2.0
"""Seconds that a terminated server process has to end."""


class HaltVerbs(Verbs):
    """The verbs of the stop."""

    async def halt(
        self,
        *,
        by: str,
        reason: str,
        mode: HaltMode = HaltMode.HALTED,
        action_name: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        cancel: bool = True,
        terminate: bool = False,
        timeout: float = 5.0,  # noqa: ASYNC109 - the report must say what was not reached
        valid_from: datetime | None = None,
        valid_until: datetime | None = None,
    ) -> HaltReport:
        """Stops the ledger, or what has this `action_name`, `agent_id` and `run_id`, for every program that writes to it.

        In the mode `halted`, nothing is proposed, validated or started; in the mode `observe`, actions can be proposed
        only. Proposals can still be cancelled, and executions completed, failed and recovered. `action_name` may be a
        pattern with ``*`` and ``?``. An agent's halt also covers its sub-agents: whatever has a proposal of the agent
        in its run, or among its parents. A halt lasts until `resume`, whatever is restarted.

        The halt is committed first. Then it waits, for at most `timeout` seconds (0 to 3,600), for transactions on a
        server that had begun something before. The report's `complete` tells whether all have ended, and `blockers`
        names the others. With `terminate`, their server processes are ended. Then it cancels what is pending, unless
        `cancel` is False. It does not end what is running: the report's `running` lists it, and heartbeats raise
        `HaltRequested`.

        With `valid_from` or `valid_until` it is a freeze, which begins and ends by the database's clock. A freeze and
        the mode `observe` cancel nothing. A second halt of the same mode, scope and times writes nothing; it waits,
        cancels and reports again.

        Raises `ActionError` inside a transaction. Raises `Busy` if the halt could not be written: nothing is halted then.
        Whatever fails afterwards is in the report's `unknown`.
        """
        if not self._units.commits:
            raise ActionError(
                "halt() works in a transaction of its own: call it outside transaction(), on a ledger that is not joined"
            )
        is_freeze = valid_from is not None or valid_until is not None
        wanted = check(arguments.MODE, mode, "mode")
        if wanted is HaltMode.EXECUTE:
            raise InvalidValue("mode", "must be halted or observe: resume() ends a halt")
        cancels = check(arguments.FLAG, cancel, "cancel")
        ends = check(arguments.FLAG, terminate, "terminate")
        seconds = check(arguments.SECONDS, timeout, "timeout")
        request = halts.HaltRequest(
            wanted,
            **_scope(action_name, agent_id, run_id),
            halted_by=check(arguments.ACTOR, by, "by"),
            reason=check(arguments.REQUIRED_REASON, reason, "reason"),
            valid_from=check(arguments.TIME, valid_from, "valid_from"),
            valid_until=check(arguments.TIME, valid_until, "valid_until"),
            cancels=cancels and wanted is HaltMode.HALTED and not is_freeze,
        )
        if request.valid_until is not None and request.valid_until <= (
            request.valid_from or datetime.min.replace(tzinfo=request.valid_until.tzinfo)
        ):
            raise InvalidValue("valid_until", "must be later than valid_from")
        halt = await self._units.write(partial(halts.begin_halt, request=request, seconds=seconds))
        try:
            return await self._reach(halt, seconds, ends=ends, cancels=request.cancels)
        except ActionError as error:
            # The halt is in force: nobody must take this for a halt that could not be written.
            logger.warning("halt %d is in force, but its report is not known: %s", halt.id, error)
            return HaltReport(halt, [], [], 0, str(error))

    async def _reach(self, halt: Halt, seconds: float, *, ends: bool, cancels: bool) -> HaltReport:
        """Waits for what had begun before, cancels what is pending, and reports."""
        blockers: list[Blocker] = []
        if await self._units.read(partial(halts.has_begun, halt=halt)):
            blockers = await self._outlast(seconds)
            if blockers and ends:
                blockers = await self._end(blockers)
        if cancels:
            await self._cancel_in_scope(halt)
        return _report(await self._units.read(partial(halts.reached, halt_id=halt.id)), blockers)

    async def resume(
        self,
        halt_id: int | None = None,
        *,
        by: str,
        reason: str,
        action_name: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
    ) -> list[Halt]:
        """Ends a halt, or all open ones of exactly this scope, and returns those that it ended.

        Without a scope, these are the halts of the whole ledger. Other halts stay, and may cover the same proposals.
        Raises `NotFound` for an unknown `halt_id`.
        """
        known = check(arguments.OPTIONAL_ID, halt_id, "halt_id")
        scope = _scope(action_name, agent_id, run_id)
        if known is not None and any(scope.values()):
            raise InvalidValue("halt_id", "must not be given together with a scope")
        who = check(arguments.ACTOR, by, "by")
        why = check(arguments.REQUIRED_REASON, reason, "reason")
        resumed = await self._units.write(
            partial(halts.resume, halt_id=known, scope=scope, by=who, reason=why)
        )
        if self._units.commits:
            try:
                await self._units.write(halts.settle)
            except ActionError as error:
                # Until the next one, writes on a server take a few microseconds longer.
                logger.info("could not settle after a resume: %s", error)
        return resumed

    async def mode(
        self,
        *,
        action_name: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
    ) -> HaltMode:
        """Returns what is allowed now in the whole ledger, or for a proposal with these values."""
        scope = _scope(action_name, agent_id, run_id)
        subject = Subject(scope["action_name"], scope["agent_id"], scope["run_id"])
        return mode_of(await self._units.read(partial(covering, subject=subject)))

    async def halts(self, *, active: bool = True) -> Listing[Halt]:
        """Returns the halts that are open, also freezes that have not begun yet; all of them if not `active`."""
        check(arguments.FLAG, active, "active")
        return await self._units.read(partial(halts.list_halts, active=active))

    async def halt_report(self, halt_id: int) -> HaltReport:
        """Returns the report of a halt as it is now: who has acknowledged it, who has ended, and who is in the way.

        Raises `NotFound` for an unknown `halt_id`.
        """
        known = check(arguments.ID, halt_id, "halt_id")
        found = await self._units.read(partial(halts.reached, halt_id=known))
        halt = found.halt
        blockers: list[Blocker] = []
        if halt.resumed_at is None and found.has_begun:
            # What is outside of its scope may begin something at any time.
            before = halt.created_at if halt.scope else None
            blockers = await self._units.read(partial(halts.holders, before=before))
        return _report(found, blockers)

    async def _outlast(self, seconds: float) -> list[Blocker]:
        """Waits for the transactions that have begun something; returns those that are still open after `seconds`."""
        return await self._gone(await self._units.read(halts.holders), seconds)

    async def _gone(self, blockers: list[Blocker], seconds: float) -> list[Blocker]:
        deadline, rest = self._clock() + seconds, _FIRST_LOOK
        while blockers and (left := deadline - self._clock()) > 0:
            await self._sleep(min(rest, left))
            rest = min(rest * 2, _LAST_LOOK)
            still = {each.transaction for each in await self._units.read(halts.holders)}
            blockers = [each for each in blockers if each.transaction in still]
        return blockers

    async def _end(self, blockers: list[Blocker]) -> list[Blocker]:
        for each in blockers:
            try:
                await self._units.write(partial(halts.terminate, transaction=each.transaction))
            except ActionError as error:
                logger.warning("could not end the server process %s: %s", each.pid, error)
        return await self._gone(blockers, _ENDS_WITHIN)

    async def _cancel_in_scope(self, halt: Halt) -> None:
        """Cancels what is pending, in parts, so that others write in between.

        What an open transaction has locked is left: it is one of those in the way, and the next halt of this scope cancels it.
        """
        ids = await self._units.read(partial(halts.pending_in_scope, halt_id=halt.id))
        reason = halts.reason_of(halt)
        for start in range(0, len(ids), _AT_ONCE):
            some = ids[start : start + _AT_ONCE]
            stop = Stop(actor=halt.halted_by, reason=reason, ids=some, halt_id=halt.id)
            try:
                await self._write_or_in_parts(
                    partial(cancel_free, stop=stop), partial(cancel_free_in_parts, stop=stop)
                )
            except (Busy, CommitOutcomeUnknown) as error:
                # It can't start, and the next halt of this scope cancels it.
                logger.warning("halt %d leaves the rest as it is: %s", halt.id, error)
                return


def _report(found: halts.Reached, blockers: list[Blocker]) -> HaltReport:
    halt = found.halt
    unknown = None if found.has_begun else f"it begins at {halt.valid_from:%Y-%m-%d %H:%M:%S %Z}"
    return HaltReport(halt, found.running, blockers, found.cancelled, unknown)


def _scope(
    action_name: str | None, agent_id: str | None, run_id: str | None
) -> dict[str, str | None]:
    given = {"action_name": action_name, "agent_id": agent_id, "run_id": run_id}
    return {name: check(arguments.NAME, value, name) for name, value in given.items()}
