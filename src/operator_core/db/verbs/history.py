"""The verbs of the history, and of those who wait: for a proposal to be finished, and for what happens next."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Final

from operator_core.actions.errors import ActionError, NotFound
from operator_core.actions.lifecycle import FINAL_STATUSES
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

__all__ = ["HistoryVerbs"]

logger = logging.getLogger(__name__)

_PAGE: Final = 1000

_AT_LEAST_EVERY: Final = 5.0
"""Seconds after which who waits looks without having been woken, as behind PgBouncer, which forwards no NOTIFY."""

_HELD_BACK: Final = 0.02
"""Seconds between two looks while events are there that an older transaction, still open, may precede."""


class HistoryVerbs(Verbs):
    """What is asked of the ledger by those who do nothing themselves."""

    async def wait_for(
        self,
        proposal_id: int,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a caller's own timeout would do as well
    ) -> StoredProposal:
        """Returns the proposal when it is finished: completed, cancelled, or failed for good.

        It ends what is overdue in the ledger, as a claim does, so that a dead worker keeps nobody waiting; on a ledger
        that can only be read it leaves that to others. Raises `NotFound`, and `TimeoutError` after `timeout` seconds
        (0 to 3,600). A server that is away for longer than `busy_timeout` ends it with `StorageUnavailable`: wait again.
        """
        known = check(arguments.ID, proposal_id, "proposal_id")
        if timeout is not None:
            check(arguments.SECONDS, timeout, "timeout")
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                return await self._finished(known)
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimeoutError(f"proposal {known} is not finished after {timeout:g} s") from None

    async def _finished(self, known: int) -> StoredProposal:
        async with self.changes() as changed:
            swept = False
            while True:
                changed.clear()
                proposal = await self._units.read(queries.read_proposal(known))
                if proposal is None:
                    raise NotFound("proposal", known)
                if proposal.status in FINAL_STATUSES or (
                    proposal.status is ActionStatus.FAILED and proposal.next_retry_at is None
                ):
                    return proposal
                if not swept and await self._units.read(is_overdue):
                    # Once in a turn: what the database refuses to end stays overdue.
                    swept = True
                    await self._sweep()
                    continue
                await _woken(changed, _AT_LEAST_EVERY)
                swept = False

    async def _sweep(self) -> None:
        try:
            await self._units.write(sweep)
        except ActionError as error:
            logger.info("what is overdue is left to others: %s", error)

    async def history(
        self,
        proposal_id: int | None = None,
        *,
        after: int | None = None,
        limit: int | None = None,
    ) -> Listing[ActionEvent]:
        """The events, of one proposal or of all, oldest first; pass the last id as `after` to go on."""
        check(arguments.OPTIONAL_ID, proposal_id, "proposal_id")
        check(arguments.POSITION, after, "after")
        most = check(arguments.POSITION, limit, "limit")
        return await self._units.read(
            lambda conn: list_events(conn, proposal_id, after=after, limit=most)
        )

    async def events(
        self, *, after: int | None = None, follow: bool = False
    ) -> AsyncGenerator[ActionEvent]:
        """The whole history, or what came after the event `after`: of each proposal in the order in which it happened.

        With `follow` it never ends, and gives each event within some 50 ms of its commit. None is
        skipped, however late its transaction commits, and none comes twice: to go on later, pass the
        id of the last one. So it may come later: on a server an event waits for all transactions that
        were open when it was written, and what one's own transaction() has written comes after its
        commit (`history` has it before). Raises `NotFound` for an `after` that is no event. A server that
        is away for longer than `busy_timeout` ends it with `StorageUnavailable`: go on after the last one.
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
                    await _woken(changed, _HELD_BACK if page.held_back else _AT_LEAST_EVERY)
                position = page.position

    def changes(self) -> AbstractAsyncContextManager[asyncio.Event]:
        """An event that is set whenever somebody may have committed something, for loops of one's own.

        Clear it, look at the ledger, wait for it; and look now and then without it, as for what is
        scheduled. Within some 50 ms, by whichever process.
        """
        return self._units.changes()

    async def _page(self, position: Position) -> Page:
        return await self._units.read(lambda conn: next_events(conn, position, _PAGE))

    async def newest_event_id(self) -> int:
        """The id of the last event, to follow from now on; 0 in an empty ledger."""
        return await self._units.read(newest_event)


async def _woken(changed: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await changed.wait()
    except TimeoutError:
        pass
