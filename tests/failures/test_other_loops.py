"""A ledger used from two event loops at once, and after a fork: safe, or told at once."""

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import NullPool

from operator_core.actions.types import ActionProposal
from operator_core.db import ActionDB
from tests.engines import engine_on
from tests.failures.harness import PATIENCE, check_whole, proposal, run

THREADS = 4


@pytest.fixture
def hectic() -> Iterator[None]:
    """Lets threads take turns far more often, so that what can be interleaved will be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def on_loops(work: Callable[[int], object]) -> list[object]:
    """Runs `work(n)`, a coroutine, in several threads at once, each with a loop of its own."""
    answers: list[object] = [None] * THREADS
    barrier = threading.Barrier(THREADS)

    def run_one(n: int) -> None:
        async def begin() -> object:
            barrier.wait(PATIENCE)
            return await asyncio.wait_for(work(n), PATIENCE)  # type: ignore[arg-type]

        try:
            answers[n] = asyncio.run(begin())
        except BaseException as error:
            answers[n] = error

    threads = [threading.Thread(target=run_one, args=(n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    return answers


def check_own_answers(answers: list[object], each: int) -> None:
    """Fails unless every loop got `each` answers, all of them to what it asked."""
    for n, answer in enumerate(answers):
        assert isinstance(answer, list), f"loop {n} ended with {answer!r}"
        assert len(answer) == each
        assert {got.parameters["loop"] for got in answer} == {n}
    ids = [got.id for answer in answers for got in answer]  # type: ignore[attr-defined]
    assert len(set(ids)) == len(ids)


@pytest.mark.usefixtures("hectic")
@pytest.mark.parametrize("target", [":memory:", "ledger.db"])
async def test_several_event_loops_may_share_a_ledger(target: str, tmp_path: Path) -> None:
    # The first calls are the ones that start threads, so several ledgers are begun on.
    for round_ in range(10):
        place = target if target == ":memory:" else tmp_path / f"{round_}.db"
        db = ActionDB(place, busy_timeout=PATIENCE)
        await db.open()

        async def work(n: int, db: ActionDB = db) -> list[ActionProposal | None]:
            made = [
                await db.create_proposal(proposal(parameters={"loop": n, "i": i})) for i in range(5)
            ]
            made += await asyncio.gather(
                *(db.create_proposal(proposal(parameters={"loop": n, "i": i})) for i in range(5))
            )
            async with db.transaction() as tx:
                made.append(await tx.create_proposal(proposal(parameters={"loop": n, "i": 5})))
            return [await db.get_proposal(each.id or 0) for each in made]

        answers = await asyncio.to_thread(on_loops, work)
        check_own_answers(answers, each=11)
        # The loop that opened it goes on too, and closing gives back every thread.
        assert len(await db.list_proposals()) == THREADS * 11
        await db.close()


@pytest.mark.usefixtures("hectic")
async def test_several_event_loops_may_share_a_ledger_on_a_borrowed_engine(tmp_path: Path) -> None:
    # SQLAlchemy's pools belong to one loop ("Using multiple asyncio event loops" in its manual).
    engine = engine_on(
        tmp_path / "ledger.db",
        connect_args={"timeout": PATIENCE},
        poolclass=NullPool,
    )
    async with ActionDB(engine) as db:

        async def work(n: int) -> list[ActionProposal]:
            return [
                await db.create_proposal(proposal(parameters={"loop": n, "i": i})) for i in range(5)
            ]

        check_own_answers(await asyncio.to_thread(on_loops, work), each=5)
        assert len(await db.list_proposals()) == THREADS * 5
    await engine.dispose()


async def test_planted_answers_that_belong_to_one_loop_are_caught() -> None:
    opened_on = asyncio.get_running_loop()

    async def work(n: int) -> list[ActionProposal]:
        answer = opened_on.create_future()
        opened_on.call_soon_threadsafe(answer.set_result, proposal(parameters={"loop": n}))
        return [await answer]

    answers = await asyncio.to_thread(on_loops, work)
    with pytest.raises(AssertionError, match="different loop"):
        check_own_answers(answers, each=1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kind", ["memory", "file", "engine"])
def test_a_forked_child_is_told_and_its_parent_goes_on(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    (seen,) = run("forking.py", kind, path)
    print(seen)
    told = seen["child"]
    assert len(told) == seen["operations"]
    assert set(told.values()) == {"WrongProcess"}
    # The child leaves; what the parent has open is untouched by that.
    assert seen["parent wrote"] == 3
    if kind != "memory":
        check_whole(path)
