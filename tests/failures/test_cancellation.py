"""Tasks cancelled at every await of every operation: the lock is free, the change whole or absent."""

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from operator_core.actions.types import ActionStatus
from operator_core.db import ActionDB
from operator_core.db.sql.sqlite_library import dbapi
from tests.engines import engine_on
from tests.failures.cancelling import (
    EVENTS,
    OPERATIONS,
    WITH_THE_ANSWER,
    Bench,
    cancel_at,
    check_agree,
    rest,
)
from tests.failures.harness import PATIENCE, check_lock_free, check_whole, proposal

WRITTEN_LATER = proposal(status=ActionStatus.COMPLETED)


async def time_it(on: Bench, operation: str) -> float:
    """How long the operation takes, in seconds, when nothing else disturbs it."""
    took: list[float] = []
    for _ in range(5):
        await on.prepare()
        began = time.perf_counter()
        await OPERATIONS[operation](on)
        took.append(time.perf_counter() - began)
    return min(took)


async def cancel_often(
    db: ActionDB, operation: str, path: Path | None, points: int
) -> Counter[str]:
    """Cancels the operation `points` times at each of its awaits, earlier and later in each."""
    figures: Counter[str] = Counter()
    on = Bench(db)
    await on.prepare()
    duration = await time_it(on, operation)
    nth, reached = 0, True
    while reached:
        nth += 1
        reached = False
        # From at once to well after the moment at which it would have ended, and in the very turn of it.
        moments = [1.5 * duration * point / points for point in range(points)]
        for after in (*moments, WITH_THE_ANSWER):
            if operation in EVENTS:
                await db.cancel_all_pending()
                await on.prepare()
            mark = await db.newest_event_id()
            cancelled = await cancel_at(OPERATIONS[operation](on), nth, after)
            reached |= cancelled
            await rest()
            # Queues behind the unit that may be under way, and behind nothing else.
            await asyncio.wait_for(db.create_proposal(WRITTEN_LATER), PATIENCE)
            if path is not None:
                check_lock_free(path)
            *events, _ = await db.history(after=mark)
            whole = EVENTS.get(operation, 0)
            assert len(events) in (0, whole), f"half of {operation} was done: {events}"
            await check_agree(db, events)
            figures["cancelled"] += cancelled
            figures["whole"] += cancelled and bool(events)
    figures["awaits"] = nth - 1
    return figures


async def check_operation(db: ActionDB, operation: str, path: Path | None, points: int) -> None:
    figures = await cancel_often(db, operation, path, points)
    print(f"{operation}: {dict(figures)}")
    assert figures["awaits"]
    if path is not None:
        check_whole(path)


@pytest.fixture
def file(backend: str, tmp_path: Path) -> Path | None:
    """The ledger's file, if it has one."""
    return tmp_path / "ledger.db" if backend in ("file", "engine") else None


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_task_cancelled_at_any_await_leaves_no_lock_and_no_half_change(
    db: ActionDB, operation: str, file: Path | None
) -> None:
    await check_operation(db, operation, file, points=8)


@pytest.mark.soak
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_tasks_cancelled_300_times_at_each_await_leave_no_lock_and_no_half_change(
    db: ActionDB, operation: str, file: Path | None
) -> None:
    await check_operation(db, operation, file, points=300)


@pytest.mark.parametrize("target", [":memory:", "ledger.db"])
async def test_a_cancelled_open_or_close_leaves_a_ledger_that_can_be_opened(
    target: str, tmp_path: Path
) -> None:
    reached, nth = True, 0
    while reached:
        nth += 1
        reached = False
        for point in range(11):
            last = point == 10
            place = target if target == ":memory:" else tmp_path / f"{nth}-{point}.db"
            db = ActionDB(place)
            reached |= await cancel_at(db.open(), nth, WITH_THE_ANSWER if last else point * 0.0005)
            await rest()
            await db.open()
            await db.create_proposal(proposal())
            reached |= await cancel_at(db.close(), nth, WITH_THE_ANSWER if last else point * 0.0002)
            await rest()
            await db.close()
            async with ActionDB(place) as again:
                assert len(await again.list_proposals()) == int(target != ":memory:")


async def test_cancelling_everybody_who_waits_leaves_the_queue_usable(db: ActionDB) -> None:
    tasks = [asyncio.create_task(db.create_proposal(proposal())) for _ in range(64)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    await rest()
    created = await asyncio.wait_for(db.create_proposal(proposal()), PATIENCE)
    kept = {each.id for each in await db.list_proposals()}
    print(f"cancelled={sum(isinstance(a, BaseException) for a in answers)} kept={len(kept)}")
    assert created.id in kept
    assert len(await db.history()) == len(kept)


# ------ the planted bug: a repository that keeps the stock session and never rolls back


class NaiveRepository:
    """A repository as one would write it: a session of its own, a statement, a commit."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.session = AsyncSession(engine)

    async def create_proposal(self) -> None:
        await self.session.execute(
            text(
                "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at)"
                " VALUES ('naive', '{}', 'no', '2026-01-01 00:00:00.000000')"
            )
        )
        await asyncio.sleep(0)  # whatever else a service has to do before it commits
        await self.session.commit()


class Remembered(dbapi.Connection):
    """A connection that can be closed although its caller was cancelled before aiosqlite had it."""

    opened: ClassVar[list[dbapi.Connection]] = []

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.opened.append(self)

    @classmethod
    def close_all(cls) -> None:
        while cls.opened:
            cls.opened.pop().close()


async def test_planted_a_stock_session_that_is_cancelled_keeps_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with ActionDB(path):
        pass
    leaks = attempts = 0
    reached = True
    while reached:
        attempts += 1
        # A new engine for each attempt, so that all have the same awaits.
        engine = engine_on(
            path,
            connect_args={"factory": Remembered, "check_same_thread": False},
        )
        repository = NaiveRepository(engine)
        reached = await cancel_at(repository.create_proposal(), attempts, 0)
        await rest()
        try:
            check_lock_free(path)
        except AssertionError:
            leaks += 1
        await repository.session.close()
        await engine.dispose()
        Remembered.close_all()
    print(f"planted: awaits={attempts - 1} locks leaked={leaks}")
    assert leaks
