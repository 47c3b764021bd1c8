"""The engine on a PostgreSQL server: its own pool, a service's engine and session, and what shares a statement."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from operator_core.actions import (
    ActionProposal,
    ActionStatus,
    Busy,
    ConstraintViolation,
    InvalidValue,
    NotFound,
    PermissionDenied,
    SchemaOutdated,
    StorageReadOnly,
    WrongLoop,
)
from operator_core.db import ActionDB
from operator_core.db.postgresql import direct
from operator_core.db.sql.execution import Statements
from tests.conftest import proposal
from tests.databases import Databases, connected, query

S = ActionStatus

TICKET = (
    "INSERT INTO tickets (violation_key, invariant_name, first_seen_at, last_seen_at, message) "
    "VALUES ('v', 'i', 't', 't', 'm')"
)


def asyncpg(url: str) -> str:
    return url.replace("://", "+asyncpg://", 1)


# ------ the ledger's own pool


async def test_what_is_sent_to_the_driver_is_compiled_once_for_all_ledgers(
    server_ledger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Any] = []

    def count(self: Statements, statement: Any, values: Any) -> Any:
        compiled.append(statement)
        return compile_(self, statement, values)

    compile_ = Statements._compile
    monkeypatch.setattr(Statements, "_compile", count)
    monkeypatch.setattr(direct, "_STATEMENTS", {})
    # SQLAlchemy does not forget that somebody once listened to all engines.
    monkeypatch.setattr(Engine, "_has_events", False)
    for _ in range(2):
        async with ActionDB(server_ledger) as db:
            for _ in range(3):
                made = await db.create_proposal(proposal())
                assert await db.get_proposal(made.id) == made
        assert len(compiled) == len(set(compiled)) == 2


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_who_gets_no_connection_in_time_is_told(server_ledger: str, driver: str) -> None:
    url = server_ledger.replace("://", f"+{driver}://", 1)
    async with ActionDB(url, pool_size=2, busy_timeout=0.2) as db:
        held = asyncio.Barrier(3)
        let_go = asyncio.Event()

        async def hold() -> None:
            async with db.transaction() as tx:
                await tx.count_proposals()
                await held.wait()
                await let_go.wait()

        holders = [asyncio.create_task(hold()) for _ in range(2)]
        await held.wait()
        for call in (db.count_proposals, lambda: db.create_proposal(proposal())):
            with pytest.raises(Busy, match="pool") as caught:
                await call()
            assert caught.value.timeout == 0.2
        with pytest.raises(Busy, match="pool"):
            async with db.transaction():
                pass
        async with ActionDB(url) as other:  # another pool is another matter
            await other.count_proposals()
        let_go.set()
        await asyncio.gather(*holders)
        await db.count_proposals()


async def test_a_pool_of_one_serves_everybody_in_turn(server_ledger: str) -> None:
    async with ActionDB(server_ledger, pool_size=1) as db:

        async def several(number: int) -> None:
            created = await db.create_proposal(proposal())
            async with db.transaction() as tx:
                await tx.update_proposal_status(created.id, S.VALIDATED)
            await db.create_proposals([proposal() for _ in range(3)])
            assert (await db.get_proposal(created.id)) is not None

        await asyncio.gather(*(several(number) for number in range(20)))
        assert len(await db.list_proposals()) == 80
        used = query(
            server_ledger,
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name = 'operator-core'",
        )
        assert used == [(1,)]


def test_another_event_loop_is_told_to_open_its_own(server_ledger: str) -> None:
    db = ActionDB(server_ledger)

    async def use() -> None:
        await db.create_proposal(proposal())

    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(db.open())
        first.run(use())
        for call in (use(), db.close(), db.open()):
            with pytest.raises(WrongLoop):
                second.run(call)
        first.run(use())
        first.run(db.close())


async def test_a_ledger_can_be_closed_and_opened_again(server_ledger: str) -> None:
    db = ActionDB(server_ledger)
    for expected in (1, 2):
        async with db:
            await db.create_proposal(proposal())
            assert len(await db.list_proposals()) == expected


async def test_settings_of_the_session_come_with_the_url(server_ledger: str) -> None:
    read_only = f"{server_ledger}?options=-cdefault_transaction_read_only%3Don"
    async with ActionDB(read_only) as db:
        assert await db.list_proposals() == []
        with pytest.raises(StorageReadOnly):
            await db.create_proposal(proposal())
        with pytest.raises(StorageReadOnly):
            async with db.transaction() as tx:
                await tx.create_proposal(proposal())


async def test_a_lock_that_is_not_had_in_time_is_busy(server_ledger: str) -> None:
    async with ActionDB(f"{server_ledger}?options=-clock_timeout%3D100ms") as db:
        created = await db.create_proposal(proposal())
        with connected(server_ledger) as other, other.transaction():
            other.execute("SELECT 1 FROM action_proposals FOR UPDATE")
            with pytest.raises(Busy, match="lock"):
                await db.update_proposal_status(created.id, S.VALIDATED)
        await db.update_proposal_status(created.id, S.VALIDATED)


async def test_a_role_without_rights_is_told_what_it_lacks(
    postgres: Databases, server_ledger: str
) -> None:
    role = "operator_core_test_nobody"
    postgres.execute(f"DROP ROLE IF EXISTS {role}")
    postgres.execute(f"CREATE ROLE {role} LOGIN")
    try:
        query(server_ledger, f"GRANT SELECT ON operator_core_alembic_version TO {role}")
        async with ActionDB(f"{server_ledger}?options=-crole%3D{role}") as db:
            with pytest.raises(PermissionDenied, match="db grants"):
                await db.list_proposals()
            with pytest.raises(PermissionDenied):
                await db.create_proposal(proposal())
    finally:
        query(server_ledger, f"DROP OWNED BY {role}")
        postgres.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize(
    ("query_", "problem"),
    [
        ("prepared_statements=off", "asyncpg"),
        ("prepared_statements=maybe", "on or off"),
        ("connect_timeout=soon", "number of seconds"),
        ("connect_timeout=0", "number of seconds"),
    ],
)
def test_a_url_that_can_not_be_used_is_refused_before_anything_is_opened(
    query_: str, problem: str
) -> None:
    with pytest.raises(InvalidValue, match=problem):
        ActionDB(f"postgresql://host/db?{query_}")


def test_a_driver_that_is_not_known_or_a_pool_of_nothing_is_refused() -> None:
    with pytest.raises(InvalidValue, match="asyncpg, psycopg"):
        ActionDB("postgresql+pg8000://host/db")
    for size in (0, -1, 1001, True, "5"):
        with pytest.raises(InvalidValue, match="pool_size"):
            ActionDB("postgresql://host/db", pool_size=size)  # type: ignore[arg-type]


# ------ plain statements go to the driver directly


async def plain_calls(db: ActionDB) -> ActionProposal | None:
    made = await db.create_proposal(proposal())
    await db.update_proposal_status(made.id, ActionStatus.VALIDATED)
    return await db.get_proposal(made.id)


async def test_who_listens_to_sqlalchemy_hears_every_statement(server_ledger: str) -> None:
    heard: list[str] = []

    def note(*said: Any) -> None:
        heard.append(said[2].split()[0])

    async with ActionDB(server_ledger) as db:
        event.listen(Engine, "before_cursor_execute", note)
        try:
            found = await plain_calls(db)
        finally:
            event.remove(Engine, "before_cursor_execute", note)
    assert heard == ["INSERT", "UPDATE", "SELECT"]
    assert found is not None
    assert found.status is ActionStatus.VALIDATED


async def test_nobody_listening_sqlalchemy_runs_no_plain_statement(
    server_ledger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # SQLAlchemy does not forget that somebody once listened to all engines.
    monkeypatch.setattr(Engine, "_has_events", False)
    async with ActionDB(server_ledger) as db:
        # What connects, connects through SQLAlchemy's pool.
        await plain_calls(db)
        monkeypatch.setattr(Connection, "execute", lambda *_: pytest.fail("through SQLAlchemy"))
        found = await plain_calls(db)
    assert found is not None
    assert found.status is ActionStatus.VALIDATED


# ------ creates that wait together


async def test_creates_that_wait_together_share_a_statement(server_ledger: str) -> None:
    engine = create_async_engine(asyncpg(server_ledger))
    statements: list[str] = []
    event.listen(
        engine.sync_engine, "before_cursor_execute", lambda *said: statements.append(said[2])
    )
    async with ActionDB(engine) as db:
        statements.clear()
        made = await asyncio.gather(
            *(db.create_proposal(proposal(parameters={"n": n})) for n in range(200))
        )
        assert len(statements) < 10
        assert sorted(each.parameters["n"] for each in made) == list(range(200))
        # Each caller has its own row back.
        found = {each.id: each.parameters for each in await db.list_proposals()}
        assert all(found[each.id] == each.parameters for each in made)
    await engine.dispose()


async def test_nobody_pays_for_a_neighbour_in_the_same_statement(
    server_ledger: str, postgres_copy: Callable[[str], str]
) -> None:
    url = postgres_copy(server_ledger)
    query(url, "ALTER TABLE action_proposals ADD CONSTRAINT odd CHECK (action_name != 'odd')")
    async with ActionDB(url) as db:
        answers = await asyncio.gather(
            *(db.create_proposal(proposal("odd" if n == 30 else "even")) for n in range(64)),
            return_exceptions=True,
        )
        failed = [n for n, each in enumerate(answers) if isinstance(each, BaseException)]
        assert failed == [30]
        assert isinstance(answers[30], ConstraintViolation)
        assert len(await db.list_proposals()) == len(await db.history()) == 63


async def test_a_locked_ticket_holds_up_only_who_refers_to_it(server_ledger: str) -> None:
    query(server_ledger, TICKET)
    async with ActionDB(server_ledger) as db:
        with connected(server_ledger) as other, other.transaction():
            other.execute("SELECT 1 FROM tickets FOR UPDATE")
            waiting = [
                asyncio.create_task(db.create_proposal(proposal(ticket_id=1))) for _ in range(3)
            ]
            async with asyncio.timeout(20):
                await asyncio.gather(*(db.create_proposal(proposal()) for _ in range(64)))
            assert not any(task.done() for task in waiting)
        await asyncio.gather(*waiting)
        assert len(await db.list_proposals()) == 67


async def test_a_cancelled_caller_takes_no_neighbour_along(server_ledger: str) -> None:
    async with ActionDB(server_ledger) as db:
        tasks = [asyncio.create_task(db.create_proposal(proposal(f"n{n}"))) for n in range(64)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert not any(isinstance(each, BaseException) for each in answers[1::2])
        kept = {each.action_name for each in await db.list_proposals()}
        assert {f"n{n}" for n in range(1, 64, 2)} <= kept


# ------ a service's own engine and session


async def test_a_services_engine_stays_as_it_is(server_ledger: str) -> None:
    engine = create_async_engine(
        asyncpg(server_ledger), isolation_level="SERIALIZABLE", pool_size=2, max_overflow=0
    )
    async with ActionDB(engine) as db:
        created = await db.create_proposal(proposal())
        await asyncio.gather(*(db.count_proposals() for _ in range(10)))
        async with db.transaction() as tx:
            await tx.update_proposal_status(created.id, S.VALIDATED)
            # In the ledger's transactions READ COMMITTED, whatever the service prefers.
            level = await tx._units.read(  # type: ignore[attr-defined]
                lambda conn: conn.exec_driver_sql("SHOW transaction_isolation").scalar()
            )
            assert level == "read committed"
        many = await db.create_proposals(proposal() for _ in range(10_001))
        assert len(many) == 10_001
    # Closed is the ledger, not the engine.
    async with engine.connect() as conn:
        assert await conn.scalar(text("SHOW transaction_isolation")) == "serializable"
        assert await conn.scalar(text("SELECT count(*) FROM action_proposals")) == 10_002
    await engine.dispose()


async def test_a_proposal_is_part_of_the_services_own_transaction(server_ledger: str) -> None:
    engine = create_async_engine(asyncpg(server_ledger))
    for keep in (False, True):
        async with AsyncSession(engine) as session:
            await session.execute(text(TICKET))
            ticket = await session.scalar(text("SELECT max(id) FROM tickets"))
            async with ActionDB(session) as db:
                await db.create_proposal(proposal(ticket_id=ticket))
                with pytest.raises(NotFound):
                    await db.create_proposals([proposal(), proposal(ticket_id=4711)])
                async with db.transaction() as tx:
                    await tx.create_proposal(proposal(ticket_id=ticket))
                assert len(await db.list_proposals()) == 2
            # What the ledger refused has not ended the service's transaction.
            assert await session.scalar(text("SELECT count(*) FROM tickets")) == 1
            await (session.commit() if keep else session.rollback())
        async with ActionDB(server_ledger) as db:
            assert len(await db.list_proposals()) == (2 if keep else 0)
    await engine.dispose()


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_a_session_that_does_not_see_a_dependant_can_not_forget_it(
    server_ledger: str, level: str
) -> None:
    engine = create_async_engine(asyncpg(server_ledger), isolation_level=level)
    async with ActionDB(server_ledger) as others:
        await others.create_proposals([proposal(), proposal(status=S.VALIDATED)])
        async with AsyncSession(engine) as session, ActionDB(session) as db:
            assert len(await db.list_proposals()) == 2
            await others.create_proposal(proposal(depends_on=(1,)))
            with pytest.raises(ConstraintViolation, match="at READ COMMITTED only"):
                await db.update_proposal_status(1, S.CANCELLED)
            # What ends nothing is as good there as anywhere.
            await db.update_proposal_status(1, S.VALIDATED)
            (claim,) = await db.claim("worker-1")
            await db.complete(claim.record.id)
            await session.commit()
        statuses = [each.status for each in await others.list_proposals()]
        assert sorted(statuses) == [S.COMPLETED, S.PROPOSED, S.VALIDATED]
    await engine.dispose()


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg"])
async def test_a_database_with_another_level_by_default_is_as_good(
    server_ledger: str, postgres_copy: Callable[[str | Path], str], scheme: str
) -> None:
    url = postgres_copy(server_ledger)
    engine = create_async_engine(asyncpg(url))
    async with engine.begin() as conn:
        name = await conn.scalar(text("SELECT current_database()"))
        await conn.execute(
            text(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
        )
    await engine.dispose()
    async with ActionDB(url.replace("postgresql", scheme, 1)) as db:
        await db.create_proposals(proposal(status=S.VALIDATED) for _ in range(40))
        await asyncio.gather(*(db.create_proposal(proposal(depends_on=(1,))) for _ in range(8)))
        shares = await asyncio.gather(*(db.claim(f"worker-{n}", limit=5) for n in range(8)))
        taken = [claim for share in shares for claim in share]
        assert len({claim.proposal.id for claim in taken}) == len(taken) == 40
        await asyncio.gather(*(db.fail(claim.record.id, "boom") for claim in taken))
        assert await db.count_proposals() == {
            **dict.fromkeys(S, 0), S.FAILED: 40, S.CANCELLED: 8
        }  # fmt: skip
        # At another level the schema refuses to let this end.
        async with db.transaction() as tx:
            needed = await tx.create_proposal(proposal())
            await tx.create_proposal(proposal(depends_on=(needed.id,)))
            await tx.update_proposal_status(needed.id, S.CANCELLED)
        assert (await db.count_proposals())[S.CANCELLED] == 10


async def test_opening_what_is_no_ledger_leaves_a_session_as_it_was(postgres_url: str) -> None:
    engine = create_async_engine(asyncpg(postgres_url))
    async with AsyncSession(engine) as session:
        await session.execute(text("CREATE TABLE own (id int)"))
        with pytest.raises(SchemaOutdated):
            await ActionDB(session).open()
        await session.execute(text("INSERT INTO own VALUES (1)"))
        await session.commit()
    for target in (engine, postgres_url):
        with pytest.raises(SchemaOutdated, match="alembic upgrade head"):
            await ActionDB(target).open()  # type: ignore[arg-type]
    assert query(postgres_url, "SELECT id FROM own") == [(1,)]
    await engine.dispose()
