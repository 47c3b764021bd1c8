"""Alembic in a service's hands: the ledger's revisions in its transaction, its own history beside."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from operator_core.actions import Busy, InvalidValue, SchemaTooNew, UnmanagedSchema
from operator_core.db import ActionDB, migrate
from operator_core.db.migrate import deploy, postgresql
from tests.conftest import proposal
from tests.databases import Databases, query
from tests.migrations.postgresql_tools import (
    alembic,
    alembic_here,
    catalogue,
    ledger_at,
    made_by,
    snapshot,
    variant,
    version,
)
from tests.migrations.test_neighbours import SERVICE_ENV, SERVICE_REVISION
from tests.migrations.tools import VERSION_TABLE, Rows

LOCK_IS_FREE = f"SELECT pg_try_advisory_xact_lock({postgresql.LOCK_KEY})"


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    """A service's own, on an empty database."""
    made = create_engine(variant(postgres_url, drivername="postgresql+psycopg"))
    yield made
    made.dispose()


def migrate_on(conn: Connection, revision: str = "head", verb: str = "upgrade") -> None:
    """What a service's deploy does."""
    config = migrate.alembic_config()
    config.attributes["connection"] = conn
    getattr(command, verb)(config, revision)


def test_a_services_transaction_holds_the_lock_and_decides(
    postgres: Databases, postgres_url: str, engine: Engine
) -> None:
    with engine.connect() as conn:
        conn.exec_driver_sql("CREATE TABLE orders (id int PRIMARY KEY)")
        migrate_on(conn)
        assert query(postgres_url, LOCK_IS_FREE) == [(False,)]
        assert catalogue(postgres_url) == []
        conn.rollback()
        assert query(postgres_url, LOCK_IS_FREE) == [(True,)]
        assert catalogue(postgres_url) == []

        conn.exec_driver_sql("CREATE TABLE orders (id int PRIMARY KEY)")
        migrate_on(conn)
        conn.exec_driver_sql("ALTER TABLE orders ADD proposal bigint REFERENCES action_proposals")
        conn.commit()
    assert query(postgres_url, LOCK_IS_FREE) == [(True,)]
    assert ours(postgres_url) == made_by(postgres, "head")
    assert version(postgres_url) == [migrate.HEAD]


async def test_an_async_engine_will_do(postgres: Databases, postgres_url: str) -> None:
    engine = create_async_engine(variant(postgres_url, drivername="postgresql+asyncpg"))
    try:
        async with engine.begin() as conn:
            await conn.run_sync(migrate_on)
        async with ActionDB(engine) as db:
            await db.create_proposal(proposal())
    finally:
        await engine.dispose()
    assert catalogue(postgres_url) == made_by(postgres, "head")


def test_a_services_transaction_goes_on_with_its_own_settings(engine: Engine) -> None:
    names = ("search_path", "lock_timeout", "statement_timeout")
    with engine.connect() as conn:
        conn.exec_driver_sql("CREATE SCHEMA service; SET search_path = public, service")
        conn.exec_driver_sql("SET LOCAL lock_timeout = '7s'")

        def settings() -> list[object]:
            return [conn.exec_driver_sql(f"SHOW {name}").scalar() for name in names]

        before = settings()
        assert before == ["public, service", "7s", "0"]
        for verb, revision in (("upgrade", "head"), ("downgrade", "base"), ("upgrade", "0001")):
            migrate_on(conn, revision, verb)
            assert settings() == before
        conn.rollback()


def test_a_connection_without_transactions_is_refused(postgres_url: str, engine: Engine) -> None:
    """The lock would be gone as soon as it was had, and half a migration would stay."""
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as conn:
        for verb, revision in (("upgrade", "head"), ("downgrade", "base")):
            with pytest.raises(InvalidValue, match="must not be in autocommit mode"):
                migrate_on(conn, revision, verb)
    assert catalogue(postgres_url) == []


async def test_so_is_an_async_one(postgres_url: str) -> None:
    engine = create_async_engine(
        variant(postgres_url, drivername="postgresql+asyncpg"), isolation_level="AUTOCOMMIT"
    )
    try:
        async with engine.connect() as conn:
            with pytest.raises(InvalidValue, match="must not be in autocommit mode"):
                await conn.run_sync(migrate_on)
    finally:
        await engine.dispose()
    assert catalogue(postgres_url) == []


def test_a_deploy_waits_for_a_services_migration(
    postgres_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.connect() as conn:
        migrate_on(conn)
        monkeypatch.setattr(deploy, "LOCK_TIMEOUT", 0.2)
        with pytest.raises(Busy):
            migrate.upgrade(postgres_url)
        conn.commit()
    migrate.upgrade(postgres_url)


def test_a_services_transaction_goes_on_after_a_migration_that_failed(postgres: Databases) -> None:
    url = ledger_at(postgres, "head")
    query(url, f"UPDATE {VERSION_TABLE} SET version_num = '0999'")
    unmanaged = postgres.new()
    query(unmanaged, "CREATE TABLE tickets (id bigint)")
    for place, error in ((url, SchemaTooNew), (unmanaged, UnmanagedSchema)):
        before = snapshot(place)
        engine = create_engine(variant(place, drivername="postgresql+psycopg"))
        with engine.begin() as conn:
            conn.exec_driver_sql("CREATE TABLE orders (id int PRIMARY KEY)")
            with pytest.raises(error):
                migrate_on(conn)
            assert conn.exec_driver_sql("SHOW search_path").scalar() == '"$user", public'
            assert query(place, LOCK_IS_FREE) == [(True,)]
        engine.dispose()
        # What it did itself is there, and nothing else.
        query(place, "DROP TABLE orders")
        assert snapshot(place) == before


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """A service's own checkout, with a history of one revision in the table of Alembic's own name."""
    home = tmp_path / "service"
    (home / "history" / "versions").mkdir(parents=True)
    (home / "alembic.ini").write_text(
        "[alembic]\nscript_location = %(here)s/history\npath_separator = os\n"
    )
    (home / "history" / "env.py").write_text(SERVICE_ENV)
    (home / "history" / "versions" / "aaaa_orders.py").write_text(SERVICE_REVISION)
    return home


def ours(url: str) -> Rows:
    """The catalogue without the service's part."""
    return [row for row in catalogue(url) if not row[1].startswith(("orders", "alembic_version"))]


@pytest.mark.parametrize("first", ["ledger", "service"])
def test_a_services_history_lives_beside_the_ledgers(
    postgres: Databases, postgres_url: str, service: Path, first: str
) -> None:
    fresh = made_by(postgres, "head")
    theirs = variant(postgres_url, drivername="postgresql+psycopg")
    if first == "ledger":
        migrate.upgrade(postgres_url)
    alembic(theirs, "upgrade", "head", cwd=service)
    migrate.upgrade(postgres_url)
    assert query(postgres_url, "SELECT version_num FROM alembic_version") == [("aaaa",)]
    assert version(postgres_url) == [migrate.HEAD]
    assert ours(postgres_url) == fresh
    # Each goes down alone.
    alembic(theirs, "downgrade", "base", cwd=service)
    assert ours(postgres_url) == fresh
    alembic(theirs, "upgrade", "head", cwd=service)
    alembic_here(postgres_url, "downgrade", "base")
    assert query(postgres_url, "SELECT version_num FROM alembic_version") == [("aaaa",)]
    assert query(postgres_url, "SELECT count(*) FROM orders") == [(0,)]
