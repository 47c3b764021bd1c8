"""Events are committed in another order than that of their ids: who follows them misses none."""

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from operator_core.actions import ForeignTransactions
from operator_core.db import ActionDB
from tests.databases import connected, query
from tests.engines import engine_on
from tests.failures.harness import PATIENCE, Child, finish, let_go, proposal, rows, start
from tests.failures.server_harness import DRIVERS, by

EVENTS: Final = 10_000
BATCH: Final = 20
ROUNDS: Final = 10


class Follower:
    """Follows a ledger to the end; now and then it breaks off, and goes on behind the last it had."""

    def __init__(self, db: ActionDB, *, breaks_off_every: int | None = None) -> None:
        self._db = db
        self._breaks_off_every = breaks_off_every
        self.heard: list[int] = []

    async def follow(self, wanted: Callable[[], int | None]) -> None:
        """Until it has heard of as many as are `wanted`, once that is known."""
        while len(self.heard) != wanted():
            after = self.heard[-1] if self.heard else None
            async with aclosing(self._db.events(after=after, follow=True)) as events:
                async for event in events:
                    self.heard.append(event.id)
                    if len(self.heard) == wanted():
                        return
                    if self._breaks_off_every and len(self.heard) % self._breaks_off_every == 0:
                        break


class NaiveFollower:
    """The planted bug: remembers the highest id that it has seen."""

    def __init__(self, connection: "psycopg.Connection[Any]") -> None:
        self._connection = connection
        self.heard: list[int] = []

    def look(self) -> None:
        after = self.heard[-1] if self.heard else 0
        sql = "SELECT id FROM action_events WHERE id > %s ORDER BY id"
        self.heard += [id for (id,) in self._connection.execute(sql, (after,))]


def check_complete(heard: list[int], written: list[int]) -> None:
    """Fails unless each of the events was heard of once."""
    skipped, doubled = set(written) - set(heard), len(heard) - len(set(heard))
    assert (len(skipped), doubled) == (0, 0)
    assert set(heard) == set(written)


class Writer:
    """A service whose transactions are held open while others begin and commit."""

    def __init__(self, db: ActionDB) -> None:
        self._db = db
        self._steps: asyncio.Queue[tuple[str, asyncio.Future[None]]] = asyncio.Queue()

    async def step(self, what: str) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._steps.put_nowait((what, done))
        await done

    async def run(self) -> None:
        while True:
            what, done = await self._steps.get()
            assert what == "begin"
            with suppress(_RolledBack):
                async with self._db.transaction() as tx:
                    done.set_result(None)
                    while True:
                        what, done = await self._steps.get()
                        if what == "commit":
                            break
                        if what == "roll back":
                            raise _RolledBack
                        await tx.create_proposals([proposal() for _ in range(BATCH)])
                        done.set_result(None)
            done.set_result(None)


class _RolledBack(Exception):
    pass


def script(dice: random.Random) -> list[tuple[int, str]]:
    """Two transactions of two writers, each with two writes, in any order that overlaps."""
    lives = [["begin", "write", "write", "commit"] for _ in range(2)]
    if dice.random() < 0.1:
        lives[dice.randrange(2)][-1] = "roll back"
    steps: list[tuple[int, str]] = []
    while any(lives):
        who = dice.choice([number for number, life in enumerate(lives) if life])
        steps.append((who, lives[who].pop(0)))
    return steps


@pytest.mark.parametrize(("driver", "events"), [(DRIVERS[0], EVENTS), (DRIVERS[1], EVENTS // 4)])
async def test_transactions_that_commit_late_are_followed_without_a_gap(
    server_ledger: str, driver: str, events: int
) -> None:
    rounds = events // (5 * BATCH)
    dice = random.Random(4)
    whole: int | None = None
    async with AsyncExitStack() as stack:

        async def ledger() -> ActionDB:
            return await stack.enter_async_context(ActionDB(by(driver, server_ledger)))

        db = await ledger()
        followers = [
            Follower(db),
            Follower(db, breaks_off_every=37),
            Follower(await ledger(), breaks_off_every=999),
        ]
        naive = NaiveFollower(stack.enter_context(connected(server_ledger)))
        writers = [Writer(await ledger()) for _ in range(2)]
        beside = await ledger()
        tasks = [asyncio.create_task(each.follow(lambda: whole)) for each in followers]
        writing = [asyncio.create_task(each.run()) for each in writers]
        stop = asyncio.Event()

        async def write_beside() -> None:
            while not stop.is_set():
                await beside.create_proposal(proposal())
                await asyncio.sleep(0)

        writing.append(asyncio.create_task(write_beside()))
        try:
            async with asyncio.timeout(PATIENCE):
                for _ in range(rounds):
                    for who, what in script(dice):
                        await writers[who].step(what)
                        if what != "begin":
                            naive.look()
                written = sum((await db.count_proposals()).values())
                while written < events:
                    await beside.create_proposals([proposal() for _ in range(100)])
                    written = sum((await db.count_proposals()).values())
                stop.set()
                await writing[-1]
                # The followers end with the last event.
                whole = 1 + sum((await db.count_proposals()).values())
                await beside.create_proposal(proposal())
                await asyncio.gather(*tasks)
        finally:
            for task in (*tasks, *writing):
                task.cancel()
            await asyncio.gather(*tasks, *writing, return_exceptions=True)
        naive.look()
        afterwards = [event.id async for event in db.events()]
    ids = [id for (id,) in query(server_ledger, "SELECT id FROM action_events ORDER BY id")]
    late = sum(after < before for before, after in pairwise(afterwards))
    print(
        f"\n{driver}: events={len(ids)} steps back in the order of ids={late}"
        f" skipped by ids={len(set(ids) - set(naive.heard))}"
    )
    assert len(ids) >= events
    assert late, "no transaction committed late"
    for follower in followers:
        check_complete(follower.heard, ids)
        # Live or later, whole or in pieces, it is one order.
        assert follower.heard == afterwards
    with pytest.raises(AssertionError):
        check_complete(naive.heard, ids)


async def test_what_an_open_transaction_may_precede_waits_for_it_and_no_longer(
    server_ledger: str,
) -> None:
    async with ActionDB(server_ledger) as db, ActionDB(server_ledger) as other:
        events = db.events(follow=True)
        async with aclosing(events):
            async with other.transaction() as tx:
                (first,) = await tx.create_proposals([proposal()])
                second = await db.create_proposal(proposal())
                assert [event async for event in db.events()] == []
                assert await db.newest_event_id() == 0
                following = asyncio.ensure_future(anext(events))
                _, waiting = await asyncio.wait([following], timeout=0.1)
                assert waiting
            async with asyncio.timeout(1):
                heard = [await following, await anext(events)]
        assert [event.proposal_id for event in heard] == [first.id, second.id]


async def test_a_history_that_was_restored_from_another_server_is_told(server_ledger: str) -> None:
    async with ActionDB(server_ledger) as db:
        await db.create_proposals([proposal() for _ in range(3)])
        with connected(server_ledger) as conn, conn.transaction():
            # What a dump of a server that has done more, restored on this one, has in it.
            conn.execute("SET LOCAL session_replication_role = replica")
            conn.execute("UPDATE action_events SET transaction_id = transaction_id + 1000000")
        await db.create_proposal(proposal())
        for after in (None, 3):
            with pytest.raises(ForeignTransactions, match="Restoring a dump"):
                assert [event.id async for event in db.events(after=after)]
        # As docs/postgresql.md says.
        with connected(server_ledger) as conn, conn.transaction():
            conn.execute("ALTER TABLE action_events DISABLE TRIGGER action_events_not_updated")
            conn.execute("UPDATE action_events SET transaction_id = 0")
            conn.execute("ALTER TABLE action_events ENABLE TRIGGER action_events_not_updated")
        await db.create_proposal(proposal())
        assert [event.id async for event in db.events()] == [1, 2, 3, 4, 5]
        assert [event.id async for event in db.events(after=3)] == [4, 5]


def take_turns(children: list[Child]) -> list[Any]:
    for _ in range(ROUNDS):
        let_go(children, "round")
    return [finish(child) for child in children]


@pytest.mark.parametrize(("target", "events"), [("file", EVENTS), ("engine", EVENTS // 4)])
async def test_two_processes_on_one_file_are_followed_without_a_gap(
    tmp_path: Path, target: str, events: int
) -> None:
    path = tmp_path / "ledger.db"
    engine = engine_on(path)
    async with ActionDB(path if target == "file" else engine, busy_timeout=PATIENCE) as db:
        followers = [Follower(db), Follower(db, breaks_off_every=37)]
        tasks = [asyncio.create_task(each.follow(lambda: events)) for each in followers]
        children = [
            start("event_writer.py", path, number, ROUNDS, events // 2 // ROUNDS)
            for number in range(2)
        ]
        try:
            told = await asyncio.to_thread(take_turns, children)
            async with asyncio.timeout(10):
                await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for child in children:
                child.kill()
                child.communicate()
    await engine.dispose()
    ids = [id for (id,) in rows(path, "SELECT id FROM action_events ORDER BY id")]
    assert len(ids) == events
    names = [name for (name,) in rows(path, "SELECT action_name FROM action_proposals ORDER BY id")]
    turns = sum(after != before for before, after in pairwise(names))
    print(f"\n{target}: events={len(ids)} turns of the two processes={turns} {told}")
    assert turns >= ROUNDS, "the processes did not write side by side"
    for follower in followers:
        assert follower.heard == ids
