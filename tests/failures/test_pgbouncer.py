"""PgBouncer in transaction mode between the ledger and its server."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from sqlalchemy import make_url

from operator_core.actions.errors import CommitOutcomeUnknown, InvalidValue, StorageUnavailable
from operator_core.actions.types import ActionStatus
from operator_core.db import ActionDB, migrate
from tests.databases import NoServer, query
from tests.failures.harness import proposal
from tests.failures.proxy import proxied
from tests.failures.server_harness import Load, check_kept, own_server
from tests.servers import PgBouncer, Server

PSYCOPG = "postgresql+psycopg"
LOST = (CommitOutcomeUnknown, StorageUnavailable)
OFF = "prepared_statements=off"


@contextmanager
def bouncer_before(server: Server, **options: object) -> Iterator[PgBouncer]:
    try:
        bouncer = PgBouncer.make(server, **options)  # type: ignore[arg-type]
    except NoServer:
        pytest.skip("needs PgBouncer")
    with bouncer:
        yield bouncer


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with own_server(durable=False) as made:
        yield made


@pytest.fixture
def direct(server: Server) -> Iterator[str]:
    """The URL of an empty database, around PgBouncer."""
    server.sql("CREATE DATABASE ledger")
    yield server.url("ledger")
    server.sql("DROP DATABASE ledger WITH (FORCE)")


def through(bouncer: PgBouncer, *options: str, driver: str = PSYCOPG) -> str:
    return "?".join([driver + bouncer.url("ledger").removeprefix("postgresql"), *options])


async def load_through(bouncer: PgBouncer, url: str, writes: int) -> Load:
    async with ActionDB(url, pool_size=32) as db, Load(db, tasks=32) as load:
        await load.more(load.acknowledged, writes)
        shared = bouncer.sql("SHOW SERVERS", "pgbouncer").count("\n") + 1
    print(f"\nPgBouncer {bouncer.version}: 32 tasks on {shared} connections of the server")
    assert shared <= 4
    return load


async def all_is_well(server: Server, direct: str, writes: int) -> None:
    with bouncer_before(server, default_pool_size=4) as bouncer:
        url = through(bouncer, OFF)
        migrate.upgrade(url)
        load = await load_through(bouncer, url, writes)
    check_kept(load, direct)
    assert not load.unknown
    assert not load.refused


async def test_a_ledger_without_prepared_statements_works_in_transaction_mode(
    server: Server, direct: str
) -> None:
    await all_is_well(server, direct, writes=1_500)


@pytest.mark.soak
async def test_tens_of_thousands_of_writes_in_transaction_mode(server: Server, direct: str) -> None:
    await all_is_well(server, direct, writes=30_000)


class Simple(Load):
    """Writes and reads only: where somebody else's statement is run, a unit of several may never end."""

    async def _together(self, marker: str) -> None:
        made = await self._write(
            self._db.create_proposal(proposal(parameters={"marker": marker})), f"proposal {marker}"
        )
        await self._check_readable(made.id, marker)

    _live = _together


async def test_planted_prepared_statements_in_transaction_mode_are_caught(
    server: Server, direct: str
) -> None:
    migrate.upgrade(direct)
    with bouncer_before(server) as any_:
        # Those that can follow them are asked not to.
        can = tuple(map(int, any_.version.split("."))) >= (1, 21)
    settings = {"max_prepared_statements": "0"} if can else {}
    # Either a caller is refused, or meets another kind of error, or somebody else's statement ran.
    wrong = pytest.raises((AssertionError, ExceptionGroup))
    with bouncer_before(server, settings=settings) as bouncer, wrong:
        async with ActionDB(through(bouncer)) as db, Simple(db, tasks=32) as load:
            await load.more(load.acknowledged, 3_000)
        check_kept(load, direct)
        assert not load.refused


def test_asyncpg_can_not_do_without_prepared_statements_and_says_so() -> None:
    with pytest.raises(InvalidValue, match=r"can't be off with asyncpg: use postgresql\+psycopg"):
        ActionDB(f"postgresql://postgres@127.0.0.1/ledger?{OFF}")


@pytest.mark.parametrize("options", [(OFF,), ()], ids=["psycopg", "asyncpg"])
async def test_a_schema_in_the_url_is_refused_by_name(
    server: Server, direct: str, options: tuple[str, ...]
) -> None:
    server.sql("CREATE SCHEMA service", "ledger")
    with bouncer_before(server) as bouncer:
        driver = PSYCOPG if options else "postgresql"
        url = through(bouncer, "options=-csearch_path%3Dservice", *options, driver=driver)
        for call in (ActionDB(url).open, partial(asyncio.to_thread, migrate.upgrade, url)):
            with pytest.raises(StorageUnavailable, match="unsupported startup parameter"):
                await call()


@pytest.mark.parametrize("whose", ["DATABASE ledger", "ROLE postgres IN DATABASE ledger"])
async def test_a_schema_of_the_role_or_the_database_is_the_ledgers(
    server: Server, direct: str, whose: str
) -> None:
    server.sql("CREATE SCHEMA service", "ledger")
    server.sql(f"ALTER {whose} SET search_path = service")
    with bouncer_before(server) as bouncer:
        url = through(bouncer, OFF)
        await asyncio.to_thread(migrate.upgrade, url)
        async with ActionDB(url) as db:
            await db.create_proposal(proposal())
        assert query(direct, "SELECT count(*) FROM service.action_events") == [(1,)]
        names = """SELECT DISTINCT application_name FROM pg_stat_activity
            WHERE datname = current_database() AND pid != pg_backend_pid()"""
        assert query(direct, names) == [("operator-core",)]


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("options", [(OFF,), ()], ids=["psycopg", "asyncpg"])
async def test_settings_are_pinned_through_it_as_far_as_it_keeps_them(
    server: Server, direct: str, ignored: bool, options: tuple[str, ...]
) -> None:
    # It takes no options, or drops them without a word.
    settings = {"ignore_startup_parameters": "options"} if ignored else {}
    driver = PSYCOPG if options else "postgresql"
    # In a session of its own asyncpg's prepared statements are where it looks for them.
    mode = "transaction" if options else "session"
    migrate.upgrade(direct)
    for setting in ("datestyle = 'SQL, DMY'", "standard_conforming_strings = off"):
        server.sql(f"ALTER DATABASE ledger SET {setting}")
    with bouncer_before(server, settings=settings, pool_mode=mode, default_pool_size=8) as bouncer:
        url = through(bouncer, *options, driver=driver)
        async with ActionDB(url, pool_size=4) as db:
            made = await asyncio.gather(
                *(db.create_proposal(proposal(reason="\\")) for _ in range(20))
            )
            assert {each.updated_at for each in made} == {
                each.updated_at for each in await db.list_proposals()
            }
    assert query(direct, "SELECT count(*) FROM action_proposals WHERE reason = E'\\\\'") == [(20,)]
    server.sql("ALTER DATABASE ledger SET transform_null_equals = on")
    refused = pytest.raises(StorageUnavailable, match="transform_null_equals is on")
    with bouncer_before(server, settings=settings, pool_mode=mode) as bouncer, refused:
        await ActionDB(through(bouncer, *options, driver=driver)).open()


@pytest.mark.parametrize("driver", ["postgresql", PSYCOPG])
@pytest.mark.parametrize("call", ["create", "create several", "update", "transaction", "read"])
async def test_a_server_that_is_lost_behind_it_is_lost(
    server: Server, direct: str, driver: str, call: str
) -> None:
    migrate.upgrade(direct)
    async with proxied(direct) as proxy:
        options = [OFF] if driver == PSYCOPG else []
        port = make_url(proxy.url).port
        # In a session of its own asyncpg's prepared statements are where it looks for them.
        with bouncer_before(server, server_port=port, pool_mode="session") as bouncer:
            async with ActionDB(through(bouncer, *options, driver=driver)) as db:
                for _ in range(3):
                    made = await db.create_proposal(proposal(reason="before"))
                    await db.create_proposals([proposal(reason="before")] * 2)
                    await db.update_proposal_status(made.id, ActionStatus.VALIDATED)
                    await db.get_proposal(made.id)
                what = b"COMMIT" if call == "transaction" else b""
                proxy.cut_after = lambda said: proxy.cuts < 1 and what in said
                if call == "read":
                    assert await db.get_proposal(made.id) is not None
                    assert proxy.cuts == 1
                    return
                with pytest.raises(CommitOutcomeUnknown if call != "transaction" else LOST):
                    if call == "create":
                        await db.create_proposal(proposal(reason="after"))
                    elif call == "create several":
                        await db.create_proposals([proposal(reason="after")] * 2)
                    elif call == "update":
                        await db.update_proposal_status(made.id, ActionStatus.CANCELLED)
                    else:
                        async with db.transaction() as tx:
                            await tx.create_proposal(proposal(reason="after"))
                assert proxy.cuts == 1
