"""The stop through PgBouncer in transaction mode, where a client has no server process of its own."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any, Final

import psycopg
import pytest

from operator_core.actions import ActionStatus, Busy, Halted, HaltMode, StorageUnavailable
from operator_core.db import ActionDB
from tests.databases import query
from tests.failures.beginners import BEGUN, Beginners
from tests.failures.harness import PATIENCE, proposal
from tests.failures.server_harness import check_whole, make_ledger, own_server
from tests.failures.test_pgbouncer import OFF, bouncer_before, through
from tests.servers import PgBouncer, Server

WHO: Final = {"by": "oncall", "reason": "bad deploy"}
BEGIN: Final = "UPDATE action_proposals SET status = 'validated'"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with own_server(durable=False) as made:
        yield made


@pytest.fixture
def direct(server: Server) -> Iterator[str]:
    """The URL of an empty ledger, around PgBouncer."""
    yield make_ledger(server)
    server.sql("DROP DATABASE ledger WITH (FORCE)")


async def client_of(bouncer: PgBouncer, *statements: str) -> Any:
    """A service's connection, in an open transaction that has executed these."""
    conn = await psycopg.AsyncConnection.connect(
        bouncer.url("ledger"), application_name="a service", prepare_threshold=None
    )
    for statement in statements:
        await conn.execute(statement)  # type: ignore[arg-type]
    return conn


async def backend_of(conn: Any) -> int:
    return (await (await conn.execute("SELECT pg_backend_pid()")).fetchone())[0]


async def await_halted(db: ActionDB) -> None:
    async with asyncio.timeout(PATIENCE):
        while await db.mode() is not HaltMode.HALTED:
            await asyncio.sleep(0.01)


async def test_who_has_begun_something_through_it_is_named_and_begins_no_more(
    server: Server, direct: str
) -> None:
    with bouncer_before(server) as bouncer:
        async with ActionDB(through(bouncer, OFF)) as db:
            made = await db.create_proposal(proposal())
            client = await client_of(bouncer, BEGIN)
            report = await db.halt(**WHO, timeout=1)
            assert not report.complete
            (blocker,) = report.blockers
            # The process of the server that the client has until its transaction ends.
            assert (blocker.pid, blocker.application) == (await backend_of(client), "a service")
            assert not (await db.halt_report(report.halt.id)).complete
            with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="halted"):
                await client.execute("UPDATE action_proposals SET status = 'executing'")
            await client.rollback()
            with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="halted"):
                await client.execute(BEGIN)
            await client.rollback()
            again = await db.halt(**WHO, timeout=60)
            assert again.complete
            assert (again.halt, again.cancelled) == (report.halt, 1)
            assert query(direct, f"SELECT status FROM action_proposals WHERE id = {made.id}") == [
                ("cancelled",)
            ]
            await db.resume(**WHO)
            await db.create_proposal(proposal())
            await client.execute(BEGIN + " WHERE status = 'proposed'")
            await client.commit()
            assert len(await db.claim("worker")) == 1
            await client.close()


@pytest.mark.parametrize("end", ["commits", "is gone"])
async def test_a_halt_waits_for_what_was_begun_through_it(
    server: Server, direct: str, end: str
) -> None:
    with bouncer_before(server) as bouncer:
        async with ActionDB(through(bouncer, OFF)) as db:
            await db.create_proposal(proposal())
            client = await client_of(bouncer, BEGIN)
            halting = asyncio.create_task(db.halt(**WHO, timeout=600))
            await await_halted(db)
            # Far longer than it takes if nobody is in the way.
            _, still = await asyncio.wait({halting}, timeout=1)
            assert still
            if end == "commits":
                await client.commit()
            await client.close()
            report = await asyncio.wait_for(halting, PATIENCE)
            assert report.complete
            assert report.cancelled == 1
        (found,) = query(direct, "SELECT status, validated_at IS NULL FROM action_proposals")
        assert found[0] == "cancelled"
        validated = query(
            direct, "SELECT count(*) FROM action_events WHERE to_status = 'validated'"
        )
        assert validated == [(1 if end == "commits" else 0,)]


async def test_who_is_in_the_way_behind_it_can_be_ended(server: Server, direct: str) -> None:
    with bouncer_before(server) as bouncer:
        async with ActionDB(through(bouncer, OFF)) as db:
            await db.create_proposal(proposal())
            client = await client_of(bouncer, BEGIN)
            report = await db.halt(**WHO, timeout=0, terminate=True)
            assert report.complete
            with pytest.raises(psycopg.OperationalError):
                await client.execute("SELECT 1")
            await client.close()
            (found,) = await db.list_proposals()
            assert (found.status, found.validated_at) == (ActionStatus.CANCELLED, None)


@pytest.mark.parametrize("halted", ["through it", "around it"])
async def test_nothing_begins_through_it_after_a_halt_has_returned(
    server: Server, direct: str, halted: str
) -> None:
    late: list[int] = []
    with bouncer_before(server, default_pool_size=4) as bouncer:
        async with AsyncExitStack() as stack:
            # More clients than the server has processes for them.
            ledgers = [
                await stack.enter_async_context(ActionDB(through(bouncer, OFF), busy_timeout=60))
                for _ in range(4)
            ]
            where = through(bouncer, OFF) if halted == "through it" else direct
            db = await stack.enter_async_context(ActionDB(where, busy_timeout=60))
            async with Beginners(*ledgers, tasks=3, hold=0.3) as beginners:
                for _ in range(6):
                    await beginners.more("begun", 20)
                    report = await db.halt(**WHO, timeout=60)
                    assert report.complete
                    before = query(direct, BEGUN)[0][0]
                    await beginners.more("halted", 20)
                    await beginners.more("nothing", 5)
                    late.append(query(direct, BEGUN)[0][0] - before)
                    await db.resume(**WHO)
    print(f"\n{beginners.told} {late=}")
    assert sum(late) == 0
    assert not beginners.told["away"]
    check_whole(direct)


async def test_a_halt_that_gets_no_process_of_the_server_says_so(
    server: Server, direct: str
) -> None:
    # PgBouncer lets a client wait for 120 s unless it is told otherwise.
    settings = {"query_wait_timeout": "2"}
    with bouncer_before(server, default_pool_size=1, settings=settings) as bouncer:
        url = through(bouncer, OFF)
        async with ActionDB(url, busy_timeout=1) as db:
            await db.create_proposal(proposal())
            client = await client_of(bouncer, BEGIN)
            with pytest.raises((Busy, StorageUnavailable)) as told:
                async with asyncio.timeout(PATIENCE):
                    await db.halt(**WHO, timeout=1)
            print(f"\ntold {told.value!r}")
            async with ActionDB(direct) as around:
                assert await around.mode() is HaltMode.EXECUTE
                await client.commit()
                await client.close()
                # Nor does what was given up halt it later.
                await db.create_proposal(proposal(status=ActionStatus.VALIDATED))
                assert await around.halts(active=False) == []
                assert (await db.halt(**WHO)).complete
                with pytest.raises(Halted):
                    await around.create_proposal(proposal())
