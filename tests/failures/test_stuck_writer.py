"""A SQLite writer in whose own work something fails: everybody is answered, and it goes on."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from operator_core.actions.errors import ActionError
from operator_core.actions.types import ActionProposal
from operator_core.db import ActionDB
from operator_core.db.sql.sqlite_library import dbapi
from operator_core.db.sqlite.connection import Answer, SqliteConnection
from operator_core.db.sqlite.writer import SqliteWriter
from tests.failures.harness import PATIENCE, check_lock_free, check_whole, proposal, rows

TARGETS = pytest.mark.parametrize("target", ["memory", "file"])


def place(target: str, folder: Path) -> Any:
    return ":memory:" if target == "memory" else folder / "ledger.db"


class Failing(dbapi.Connection):
    """Fails to execute the statements in `fails`, as often as it says there."""

    fails: ClassVar[dict[str, int]] = {}

    def execute(self, sql: str, *args: Any) -> dbapi.Cursor:
        if self.fails.get(sql, 0):
            self.fails[sql] -= 1
            raise dbapi.OperationalError("disk I/O error")
        return super().execute(sql, *args)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often which statements fail from here on, on every connection made from here on."""
    fails: ClassVar[dict[str, int]] = {}
    connect = dbapi.connect
    monkeypatch.setattr(Failing, "fails", fails)
    monkeypatch.setattr(
        dbapi, "connect", lambda *args, **options: connect(*args, factory=Failing, **options)
    )
    return fails


async def ask(db: ActionDB, number: int) -> list[object]:
    """Several callers at once, of which one's unit fails; all are answered in time."""
    some = [db.create_proposal(proposal()) for _ in range(number)]
    some.append(db.update_proposal_status(99, "validated"))  # type: ignore[arg-type]
    return await asyncio.wait_for(asyncio.gather(*some, return_exceptions=True), PATIENCE)


STATEMENTS = {
    "ROLLBACK": {"ROLLBACK": 1},
    "ROLLBACK twice": {"ROLLBACK": 2},
    "COMMIT": {"COMMIT": 1},
    "COMMIT and ROLLBACK": {"COMMIT": 1, "ROLLBACK": 1},
    "BEGIN": {"BEGIN IMMEDIATE": 1},
}


@TARGETS
@pytest.mark.parametrize("what", STATEMENTS)
async def test_a_statement_of_the_writers_own_that_fails_wedges_nothing(
    what: str, target: str, tmp_path: Path, failing: dict[str, int]
) -> None:
    async with ActionDB(place(target, tmp_path)) as db:
        before = await db.create_proposal(proposal())
        failing.update(STATEMENTS[what])
        answers = await ask(db, 5)
        assert all(isinstance(each, ActionProposal | ActionError) for each in answers), answers
        failing.clear()
        after = await asyncio.wait_for(db.create_proposal(proposal()), PATIENCE)
        answered = {each.id for each in answers if isinstance(each, ActionProposal)}
        kept = {each.id for each in await db.list_proposals()}
        assert kept == {before.id, after.id, *answered}
    if target == "file":
        check_whole(tmp_path / "ledger.db")


@TARGETS
@pytest.mark.parametrize("end", ["commit", "raise", "cancel"])
async def test_a_transaction_whose_end_fails_gives_the_lock_back(
    end: str, target: str, tmp_path: Path, failing: dict[str, int]
) -> None:
    async with ActionDB(place(target, tmp_path)) as db:
        await db.create_proposal(proposal())
        inside = asyncio.Event()

        async def transact() -> None:
            async with db.transaction() as tx:
                await tx.create_proposal(proposal())
                failing.update({"COMMIT": 1, "ROLLBACK": 1})
                inside.set()
                if end == "raise":
                    raise RuntimeError("changed its mind")
                if end == "cancel":
                    await asyncio.Event().wait()

        task = asyncio.create_task(transact())
        await inside.wait()
        if end == "cancel":
            task.cancel()
        (answer,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(answer, ActionError | RuntimeError | asyncio.CancelledError)
        failing.clear()
        await asyncio.wait_for(db.create_proposal(proposal()), PATIENCE)
        assert len(await db.list_proposals()) == 2
        if target == "file":
            check_lock_free(tmp_path / "ledger.db")


class Odd(BaseException):
    """No Exception, and of nobody's."""


PLACES: dict[str, tuple[type, str]] = {
    "taking the next group": (SqliteWriter, "_next_group"),
    "running a group": (SqliteWriter, "_run_together"),
    "beginning": (SqliteConnection, "begin"),
    "translating": (SqliteConnection, "translate"),
    "answering one": (Answer, "send"),
    "answering all": (Answer, "send_all"),
}


@TARGETS
@pytest.mark.parametrize("error", [RuntimeError, MemoryError, Odd])
@pytest.mark.parametrize("where", PLACES)
async def test_an_exception_in_the_writers_own_code_wedges_nothing(
    where: str,
    error: type[BaseException],
    target: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner, name = PLACES[where]
    plain: Callable[..., Any] = getattr(owner, name)
    failures = 1

    def fail_once(*args: Any, **options: Any) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise error("not expected")
        return plain(*args, **options)

    async with ActionDB(place(target, tmp_path)) as db:
        await db.create_proposal(proposal())
        monkeypatch.setattr(
            owner, name, staticmethod(fail_once) if name == "send_all" else fail_once
        )
        # Who is in the middle of it may hear of it, or in the worst case must give up by himself.
        first = asyncio.create_task(db.create_proposal(proposal()))
        await asyncio.wait({first}, timeout=1)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await asyncio.wait_for(ask(db, 3), PATIENCE)
        async with db.transaction() as tx:
            await asyncio.wait_for(tx.create_proposal(proposal()), PATIENCE)
        await asyncio.wait_for(db.close(), PATIENCE)


async def test_callers_whose_loop_is_closed_cost_the_others_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with ActionDB(path, busy_timeout=PATIENCE) as db:
        await db.create_proposal(proposal())
        other = dbapi.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        def ask_and_close() -> None:
            loop = asyncio.new_event_loop()
            tasks = [loop.create_task(db.create_proposal(proposal())) for _ in range(3)]
            loop.run_until_complete(asyncio.sleep(0))
            for task in tasks:
                task._log_destroy_pending = False  # type: ignore[attr-defined]
            loop.close()

        await asyncio.to_thread(ask_and_close)
        own = [asyncio.create_task(db.create_proposal(proposal())) for _ in range(3)]
        await asyncio.sleep(0)
        other.execute("ROLLBACK")
        other.close()
        await asyncio.wait_for(asyncio.gather(*own), PATIENCE)
    assert rows(path, "SELECT count(*) FROM action_proposals")[0][0] >= 4
