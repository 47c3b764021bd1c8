"""`transaction()`: all or nothing, isolated, and nobody left waiting."""

import asyncio

import pytest

from operator_core.actions import (
    ActionError,
    ActionProposal,
    ActionRecord,
    ActionStatus,
    Busy,
    InvalidTransition,
    NotFound,
    NotOpen,
)
from operator_core.db import ActionDB
from tests.conftest import ON_SERVER, ON_SQLITE, proposal
from tests.databases import connected

S = ActionStatus


class Boom(Exception):
    pass


async def test_what_is_called_inside_is_kept_together(db: ActionDB) -> None:
    async with db.transaction() as tx:
        created = await tx.create_proposal(proposal(status=S.VALIDATED))
        id = created.id
        await tx.update_proposal_status(id, S.EXECUTING)
        await tx.create_record(ActionRecord(proposal_id=id))
        assert (await tx.get_proposal(id)) is not None
        assert len(await tx.history(id)) == 3
    assert len(await db.history(id)) == 3


async def test_an_exception_undoes_all_of_it(db: ActionDB) -> None:
    with pytest.raises(Boom):
        async with db.transaction() as tx:
            await tx.create_proposals([proposal(), proposal()])
            await tx.cancel_all_pending()
            raise Boom
    assert await db.list_proposals() == []
    assert await db.history() == []


async def test_a_cancellation_undoes_all_of_it_at_once(db: ActionDB) -> None:
    inside = asyncio.Event()

    async def think() -> None:
        async with db.transaction() as tx:
            await tx.create_proposal(proposal())
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(think())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await db.create_proposal(proposal("after"))
    assert [each.action_name for each in await db.list_proposals()] == ["after"]


async def test_a_failed_unit_leaves_the_rest_of_the_transaction(db: ActionDB) -> None:
    async with db.transaction() as tx:
        first = await tx.create_proposal(proposal())
        with pytest.raises(NotFound):
            await tx.create_proposals([proposal(), proposal(ticket_id=77)])
        with pytest.raises(InvalidTransition):
            await tx.update_proposal_status(first.id, S.COMPLETED)
        await tx.update_proposal_status(first.id, S.VALIDATED)
    assert [each.status for each in await db.list_proposals()] == [S.VALIDATED]
    assert len(await db.history()) == 2


@pytest.mark.parametrize("backend", ON_SERVER, indirect=True)
async def test_a_failed_read_leaves_it_too(place: str, db: ActionDB) -> None:
    with connected(place) as other:
        async with db.transaction() as tx:
            await tx._units.write(
                lambda conn: conn.exec_driver_sql("SET LOCAL lock_timeout = '1s'")
            )
            with other.transaction():
                other.execute("LOCK TABLE action_records IN ACCESS EXCLUSIVE MODE")
                made = await tx.create_proposal(proposal())
                with pytest.raises(Busy):
                    await tx.get_records_for_proposal(made.id)
            assert (await tx.get_records_for_proposal(made.id)) == []
    assert await db.get_proposal(made.id) == made


async def test_others_write_after_it_and_never_into_it(db: ActionDB) -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def think() -> None:
        async with db.transaction() as tx:
            await tx.create_proposal(proposal("thinker"))
            inside.set()
            await go_on.wait()
            raise Boom

    thinker = asyncio.create_task(think())
    await inside.wait()
    others = [asyncio.create_task(db.create_proposal(proposal(f"{n}"))) for n in range(5)]
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(Boom):
        await thinker
    await asyncio.gather(*others)
    names = {each.action_name for each in await db.list_proposals()}
    assert names == {"0", "1", "2", "3", "4"}


async def test_a_reader_sees_nothing_of_what_is_not_committed(db: ActionDB, backend: str) -> None:
    async with db.transaction() as tx:
        await tx.create_proposal(proposal())
        if backend != "memory":  # in memory a reader waits: see the next test
            assert await asyncio.create_task(db.list_proposals()) == []
            # The same task may read beside its own transaction too.
            assert await db.list_proposals() == []
    assert len(await db.list_proposals()) == 1


async def test_a_reader_in_memory_waits_for_the_transaction() -> None:
    inside = asyncio.Event()

    async def read(db: ActionDB) -> list[ActionProposal]:
        await inside.wait()
        return await db.list_proposals()

    async with ActionDB(":memory:") as db:
        reader = asyncio.create_task(read(db))
        with pytest.raises(Boom):
            async with db.transaction() as tx:
                await tx.create_proposal(proposal())
                inside.set()
                await tx.list_proposals()
                await tx.list_proposals()
                assert not reader.done()
                raise Boom
        assert await reader == []


async def test_calling_the_ledger_from_inside_its_own_transaction_is_told(db: ActionDB) -> None:
    async with db.transaction() as tx:
        with pytest.raises(ActionError, match="inside transaction"):
            await db.create_proposal(proposal())
        with pytest.raises(ActionError, match="inside transaction"):
            async with db.transaction():
                pass
        await tx.create_proposal(proposal())
    assert len(await db.list_proposals()) == 1


async def test_so_is_calling_it_from_a_task_started_inside(db: ActionDB) -> None:
    async with db.transaction() as tx:
        for call in (
            asyncio.gather(db.create_proposal(proposal())),
            asyncio.wait_for(db.create_proposal(proposal()), 60),
        ):
            with pytest.raises(ActionError, match="inside transaction"):
                await call
        await asyncio.gather(*(tx.create_proposal(proposal()) for _ in range(3)))
    assert len(await db.list_proposals()) == 3


async def test_a_task_started_inside_may_call_it_when_the_transaction_is_over(db: ActionDB) -> None:
    over = asyncio.Event()

    async def later() -> None:
        await over.wait()
        await db.create_proposal(proposal())

    async with db.transaction():
        task = asyncio.create_task(later())
    over.set()
    await task
    assert len(await db.list_proposals()) == 1


async def test_afterwards_its_object_is_of_no_use(db: ActionDB) -> None:
    async with db.transaction() as tx:
        await tx.create_proposal(proposal())
    with pytest.raises(NotOpen):
        await tx.create_proposal(proposal())
    with pytest.raises(NotOpen):
        await tx.list_proposals()


@pytest.mark.parametrize("backend", ON_SQLITE, indirect=True)
async def test_several_at_once_take_turns(db: ActionDB) -> None:
    async def add() -> None:
        async with db.transaction() as tx:
            seen = len(await tx.list_proposals())
            await tx.create_proposal(proposal(f"n{seen}"))

    await asyncio.gather(*(add() for _ in range(12)))
    names = [each.action_name for each in await db.list_proposals()]
    assert names == [f"n{n}" for n in reversed(range(12))]


@pytest.mark.parametrize("backend", ON_SERVER, indirect=True)
async def test_on_a_server_several_run_side_by_side_and_one_wins(db: ActionDB) -> None:
    created = await db.create_proposal(proposal(status=S.VALIDATED))
    started = asyncio.Barrier(2)

    async def start() -> None:
        async with db.transaction() as tx:
            assert len(await tx.list_proposals(S.VALIDATED)) == 1
            await started.wait()
            await tx.update_proposal_status(created.id, S.EXECUTING)

    first, second = await asyncio.gather(start(), start(), return_exceptions=True)
    assert sorted([first is None, second is None]) == [False, True]
    assert isinstance(first or second, InvalidTransition)
    assert len(await db.history()) == 2
