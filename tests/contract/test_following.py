"""`events`: the whole history in order, from any place in it, as far as it goes or as it goes on."""

import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from operator_core.actions import ActionEvent, ActionStatus, EventType, InvalidValue, NotFound
from operator_core.db import ActionDB
from tests.clocks import PATIENCE
from tests.conftest import ON_SERVER, proposal
from tests.contract.waiting import (
    await_waiting,
    cancelled_at_the_end,
    hold,
    listening,
    made,
    started,
    told,
)

S = ActionStatus

pytestmark = pytest.mark.usefixtures("only_woken")


@pytest.fixture
async def other(
    db: ActionDB, backend: str, open_ledger: Callable[..., Awaitable[ActionDB]]
) -> ActionDB:
    """Another ledger on the same database; in memory there is none."""
    return db if backend == "memory" else await open_ledger()


async def all_events(db: ActionDB, after: int | None = None) -> list[ActionEvent]:
    return [event async for event in db.events(after=after)]


def ids(events: list[ActionEvent]) -> list[int]:
    return [event.id for event in events]


async def test_an_empty_ledger_has_none(db: ActionDB) -> None:
    assert await all_events(db) == await all_events(db, after=0) == []
    assert await db.newest_event_id() == 0


async def test_all_that_happened_is_told_in_order(db: ActionDB) -> None:
    await started(db)
    id, record = await started(db)
    await db.complete(record)
    events = await all_events(db)
    assert events == await db.history()
    mine = [event for event in events if event.proposal_id == id]
    assert [event.to_status for event in mine if event.to_status] == [
        S.VALIDATED,
        S.EXECUTING,
        S.COMPLETED,
    ]
    assert [event.event_type for event in mine if event.record_id == record] == [
        EventType.RECORD_STARTED,
        EventType.RECORD_FINISHED,
    ]
    assert await db.newest_event_id() == events[-1].id


async def test_whoever_names_an_event_goes_on_behind_it(db: ActionDB) -> None:
    await made(db, 3)
    _, record = await started(db)
    await db.fail(record, "no answer")
    events = await all_events(db)
    for number, event in enumerate(events, 1):
        assert await all_events(db, after=event.id) == events[number:]
    assert await all_events(db, after=0) == events


async def test_an_event_that_never_was_is_no_place_to_go_on(db: ActionDB) -> None:
    await made(db, 1)
    for follow in (False, True):
        with pytest.raises(NotFound) as caught:
            await anext(db.events(after=77, follow=follow))
        assert (caught.value.kind, caught.value.id) == ("event", 77)
        for wrong in (-1, "1", True):
            with pytest.raises(InvalidValue):
                await anext(db.events(after=wrong, follow=follow))  # type: ignore[arg-type]


async def test_more_than_one_page_is_told_without_a_seam(db: ActionDB) -> None:
    assert await all_events(db) == []
    for size, whole in ((999, 999), (1, 1000), (1, 1001), (1250, 2251)):
        await made(db, size)
        events = await all_events(db)
        assert ids(events) == list(range(1, whole + 1))
    for after in (1, 250, 1000, 1251, 2250, 2251):
        assert ids(await all_events(db, after=after)) == list(range(after + 1, 2252))
    assert ids(await told(db, 2251)) == ids(events)


async def test_a_follower_is_told_what_was_and_then_what_comes(
    db: ActionDB, other: ActionDB
) -> None:
    await made(db, 2)
    following = asyncio.create_task(told(db, 6))
    async with cancelled_at_the_end(following):
        await await_waiting(db)
        await made(other, 1)
        await made(db, 1)
        async with other.transaction() as tx:
            await tx.create_proposal(proposal())
            await tx.create_proposal(proposal())
        assert await following == await db.history()


async def test_what_is_rolled_back_is_told_to_nobody(db: ActionDB, other: ActionDB) -> None:
    following = asyncio.create_task(told(db, 2))
    async with cancelled_at_the_end(following):
        await await_waiting(db)
        with pytest.raises(RuntimeError):
            async with other.transaction() as tx:
                await tx.create_proposal(proposal("never"))
                raise RuntimeError
        for name in ("one", "two"):
            await other.create_proposal(proposal(name))
        events = await following
    names = [await db.get_proposal(event.proposal_id) for event in events]
    assert [each and each.action_name for each in names] == ["one", "two"]


async def test_inside_a_transaction_nothing_of_others_is_skipped(
    db: ActionDB, backend: str
) -> None:
    await made(db, 2)
    async with db.transaction() as tx:
        await tx.create_proposal(proposal())
        events = await all_events(tx)
        # On a server its own place in the order is not known before its commit.
        assert ids(events) == ([1, 2] if backend in ON_SERVER else [1, 2, 3])
        assert ids(await all_events(tx, after=1)) == ids(events)[1:]
        assert await tx.newest_event_id() == len(events)
        assert len(await tx.history()) == 3
    assert ids(await all_events(db)) == [1, 2, 3]


async def test_each_follower_has_its_own_place(
    db: ActionDB, other: ActionDB, place: str | Path, backend: str
) -> None:
    await made(db, 30)
    first = ids(await all_events(db))
    afters = [None, 0, *first[::7], first[-1]]
    seen = [first.index(after) + 1 if after else 0 for after in afters]
    following = [
        asyncio.create_task(told(db, 60 - each, after))
        for each, after in zip(seen, afters, strict=True)
    ]
    async with cancelled_at_the_end(*following):
        await await_waiting(db, len(afters))
        for _ in range(30):
            await other.create_proposal(proposal())
        if backend in ON_SERVER:
            assert len(listening(place)) <= 1
        heard = await asyncio.gather(*following)
    whole = ids(await all_events(db))
    assert [ids(events) for events in heard] == [whole[each:] for each in seen]


async def test_whoever_breaks_off_goes_on_where_it_was(db: ActionDB, other: ActionDB) -> None:
    async def write() -> None:
        for _ in range(60):
            await other.create_proposal(proposal())

    writing = asyncio.create_task(write())
    heard: list[int] = []
    async with cancelled_at_the_end(writing), asyncio.timeout(PATIENCE):
        while len(heard) < 60:
            async with aclosing(db.events(after=heard[-1] if heard else None, follow=True)) as few:
                async for event in few:
                    heard.append(event.id)
                    if len(heard) % 7 == 0 or len(heard) == 60:
                        break
        await writing
    assert heard == ids(await all_events(db))
    assert len(set(heard)) == 60


async def test_from_now_on_is_behind_the_newest(db: ActionDB, other: ActionDB) -> None:
    await made(db, 5)
    following = asyncio.create_task(told(db, 1, await db.newest_event_id()))
    async with cancelled_at_the_end(following):
        await await_waiting(db)
        await other.create_proposal(proposal("new"))
        (event,) = await following
    assert [event] == (await db.history())[5:]


@pytest.mark.parametrize("ending", ["closed", "cancelled", "forgotten"])
async def test_a_follower_that_ends_gives_everything_back(
    db: ActionDB, place: str | Path, backend: str, ending: str
) -> None:
    held = await hold(db, place)
    await made(db, 5)
    events = db.events(follow=True)
    assert (await anext(events)).id == 1
    if backend in ON_SERVER:
        assert len(listening(place)) == 1
    if ending == "cancelled":
        for _ in range(5):
            await anext(events)
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    elif ending == "forgotten":
        # asyncio closes what nobody holds any more.
        del events
        gc.collect()
    else:
        await events.aclose()
    await held.check_given_back()


async def test_one_of_several_that_ends_leaves_the_others_listening(
    db: ActionDB, other: ActionDB
) -> None:
    staying = asyncio.create_task(told(db, 2))
    leaving = asyncio.create_task(told(db, 2))
    async with cancelled_at_the_end(staying, leaving):
        await await_waiting(db, 2)
        await made(other, 1)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await await_waiting(db, 1)
        await db.list_proposals()
        await made(other, 1)
        assert len(await staying) == 2


async def test_how_soon_a_follower_is_told(db: ActionDB, other: ActionDB, backend: str) -> None:
    seconds: list[float] = []
    async with aclosing(db.events(follow=True)) as events:
        for _ in range(15):
            waiting = asyncio.ensure_future(anext(events))
            await await_waiting(db)
            await db.list_proposals()
            await other.create_proposal(proposal())
            begun = time.monotonic()
            await asyncio.wait_for(waiting, PATIENCE)
            seconds.append(time.monotonic() - begun)
    print(f"\n{backend}: told after {statistics.median(seconds) * 1000:.1f} ms in the median")
