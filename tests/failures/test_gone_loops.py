"""Event loops that are closed, or let go, with a ledger in use on them: the others go on."""

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from operator_core.actions.errors import NotOpen
from operator_core.actions.types import ActionProposal
from operator_core.db import ActionDB
from operator_core.db.run.loop_lock import Turns
from operator_core.db.sqlite.runner import SqliteRunner
from tests.failures.harness import PATIENCE, proposal
from tests.failures.test_other_loops import hectic as hectic
from tests.failures.test_other_loops import on_loops

TARGETS = pytest.mark.parametrize("target", ["memory", "file"])


def place(target: str, folder: Path) -> Any:
    return ":memory:" if target == "memory" else folder / "ledger.db"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    yield
    gc.collect()


def leave_inside(db: ActionDB, turns: int | None) -> asyncio.AbstractEventLoop:
    """Begins a transaction on a loop of its own, which never runs again.

    It runs until the transaction has written, or only for so many turns.
    """
    wrote = threading.Event()

    async def hold() -> None:
        async with db.transaction() as tx:
            await tx.create_proposal(proposal(action_name="left"))
            wrote.set()
            await asyncio.Event().wait()

    async def leave() -> None:
        task = asyncio.ensure_future(hold())
        # asyncio says so on the log of who leaves a task behind, which is what this does.
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        if turns is None:
            while not wrote.is_set():
                await asyncio.sleep(0.001)
        for _ in range(turns or 0):
            await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    return loop


@TARGETS
@pytest.mark.parametrize("turns", [None, 0, 1, 2, 5])
@pytest.mark.parametrize("collected", [False, True])
async def test_a_loop_closed_inside_a_transaction_gives_the_lock_back(
    target: str, turns: int | None, collected: bool, tmp_path: Path
) -> None:
    async with ActionDB(place(target, tmp_path), busy_timeout=PATIENCE) as db:
        loop = await asyncio.to_thread(leave_inside, db, turns)
        kept = asyncio.all_tasks(loop)
        loop.close()
        if collected:
            del kept
            gc.collect()
        made = await asyncio.wait_for(db.create_proposal(proposal()), PATIENCE)
        async with db.transaction() as tx:
            await tx.create_proposal(proposal())
        # What the transaction had written is gone with it.
        assert [each.action_name for each in await db.list_proposals()] == [made.action_name] * 2


# A collector that finalizes a loop's own socket before the loop makes asyncio complain (Python 3.11).
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <function BaseEventLoop.__del__:pytest.PytestUnraisableExceptionWarning"
)
async def test_a_loop_that_is_let_go_without_being_closed_gives_the_lock_back(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.db"
    async with ActionDB(path) as db, ActionDB(path, busy_timeout=PATIENCE) as other:
        loops: list[object] = []
        await asyncio.to_thread(lambda: loops.append(leave_inside(db, None)))

        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always", ResourceWarning)
            loops.clear()
            async with asyncio.timeout(PATIENCE):
                # The writer's thread may still be about to let go of what it was asked.
                while not any("unclosed event loop" in str(each.message) for each in warned):
                    gc.collect()
                    await asyncio.sleep(0.01)
        assert await asyncio.wait_for(other.create_proposal(proposal()), PATIENCE)
        assert await asyncio.wait_for(db.create_proposal(proposal()), PATIENCE)


async def test_another_process_is_not_kept_waiting_by_a_closed_loop(tmp_path: Path) -> None:
    # Another ledger on the file stands for it: nobody asks the one whose transaction it was for anything.
    path = tmp_path / "ledger.db"
    async with ActionDB(path) as db, ActionDB(path, busy_timeout=PATIENCE) as other:
        loop = await asyncio.to_thread(leave_inside, db, None)
        kept = asyncio.all_tasks(loop)
        loop.close()
        await asyncio.wait_for(other.create_proposal(proposal()), PATIENCE)
        assert kept


@TARGETS
async def test_a_ledger_whose_loop_was_closed_can_be_closed_on_another(
    target: str, tmp_path: Path
) -> None:
    db = ActionDB(place(target, tmp_path))
    await db.open()
    loop = await asyncio.to_thread(leave_inside, db, None)
    loop.close()
    await asyncio.wait_for(db.close(), PATIENCE)
    with pytest.raises(NotOpen):
        await db.create_proposal(proposal())


@TARGETS
@pytest.mark.usefixtures("hectic")
async def test_loops_that_close_and_use_a_ledger_at_once_get_answers_or_not_open(
    target: str, tmp_path: Path
) -> None:
    for round_ in range(15):
        db = ActionDB(place(target, tmp_path), busy_timeout=PATIENCE)
        await db.open()

        async def listen(db: ActionDB) -> object:
            async with db.changes():
                return None

        async def transact(db: ActionDB) -> object:
            async with db.transaction() as tx:
                return await tx.create_proposal(proposal())

        calls: list[Callable[[ActionDB], Any]] = [
            lambda db: db.list_proposals(),
            lambda db: db.create_proposal(proposal()),
            listen,
            transact,
        ]

        async def work(
            n: int, db: ActionDB = db, calls: Any = calls, round_: int = round_
        ) -> object:
            if n < 2:
                for _ in range(round_):
                    await asyncio.sleep(0)
                await db.close()
                return None
            ended: list[object] = []
            while not any(isinstance(each, NotOpen) for each in ended):
                ended = await asyncio.gather(*(call(db) for call in calls), return_exceptions=True)
                for each in ended:
                    assert each is None or isinstance(each, list | ActionProposal | NotOpen), repr(
                        each
                    )
            return ended

        answers = await asyncio.to_thread(on_loops, work)
        for answer in answers:
            assert answer is None or isinstance(answer, list), repr(answer)


async def test_turns_are_taken_by_one_at_a_time_across_loops() -> None:
    turns = Turns()
    inside = 0

    async def work(_: int) -> object:
        nonlocal inside
        for _ in range(50):
            async with turns.taken():
                inside += 1
                assert inside == 1
                await asyncio.sleep(0)
                inside -= 1
        return None

    assert await asyncio.to_thread(on_loops, work) == [None] * 4


async def test_who_is_cancelled_while_waiting_for_a_turn_takes_none() -> None:
    turns = Turns()

    async def take() -> None:
        async with turns.taken():
            await asyncio.sleep(0)

    for wait in range(4):
        async with turns.taken():
            tasks = [asyncio.create_task(take()) for _ in range(3)]
            await asyncio.sleep(0)
            tasks[0].cancel()
        for _ in range(wait):
            await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(PATIENCE), turns.taken():
            pass


async def hold(turns: Turns) -> None:
    async with turns.taken():
        await asyncio.Event().wait()


def leave_holding(turns: Turns) -> asyncio.AbstractEventLoop:
    """Takes a turn on a loop of its own, which never runs again."""
    loop = asyncio.new_event_loop()

    async def leave() -> None:
        task = asyncio.ensure_future(hold(turns))
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        while turns._holder is None:
            await asyncio.sleep(0)

    loop.run_until_complete(leave())
    return loop


@pytest.mark.parametrize("waited", [False, True])
async def test_a_turn_held_on_a_closed_loop_is_free(waited: bool) -> None:
    turns = Turns()
    loop = await asyncio.to_thread(leave_holding, turns)
    inside = asyncio.Event()

    async def take() -> None:
        async with turns.taken():
            inside.set()

    task = asyncio.create_task(take())
    if waited:
        while not turns._waiting:
            await asyncio.sleep(0)
    loop.close()
    async with asyncio.timeout(PATIENCE):
        await task
    assert inside.is_set()


async def test_who_lost_its_turn_gives_back_nobody_elses() -> None:
    turns = Turns()
    loop = await asyncio.to_thread(leave_holding, turns)
    loop.close()
    async with turns.taken():
        # The task that was left behind ends here, and its block with it.
        del loop
        gc.collect()
        other = asyncio.create_task(hold(turns))
        for _ in range(10):
            await asyncio.sleep(0)
        assert turns._waiting
    other.cancel()
    await asyncio.wait({other})


def test_a_ledger_that_is_collected_under_its_own_lock_is_closed(tmp_path: Path) -> None:
    # The collector runs wherever it likes, also in the writer's thread between two statements.
    collected = threading.Event()

    async def leave() -> None:
        db = ActionDB(tmp_path / "ledger.db")
        await db.open()
        await db.create_proposal(proposal())
        runner = db._database
        assert isinstance(runner, SqliteRunner)
        assert runner._writer is not None

        def collect() -> None:
            with runner._writer._lock, runner._writer.connection._stopping:
                runner._end()
            collected.set()

        runner._writer.connection.submit(collect)
        assert await asyncio.to_thread(collected.wait, PATIENCE)
        await db.close()

    asyncio.run(leave())
