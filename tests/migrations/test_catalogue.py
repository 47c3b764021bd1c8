"""However a ledger came about, its catalogue is the same to the letter."""

from pathlib import Path

import pytest

from operator_core.db import ActionDB, migrate
from operator_core.db.schema import ACTIONS_SCHEMA_SQL, SCHEMA_SQL
from operator_core.db.sql.sqlite_library import dbapi
from tests.engines import engine_on
from tests.migrations.tools import (
    TABLES,
    VERSION_TABLE,
    alembic,
    alembic_here,
    catalogue,
    contents,
    opened,
    query,
    version,
)


def test_a_fresh_catalogue_holds_what_was_promised(fresh: Path) -> None:
    names = {(kind, name) for kind, name, _, _ in catalogue(fresh)}
    assert {name for kind, name in names if kind == "table"} == {
        *TABLES,
        VERSION_TABLE,
        "sqlite_sequence",
    }
    assert names >= {
        ("index", "idx_action_proposals_status"),
        ("index", "idx_action_proposals_ticket"),
        ("index", "idx_action_records_proposal"),
        ("index", "idx_tickets_open_violation"),
        ("index", "idx_tickets_violation_time"),
        ("index", "idx_action_proposals_due"),
        ("index", "idx_action_proposals_expires"),
        ("index", "idx_action_proposals_retry"),
        ("index", "idx_action_records_lease"),
        ("trigger", "action_proposals_updated_at"),
        ("trigger", "tickets_updated_at"),
    }
    assert not any("_new_" in str(sql) for _, _, _, sql in catalogue(fresh))
    assert version(fresh) == [migrate.HEAD]


def test_upgrading_step_by_step_gives_the_same_catalogue(fresh: Path, tmp_path: Path) -> None:
    path = tmp_path / "steps.db"
    for revision in migrate.REVISIONS:
        alembic_here(path, "upgrade", revision)
        assert version(path) == [revision]
    assert catalogue(path) == catalogue(fresh)


async def test_opening_a_new_file_gives_the_same_catalogue(fresh: Path, tmp_path: Path) -> None:
    async with ActionDB(tmp_path / "opened.db"):
        pass
    assert catalogue(tmp_path / "opened.db") == catalogue(fresh)
    assert version(tmp_path / "opened.db") == [migrate.HEAD]


async def test_an_engine_on_a_new_file_gives_the_same_catalogue(
    fresh: Path, tmp_path: Path
) -> None:
    engine = engine_on(tmp_path / "engine.db")
    async with ActionDB(engine):
        pass
    await engine.dispose()
    assert catalogue(tmp_path / "engine.db") == catalogue(fresh)


async def test_an_engine_adopts_a_legacy_file_too(fresh: Path, legacy: Path) -> None:
    engine = engine_on(legacy)
    async with ActionDB(engine) as db:
        assert sum((await db.count_proposals()).values()) == 300
    await engine.dispose()
    assert catalogue(legacy) == catalogue(fresh)


def test_the_script_text_gives_the_same_catalogue_and_can_run_twice(
    fresh: Path, tmp_path: Path
) -> None:
    path = tmp_path / "script.db"
    for _ in range(2):
        with opened(path) as connection:
            connection.executescript(SCHEMA_SQL + ACTIONS_SCHEMA_SQL)
    assert catalogue(path) == catalogue(fresh, version_table=False)


@pytest.mark.parametrize("how", ["alembic", "ActionDB"])
async def test_a_database_made_by_the_script_text_is_recognised(
    fresh: Path, tmp_path: Path, how: str
) -> None:
    path = tmp_path / "script.db"
    with opened(path) as connection:
        connection.executescript(SCHEMA_SQL)
        connection.executescript(ACTIONS_SCHEMA_SQL)
        connection.execute(
            "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at) "
            "VALUES ('a', '{}', 'r', '2026-01-01 00:00:00.000000')"
        )
    before = contents(path)
    if how == "alembic":
        alembic(path, "upgrade", "head")
    async with ActionDB(path) as db:
        assert len(await db.list_proposals()) == 1
    assert catalogue(path) == catalogue(fresh)
    assert version(path) == [migrate.HEAD]
    assert contents(path) == before


def test_an_adopted_database_has_the_same_catalogue(fresh: Path, legacy: Path) -> None:
    alembic(legacy, "upgrade", "head")
    assert catalogue(legacy) == catalogue(fresh)


async def test_a_database_adopted_by_opening_it_has_the_same_catalogue(
    fresh: Path, legacy: Path
) -> None:
    async with ActionDB(legacy):
        pass
    assert catalogue(legacy) == catalogue(fresh)


def test_down_to_the_plain_schema_and_up_again_gives_the_same_catalogue(
    fresh: Path, tmp_path: Path
) -> None:
    path = tmp_path / "again.db"
    migrate.upgrade(f"sqlite:///{path}")
    alembic(path, "downgrade", "0001")
    alembic(path, "upgrade", "head")
    assert catalogue(path) == catalogue(fresh)


def test_the_offline_script_gives_the_same_catalogue(fresh: Path, tmp_path: Path) -> None:
    script = alembic(None, "upgrade", "head", "--sql").stdout
    path = tmp_path / "offline.db"
    with opened(path) as connection:
        connection.executescript(script)
    assert catalogue(path) == catalogue(fresh)
    assert version(path) == [migrate.HEAD]
    # And it really is what the online run does to an empty one: no row comes out of it.
    assert all(not rows for rows in contents(path).values())


def test_the_offline_script_is_one_transaction(tmp_path: Path) -> None:
    script = alembic(None, "upgrade", "head", "--sql").stdout
    path = tmp_path / "offline.db"
    half = script[: script.index("CREATE TRIGGER action_records_not_deleted")]
    with opened(path) as connection, pytest.raises(dbapi.OperationalError):
        connection.executescript(half + "\nSELECT nonsense;")
    assert catalogue(path) == []


async def test_every_way_of_making_a_file_makes_it_write_ahead(
    fresh: Path, legacy: Path, tmp_path: Path
) -> None:
    assert query(fresh, "PRAGMA journal_mode") == [("wal",)]
    migrate.upgrade(f"sqlite:///{legacy}")
    assert query(legacy, "PRAGMA journal_mode") == [("wal",)]
    async with ActionDB(tmp_path / "opened.db"):
        pass
    assert query(tmp_path / "opened.db", "PRAGMA journal_mode") == [("wal",)]
