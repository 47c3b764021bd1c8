"""A ledger closed while it is in use: what is under way ends, well or clearly, and nothing hangs."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from operator_core.actions.errors import ActionError, NotOpen
from operator_core.actions.types import ActionProposal
from operator_core.db import ActionDB
from operator_core.db.sqlite.connection import SqliteConnection
from tests.failures.cancelling import OPERATIONS, Bench
from tests.failures.harness import PATIENCE, check_lock_free, proposal, rows

TARGETS = pytest.mark.parametrize("target", ["memory", "file"])


def place(target: str, folder: Path) -> Any:
    return ":memory:" if target == "memory" else folder / "ledger.db"


def check_no_thread(before: set[threading.Thread]) -> None:
    left = set(threading.enumerate()) - before
    assert not left, f"threads left: {left}"


def check_each_ended_clearly(answers: list[object]) -> list[int | None]:
    """Fails unless every caller got a proposal or was told that the ledger is closed; the ids."""
    for answer in answers:
        assert isinstance(answer, ActionProposal | NotOpen), repr(answer)
    return [answer.id for answer in answers if isinstance(answer, ActionProposal)]


@TARGETS
@pytest.mark.parametrize("turns", [0, 1, 2, 5, 20])
async def test_closing_with_units_in_flight_answers_them_all(
    target: str, turns: int, tmp_path: Path
) -> None:
    before = set(threading.enumerate())
    db = ActionDB(place(target, tmp_path))
    await db.open()
    tasks = [asyncio.create_task(db.create_proposal(proposal())) for _ in range(200)]
    for _ in range(turns):
        await asyncio.sleep(0)
    await asyncio.wait_for(db.close(), PATIENCE)
    check_no_thread(before)
    answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE)
    written = check_each_ended_clearly(answers)
    print(f"in flight=200 answered={len(written)} told NotOpen={200 - len(written)}")
    if target == "file":
        assert {
            row[0] for row in rows(tmp_path / "ledger.db", "SELECT id FROM action_proposals")
        } == set(written)


@TARGETS
@pytest.mark.parametrize("turns", [0, 1, 2, 5, 20])
async def test_closing_with_a_transaction_and_a_queue_behind_it_answers_them_all(
    target: str, turns: int, tmp_path: Path
) -> None:
    before = set(threading.enumerate())
    db = ActionDB(place(target, tmp_path))
    await db.open()
    closed = asyncio.Event()
    committed = False

    async def transact() -> None:
        nonlocal committed
        async with db.transaction() as tx:
            await tx.create_proposal(proposal(action_name="in it"))
            await closed.wait()
        committed = True

    inside = asyncio.create_task(transact())
    behind = [asyncio.create_task(db.create_proposal(proposal())) for _ in range(20)]
    second = asyncio.create_task(transact())
    behind += [asyncio.create_task(db.create_proposal(proposal())) for _ in range(20)]
    for _ in range(turns):
        await asyncio.sleep(0)
    await asyncio.wait_for(db.close(), PATIENCE)
    closed.set()
    done, waiting = await asyncio.wait([inside, second, *behind], timeout=10)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert not waiting, f"{len(waiting)} callers were never answered"
    check_no_thread(before)
    check_each_ended_clearly(
        [task.exception() or task.result() for task in done - {inside, second}]
    )
    # Neither may believe that it committed.
    assert not committed
    assert isinstance(inside.exception(), NotOpen)
    assert isinstance(second.exception(), NotOpen)
    if target == "file":
        check_lock_free(tmp_path / "ledger.db")
        kept = rows(
            tmp_path / "ledger.db", "SELECT 1 FROM action_proposals WHERE action_name = 'in it'"
        )
        assert kept == []


@TARGETS
async def test_closing_under_an_open_transaction_rolls_it_back_and_says_so(
    target: str, tmp_path: Path
) -> None:
    before = set(threading.enumerate())
    db = ActionDB(place(target, tmp_path))
    await db.open()
    left_quietly = False
    with pytest.raises(NotOpen):
        async with db.transaction() as tx:
            await tx.create_proposal(proposal())
            await asyncio.wait_for(db.close(), PATIENCE)
            for late in (tx.create_proposal(proposal()), tx.list_proposals()):
                with pytest.raises(NotOpen):
                    await late
        left_quietly = True
    assert not left_quietly
    check_no_thread(before)
    if target == "file":
        assert rows(tmp_path / "ledger.db", "SELECT * FROM action_proposals") == []


@TARGETS
async def test_a_commit_that_loses_to_closing_is_not_acknowledged(
    target: str, tmp_path: Path
) -> None:
    for turn in range(30):
        db = ActionDB(place(target, tmp_path))
        await db.open()
        inside, go_on = asyncio.Event(), asyncio.Event()

        async def transact(
            db: ActionDB = db, inside: asyncio.Event = inside, go_on: asyncio.Event = go_on
        ) -> None:
            async with db.transaction() as tx:
                await tx.create_proposal(proposal())
                inside.set()
                await go_on.wait()

        task = asyncio.create_task(transact())
        await inside.wait()
        closing = asyncio.create_task(db.close())
        for _ in range(turn % 3 + 1):
            await asyncio.sleep(0)
        go_on.set()
        answer = (await asyncio.gather(task, return_exceptions=True))[0]
        await asyncio.wait_for(closing, PATIENCE)
        if target == "file":
            kept = len(rows(tmp_path / "ledger.db", "SELECT 1 FROM action_proposals"))
            assert kept == 0
        assert isinstance(answer, NotOpen), repr(answer)


@TARGETS
async def test_opening_at_once_opens_one_ledger(target: str, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    db = ActionDB(place(target, tmp_path))

    async def use() -> int | None:
        await db.open()
        return (await db.create_proposal(proposal())).id

    assert sorted(await asyncio.gather(*(use() for _ in range(5)))) == [1, 2, 3, 4, 5]
    assert len(await db.list_proposals()) == 5
    await db.close()
    check_no_thread(before)


@TARGETS
async def test_closing_twice_at_once_and_again_does_no_harm(target: str, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    db = ActionDB(place(target, tmp_path))
    await db.open()
    task = asyncio.create_task(db.create_proposal(proposal()))
    await asyncio.wait_for(asyncio.gather(db.close(), db.close()), PATIENCE)
    await db.close()
    check_no_thread(before)
    await asyncio.gather(task, return_exceptions=True)
    async with db:
        await db.create_proposal(proposal())
    check_no_thread(before)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_closed_ledger_says_that_it_is_not_open(
    open_ledger: Callable[..., Awaitable[ActionDB]], operation: str
) -> None:
    db = await open_ledger()
    on = Bench(db)
    await on.prepare()
    await db.close()
    with pytest.raises(NotOpen):
        await OPERATIONS[operation](on)


async def test_a_borrowed_engine_closed_with_units_in_flight_still_finishes_them(
    tmp_path: Path,
) -> None:
    from tests.engines import engine_on

    path = tmp_path / "ledger.db"
    engine = engine_on(path, connect_args={"timeout": PATIENCE})
    db = ActionDB(engine)
    await db.open()
    tasks = [asyncio.create_task(db.create_proposal(proposal())) for _ in range(10)]
    await asyncio.sleep(0)
    await asyncio.wait_for(db.close(), PATIENCE)
    answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE)
    written = check_each_ended_clearly(answers)
    assert {row[0] for row in rows(path, "SELECT id FROM action_proposals")} == set(written)
    # It was borrowed: whoever brought it goes on using it.
    async with ActionDB(engine) as again:
        assert len(await again.list_proposals()) == len(written)
    await engine.dispose()


async def test_planted_a_close_that_forgets_the_queue_is_caught() -> None:
    queue: asyncio.Queue[asyncio.Future[Any]] = asyncio.Queue()

    async def work() -> None:
        while True:
            (await queue.get()).set_result(proposal())
            await asyncio.sleep(0)

    async def call() -> object:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        queue.put_nowait(future)
        return await future

    worker = asyncio.create_task(work())
    tasks = [asyncio.create_task(call()) for _ in range(20)]
    await asyncio.sleep(0)
    worker.cancel()
    _, waiting = await asyncio.wait(tasks, timeout=0.2)
    for task in waiting:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    with pytest.raises(AssertionError):
        check_each_ended_clearly(answers)


def test_not_open_is_an_error_of_the_ledger() -> None:
    assert issubclass(NotOpen, ActionError)


@pytest.mark.parametrize("followed", [False, True])
async def test_a_closed_ledger_is_one_file_that_can_be_copied(
    followed: bool, tmp_path: Path
) -> None:
    # All its connections close; two that did so at once would each leave the log to the other.
    for n in range(100):
        path = tmp_path / f"{n}.db"
        async with ActionDB(path) as db:
            await db.create_proposal(proposal())
            await asyncio.gather(*(db.list_proposals() for _ in range(4)))
            if followed:
                waiting = asyncio.create_task(db.wait_for(1))
                await asyncio.sleep(0)
        if followed:
            with pytest.raises(NotOpen):
                await waiting
        assert [each.name for each in tmp_path.iterdir()] == [path.name]
        path.unlink()


async def test_who_follows_a_ledger_that_is_opened_again_hears_of_the_others(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.db"
    db = ActionDB(path)
    await db.open()
    before = db.changes()
    await before.__aenter__()
    await db.close()
    await db.open()
    async with ActionDB(path) as other, db.changes() as changed:
        changed.clear()
        await other.create_proposal(proposal())
        await asyncio.wait_for(changed.wait(), PATIENCE)
    await before.__aexit__(None, None, None)
    await db.close()


async def test_its_connections_close_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, at_once, most, closed = threading.Lock(), 0, 0, 0
    disconnect = SqliteConnection.disconnect

    def slowly(connection: SqliteConnection) -> None:
        nonlocal at_once, most, closed
        with lock:
            at_once, closed = at_once + 1, closed + 1
            most = max(most, at_once)
        # Long enough for the others to come in, if they may.
        time.sleep(0.1)
        disconnect(connection)
        with lock:
            at_once -= 1

    async with ActionDB(tmp_path / "ledger.db") as db:
        await db.create_proposal(proposal())
        await asyncio.gather(*(db.list_proposals() for _ in range(8)))
        monkeypatch.setattr(SqliteConnection, "disconnect", slowly)
    assert closed > 1
    assert most == 1


async def test_a_write_goes_on_when_the_readers_close_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last connection that closes deletes the files of WAL mode; the writer, which had not begun, creates others."""
    path = tmp_path / "ledger.db"
    begin = SqliteConnection.begin
    checked, closed = threading.Event(), threading.Event()

    def begin_later(connection: SqliteConnection) -> None:
        # The writer has looked at its files; it goes on when the reader is gone, and with it the files.
        checked.set()
        assert closed.wait(PATIENCE)
        begin(connection)

    async with ActionDB(path) as db:
        (reader,) = db._database._readers  # type: ignore[attr-defined]
        monkeypatch.setattr(SqliteConnection, "begin", begin_later)
        written = asyncio.create_task(db.create_proposal(proposal()))
        assert await asyncio.to_thread(checked.wait, PATIENCE)
        # Kept open, so that the file that the writer creates can't have its inode.
        with path.with_name("ledger.db-wal").open("rb"):
            reader.connection.end()
            await reader.connection.ended()
            assert not path.with_name("ledger.db-wal").exists()
            closed.set()
            assert (await asyncio.wait_for(written, PATIENCE)).id == 1
    assert rows(path, "SELECT count(*) FROM action_proposals") == [(1,)]


async def test_closing_waits_for_the_poller_of_a_follower_that_has_left(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    db = ActionDB(tmp_path / "ledger.db")
    await db.open()
    created = await db.create_proposal(proposal())
    events = db.events(follow=True)
    assert (await anext(events)).proposal_id == created.id
    released = threading.Event()
    db._database._changes.connection.submit(lambda: released.wait(PATIENCE))
    await events.aclose()
    asyncio.get_running_loop().call_later(0.2, released.set)
    await asyncio.wait_for(db.close(), PATIENCE)
    assert released.is_set()
    check_no_thread(before)
