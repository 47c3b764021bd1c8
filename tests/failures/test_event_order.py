"""A follower that adds up what it hears, through a race for the same proposals, ends with what the rows say."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any, Final

import pytest

from operator_core.actions import (
    ActionError,
    ActionEvent,
    ActionRecord,
    ActionStatus,
    EventType,
    InvalidTransition,
)
from operator_core.db import ActionDB
from tests.conftest import RawSQL, proposal
from tests.databases import query
from tests.failures.harness import PATIENCE

S = ActionStatus

SHORT: Final = 600
LONG: Final = 10_000


class Fold:
    """The state of every proposal and record, by events alone; fails on one that does not follow from it."""

    def __init__(self) -> None:
        self.statuses: dict[int, ActionStatus] = {}
        self.versions: dict[int, int] = {}
        self.records: dict[int, tuple[int, bool | None]] = {}
        self.heard: dict[int, list[int]] = defaultdict(list)

    def add(self, event: ActionEvent) -> None:
        id_ = event.proposal_id
        before = self.statuses.get(id_)
        if event.event_type is EventType.RECORD_STARTED:
            assert before is not None
            assert event.record_id not in self.records
            self.records[event.record_id or 0] = (id_, None)
        elif event.event_type is EventType.RECORD_FINISHED:
            assert self.records[event.record_id or 0] == (id_, None)
            self.records[event.record_id or 0] = (id_, event.success)
        else:
            assert event.from_status == before, f"{event} after {before}"
            assert event.version == self.versions.get(id_, 0) + 1
            assert event.to_status is not None
            self.statuses[id_], self.versions[id_] = event.to_status, event.version
        self.heard[id_].append(event.id)


class Race:
    """Tasks that all want to change the newest proposals, each by a ledger of its own where it may."""

    def __init__(self, ledgers: list[ActionDB], events: int) -> None:
        self._ledgers = ledgers
        self._events = events
        self._dice = random.Random(5)
        self._ids: list[int] = []
        self.done = asyncio.Event()

    def _some(self) -> int:
        return self._dice.choice(self._ids[-8:])

    async def run(self) -> None:
        """Until there are as many events as are wanted."""
        await self._create(self._ledgers[0])
        kinds = (self._create, self._claim, self._cancel, self._retry, self._record, self._claim)
        async with asyncio.TaskGroup() as tasks:
            for number, kind in enumerate(kinds):
                ledger = self._ledgers[number % len(self._ledgers)]
                tasks.create_task(self._repeat(kind, ledger))
            while await self._ledgers[0].newest_event_id() < self._events:
                await asyncio.sleep(0.01)
            self.done.set()

    async def _repeat(
        self, kind: Callable[[ActionDB], Coroutine[Any, Any, None]], db: ActionDB
    ) -> None:
        while not self.done.is_set():
            # Of those that want the same only one can have it.
            with suppress(ActionError):
                await kind(db)
            await asyncio.sleep(0)

    async def _create(self, db: ActionDB) -> None:
        made = await db.create_proposals(
            [proposal(status=S.VALIDATED, max_retries=1, retry_delay=0.0) for _ in range(3)]
        )
        some = await db.create_proposal(
            proposal(status=S.VALIDATED, depends_on=[made[0].id], wait_on_failure=False)
        )
        self._ids += [each.id or 0 for each in (*made, some)]

    async def _claim(self, db: ActionDB) -> None:
        for claim in await db.claim("worker", limit=2):
            await asyncio.sleep(0)
            if self._dice.random() < 0.5:
                await db.fail(claim.record.id, "no leader")
            else:
                await db.complete(claim.record.id)

    async def _cancel(self, db: ActionDB) -> None:
        async with db.transaction() as tx:
            # Its place among the transactions is given before it waits for what it cancels.
            await tx.create_proposal(proposal("beside"))
            await tx.update_proposal_status(self._some(), S.CANCELLED)

    async def _retry(self, db: ActionDB) -> None:
        await db.retry(self._some(), actor="oncall")

    async def _record(self, db: ActionDB) -> None:
        async with db.transaction() as tx:
            await tx.create_proposal(proposal("beside"))
            record = await tx.create_record(ActionRecord(proposal_id=self._some()))
        await db.update_record(record.id, success=True)


async def follow(db: ActionDB, fold: Fold, whole: Callable[[], int | None]) -> None:
    heard = 0
    async with aclosing(db.events(follow=True)) as events:
        async for event in events:
            fold.add(event)
            heard += 1
            if heard == whole():
                return


async def race(ledgers: list[ActionDB], raw: RawSQL, events: int) -> None:
    db = ledgers[0]
    whole: int | None = None
    fold = Fold()
    following = asyncio.create_task(follow(ledgers[-1], fold, lambda: whole))
    try:
        async with asyncio.timeout(PATIENCE * 10):
            await Race(ledgers, events).run()
            ((count,),) = await raw("SELECT count(*) FROM action_events")
            # The follower ends with the last event.
            whole = count + 1
            await db.create_proposal(proposal())
            await following
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    rows = await raw("SELECT id, status, version FROM action_proposals")
    assert fold.statuses == {id_: status for id_, status, _ in rows}
    assert fold.versions == {id_: version for id_, _, version in rows}
    records = await raw("SELECT id, proposal_id, success, completed_at FROM action_records")
    assert fold.records == {
        id_: (of, None if success is None else bool(success)) for id_, of, success, _ in records
    }
    assert len(records) > events // 40
    for id_, heard in fold.heard.items():
        assert heard == sorted(heard), f"proposal {id_}"
    again = Fold()
    async for event in db.events():
        again.add(event)
    assert again.heard == fold.heard


@pytest.fixture
async def ledgers(
    db: ActionDB, backend: str, open_ledger: Callable[..., Awaitable[ActionDB]]
) -> list[ActionDB]:
    """Several on one database; in memory there is one."""
    return [db] if backend == "memory" else [db, *[await open_ledger() for _ in range(4)]]


async def test_who_adds_up_the_events_of_a_race_ends_with_the_rows(
    ledgers: list[ActionDB], raw: RawSQL
) -> None:
    await race(ledgers, raw, SHORT)


@pytest.mark.soak
@pytest.mark.parametrize("run", range(3))
async def test_who_adds_up_ten_thousand_events_of_a_race_ends_with_the_rows(
    ledgers: list[ActionDB], raw: RawSQL, run: int
) -> None:
    await race(ledgers, raw, LONG)


@pytest.fixture
async def pair(server_ledger: str) -> Any:
    async with ActionDB(server_ledger) as db, ActionDB(server_ledger) as other:
        yield db, other


async def heard(db: ActionDB, id_: int | None) -> list[int]:
    """The events of a proposal as they come to a follower; not before they come at all."""
    async with asyncio.timeout(PATIENCE):
        while True:
            ids = [event.id async for event in db.events() if event.proposal_id == id_]
            if len(ids) == len(await db.history(id_)):
                return ids
            await asyncio.sleep(0.01)


async def test_what_waited_comes_behind_what_it_waited_for(
    pair: tuple[ActionDB, ActionDB],
) -> None:
    db, other = pair
    first, second = await db.create_proposals([proposal(), proposal()])
    async with db.transaction() as tx:
        await tx.update_proposal_status(first.id, S.VALIDATED)
        await other.update_proposal_status(second.id, S.VALIDATED)
        await tx.update_proposal_status(second.id, S.CANCELLED)
    for each in (first, second):
        assert await heard(db, each.id) == [event.id for event in await db.history(each.id)]


async def test_a_record_comes_behind_what_happened_before_it(
    pair: tuple[ActionDB, ActionDB],
) -> None:
    db, other = pair
    first, second = await db.create_proposals([proposal(status=S.VALIDATED) for _ in range(2)])
    async with db.transaction() as tx:
        await tx.update_proposal_status(first.id, S.CANCELLED)
        await other.update_proposal_status(second.id, S.EXECUTING)
        started = await other.create_record(ActionRecord(proposal_id=second.id or 0))
        mine = await tx.create_record(ActionRecord(proposal_id=second.id or 0))
        await tx.update_record(started.id, success=True)
    await db.update_record(mine.id, success=False)
    assert await heard(db, second.id) == [event.id for event in await db.history(second.id)]


async def test_a_record_waits_for_who_holds_its_proposal_and_sees_the_end(
    pair: tuple[ActionDB, ActionDB], server_ledger: str
) -> None:
    db, other = pair
    made = await db.create_proposal(proposal())
    async with db.transaction() as tx:
        await tx.update_proposal_status(made.id, S.CANCELLED)
        writing = asyncio.create_task(other.create_record(ActionRecord(proposal_id=made.id or 0)))
        await until_one_waits(server_ledger)
    with pytest.raises(ActionError, match="is already ended"):
        await writing
    assert len(await db.history(made.id)) == 2


async def test_a_proposal_waits_for_who_writes_a_record_of_it(
    pair: tuple[ActionDB, ActionDB], server_ledger: str
) -> None:
    db, other = pair
    made = await db.create_proposal(proposal())
    async with db.transaction() as tx:
        await tx.create_record(ActionRecord(proposal_id=made.id or 0))
        moving = asyncio.create_task(other.update_proposal_status(made.id, S.CANCELLED))
        await until_one_waits(server_ledger)
    await moving
    history = await db.history(made.id)
    assert [event.event_type for event in history[1:]] == [
        EventType.RECORD_STARTED,
        EventType.STATUS_CHANGED,
    ]
    assert await heard(db, made.id) == [event.id for event in history]


async def until_one_waits(url: str) -> None:
    """Until a session of the database waits for another's lock."""
    waits = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(PATIENCE):
        while query(url, waits) == [(0,)]:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("status", [S.COMPLETED, S.FAILED, S.CANCELLED])
async def test_what_has_ended_gets_no_open_record(
    pair: tuple[ActionDB, ActionDB], status: ActionStatus
) -> None:
    db, _ = pair
    made = await db.create_proposal(proposal(status=status))
    with pytest.raises(ActionError, match="is already ended") as caught:
        await db.create_record(ActionRecord(proposal_id=made.id or 0))
    assert not isinstance(caught.value, InvalidTransition)
    ended = ActionRecord(proposal_id=made.id or 0, success=True)
    assert (await db.create_record(ended)).success
    # In one transaction too, whose own rows nobody has to wait for.
    mine = await db.create_proposal(proposal())
    with pytest.raises(ActionError, match="is already ended"):
        async with db.transaction() as tx:
            await tx.update_proposal_status(mine.id, S.CANCELLED)
            await tx.create_record(ActionRecord(proposal_id=mine.id or 0))
    assert (await db.get_proposal(mine.id)).status is S.PROPOSED  # type: ignore[union-attr]
