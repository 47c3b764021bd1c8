"""Who may read a ledger's file: its owner, unless more was asked for; and opening without changing it."""

import asyncio
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from operator_core.actions import (
    InvalidValue,
    SchemaOutdated,
    SchemaTooNew,
    StorageUnavailable,
    UnmanagedSchema,
)
from operator_core.db import ActionDB, migrate
from operator_core.db.sqlite.files import make_file
from operator_core.db.sqlite.handle import connect, over
from tests.conftest import proposal
from tests.engines import engine_on
from tests.failures.test_damaged_files import a_strangers_database, contents


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture(params=[0o022, 0o000, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(path: Path) -> dict[str, int]:
    return {
        each.name.removeprefix(path.name): stat.S_IMODE(each.stat().st_mode)
        for each in path.parent.iterdir()
    }


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("settings", [{}, {"file_mode": 0o640}, {"file_mode": 0o666}])
async def test_a_new_file_has_the_permissions_that_were_asked_for(
    path: Path, settings: dict[str, Any]
) -> None:
    mode = settings.get("file_mode", 0o600)
    async with ActionDB(path, **settings) as db:
        await db.create_proposal(proposal())
        assert modes(path) == {"": mode, "-wal": mode, "-shm": mode}
    assert modes(path) == {"": mode}


@pytest.mark.usefixtures("umask")
async def test_a_file_that_is_there_keeps_its_own(path: Path) -> None:
    path.touch()
    path.chmod(0o664)
    async with ActionDB(path, file_mode=0o600) as db:
        await db.create_proposal(proposal())
        assert modes(path) == {"": 0o664, "-wal": 0o664, "-shm": 0o664}


@pytest.mark.usefixtures("umask")
def test_an_upgrade_that_makes_the_file_makes_it_for_the_owner(path: Path) -> None:
    migrate.upgrade(str(path))
    assert modes(path) == {"": 0o600}


async def test_the_file_that_a_link_leads_to_is_made_so_too(path: Path) -> None:
    path.symlink_to(path.with_name("real.db"))
    async with ActionDB(path) as db:
        await db.create_proposal(proposal())
    assert stat.S_IMODE(path.with_name("real.db").stat().st_mode) == 0o600


async def test_many_at_once_make_one_file(path: Path) -> None:
    async def use() -> None:
        async with ActionDB(path) as db:
            await db.create_proposal(proposal())

    await asyncio.gather(*(use() for _ in range(8)))
    assert modes(path) == {"": 0o600}
    async with ActionDB(path) as db:
        assert len(await db.list_proposals()) == 8


@pytest.mark.parametrize("mode", [0, 0o400, 0o060, 0o1600, -1, "600", 0o600 + 0.0, True, None])
def test_a_mode_that_is_none_is_refused(mode: Any) -> None:
    with pytest.raises(InvalidValue) as caught:
        ActionDB(":memory:", file_mode=mode)
    assert caught.value.path == "file_mode"


def test_making_a_file_leaves_one_that_is_there_and_a_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    make_file(str(tmp_path / "text"), 0o600)
    make_file(str(tmp_path), 0o600)
    make_file(str(tmp_path / "nowhere" / "ledger.db"), 0o600)
    assert (tmp_path / "text").read_text() == "text"
    assert [each.name for each in tmp_path.iterdir()] == ["text"]


# ------ without upgrading


async def test_without_upgrading_no_file_is_made(path: Path) -> None:
    with pytest.raises(StorageUnavailable, match="no such file"):
        await ActionDB(path, upgrade=False).open()
    assert list(path.parent.iterdir()) == []


def empty(path: Path) -> None:
    path.touch()


def behind(path: Path) -> None:
    migrate.upgrade(str(path), "0001")


def newer(path: Path) -> None:
    migrate.upgrade(str(path))
    with over(connect(str(path), busy_timeout=1)) as conn:
        conn.exec_driver_sql(f"UPDATE {migrate.VERSION_TABLE} SET version_num = '0099'")


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (empty, SchemaOutdated),
        (behind, SchemaOutdated),
        (newer, SchemaTooNew),
        (a_strangers_database, UnmanagedSchema),
    ],
)
@pytest.mark.parametrize("borrowed", [False, True])
async def test_without_upgrading_a_file_stays_what_it_is(
    make: Any, error: type[Exception], borrowed: bool, path: Path
) -> None:
    await asyncio.to_thread(make, path)
    before = contents(path.parent)
    engine = engine_on(path)
    with pytest.raises(error):
        await ActionDB(engine if borrowed else path, upgrade=False).open()
    await engine.dispose()
    assert contents(path.parent) == before


@pytest.mark.parametrize("target", ["memory", "file"])
async def test_without_upgrading_a_current_ledger_is_used_as_any(target: str, path: Path) -> None:
    async with ActionDB(path):
        pass
    async with ActionDB(":memory:" if target == "memory" else path, upgrade=False) as db:
        await db.create_proposal(proposal())
        async with db.transaction() as tx:
            await tx.create_proposal(proposal())
        assert len(await db.list_proposals()) == 2


@pytest.mark.parametrize("value", [None, 0, "no"])
def test_upgrade_is_true_or_false(value: Any) -> None:
    with pytest.raises(InvalidValue) as caught:
        ActionDB(":memory:", upgrade=value)
    assert caught.value.path == "upgrade"


async def test_the_environment_takes_it_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPERATOR_DATABASE_URL", f"sqlite:///{path}")
    with pytest.raises(StorageUnavailable):
        await ActionDB.from_env(upgrade=False).open()
