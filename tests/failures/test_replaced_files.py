"""A file that is deleted or replaced under a running ledger: no answer is given for what it does not hold."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.pool import NullPool

from operator_core.actions.errors import StorageCorrupt
from operator_core.actions.types import ActionProposal
from operator_core.db import ActionDB
from operator_core.db.sql.sqlite_library import dbapi
from tests.engines import engine_on
from tests.failures.harness import PATIENCE, proposal, rows

TARGETS = pytest.mark.parametrize("target", ["file", "engine"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "place" / "ledger.db"


@pytest.fixture
async def ledger(request: pytest.FixtureRequest, path: Path) -> AsyncIterator[ActionDB]:
    path.parent.mkdir()
    if request.param == "file":
        async with ActionDB(path) as db:
            yield db
        return
    engine = engine_on(path)
    async with ActionDB(engine) as db:
        yield db
    await engine.dispose()


def delete(path: Path) -> None:
    for each in list(path.parent.iterdir()):
        each.unlink()


def delete_file_only(path: Path) -> None:
    path.unlink()


def delete_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def move_away(path: Path) -> None:
    path.rename(path.with_name("moved.db"))


def move_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


def replace_by_another(path: Path) -> None:
    other = path.with_name("other.db")

    async def make() -> None:
        async with ActionDB(other) as db:
            await db.create_proposal(proposal(action_name="other"))

    asyncio.run(make())
    os.replace(other, path)


def replace_by_a_copy(path: Path) -> None:
    other = path.with_name("copy.db")
    with closing(dbapi.connect(path)) as source, closing(dbapi.connect(other)) as copy:
        source.backup(copy)
    os.replace(path.with_name("copy.db"), path)


def replace_by_a_text(path: Path) -> None:
    path.unlink()
    path.write_text("This is a shopping list.\n")


def replace_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES: dict[str, Callable[[Path], None]] = {
    each.__name__: each
    for each in (
        delete,
        delete_file_only,
        delete_folder,
        move_away,
        move_folder,
        replace_by_another,
        replace_by_a_copy,
        replace_by_a_text,
        replace_by_a_folder,
    )
}


async def in_transaction(db: ActionDB) -> object:
    async with db.transaction() as tx:
        return await tx.create_proposal(proposal())


CALLS: dict[str, Callable[[ActionDB], Awaitable[object]]] = {
    "create": lambda db: db.create_proposal(proposal()),
    "change": lambda db: db.update_proposal_status(1, "validated"),  # type: ignore[arg-type]
    "transaction": in_transaction,
    "read": lambda db: db.list_proposals(),
}


@pytest.mark.parametrize("ledger", ["file", "engine"], indirect=True)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("what", CHANGES)
async def test_a_file_that_is_no_longer_there_is_said_before_an_answer(
    ledger: ActionDB, what: str, call: str, path: Path
) -> None:
    await ledger.create_proposal(proposal())
    await ledger.list_proposals()
    await asyncio.to_thread(CHANGES[what], path)
    for _ in range(2):
        with pytest.raises(StorageCorrupt, match="deleted or replaced"):
            await CALLS[call](ledger)


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
async def test_a_log_that_is_deleted_is_said_before_an_answer(path: Path, suffix: str) -> None:
    path.parent.mkdir()
    async with ActionDB(path) as db:
        await db.create_proposal(proposal())
        path.with_name(path.name + suffix).unlink()
        for call in ("create", "transaction", "change"):
            with pytest.raises(StorageCorrupt, match="deleted or replaced"):
                await CALLS[call](db)


def earlier_copy(path: Path, folder: Path) -> Path:
    """The ledger as it is, by SQLite's own means."""
    copy = folder / "earlier.db"
    with closing(dbapi.connect(path)) as source, closing(dbapi.connect(copy)) as target:
        source.backup(target)
    return copy


def copy_over_an_earlier(path: Path, earlier: Path) -> None:
    shutil.copyfile(earlier, path)


def copy_over_another(path: Path, earlier: Path) -> None:
    other = earlier.with_name("other.db")

    async def make() -> None:
        async with ActionDB(other) as db:
            await db.create_proposal(proposal(action_name="other"))

    asyncio.run(make())
    shutil.copyfile(other, path)


def write_a_text_over(path: Path, earlier: Path) -> None:
    path.write_text("This is a shopping list.\n")


def truncate(path: Path, earlier: Path) -> None:
    os.truncate(path, 0)


def write_into(path: Path, earlier: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"x" * 10)


OVER = {
    each.__name__: each
    for each in (
        copy_over_an_earlier,
        copy_over_another,
        write_a_text_over,
        truncate,
        write_into,
    )
}


@pytest.mark.parametrize("ledger", ["file", "engine"], indirect=True)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("what", OVER)
async def test_a_file_that_is_written_over_is_said_before_an_answer(
    ledger: ActionDB, what: str, checkpointed: bool, call: str, path: Path, tmp_path: Path
) -> None:
    await ledger.create_proposal(proposal())
    earlier = earlier_copy(path, tmp_path)
    await ledger.create_proposal(proposal())
    if checkpointed:
        with closing(dbapi.connect(path)) as other:
            other.execute("PRAGMA wal_checkpoint(PASSIVE)")
        await ledger.create_proposal(proposal())
    await ledger.list_proposals()
    await asyncio.to_thread(OVER[what], path, earlier)
    for _ in range(2):
        with pytest.raises(StorageCorrupt):
            await CALLS[call](ledger)


@pytest.mark.parametrize("ledger", ["file", "engine"], indirect=True)
async def test_checkpoints_of_whoever_are_no_writing_over(
    ledger: ActionDB, path: Path, request: pytest.FixtureRequest
) -> None:
    stop = asyncio.Event()
    # On a service's engine each write is a commit, where a file's ledger makes one of several.
    rounds = 10 if request.node.callspec.params["ledger"] == "engine" else 30

    async def checkpoint() -> int:
        done = 0
        while not stop.is_set():
            kind = ("PASSIVE", "FULL", "RESTART", "TRUNCATE")[done % 4]
            await asyncio.to_thread(_checkpoint, path, kind)
            done += 1
        return done

    checkpoints = asyncio.create_task(checkpoint())
    for _ in range(rounds):
        await asyncio.gather(
            *(ledger.create_proposal(proposal(parameters={"text": "x" * 5000})) for _ in range(20)),
            *(ledger.count_proposals() for _ in range(5)),
        )
        os.utime(path)
    stop.set()
    print(f"{rounds * 20} written beside {await checkpoints} checkpoints")
    assert sum((await ledger.count_proposals()).values()) == rounds * 20


def _checkpoint(path: Path, kind: str) -> None:
    with closing(dbapi.connect(path, timeout=PATIENCE)) as other:
        other.execute(f"PRAGMA wal_checkpoint({kind})")


async def test_every_caller_of_a_group_is_told(path: Path) -> None:
    path.parent.mkdir()
    async with ActionDB(path) as db:
        await db.create_proposal(proposal())
        delete(path)
        answers = await asyncio.gather(
            *(db.create_proposal(proposal()) for _ in range(20)), return_exceptions=True
        )
        assert [type(each) for each in answers] == [StorageCorrupt] * 20
        assert len({id(each) for each in answers}) == 20


async def test_nobody_makes_an_empty_file_in_its_place(path: Path) -> None:
    path.parent.mkdir()
    async with ActionDB(path) as db:
        delete(path)
        # The first write, and more readers at once, connect for themselves.
        calls: list[Awaitable[Any]] = [db.create_proposal(proposal())]
        calls += [db.list_proposals() for _ in range(5)]
        for each in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(each, Exception)
    assert list(path.parent.iterdir()) == []


async def test_opened_again_it_is_the_ledger_that_is_there(path: Path) -> None:
    path.parent.mkdir()
    db = ActionDB(path)
    async with db:
        await db.create_proposal(proposal())
        await asyncio.to_thread(replace_by_another, path)
        with pytest.raises(StorageCorrupt):
            await db.create_proposal(proposal())
    # SQLite would apply the old file's log to the one that is there now.
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()
    async with db:
        assert [each.action_name for each in await db.list_proposals()] == ["other"]
        await db.create_proposal(proposal())


async def test_what_leaves_the_file_where_it_is_is_no_loss(path: Path) -> None:
    path.parent.mkdir()
    async with ActionDB(path, busy_timeout=PATIENCE) as db:
        await db.create_proposal(proposal())
        made = 1

        async def write() -> None:
            nonlocal made
            assert isinstance(await db.create_proposal(proposal()), ActionProposal)
            made += 1
            assert len(await db.list_proposals()) == made

        path.chmod(0o640)
        os.utime(path)
        await write()
        os.link(path, path.with_name("link.db"))
        path.with_name("link.db").unlink()
        await write()
        for statement in ("PRAGMA wal_checkpoint(TRUNCATE)", "VACUUM", "PRAGMA optimize"):
            with closing(dbapi.connect(path, timeout=PATIENCE)) as other:
                other.execute(statement)
            await write()
        async with ActionDB(path) as another:
            await another.create_proposal(proposal())
            made += 1
        await write()
    assert rows(path, "SELECT count(*) FROM action_proposals") == [(made,)]


async def test_a_ledger_behind_a_link_is_the_file_that_it_leads_to(path: Path) -> None:
    path.parent.mkdir()
    async with ActionDB(path) as db:
        await db.create_proposal(proposal())
    link = path.with_name("link.db")
    link.symlink_to(path)
    async with ActionDB(link) as db:
        await db.create_proposal(proposal())
        await asyncio.to_thread(replace_by_another, path)
        with pytest.raises(StorageCorrupt):
            await db.create_proposal(proposal())


@pytest.mark.parametrize("how", ["recycled", "disposed", "without a pool"])
@pytest.mark.parametrize("then", ["read", "create", "transaction"])
async def test_a_file_whose_connections_all_come_and_go_is_still_the_same(
    tmp_path: Path, how: str, then: str
) -> None:
    options: dict[str, dict[str, Any]] = {
        "recycled": {"pool_recycle": 0},
        "disposed": {},
        "without a pool": {"poolclass": NullPool},
    }
    engine = engine_on(tmp_path / "ledger.db", **options[how])
    async with ActionDB(engine) as db:
        await db.create_proposal(proposal())
        for n in range(3):
            async with engine.begin() as conn:
                await conn.exec_driver_sql(f"CREATE TABLE service_{n} (a)")
                await conn.exec_driver_sql(f"INSERT INTO service_{n} VALUES (randomblob(100000))")
            if how == "disposed":
                await engine.dispose()
            await CALLS[then](db)
            await db.get_proposal(1)
    await engine.dispose()
