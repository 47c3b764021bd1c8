"""The verbs of the history, and of programs that wait for the end of a proposal or for the next events."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from math import inf
from typing import Final, TypeAlias

from operator_core.actions.errors import ActionError, InvalidTransition, InvalidValue, NotFound
from operator_core.actions.lifecycle import FINAL_STATUSES, TRANSITIONS
from operator_core.actions.types import ActionEvent, ActionStatus, StoredProposal
from operator_core.db.ledger import queries
from operator_core.db.ledger.history import (
    Page,
    Position,
    list_events,
    newest_event,
    next_events,
    position_of,
)
from operator_core.db.ledger.recovery import is_overdue, sweep
from operator_core.db.sql.rows import Listing
from operator_core.db.verbs import arguments
from operator_core.db.verbs.arguments import check
from operator_core.db.verbs.base import Verbs

__all__ = ["HistoryVerbs", "unfinished"]

logger = logging.getLogger(__name__)

_PAGE: Final = 1000

_AT_LEAST_EVERY: Final = 5.0
"""Seconds after which a waiting program looks without a signal: PgBouncer, for example, forwards no NOTIFY."""

_HELD_BACK: Final = 0.02
"""Seconds between two looks while events are held back, because an older open transaction may precede them."""


_Reached: TypeAlias = Callable[[StoredProposal], bool]


def _is_finished(proposal: StoredProposal) -> bool:
    return proposal.status in FINAL_STATUSES or (
        proposal.status is ActionStatus.FAILED and proposal.next_retry_at is None
    )


class HistoryVerbs(Verbs):
    """The verbs that read the history and wait for changes."""

    async def wait_for(
        self,
        proposal_id: int,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a caller may use its own timeout instead
    ) -> StoredProposal:
        """Waits until a proposal is completed, cancelled, or failed with no retry left, and returns it.

        While it waits, it recovers expired leases and other overdue rows, as `claim` does. A crashed worker thus can't
        make it wait forever. On a read-only ledger it leaves that to other programs.

        Raises `NotFound` for an unknown proposal, and `TimeoutError` after `timeout` seconds (0 to 3,600). Raises
        `StorageUnavailable` if a server is unreachable for longer than `busy_timeout`; call it again then.
        """
        known = check(arguments.ID, proposal_id, "proposal_id")
        if timeout is not None:
            check(arguments.SECONDS, timeout, "timeout")
        return await self._reached_within(known, _is_finished, timeout)

    async def wait_until(
        self,
        proposal_id: int,
        *statuses: ActionStatus,
        timeout: float | None = None,  # noqa: ASYNC109 - as above
    ) -> StoredProposal:
        """Waits until a proposal has one of these statuses, and returns it; otherwise as `wait_for`.

        Raises `InvalidTransition` if it has ended with another status: by itself it does not reach one of these. A
        status that it has only between two looks may be missed; see `events` for every change.
        """
        known = check(arguments.ID, proposal_id, "proposal_id")
        wanted = {check(arguments.STATUS, each, "statuses") for each in statuses}
        if not wanted:
            raise InvalidValue("statuses", "must have at least one")
        if timeout is not None:
            check(arguments.SECONDS, timeout, "timeout")

        def reached(proposal: StoredProposal) -> bool:
            return proposal.status in wanted or _is_finished(proposal)

        found = await self._reached_within(known, reached, timeout)
        if found.status not in wanted:
            raise InvalidTransition(
                known,
                found.status,
                " or ".join(sorted(wanted)),
                sorted(TRANSITIONS[found.status]),
                problem=f"it has ended as {found.status}",
            )
        return found

    async def _reached_within(
        self, known: int, reached: _Reached, seconds: float | None
    ) -> StoredProposal:
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                found = await self._reached(known, reached)
        except TimeoutError:
            if not limit.expired():
                raise
            raise unfinished(known, seconds) from None
        assert found is not None
        return found

    async def _reached(
        self, known: int, reached: _Reached, until: float = inf
    ) -> StoredProposal | None:
        """Returns the proposal once it is as `reached` wants it, or None at the time `until` of `_clock`."""
        async with self.changes() as changed:
            swept = False
            while True:
                changed.clear()
                proposal = await self._units.read(queries.read_proposal(known))
                if proposal is None:
                    raise NotFound("proposal", known)
                if reached(proposal):
                    return proposal
                # Once per signal: rows that the database refuses to change stay overdue.
                if not swept and await self._sweep():
                    swept = True
                    continue
                left = until - self._clock()
                if left <= 0:
                    return None
                await self._woken(changed, min(left, _AT_LEAST_EVERY))
                swept = False

    async def _sweep(self) -> bool:
        """Ends overdue rows, as a claim does; returns whether there was any."""
        if not await self._units.read(is_overdue):
            return False
        try:
            await self._units.write(sweep)
        except ActionError as error:
            logger.info("could not sweep overdue rows, which is left to other programs: %s", error)
        return True

    async def history(
        self,
        proposal_id: int | None = None,
        *,
        after: int | None = None,
        limit: int | None = None,
    ) -> Listing[ActionEvent]:
        """Returns the events of one proposal or of the ledger, oldest first.

        For the next page, pass the id of the last event as `after`.
        """
        check(arguments.OPTIONAL_ID, proposal_id, "proposal_id")
        check(arguments.POSITION, after, "after")
        most = check(arguments.POSITION, limit, "limit")
        return await self._units.read(
            lambda conn: list_events(conn, proposal_id, after=after, limit=most)
        )

    async def events(
        self, *, after: int | None = None, follow: bool = False
    ) -> AsyncGenerator[ActionEvent]:
        """Yields all events, or those after the event `after`; those of one proposal keep their order.

        With `follow` it never ends, and yields each event within about 50 ms of its commit. No event is skipped,
        however late its transaction commits, and none is yielded twice. To continue later, pass the id of the last
        event as `after`.

        On a server, an event is held back until all transactions that were open when it was written have ended. Inside
        a `transaction()`, the events of that transaction are yielded only after its commit; `history` includes them.

        Raises `NotFound` if there is no event `after`. Raises `StorageUnavailable` if a server is unreachable for
        longer than `busy_timeout`; continue after the last event then.
        """
        known = check(arguments.POSITION, after, "after") or 0
        position = await self._units.read(lambda conn: position_of(conn, known))
        if not follow:
            while (page := await self._page(position)).position != position:
                position = page.position
                for event in page.events:
                    yield event
            return
        async with self.changes() as changed:
            while True:
                changed.clear()
                page = await self._page(position)
                for event in page.events:
                    yield event
                if page.position == position:
                    await self._woken(changed, _HELD_BACK if page.held_back else _AT_LEAST_EVERY)
                position = page.position

    def changes(self) -> AbstractAsyncContextManager[asyncio.Event]:
        """Returns a context manager whose `asyncio.Event` is set after every possible commit of any process.

        It is set within about 50 ms of the commit. In a loop, clear it, look at the ledger, then wait for it. Wait
        with a timeout: nothing sets it when a scheduled time is reached.
        """
        return self._units.changes()

    async def _page(self, position: Position) -> Page:
        return await self._units.read(lambda conn: next_events(conn, position, _PAGE))

    async def newest_event_id(self) -> int:
        """Returns the id of the last event, from which `events` can follow; 0 in an empty ledger."""
        return await self._units.read(newest_event)


def unfinished(known: int, seconds: float | None) -> TimeoutError:
    """The error for a proposal that is not finished in time."""
    return TimeoutError(f"proposal {known} is not finished after {seconds:g} s")
