"""Opening and closing: every kind of target, and what goes wrong in each."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from operator_core.actions import (
    InvalidValue,
    NotOpen,
    SchemaOutdated,
    SchemaTooNew,
)
from operator_core.db import ActionDB, migrate
from operator_core.db.sql.sqlite_library import dbapi
from tests.conftest import proposal
from tests.engines import engine_on


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


async def test_a_path_a_string_and_urls_name_the_same_file(path: Path) -> None:
    targets = [
        path,
        str(path),
        f"sqlite:///{path}",
        f"sqlite+aiosqlite:///{path}",
        make_url(f"sqlite:///{path}"),
    ]
    for number, target in enumerate(targets):
        async with ActionDB(target) as db:
            await db.create_proposal(proposal())
            assert len(await db.list_proposals()) == number + 1


async def test_a_name_with_odd_characters_is_a_name(tmp_path: Path) -> None:
    path = tmp_path / "file:x?mode=memory&y#z%20 é.db"
    async with ActionDB(path) as db:
        await db.create_proposal(proposal())
    assert path.is_file()


@pytest.mark.parametrize("target", [":memory:", "sqlite://", "sqlite+aiosqlite://"])
async def test_in_memory_each_has_its_own(target: str) -> None:
    async with ActionDB(target) as one, ActionDB(target) as other:
        await one.create_proposal(proposal())
        assert await other.list_proposals() == []


async def test_the_environment_names_the_ledger(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPERATOR_DATABASE_URL", raising=False)
    with pytest.raises(InvalidValue, match="OPERATOR_DATABASE_URL"):
        ActionDB.from_env()
    monkeypatch.setenv("OPERATOR_DATABASE_URL", f"sqlite:///{path}")
    async with ActionDB.from_env(actor="service") as db:
        await db.create_proposal(proposal())
        assert (await db.history())[0].actor == "service"
    assert path.is_file()


@pytest.mark.parametrize(
    "target", ["", None, 5, "nonsense://", "mysql://host/db", "http://x", b"ledger.db"]
)
def test_what_names_no_ledger_is_an_invalid_value(target: object) -> None:
    with pytest.raises(InvalidValue) as caught:
        ActionDB(target)  # type: ignore[arg-type]
    assert caught.value.path == "db_path"


@pytest.mark.parametrize("query", ["mode=ro", "timeout=5", "uri=true&mode=memory"])
def test_options_in_a_url_are_refused_instead_of_passed_over(query: str) -> None:
    with pytest.raises(InvalidValue, match="options"):
        ActionDB(f"sqlite:///ledger.db?{query}")


async def test_a_relative_path_stays_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    async with ActionDB("ledger.db") as db:
        monkeypatch.chdir(tmp_path / "elsewhere")
        created = await db.create_proposal(proposal())
        assert await db.get_proposal(created.id) == created
    assert list((tmp_path / "elsewhere").iterdir()) == []


async def test_an_engine_that_begins_by_itself_may_bring_a_new_file(path: Path) -> None:
    engine = engine_on(path)

    # SQLAlchemy's documented recipe for transactions that sqlite3 does not meddle with.
    @event.listens_for(engine.sync_engine, "connect")
    def _connected(connection: Any, _: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine.sync_engine, "begin")
    def _begun(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")

    async with ActionDB(engine) as db:
        await db.create_proposal(proposal())
        async with db.transaction() as tx:
            await tx.create_proposal(proposal())
    async with ActionDB(path) as db:
        assert len(await db.list_proposals()) == 2
    await engine.dispose()


async def test_a_caller_that_waits_for_a_connection_can_be_cancelled(path: Path) -> None:
    engine = engine_on(path, pool_size=1, max_overflow=0)
    async with ActionDB(engine) as db:
        async with engine.connect():
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(db.count_proposals(), 0.05)
        assert await db.list_proposals() == []
    await engine.dispose()


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"actor": ""}, "actor"),
        ({"busy_timeout": -1}, "busy_timeout"),
        ({"busy_timeout": float("nan")}, "busy_timeout"),
        ({"busy_timeout": "5"}, "busy_timeout"),
        ({"max_json_bytes": 1}, "max_json_bytes"),
        ({"max_json_bytes": "1"}, "max_json_bytes"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], path: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        ActionDB(":memory:", **settings)  # type: ignore[arg-type]
    assert caught.value.path == path


async def test_a_ledger_that_is_not_open_says_so(path: Path) -> None:
    db = ActionDB(path)
    with pytest.raises(NotOpen):
        await db.list_proposals()
    assert not path.exists()
    await db.open()
    await db.open()
    await db.create_proposal(proposal())
    await db.close()
    await db.close()
    with pytest.raises(NotOpen):
        await db.create_proposal(proposal())
    with pytest.raises(NotOpen):
        async with db.transaction():
            pass
    async with db:
        assert len(await db.list_proposals()) == 1


async def test_many_ledgers_on_one_file_see_each_others_work(path: Path) -> None:
    async with ActionDB(path) as one, ActionDB(path) as other:
        await asyncio.gather(
            *(db.create_proposal(proposal()) for db in (one, other) for _ in range(20))
        )
        assert len(await one.list_proposals()) == len(await other.list_proposals()) == 40


async def test_a_current_file_is_opened_by_one_select(path: Path) -> None:
    async with ActionDB(path):
        pass
    statements: list[str] = []
    plain = dbapi.connect

    def traced(*args: object, **options: object) -> dbapi.Connection:
        connection = plain(*args, **options)  # type: ignore[arg-type]
        connection.set_trace_callback(statements.append)
        return connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dbapi, "connect", traced)
        async with ActionDB(path):
            pass
    selects = [each for each in statements if not each.startswith("PRAGMA")]
    (select,) = selects
    assert select.startswith("SELECT version_num")
    assert select.endswith(migrate.VERSION_TABLE)


async def test_the_settings_that_durability_needs_are_on(path: Path) -> None:
    async with ActionDB(path) as db:
        names = ("journal_mode", "synchronous", "foreign_keys")
        found = await db._units.write(
            lambda conn: [conn.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]
        )
        assert found == ["wal", 2, 1]
        assert await db._units.read(lambda conn: conn.exec_driver_sql("PRAGMA query_only").scalar())


async def test_a_file_without_wal_gets_it_with_the_first_write(path: Path) -> None:
    async with ActionDB(path):
        pass
    connection = dbapi.connect(path)
    assert connection.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    connection.close()
    async with ActionDB(path) as db:
        await db.create_proposal(proposal())
    connection = dbapi.connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


# ------ what a service brings


async def test_a_borrowed_engine_is_neither_disposed_nor_changed(path: Path) -> None:
    engine = engine_on(path)
    async with ActionDB(engine) as db:
        await db.create_proposal(proposal())
    async with engine.connect() as connection:
        assert (await connection.exec_driver_sql("PRAGMA foreign_keys")).scalar() == 0
        assert (await connection.exec_driver_sql("PRAGMA legacy_alter_table")).scalar() == 0
        count = await connection.exec_driver_sql("SELECT count(*) FROM action_proposals")
        assert count.scalar() == 1
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    await engine.dispose()


async def test_a_joined_session_commits_and_rolls_back_with_its_owner(path: Path) -> None:
    async with ActionDB(path):
        pass
    engine = engine_on(path)
    for end in ("rollback", "commit"):
        async with AsyncSession(engine) as session:
            async with ActionDB(session) as db:
                created = await db.create_proposal(proposal(end))
                assert await db.get_proposal(created.id) == created
                async with db.transaction() as tx:
                    await tx.create_proposal(proposal(end))
            # Nothing is visible to others before the owner says so.
            async with ActionDB(path) as outside:
                assert await outside.list_proposals(action_name=end) == []
            await getattr(session, end)()
    async with ActionDB(path) as db:
        assert [each.action_name for each in await db.list_proposals()] == ["commit", "commit"]
    await engine.dispose()


async def test_a_joined_session_lends_what_it_has_not_flushed(path: Path) -> None:
    from operator_core.db.sql.tables import TicketRow

    async with ActionDB(path):
        pass
    engine = engine_on(path)
    async with AsyncSession(engine) as session:
        ticket = TicketRow(
            violation_key="k", invariant_name="i", first_seen_at="t", last_seen_at="t", message="m"
        )
        session.add(ticket)
        async with ActionDB(session) as db:
            created = await db.create_proposal(proposal(ticket_id=1))
        await session.commit()
    async with ActionDB(path) as db:
        assert await db.get_proposal(created.id) == created
    await engine.dispose()


async def test_a_failed_unit_leaves_the_owners_transaction_usable(path: Path) -> None:
    async with ActionDB(path):
        pass
    engine = engine_on(path)
    async with AsyncSession(engine) as session, ActionDB(session) as db:
        await db.create_proposal(proposal("kept"))
        with pytest.raises(LookupError):
            await db.create_proposals([proposal("lost"), proposal(ticket_id=9)])
        with pytest.raises(RuntimeError):
            async with db.transaction() as tx:
                await tx.create_proposal(proposal("lost"))
                raise RuntimeError
        await session.commit()
    async with ActionDB(path) as db:
        assert [each.action_name for each in await db.list_proposals()] == ["kept"]
    await engine.dispose()


async def test_a_session_can_not_bring_the_schema_up_to_date(path: Path) -> None:
    await asyncio.to_thread(migrate.upgrade, f"sqlite:///{path}", "0001")
    engine = engine_on(path)
    async with AsyncSession(engine) as session:
        with pytest.raises(SchemaOutdated) as caught:
            await ActionDB(session).open()
        assert (caught.value.found, caught.value.wanted) == ("0001", migrate.HEAD)
    # An engine can, as a file can.
    async with ActionDB(engine) as db:
        await db.create_proposal(proposal())
    await engine.dispose()


async def test_a_newer_schema_is_refused_through_every_door(path: Path) -> None:
    async with ActionDB(path):
        pass
    connection = dbapi.connect(path)
    connection.execute(f"UPDATE {migrate.VERSION_TABLE} SET version_num = '0099'")
    connection.commit()
    connection.close()
    engine = engine_on(path)
    async with AsyncSession(engine) as session:
        for target in (path, engine, session):
            with pytest.raises(SchemaTooNew) as caught:
                await ActionDB(target).open()
            assert (caught.value.found, caught.value.known) == ("0099", migrate.HEAD)
    await engine.dispose()


async def test_units_on_an_in_memory_engine_do_not_mix() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    async with ActionDB(engine) as one, ActionDB(engine) as other:
        results = await asyncio.gather(
            *(one.create_proposal(proposal("good")) for _ in range(10)),
            *(other.create_proposal(proposal(ticket_id=5)) for _ in range(10)),
            return_exceptions=True,
        )
        assert sum(isinstance(each, LookupError) for each in results) == 10
        assert len(await one.list_proposals()) == 10
    await engine.dispose()


def test_a_file_may_be_used_from_one_event_loop_after_another(path: Path) -> None:
    db = ActionDB(path)
    asyncio.run(_open_and_write(db))
    asyncio.run(_write_and_close(db))
    assert os.path.exists(path)


async def _open_and_write(db: ActionDB) -> None:
    await db.open()
    await db.create_proposal(proposal())


async def _write_and_close(db: ActionDB) -> None:
    await db.create_proposal(proposal())
    assert len(await db.list_proposals()) == 2
    await db.close()
