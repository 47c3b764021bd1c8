"""Databases on a server that a program is not to use or not to touch: newer, behind, of another encoding."""

import os
from collections.abc import AsyncIterator, Iterator

import pytest
from alembic.util import CommandError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from operator_core.actions import (
    InvalidValue,
    SchemaOutdated,
    SchemaTooNew,
    StorageUnavailable,
    UnmanagedSchema,
)
from operator_core.db import ActionDB, migrate
from tests.databases import Databases, query
from tests.migrations.postgresql_tools import (
    PLAIN_ROWS,
    UNGUARDED,
    alembic,
    alembic_here,
    ledger_at,
    snapshot,
    unversioned,
    variant,
)
from tests.migrations.tools import VERSION_TABLE


@pytest.fixture
def newer(postgres: Databases) -> str:
    """A ledger of a release that is not written yet."""
    url = ledger_at(postgres, "head")
    query(url, UNGUARDED + PLAIN_ROWS.partition("DELETE FROM")[0])
    query(url, f"UPDATE {VERSION_TABLE} SET version_num = '0999'")
    query(url, "ALTER TABLE action_proposals ADD COLUMN of_the_future TEXT")
    return url


async def open_each_way(url: str) -> AsyncIterator[ActionDB]:
    """The ledger at a URL, not open yet, by each kind of target in turn."""
    yield ActionDB(url)
    yield ActionDB(variant(url, drivername="postgresql+psycopg"))
    engine = create_async_engine(variant(url, drivername="postgresql+asyncpg"))
    try:
        yield ActionDB(engine)
        async with AsyncSession(engine) as session:
            yield ActionDB(session)
    finally:
        await engine.dispose()


async def test_opening_a_newer_database_says_so_and_changes_nothing(newer: str) -> None:
    before = snapshot(newer)
    async for db in open_each_way(newer):
        with pytest.raises(SchemaTooNew) as caught:
            await db.open()
        assert (caught.value.found, caught.value.known) == ("0999", migrate.HEAD)
    assert snapshot(newer) == before


@pytest.mark.parametrize("revision", ["head", "0001"])
def test_upgrading_a_newer_database_says_so_and_changes_nothing(newer: str, revision: str) -> None:
    before = snapshot(newer)
    with pytest.raises(SchemaTooNew):
        migrate.upgrade(newer, revision)
    assert snapshot(newer) == before


def test_alembic_leaves_a_newer_database_alone(newer: str) -> None:
    before = snapshot(newer)
    assert "SchemaTooNew" in alembic(newer, "upgrade", "head", fails=True).stderr
    for command in (("downgrade", "base"), ("current",), ("check",)):
        with pytest.raises(SchemaTooNew):
            alembic_here(newer, *command)
    assert snapshot(newer) == before


@pytest.mark.parametrize("start", ["nothing", "base", "0001", "unversioned"])
async def test_opening_what_is_behind_names_the_command_and_changes_nothing(
    postgres: Databases, start: str
) -> None:
    if start == "unversioned":
        url = unversioned(postgres)
    elif start == "base":
        url = ledger_at(postgres, "head")
        alembic_here(url, "downgrade", "base")
    else:
        url = postgres.new() if start == "nothing" else ledger_at(postgres, "0001", PLAIN_ROWS)
    before = snapshot(url)
    async for db in open_each_way(url):
        with pytest.raises(SchemaOutdated, match="`alembic upgrade head` at the root") as caught:
            await db.open()
        assert caught.value.found == ("0001" if start == "0001" else None)
        assert caught.value.wanted == migrate.HEAD
    assert snapshot(url) == before
    # And that command is all it takes.
    migrate.upgrade(url)
    async for db in open_each_way(url):
        await db.open()
        await db.close()


@pytest.mark.parametrize("start", ["nothing", "unversioned"])
def test_commands_that_only_look_change_nothing(postgres: Databases, start: str) -> None:
    url = postgres.new() if start == "nothing" else unversioned(postgres)
    before = snapshot(url)
    alembic_here(url, "current")
    with pytest.raises(CommandError, match="not up to date"):
        alembic_here(url, "check")
    assert snapshot(url) == before


def test_current_says_where_a_database_stands(postgres: Databases) -> None:
    assert alembic(ledger_at(postgres, "0001"), "current").stdout.split() == ["0001"]
    assert alembic(ledger_at(postgres, "head"), "current").stdout.split() == [
        migrate.HEAD,
        "(head)",
    ]


@pytest.fixture
def ascii_url(postgres: Databases, postgres_url: str) -> Iterator[str]:
    """A database that keeps bytes and does not know what they mean."""
    name = f"operator_core_test_{os.getpid()}_ascii"
    postgres.execute(
        f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    yield variant(postgres_url, database=name)
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("driver", ["postgresql", "postgresql+psycopg"])
def test_a_database_of_another_encoding_is_refused(ascii_url: str, driver: str) -> None:
    with pytest.raises(UnmanagedSchema, match="encoding is SQL_ASCII, and must be UTF8"):
        migrate.upgrade(variant(ascii_url, drivername=driver))
    assert query(ascii_url, "SELECT count(*) FROM pg_class WHERE relnamespace = 2200") == [(0,)]


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("postgresql://nobody@127.0.0.1:1/none", StorageUnavailable),
        ("postgresql+psycopg2://127.0.0.1/none", InvalidValue),
    ],
)
def test_a_server_that_can_not_be_used_is_a_clear_error(url: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        migrate.upgrade(url)
