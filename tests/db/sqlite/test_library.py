"""The ledger's own connections use the newer SQLite; one file has one SQLite library in a process."""

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from operator_core.actions.errors import (
    Busy,
    ConstraintViolation,
    InvalidValue,
    StorageCorrupt,
    StorageReadOnly,
    StorageUnavailable,
)
from operator_core.db import ActionDB, migrate
from operator_core.db.sql.errors import translate
from operator_core.db.sql.sqlite_library import LIBRARY_VARIABLE, OPEN_OPTIONS, dbapi, describe
from operator_core.db.sqlite.handle import MEMORY, connect
from tests.conftest import proposal
from tests.engines import engine_on

INSTALLED = find_spec("pysqlite3") is not None
TWO = pytest.mark.skipif(dbapi is sqlite3, reason="needs a SQLite that is newer than Python's")


async def test_the_newer_library_is_the_ledgers(tmp_path: Path) -> None:
    own: Any = sqlite3
    if INSTALLED and not os.environ.get(LIBRARY_VARIABLE):
        from pysqlite3 import dbapi2

        own = max(sqlite3, dbapi2, key=lambda each: each.sqlite_version_info)
    assert dbapi is own
    for place in (MEMORY, tmp_path / "ledger.db"):
        async with ActionDB(place) as db:
            for run in (db._units.read, db._units.write):
                used = await run(lambda conn: conn.exec_driver_sql("SELECT sqlite_version()").one())
                assert used == (own.sqlite_version,)


def library(setting: str | None) -> "subprocess.CompletedProcess[str]":
    code = "from operator_core.db.sql.sqlite_library import describe; print(describe())"
    kept = {name: text for name, text in os.environ.items() if name != LIBRARY_VARIABLE}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=kept if setting is None else {**kept, LIBRARY_VARIABLE: setting},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_setting_turns_it_off() -> None:
    assert library("sqlite3").stdout == f"sqlite3 {sqlite3.sqlite_version}\n"
    assert library("").stdout == library(None).stdout


def test_another_setting_is_refused() -> None:
    refused = library("newest")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1] == (
        f"{InvalidValue.__module__}.InvalidValue: OPERATOR_SQLITE: must be sqlite3, or not set"
    )


def test_the_command_line_tells_of_it_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from operator_core.cli import main; main()", "--version"],
        env={**os.environ, LIBRARY_VARIABLE: "newest"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "error: OPERATOR_SQLITE: must be sqlite3, or not set\n"


def test_settings_do_not_depend_on_the_build(tmp_path: Path) -> None:
    with closing(connect(str(tmp_path / "any.db"), busy_timeout=0)) as connection:
        for name, value in {"recursive_triggers": 0, "foreign_keys": 1, "synchronous": 2}.items():
            assert connection.execute(f"PRAGMA {name}").fetchone() == (value,)


@pytest.mark.parametrize(
    "module", dict.fromkeys((sqlite3, dbapi)), ids=lambda module: module.__name__
)
def test_errors_of_either_module_are_the_ledgers(tmp_path: Path, module: Any) -> None:
    options = OPEN_OPTIONS if module is dbapi else {}
    path = tmp_path / "any.db"

    def error(sql: str, at: Path = path, how: str = "rwc") -> BaseException:
        uri = f"{at.as_uri()}?mode={how}"
        settings = {"uri": True, "timeout": 0, "isolation_level": None, **options}
        with closing(module.connect(uri, **settings)) as connection:
            with pytest.raises(module.Error) as caught:
                connection.executescript(sql)
            return translate(caught.value)

    made = "CREATE TABLE one (a CHECK (a > 0)); INSERT INTO one VALUES (-1)"
    refused = error(made)
    assert isinstance(refused, ConstraintViolation)
    assert "a > 0" in str(refused)
    assert isinstance(error("INSERT INTO one VALUES (1)", how="ro"), StorageReadOnly)
    with closing(module.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert isinstance(error("INSERT INTO one VALUES (1)"), Busy)
    notes = tmp_path / "notes.txt"
    notes.write_text("buy milk\n" * 200)
    assert isinstance(error("SELECT * FROM one", notes), StorageCorrupt)
    assert isinstance(error("SELECT * FROM two"), StorageUnavailable)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    """A service's engine as SQLAlchemy makes it: by Python's sqlite3."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}")
    yield engine
    await engine.dispose()


REFUSED = f"by {describe()} and can't open it by {describe(sqlite3)}.*{LIBRARY_VARIABLE}=sqlite3"


@TWO
async def test_an_engine_of_another_library_is_refused_beside_a_file(
    tmp_path: Path, engine: AsyncEngine
) -> None:
    async with ActionDB(tmp_path / "ledger.db"):
        borrowed = ActionDB(engine)
        with pytest.raises(StorageUnavailable, match=REFUSED):
            await borrowed.open()
        # Refused before it has a descriptor, whose end would release the ledger's locks.
        assert engine.pool.checkedin() == 0  # type: ignore[attr-defined]
    async with borrowed:
        await borrowed.create_proposal(proposal())


@TWO
async def test_a_session_of_another_library_is_refused_beside_a_file(
    tmp_path: Path, engine: AsyncEngine
) -> None:
    path = tmp_path / "ledger.db"
    migrate.upgrade(f"sqlite:///{path}")
    async with AsyncSession(engine) as session, ActionDB(session) as joined:
        await joined.create_proposal(proposal())
        await session.commit()
        async with ActionDB(path):
            with pytest.raises(StorageUnavailable, match=REFUSED):
                await joined.list_proposals()
            with pytest.raises(StorageUnavailable, match=REFUSED):
                await ActionDB(session).open()
        assert len(await joined.list_proposals()) == 1


@TWO
async def test_a_file_is_refused_beside_an_engine_of_another_library(
    tmp_path: Path, engine: AsyncEngine
) -> None:
    path = tmp_path / "ledger.db"
    link = tmp_path / "link.db"
    link.symlink_to(path)
    async with ActionDB(engine):
        for place in (path, link):
            with pytest.raises(StorageUnavailable, match="can't open it by pysqlite3"):
                await ActionDB(place).open()
            with pytest.raises(StorageUnavailable, match="can't open it by pysqlite3"):
                migrate.upgrade(f"sqlite:///{place}")
        async with ActionDB(tmp_path / "other.db"), ActionDB(MEMORY):
            pass
    async with ActionDB(path):
        pass


async def test_an_engine_of_the_ledgers_library_may_be_beside_a_file(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    engine = engine_on(path)
    async with ActionDB(path) as db, ActionDB(engine) as borrowed:
        await db.create_proposal(proposal())
        await borrowed.create_proposal(proposal())
        async with AsyncSession(engine) as session, ActionDB(session) as joined:
            assert len(await joined.list_proposals()) == 2
    await engine.dispose()


@TWO
async def test_of_two_that_open_at_once_the_second_opens_nothing(
    tmp_path: Path, engine: AsyncEngine
) -> None:
    path = tmp_path / "ledger.db"
    migrate.upgrade(f"sqlite:///{path}")
    borrowed, own = ActionDB(engine), ActionDB(path)
    results = await asyncio.gather(borrowed.open(), own.open(), return_exceptions=True)
    assert [isinstance(each, StorageUnavailable) for each in results] == [False, True]
    # A ledger that was refused holds nothing.
    await borrowed.close()
    await engine.dispose()
    async with own:
        with pytest.raises(StorageUnavailable, match=REFUSED):
            await borrowed.open()
        assert engine.pool.checkedin() == 0  # type: ignore[attr-defined]


@TWO
async def test_an_engine_whose_url_hides_the_path_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    engine = create_async_engine(f"sqlite+aiosqlite:///file:{path}?uri=true")
    async with ActionDB(path):
        with pytest.raises(StorageUnavailable, match=REFUSED):
            await ActionDB(engine).open()
    async with ActionDB(engine):
        with pytest.raises(StorageUnavailable, match="can't open it by pysqlite3"):
            await ActionDB(path).open()
    await engine.dispose()
