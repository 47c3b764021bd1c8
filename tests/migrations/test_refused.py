"""Databases that are not to be touched: unknown shapes, strangers', newer ones. Not a byte changes."""

from pathlib import Path

import pytest

from operator_core.actions import SchemaTooNew, UnmanagedSchema
from operator_core.db import ActionDB, migrate
from tests.migrations.conftest import Copy
from tests.migrations.tools import (
    VERSION_TABLE,
    alembic,
    fingerprint,
    opened,
    query,
)


async def refuse_to_open(path: Path) -> tuple[str, ...]:
    """The differences that opening and upgrading complain of, alike; neither changes a byte."""
    before = fingerprint(path)
    with pytest.raises(UnmanagedSchema) as by_opening:
        async with ActionDB(path):
            pass
    assert fingerprint(path) == before
    with pytest.raises(UnmanagedSchema) as by_upgrading:
        migrate.upgrade(f"sqlite:///{path}")
    assert fingerprint(path) == before
    assert by_opening.value.differences == by_upgrading.value.differences
    return by_opening.value.differences


async def test_an_unknown_shape_is_refused_by_its_columns(unknown: Path) -> None:
    differences = await refuse_to_open(unknown)
    for column in ("approved_at", "rejected_by", "workflow_id", "next_retry_at"):
        assert f"action_proposals has a column {column}" in differences
    assert "action_proposals has the index idx_action_proposals_retry" in differences
    assert not any("action_records" in difference for difference in differences)


def test_alembic_refuses_an_unknown_shape_too(unknown: Path) -> None:
    before = fingerprint(unknown)
    complaint = alembic(unknown, "upgrade", "head", fails=True).stderr
    assert "UnmanagedSchema" in complaint
    assert "action_proposals has a column approved_by" in complaint
    assert fingerprint(unknown) == before


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("ALTER TABLE tickets ADD COLUMN owner TEXT", "tickets has a column owner"),
        (
            "ALTER TABLE action_records DROP COLUMN error_message",
            "action_records has no column error_message",
        ),
        (
            "ALTER TABLE action_records RENAME COLUMN result_data TO result",
            "action_records has a column result; action_records has no column result_data",
        ),
        (
            "ALTER TABLE action_proposals ADD COLUMN length INT AS (length(parameters))",
            "action_proposals has a column length",
        ),
        (
            "CREATE INDEX mine ON action_proposals (reason)",
            "action_proposals has the index mine",
        ),
        (
            "CREATE TRIGGER mine AFTER INSERT ON tickets BEGIN SELECT 1; END",
            "tickets has the trigger mine",
        ),
        ("CREATE TABLE action_events (id)", "there is a table action_events"),
        (
            "DROP TABLE action_records; CREATE VIEW Action_Records AS SELECT 1",
            "there is a view Action_Records",
        ),
        (
            "DROP INDEX idx_action_proposals_status; CREATE TABLE other (status);"
            "CREATE INDEX idx_action_proposals_status ON other (status)",
            "other has the index idx_action_proposals_status",
        ),
    ],
    ids=lambda text: text[-40:],
)
async def test_every_difference_of_a_legacy_table_is_refused(
    legacy: Path, change: str, difference: str
) -> None:
    with opened(legacy) as connection:
        connection.executescript(change)
    assert await refuse_to_open(legacy) == tuple(difference.split("; "))


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        (
            "status TEXT NOT NULL DEFAULT 'proposed'",
            "status TEXT NOT NULL DEFAULT 'pending'",
            "action_proposals.status has another default or nullability",
        ),
        (
            "reason TEXT NOT NULL",
            "reason TEXT",
            "action_proposals.reason has another default or nullability",
        ),
        (
            "reason TEXT NOT NULL",
            "reason TEXT NOT NULL UNIQUE",
            "action_proposals has a UNIQUE constraint",
        ),
        (
            "id INTEGER PRIMARY KEY AUTOINCREMENT",
            "id TEXT PRIMARY KEY",
            "action_proposals.id is not its INTEGER PRIMARY KEY",
        ),
        (
            "id INTEGER PRIMARY KEY AUTOINCREMENT",
            "id INTEGER",
            "action_proposals.id is not its INTEGER PRIMARY KEY",
        ),
    ],
)
async def test_columns_that_are_declared_otherwise_are_refused(
    legacy: Path, old: str, new: str, difference: str
) -> None:
    (sql,) = query(legacy, "SELECT sql FROM sqlite_master WHERE name = 'action_proposals'")[0]
    assert old in sql
    with opened(legacy) as connection:
        connection.executescript(f"DROP TABLE action_proposals; {sql.replace(old, new)}")
    differences = await refuse_to_open(legacy)
    assert [each for each in differences if "no" not in each.split()] == [difference]


async def test_a_strangers_database_is_refused_by_opening_it(tmp_path: Path) -> None:
    path = tmp_path / "stranger.db"
    with opened(path) as connection:
        connection.executescript(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY); INSERT INTO orders VALUES (1);"
            "CREATE TABLE alembic_version (version_num TEXT); INSERT INTO alembic_version VALUES ('0002')"
        )
    before = fingerprint(path)
    with pytest.raises(
        UnmanagedSchema, match=r"only tables of other programs \(alembic_version, orders\)"
    ):
        async with ActionDB(path):
            pass
    assert fingerprint(path) == before


async def test_a_strangers_table_of_the_same_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "stranger.db"
    with opened(path) as connection:
        connection.execute("CREATE TABLE tickets (id INTEGER PRIMARY KEY, title TEXT)")
    differences = await refuse_to_open(path)
    assert "tickets has a column title" in differences
    assert "tickets has no column violation_key" in differences


def make_newer(path: Path) -> None:
    with opened(path) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '0999'")
        connection.execute("ALTER TABLE action_proposals ADD COLUMN of_the_future TEXT")


async def test_opening_a_newer_database_says_so_and_changes_nothing(copy: Copy) -> None:
    path = copy("newer.db")
    make_newer(path)
    before = fingerprint(path)
    with pytest.raises(SchemaTooNew) as caught:
        async with ActionDB(path):
            pass
    assert (caught.value.found, caught.value.known) == ("0999", migrate.HEAD)
    assert fingerprint(path) == before


@pytest.mark.parametrize("revision", ["head", "0001"])
def test_upgrading_a_newer_database_says_so_and_changes_nothing(copy: Copy, revision: str) -> None:
    path = copy("newer.db")
    make_newer(path)
    before = fingerprint(path)
    with pytest.raises(SchemaTooNew):
        migrate.upgrade(f"sqlite:///{path}", revision)
    assert fingerprint(path) == before


@pytest.mark.parametrize("command", [("upgrade", "head"), ("downgrade", "base"), ("current",)])
def test_alembic_leaves_a_newer_database_alone(copy: Copy, command: tuple[str, ...]) -> None:
    path = copy("newer.db")
    make_newer(path)
    before = fingerprint(path)
    assert "SchemaTooNew" in alembic(path, *command, fails=True).stderr
    assert fingerprint(path) == before


@pytest.mark.parametrize(
    "command", [("current",), ("check",), ("history",)], ids=lambda command: command[0]
)
def test_commands_that_only_look_change_nothing(legacy: Path, command: tuple[str, ...]) -> None:
    before = fingerprint(legacy)
    alembic(legacy, *command, fails=command == ("check",))
    assert fingerprint(legacy) == before
