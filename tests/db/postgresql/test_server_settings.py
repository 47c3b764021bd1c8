"""Settings of a database, a role or a service that change what statements mean, and what the ledger does about them."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import Pool

from operator_core.actions import ActionStatus, NotFound, StorageUnavailable
from operator_core.db import ActionDB
from operator_core.db.postgresql.connect import make_engine, parse_url, unpinned_settings
from operator_core.db.sql.unit import SingleStatement
from tests.conftest import proposal
from tests.databases import query

S = ActionStatus

DRIVERS = ("asyncpg", "psycopg")

ODD = {
    "DateStyle": "'SQL, DMY'",
    "IntervalStyle": "'sql_standard'",
    "TimeZone": "'Asia/Kathmandu'",
    "array_nulls": "off",
    "bytea_output": "'escape'",
    "client_encoding": "'LATIN1'",
    "default_transaction_isolation": "'serializable'",
    "exit_on_error": "on",
    "extra_float_digits": "-10",
    "quote_all_identifiers": "on",
    "standard_conforming_strings": "off",
    "transform_null_equals": "on",
}

REFUSED = {
    # asyncpg asks for its encoding at the start.
    "asyncpg": {"exit_on_error", "standard_conforming_strings", "transform_null_equals"},
    "psycopg": {
        "DateStyle", "array_nulls", "client_encoding", "exit_on_error", "extra_float_digits",
        "standard_conforming_strings", "transform_null_equals",
    },
}  # fmt: skip
"""What can't be had on a service's own engine or session, where it is not the ledger's to change."""


def by(driver: str, url: str) -> str:
    return f"postgresql+{driver}://" + url.partition("://")[2]


@pytest.fixture
def odd(server_ledger: str, postgres_copy: Callable[[str | Path], str]) -> Callable[..., str]:
    """Makes a ledger in a database that has these settings for every session."""

    def make(*names: str) -> str:
        url = postgres_copy(server_ledger)
        database = url.rpartition("/")[2]
        for name in names:
            query(url, f"ALTER DATABASE {database} SET {name} = {ODD[name]}")
        return url

    return make


async def lead_a_life(db: ActionDB) -> None:
    """Writes and reads something of every type in every way, and checks that it comes back."""
    wanted = proposal(
        reason='a \\ backslash, an \\u0000 that is text, "NULL", and \N{SNOWMAN}',
        parameters={"deep": ["\\", "NULL", None, 1.5, "\N{SNOWMAN}"]},
        retry_delay=0.1234567890123,
        max_retries=1,
        status=S.VALIDATED,
    )
    made = await db.create_proposal(wanted)
    many = await db.create_proposals([wanted] * 3)
    for each in [made, *many]:
        found = await db.get_proposal(each.id)
        assert found is not None
        assert (found.reason, found.parameters) == (wanted.reason, wanted.parameters)
        assert found.retry_delay == wanted.retry_delay
        assert (found.proposed_at, found.ticket_id) == (wanted.proposed_at, None)
        assert found.updated_at == each.updated_at
    done, failed, *rest = await db.claim("worker", limit=4)
    await db.complete_many({each.record.id: {"n": 0.1} for each in [done, *rest] if each.record.id})
    await db.fail(failed.record.id, "back\\slash")
    with pytest.raises(NotFound):
        await db.create_proposal(proposal(ticket_id=4711))
    async with db.transaction() as tx:
        await tx.create_proposal(wanted)
    counted = await db.count_proposals()
    assert (counted[S.COMPLETED], counted[S.FAILED], counted[S.VALIDATED]) == (3, 1, 1)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", ODD)
async def test_a_database_with_other_settings_is_as_good(
    odd: Callable[..., str], name: str, driver: str
) -> None:
    async with ActionDB(by(driver, odd(name))) as db:
        await lead_a_life(db)


@pytest.mark.parametrize("driver", DRIVERS)
async def test_so_is_one_with_all_of_them_also_after_a_reset(
    odd: Callable[..., str], driver: str
) -> None:
    async with ActionDB(by(driver, odd(*ODD)), pool_size=1) as db:
        await lead_a_life(db)
        # DISCARD ALL does that, and forgets prepared statements, of which drivers know nothing.
        await db._units.write(SingleStatement(lambda conn: conn.exec_driver_sql("RESET ALL")))
        await db.create_proposal(proposal(reason="\\"))
        found = await db._units.read(
            lambda conn: {name: conn.exec_driver_sql(f"SHOW {name}").scalar_one() for name in ODD}
        )
        assert found["DateStyle"].startswith("ISO")
        assert found["TimeZone"] == "UTC"
        assert found["standard_conforming_strings"] == found["array_nulls"] == "on"
        assert found["default_transaction_isolation"] == "read committed"


@pytest.mark.parametrize("driver", DRIVERS)
async def test_what_a_url_asks_for_comes_along(server_ledger: str, driver: str) -> None:
    url = by(driver, server_ledger) + "?options=-cwork_mem%3D5MB%20-cdatestyle%3DGerman"
    async with ActionDB(url) as db:
        await lead_a_life(db)
        found = await db._units.read(
            lambda conn: conn.exec_driver_sql("SELECT current_setting('work_mem')").scalar_one()
        )
        assert found == "5MB"


async def test_so_does_what_libpq_has_from_the_environment(
    server_ledger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=6MB -c datestyle=German")
    monkeypatch.setenv("PGDATESTYLE", "SQL")
    monkeypatch.setenv("PGTZ", "Asia/Kathmandu")
    async with ActionDB(by("psycopg", server_ledger)) as db:
        await lead_a_life(db)
        found = await db._units.read(
            lambda conn: conn.exec_driver_sql("SELECT current_setting('work_mem')").scalar_one()
        )
        assert found == "6MB"


# ------ what a service brings


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", ODD)
async def test_a_services_engine_works_or_is_refused_before_anything_is_written(
    odd: Callable[..., str], name: str, driver: str
) -> None:
    url = odd(name)
    engine = create_async_engine(by(driver, url))
    refused = name in REFUSED[driver]
    if refused:
        with pytest.raises(StorageUnavailable, match=name):
            await ActionDB(engine).open()
        async with AsyncSession(engine) as session:
            with pytest.raises(StorageUnavailable, match=name):
                await ActionDB(session).open()
            # The session is as good as it was.
            assert await session.scalar(text("SELECT 1")) == 1
        assert query(url, "SELECT count(*) FROM action_proposals") == [(0,)]
    else:
        async with ActionDB(engine) as db:
            await lead_a_life(db)
    await engine.dispose()


@pytest.mark.parametrize(
    ("driver", "setting"),
    [
        ("psycopg", "datestyle = 'German'"),
        ("psycopg", "standard_conforming_strings = off"),
        ("asyncpg", "standard_conforming_strings = off"),
        ("psycopg", "client_encoding = 'LATIN1'"),
    ],
)
async def test_what_a_service_sets_later_is_refused_before_anything_is_written(
    server_ledger: str, driver: str, setting: str
) -> None:
    engine = create_async_engine(by(driver, server_ledger), pool_size=1, max_overflow=0)
    async with ActionDB(engine) as db:
        await db.create_proposal(proposal())
        async with engine.connect() as conn:
            await conn.exec_driver_sql(f"SET {setting}")
            await conn.commit()
        with pytest.raises(StorageUnavailable, match=f"(?i){setting.partition(' ')[0]} is not"):
            await db.create_proposal(proposal())
        with pytest.raises(StorageUnavailable):
            async with db.transaction() as tx:
                await tx.create_proposal(proposal())
        async with engine.connect() as conn:
            await conn.exec_driver_sql(f"RESET {setting.partition(' ')[0]}")
            await conn.commit()
        await db.create_proposal(proposal())
    async with AsyncSession(engine) as session, ActionDB(session) as db:
        await session.execute(text(f"SET LOCAL {setting}"))
        with pytest.raises(StorageUnavailable, match="settings"):
            await db.create_proposal(proposal())
        await session.rollback()
    assert query(server_ledger, "SELECT count(*) FROM action_proposals") == [(2,)]
    await engine.dispose()


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_session_in_which_no_trigger_fires_is_refused(
    server_ledger: str, driver: str
) -> None:
    url = by(driver, server_ledger) + "?options=-csession_replication_role%3Dreplica"
    with pytest.raises(StorageUnavailable, match="session_replication_role is replica"):
        await ActionDB(url).open()


# ------ db check


async def settings_of(engine: AsyncEngine) -> list[tuple[str, str, str]]:
    try:
        async with engine.connect() as conn:
            return await conn.run_sync(unpinned_settings)
    finally:
        await engine.dispose()


@pytest.mark.parametrize("driver", DRIVERS)
async def test_what_cannot_be_pinned_is_named(odd: Callable[..., str], driver: str) -> None:
    url = odd(*ODD)
    found = await settings_of(make_engine(parse_url(by(driver, url)), pool_size=1, timeout=5))
    assert {name for name, _, _ in found} == REFUSED["psycopg"]
    assert all("set for database" in why for _, _, why in found)
    bare = await settings_of(create_async_engine(by(driver, url)))
    own = {"client_encoding"} if driver == "asyncpg" else set()
    assert {name for name, _, why in bare if "set for" not in why} == REFUSED["psycopg"] - own


@pytest.mark.parametrize("driver", DRIVERS)
async def test_where_all_is_well_nothing_is_named(server_ledger: str, driver: str) -> None:
    engine = make_engine(parse_url(by(driver, server_ledger)), pool_size=1, timeout=5)
    assert await settings_of(engine) == []


# ------ whoever listens to SQLAlchemy's classes


@pytest.fixture
def listening() -> Iterator[Callable[..., None]]:
    """Listens to all engines of the program, until the test is over."""
    heard: list[tuple[Any, str, Any]] = []

    def listen(target: Any, name: str, function: Any) -> None:
        event.listen(target, name, function)
        heard.append((target, name, function))

    yield listen
    for each in heard:
        event.remove(*each)


def run_on(connection: Any, sql: str) -> None:
    cursor = connection.cursor()
    cursor.execute(sql)
    cursor.close()


def at(level: str) -> Callable[..., None]:
    def set_level(conn: Any) -> None:
        conn.execution_options(isolation_level=level)

    return set_level


def on_connection(sql: str) -> Callable[..., None]:
    return lambda connection, *_: run_on(connection, sql)


def in_units(sql: str) -> Callable[..., None]:
    return lambda conn: conn.exec_driver_sql(sql)


def transactional(connection: Any, *_: object) -> None:
    connection.autocommit = False


LISTENERS: dict[str, tuple[Any, str, Any]] = {
    "its own BEGIN": (Engine, "begin", in_units("BEGIN")),
    "serializable": (Engine, "engine_connect", at("SERIALIZABLE")),
    "autocommit": (Engine, "engine_connect", at("AUTOCOMMIT")),
    "a ping": (Engine, "engine_connect", in_units("SELECT 1")),
    "a ping at checkout": (Pool, "checkout", on_connection("SELECT 1")),
    "no autocommit": (Pool, "connect", transactional),
    "no autocommit at checkout": (Pool, "checkout", transactional),
    "another level": (
        Pool, "connect",
        on_connection("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE"),
    ),
    "another style": (Pool, "connect", on_connection("SET datestyle = 'German'")),
    "other strings": (Engine, "connect", on_connection("SET standard_conforming_strings = off")),
}  # fmt: skip


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("kind", LISTENERS)
async def test_our_transactions_are_ours_whoever_listens(
    server_ledger: str, listening: Callable[..., None], kind: str, driver: str
) -> None:
    listening(*LISTENERS[kind])
    async with ActionDB(by(driver, server_ledger), pool_size=2) as db:
        for _ in range(3):
            made = await db.create_proposal(proposal())
            # Answered is kept, as others see it.
            sql = f"SELECT count(*) FROM action_proposals WHERE id = {made.id}"
            assert query(server_ledger, sql) == [(1,)]
            await db.update_proposal_status(made.id, S.VALIDATED)
            with pytest.raises(NotFound):
                await db.create_proposal(proposal(ticket_id=4711))
        with pytest.raises(RuntimeError):
            async with db.transaction() as tx:
                await tx.create_proposal(proposal(action_name="undone"))
                level = await tx._units.read(  # type: ignore[attr-defined]
                    lambda conn: conn.exec_driver_sql("SHOW transaction_isolation").scalar_one()
                )
                assert level == "read committed"
                raise RuntimeError
        level = await db._units.read(
            lambda conn: conn.exec_driver_sql("SHOW transaction_isolation").scalar_one()
        )
        assert level == "read committed"
        assert not await db.list_proposals(action_name="undone")
        idle = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%' AND datname = current_database()"
        assert query(server_ledger, idle) == [(0,)]
        await asyncio.gather(*(db.create_proposal(proposal()) for _ in range(20)))
    assert query(server_ledger, "SELECT count(*) FROM action_proposals") == [(23,)]


def test_the_engine_itself_is_listened_to_by_nobody(server_ledger: str) -> None:
    # Otherwise every plain statement would take the long way.
    engine = make_engine(parse_url(server_ledger), pool_size=1, timeout=5)
    assert "_has_events" not in vars(engine.sync_engine)
