"""`wait_for`: told soon, by whichever ledger object it was finished."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import StaticPool

from operator_core.actions import (
    ActionError,
    ActionStatus,
    InvalidValue,
    NotFound,
)
from operator_core.db import ActionDB
from tests.clocks import PATIENCE
from tests.conftest import BACKENDS, ON_SERVER, proposal
from tests.contract.waiting import (
    await_waiting,
    cancelled_at_the_end,
    hold,
    listening,
    made,
    started,
)
from tests.engines import engine_on

S = ActionStatus

pytestmark = pytest.mark.usefixtures("only_woken")


@pytest.fixture
async def other(
    db: ActionDB, backend: str, open_ledger: Callable[..., Awaitable[ActionDB]]
) -> ActionDB:
    """Another ledger on the same database; in memory there is none."""
    return db if backend == "memory" else await open_ledger()


async def test_what_is_finished_already_is_given_at_once(db: ActionDB) -> None:
    done, record = await started(db)
    await db.complete(record)
    cancelled = await db.create_proposal(proposal(status=S.CANCELLED))
    failed, record = await started(db)
    await db.fail(record, "no answer")
    for id, status in ((done, S.COMPLETED), (cancelled.id, S.CANCELLED), (failed, S.FAILED)):
        ended = await db.wait_for(id, timeout=PATIENCE)
        assert (ended.id, ended.status) == (id, status)
        assert ended == await db.get_proposal(id)


@pytest.mark.parametrize("together", [False, True])
async def test_ledgers_on_one_engine_in_memory_hear_of_each_other(together: bool) -> None:
    engine = create_async_engine("sqlite+aiosqlite://", poolclass=StaticPool)
    async with ActionDB(engine) as db, ActionDB(engine) as other:
        id, record = await started(other)
        waiting = asyncio.create_task(db.wait_for(id, timeout=PATIENCE))
        async with cancelled_at_the_end(waiting):
            await await_waiting(db)
            if together:
                async with other.transaction() as tx:
                    await tx.complete(record)
            else:
                await other.complete(record)
            assert (await waiting).status is S.COMPLETED
    await engine.dispose()


async def test_what_another_ledger_finishes_is_told(db: ActionDB, other: ActionDB) -> None:
    id, record = await started(other)
    waiting = asyncio.create_task(db.wait_for(id, timeout=PATIENCE))
    async with cancelled_at_the_end(waiting):
        await await_waiting(db)
        # Something happens, and it goes on waiting.
        await other.heartbeat(record)
        await made(other, 1)
        assert not waiting.done()
        await other.complete(record, {"moved": 3})
        assert (await waiting).status is S.COMPLETED


@pytest.mark.parametrize("how", ["cancel", "cancel all", "transaction"])
async def test_so_is_what_is_finished_in_another_way(
    db: ActionDB, other: ActionDB, how: str
) -> None:
    (proposed,) = await made(other, 1)
    waiting = asyncio.create_task(db.wait_for(proposed.id, timeout=PATIENCE))
    async with cancelled_at_the_end(waiting):
        await await_waiting(db)
        if how == "cancel":
            await other.update_proposal_status(proposed.id, S.CANCELLED)
        elif how == "cancel all":
            await other.cancel_all_pending()
        else:
            async with other.transaction() as tx:
                await tx.update_proposal_status(proposed.id, S.VALIDATED)
                await tx.update_proposal_status(proposed.id, S.CANCELLED)
        assert (await waiting).status is S.CANCELLED


async def test_a_failure_that_is_run_again_is_no_end(db: ActionDB, other: ActionDB) -> None:
    id, record = await started(other, max_retries=1, retry_delay=0)
    await other.fail(record, "no answer")
    with pytest.raises(TimeoutError):
        await db.wait_for(id, timeout=0.2)
    waiting = asyncio.create_task(db.wait_for(id, timeout=PATIENCE))
    async with cancelled_at_the_end(waiting):
        await await_waiting(db)
        (claim,) = await other.claim("worker")
        assert not waiting.done()
        await other.fail(claim.record.id, "no answer again")
        ended = await waiting
    assert (ended.status, ended.retry_count, ended.last_error) == (S.FAILED, 1, "no answer again")


async def test_a_failure_whose_retry_is_called_off_is_one(db: ActionDB, other: ActionDB) -> None:
    id, record = await started(other, max_retries=3, retry_delay=3600)
    await other.fail(record, "no answer")
    waiting = asyncio.create_task(db.wait_for(id, timeout=PATIENCE))
    async with cancelled_at_the_end(waiting):
        await await_waiting(db)
        await other.cancel_all_pending()
        assert (await waiting).status is S.FAILED


async def test_an_unknown_proposal_is_not_found(db: ActionDB, place: str | Path) -> None:
    held = await hold(db, place)
    for timeout in (None, 10):
        with pytest.raises(NotFound) as caught:
            await db.wait_for(77, timeout=timeout)
        assert (caught.value.kind, caught.value.id) == ("proposal", 77)
    await held.check_given_back()


async def test_what_makes_no_sense_is_refused(db: ActionDB) -> None:
    (proposed,) = await made(db, 1)
    for id, timeout in ((0, 1), ("1", 1), (None, 1), (proposed.id, -1), (proposed.id, "1")):
        with pytest.raises(InvalidValue):
            await db.wait_for(id, timeout=timeout)  # type: ignore[arg-type]


async def test_who_has_waited_too_long_is_told_for_what(db: ActionDB) -> None:
    (proposed,) = await made(db, 1)
    with pytest.raises(TimeoutError, match=f"proposal {proposed.id} is not finished after 0.05 s"):
        await db.wait_for(proposed.id, timeout=0.05)
    # A limit of the caller's own is its own.
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0.05):
            await db.wait_for(proposed.id, timeout=PATIENCE)
    assert str(caught.value) == ""


async def test_many_wait_on_one_connection_and_each_gets_its_own(
    db: ActionDB, other: ActionDB, place: str | Path, backend: str
) -> None:
    proposals = await made(other, 20)
    waiting = [
        asyncio.create_task(db.wait_for(each.id, timeout=2 * PATIENCE))
        for each in proposals
        for _ in "12345"
    ]
    async with cancelled_at_the_end(*waiting):
        await await_waiting(db, 100)
        if backend in ON_SERVER:
            async with asyncio.timeout(PATIENCE):
                while not listening(place):
                    await asyncio.sleep(0.001)
            assert len(listening(place)) == 1
        for each in proposals:
            await other.update_proposal_status(each.id, S.CANCELLED)
        ended = await asyncio.gather(*waiting)
    assert [each.id for each in ended] == [each.id for each in proposals for _ in "12345"]
    assert {each.status for each in ended} == {S.CANCELLED}


async def test_inside_a_transaction_there_is_nothing_to_wait_for(db: ActionDB) -> None:
    (proposed,) = await made(db, 1)
    async with db.transaction() as tx:
        with pytest.raises(ActionError, match="wait outside"):
            await tx.wait_for(proposed.id, timeout=1)
        with pytest.raises(ActionError, match="wait outside"):
            async for _ in tx.events(follow=True):
                pass
        # What is there already is read as ever.
        assert [event.proposal_id async for event in tx.events()] == [proposed.id]
        await tx.create_proposal(proposal("after"))
    assert len(await db.list_proposals()) == 2


async def test_nor_for_the_ledger_that_is_in_one(db: ActionDB) -> None:
    (proposed,) = await made(db, 1)
    async with db.transaction():
        with pytest.raises(ActionError, match="inside transaction"):
            await db.wait_for(proposed.id, timeout=0.2)
        with pytest.raises(ActionError, match="inside transaction"):
            await asyncio.wait_for(anext(db.events(after=1, follow=True)), 0.2)


# Nobody else has a session in its memory.
@pytest.mark.parametrize("backend", BACKENDS[1:], indirect=True)
async def test_nor_in_a_session_of_somebodys(
    db: ActionDB,
    place: str | Path,
    backend: str,
    make_engine: Callable[[str | Path], AsyncEngine],
) -> None:
    (proposed,) = await made(db, 1)
    # By the library that has the file open already.
    engine = (make_engine if backend == "engine" else engine_on)(place)
    try:
        async with AsyncSession(engine) as session, session.begin(), ActionDB(session) as joined:
            with pytest.raises(ActionError, match="wait outside"):
                await joined.wait_for(proposed.id, timeout=1)
            with pytest.raises(ActionError, match="wait outside"):
                await anext(joined.events(follow=True))
            async with joined.transaction() as tx:
                with pytest.raises(ActionError, match="wait outside"):
                    await tx.wait_for(proposed.id, timeout=1)
            await joined.create_proposal(proposal("after"))
    finally:
        await engine.dispose()
    assert len(await db.list_proposals()) == 2


async def test_how_soon_who_waits_is_woken(db: ActionDB, other: ActionDB, backend: str) -> None:
    seconds: list[float] = []
    for each in await made(other, 15):
        waiting = asyncio.create_task(db.wait_for(each.id, timeout=PATIENCE))
        async with cancelled_at_the_end(waiting):
            await await_waiting(db)
            await db.get_proposal(each.id)
            await other.update_proposal_status(each.id, S.CANCELLED)
            begun = time.monotonic()
            await waiting
            seconds.append(time.monotonic() - begun)
    print(f"\n{backend}: woken after {statistics.median(seconds) * 1000:.1f} ms in the median")
