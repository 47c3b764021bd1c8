"""Every operation of a ledger, and how a test cancels one at a chosen moment."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from typing import Any, Final

from operator_core.actions.types import ActionEvent, ActionRecord, ActionStatus, EventType
from operator_core.db import ActionDB
from tests.failures.harness import PATIENCE, proposal


class Bench:
    """What an operation works on: a proposal in each status that one starts from, and a record."""

    def __init__(self, db: ActionDB) -> None:
        self.db = db
        self.ids: list[int] = []
        self.record = 0

    async def prepare(self) -> None:
        statuses = (ActionStatus.PROPOSED, ActionStatus.VALIDATED, ActionStatus.EXECUTING)
        made = await self.db.create_proposals([proposal(status=status) for status in statuses])
        self.ids = [each.id or 0 for each in made]
        record = await self.db.create_record(ActionRecord(proposal_id=self.ids[2]))
        self.record = record.id or 0

    async def in_transaction(self) -> None:
        async with self.db.transaction() as tx:
            await tx.create_proposal(proposal())
            await tx.update_proposal_status(self.ids[1], ActionStatus.EXECUTING)
            await tx.create_record(ActionRecord(proposal_id=self.ids[1]))
            await tx.update_record(self.record, True)

    async def iterate(self) -> None:
        # The first few only: what is written between two attempts must not add pages, and awaits.
        async for _ in self.db.iter_proposals(before=5):
            pass


OPERATIONS: Final[dict[str, Callable[[Bench], Awaitable[object]]]] = {
    "create_proposal": lambda on: on.db.create_proposal(proposal()),
    "create_proposals": lambda on: on.db.create_proposals([proposal() for _ in range(5)]),
    "update_proposal_status": lambda on: on.db.update_proposal_status(
        on.ids[0], ActionStatus.VALIDATED
    ),
    "cancel_all_pending": lambda on: on.db.cancel_all_pending(),
    "create_record": lambda on: on.db.create_record(ActionRecord(proposal_id=on.ids[2])),
    "update_record": lambda on: on.db.update_record(on.record, False, "store 3 is down"),
    "transaction": Bench.in_transaction,
    "get_proposal": lambda on: on.db.get_proposal(on.ids[0]),
    "list_proposals": lambda on: on.db.list_proposals(limit=20),
    "iter_proposals": Bench.iterate,
    "count_proposals": lambda on: on.db.count_proposals(),
    "get_record": lambda on: on.db.get_record(on.record),
    "get_records_for_proposal": lambda on: on.db.get_records_for_proposal(on.ids[2]),
    "history": lambda on: on.db.history(on.ids[0]),
}

EVENTS: Final = {
    "create_proposal": 1,
    "create_proposals": 5,
    "update_proposal_status": 1,
    "cancel_all_pending": 2,
    "create_record": 1,
    "update_record": 1,
    "transaction": 4,
}
"""How many events each operation leaves if it is done whole; those that only read leave none."""


WITH_THE_ANSWER: Final = math.inf
"""How late a cancellation comes that comes in the turn of the loop in which the wait would end."""


class CancelledAt:
    """Awaits `work` and cancels the task in it at its `nth` suspension, `after` seconds into that."""

    def __init__(self, work: Awaitable[object], nth: int, after: float) -> None:
        self._work = work
        self._nth = nth
        self._after = after
        self.reached = False

    def __await__(self) -> Generator[Any, Any, object]:
        steps = self._work.__await__()
        suspensions = 0
        error: BaseException | None = None
        while True:
            try:
                waited_for = next(steps) if error is None else steps.throw(error)  # type: ignore[attr-defined]
            except StopIteration as end:
                return end.value
            suspensions += 1
            if suspensions == self._nth:
                self.reached = True
                if self._after == WITH_THE_ANSWER:
                    _cancel_with(waited_for)
                else:
                    self._cancel_soon()
            try:
                yield waited_for
                error = None
            except BaseException as thrown:  # it is for the work, which may go on all the same
                error = thrown

    def _cancel_soon(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        deadline = time.perf_counter() + self._after

        # In turns of the loop, because its timers are too coarse to hit the middle of a unit.
        def turn() -> None:
            if time.perf_counter() >= deadline:
                task.cancel()
            else:
                time.sleep(0)  # lets the unit's thread have the interpreter
                loop.call_soon(turn)

        if self._after:
            loop.call_soon(turn)
        else:
            task.cancel()


def _cancel_with(waited_for: Any) -> None:
    """Cancels the running task between the answer that it waits for and its next step."""
    task = asyncio.current_task()
    assert task is not None
    if waited_for is None:
        # A turn of the loop, which nobody answers.
        task.cancel()
    else:
        # Before the task itself does so: it is called first.
        waited_for.add_done_callback(lambda _: task.cancel())


async def cancel_at(work: Awaitable[object], nth: int, after: float) -> bool:
    """Runs `work` in a task of its own, cancelled as `CancelledAt` says; False if it never came there."""
    attempt = CancelledAt(work, nth, after)

    async def run() -> object:
        return await attempt

    with suppress(asyncio.CancelledError):
        await asyncio.create_task(run())
    return attempt.reached


async def rest() -> None:
    """Waits for the tasks that were started to finish what a cancelled one had begun."""
    async with asyncio.timeout(PATIENCE):
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)


async def check_agree(db: ActionDB, events: list[ActionEvent]) -> None:
    """Fails unless what the rows say is what the `events`, the newest of the history, say."""
    last_status = {event.proposal_id: event.to_status for event in events if event.to_status}
    for number, status in last_status.items():
        found = await db.get_proposal(number)
        assert found is not None
        assert found.status is status
    for event in events:
        if event.record_id is not None:
            record = await db.get_record(event.record_id)
            assert record is not None
            finished = event.event_type is EventType.RECORD_FINISHED
            assert finished == (record.completed_at is not None)
