"""Many processes that migrate one database at the same moment: all succeed, once is migrated."""

import asyncio
import shutil
from pathlib import Path

import pytest

from operator_core.db import ActionDB, migrate
from tests.migrations.tools import (
    OPEN,
    TABLES,
    UPGRADE,
    at_once,
    catalogue,
    copy_of_tree,
    is_sound,
    query,
    rows_of,
    version,
)

PROCESSES = 8


def assert_all_succeeded(ended: list[tuple[int, str]]) -> None:
    assert [status for status, _ in ended] == [0] * PROCESSES, [each for _, each in ended if each]


def assert_migrated_once(path: Path, fresh: Path) -> None:
    assert version(path) == [migrate.HEAD]
    assert catalogue(path) == catalogue(fresh)
    assert query(path, "PRAGMA journal_mode") == [("wal",)]
    assert is_sound(path)


def test_eight_upgrades_of_a_fresh_file_all_succeed(tmp_path: Path, fresh: Path) -> None:
    path = tmp_path / "ledger.db"
    assert_all_succeeded(at_once(PROCESSES, UPGRADE, f"sqlite:///{path}"))
    assert_migrated_once(path, fresh)


def test_eight_openings_of_a_fresh_file_all_succeed(tmp_path: Path, fresh: Path) -> None:
    path = tmp_path / "ledger.db"
    assert_all_succeeded(at_once(PROCESSES, OPEN, path))
    assert_migrated_once(path, fresh)


@pytest.mark.parametrize("how", ["alembic", pytest.param("ActionDB", marks=pytest.mark.soak)])
def test_eight_adoptions_of_a_legacy_file_adopt_it_once(
    legacy: Path, fresh: Path, how: str
) -> None:
    counts = [len(rows_of(legacy, table)) for table in TABLES[:3]]
    target = f"sqlite:///{legacy}" if how == "alembic" else legacy
    assert_all_succeeded(at_once(PROCESSES, UPGRADE if how == "alembic" else OPEN, target))
    assert_migrated_once(legacy, fresh)
    assert [len(rows_of(legacy, table)) for table in TABLES[:3]] == counts
    created = query(
        legacy, "SELECT count(*) FROM action_events WHERE event_type = 'proposal_created'"
    )
    assert created == [(counts[1],)]


@pytest.mark.soak
@pytest.mark.parametrize("round_", range(10))
def test_many_rounds_of_eight(tmp_path: Path, fresh: Path, shared_data: Path, round_: int) -> None:
    for code, prefix in ((UPGRADE, "sqlite:///"), (OPEN, "")):
        new = tmp_path / "new.db"
        assert_all_succeeded(at_once(PROCESSES, code, f"{prefix}{new}"))
        assert_migrated_once(new, fresh)
        new.unlink()
        legacy = Path(shutil.copy(shared_data / "predecessor_p12.db", tmp_path / "legacy.db"))
        assert_all_succeeded(at_once(PROCESSES, code, f"{prefix}{legacy}"))
        assert_migrated_once(legacy, fresh)
        legacy.unlink()


STOCK_ENV = """
import os
from alembic import context
from sqlalchemy import engine_from_config, pool
from operator_core.db.sql.base import Base

config = context.config
config.set_main_option("sqlalchemy.url", context.get_x_argument(as_dictionary=True)["url"])
connectable = engine_from_config(
    config.get_section(config.config_ini_section), prefix="sqlalchemy.", poolclass=pool.NullPool
)
with connectable.connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()
"""


def test_the_race_has_teeth(tmp_path: Path) -> None:
    """With the env.py that Alembic's own template gives, some of the eight fail."""
    tree = copy_of_tree(tmp_path)
    (tree / "migrations" / "env.py").write_text(STOCK_ENV)
    failed = 0
    for round_ in range(5):
        path = tmp_path / f"ledger{round_}.db"
        ended = at_once(PROCESSES, UPGRADE, f"sqlite:///{path}", cwd=tree)
        failed = sum(status != 0 for status, _ in ended)
        if failed:
            break
    assert failed


async def test_one_process_can_adopt_several_files_at_once(
    tmp_path: Path, shared_data: Path, fresh: Path
) -> None:
    """Alembic keeps the migration under way in globals, which two threads would share."""
    paths = [
        Path(shutil.copy(shared_data / "predecessor_p12.db", tmp_path / f"legacy{index}.db"))
        for index in range(3)
    ]

    async def adopt(path: Path) -> int:
        async with ActionDB(path) as db:
            return sum((await db.count_proposals()).values())

    assert await asyncio.gather(*map(adopt, paths)) == [300] * len(paths)
    for path in paths:
        assert_migrated_once(path, fresh)


async def test_one_loop_can_adopt_several_files_through_engines_at_once(
    tmp_path: Path, shared_data: Path, fresh: Path
) -> None:
    """Here it is one thread, and a lock that waits would wait for itself."""
    from tests.engines import engine_on

    paths = [
        Path(shutil.copy(shared_data / "predecessor_p12.db", tmp_path / f"legacy{index}.db"))
        for index in range(2)
    ]

    async def adopt(path: Path) -> int:
        engine = engine_on(path)
        try:
            async with ActionDB(engine) as db:
                return sum((await db.count_proposals()).values())
        finally:
            await engine.dispose()

    assert await asyncio.gather(*map(adopt, paths)) == [300] * len(paths)
    for path in paths:
        assert_migrated_once(path, fresh)
