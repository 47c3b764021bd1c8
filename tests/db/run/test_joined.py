"""A session that a service brings: what is the service's stays the service's, what is ours is ours."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from operator_core.actions import Busy, NotFound, StorageUnavailable
from operator_core.db import ActionDB
from tests.conftest import proposal


class Base(DeclarativeBase):
    pass


class Own(Base):
    """A row of the service's, in a table of its own."""

    __tablename__ = "own"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


@pytest.fixture(params=["sqlite", "asyncpg", "psycopg"])
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    if request.param == "sqlite":
        async with ActionDB(tmp_path / "ledger.db"):
            pass
        made = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}")
    else:
        ledger = request.getfixturevalue("server_ledger")
        url = request.getfixturevalue("postgres_copy")(ledger)
        made = create_async_engine(f"postgresql+{request.param}://" + url.partition("://")[2])
    async with made.begin() as conn:
        await conn.run_sync(Base.metadata.create_all)
        await conn.execute(text("INSERT INTO own VALUES (1)"))
    yield made
    await made.dispose()


async def count(engine: AsyncEngine, table: str) -> int:
    async with engine.connect() as conn:
        return (await conn.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one()


@pytest.mark.parametrize("call", ["write", "read", "transaction"])
async def test_what_the_services_own_flush_raises_is_the_services(
    engine: AsyncEngine, call: str
) -> None:
    async with AsyncSession(engine) as session, ActionDB(session) as db:
        session.add(Own(id=1))
        with pytest.raises(IntegrityError):
            if call == "write":
                await db.create_proposal(proposal())
            elif call == "read":
                await db.list_proposals()
            else:
                async with db.transaction():
                    pytest.fail("it began")
        # Until the service has rolled back, its session is of no use, and says so itself.
        if call != "transaction":
            with pytest.raises(PendingRollbackError):
                await db.list_proposals()
        await session.rollback()
        await db.create_proposal(proposal())
        await session.commit()
    assert await count(engine, "action_proposals") == 1


async def test_so_is_what_it_raises_inside_a_transaction_and_at_its_end(
    engine: AsyncEngine,
) -> None:
    async with AsyncSession(engine) as session, ActionDB(session) as db:
        await db.create_proposal(proposal("kept"))
        with pytest.raises(IntegrityError):
            async with db.transaction() as tx:
                await tx.create_proposal(proposal("lost"))
                session.add(Own(id=1))  # flushed at the end
        with pytest.raises(IntegrityError):
            async with db.transaction() as tx:
                await tx.create_proposal(proposal("lost"))
                await session.execute(text("INSERT INTO own VALUES (1)"))
        with pytest.raises(ZeroDivisionError):
            async with db.transaction() as tx:
                await tx.create_proposal(proposal("lost"))
                raise ZeroDivisionError
        with pytest.raises(NotFound):
            async with db.transaction() as tx:
                session.add(Own(id=2))
                await tx.create_proposal(proposal("lost"))
                await tx.create_proposal(proposal(ticket_id=4711))
        async with db.transaction() as tx:
            session.add(Own(id=3))
            await tx.create_proposal(proposal("kept"))
        await session.commit()
    async with ActionDB(engine) as db:
        assert [each.action_name for each in await db.list_proposals()] == ["kept", "kept"]
    assert await count(engine, "own") == 2


async def test_the_services_commit_is_the_services(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session, ActionDB(session) as db:
        await db.create_proposal(proposal())
        session.add(Own(id=1))
        with pytest.raises(IntegrityError):
            await session.commit()
    assert await count(engine, "action_proposals") == 0


async def test_what_the_services_hooks_raise_is_the_services(engine: AsyncEngine) -> None:
    class OutOfStock(Exception):
        pass

    def refuse(session: Session, *_: object) -> None:
        if session.new:
            raise OutOfStock

    async with AsyncSession(engine) as session, ActionDB(session) as db:
        event.listen(session.sync_session, "before_flush", refuse)
        session.add(Own(id=7))
        for _ in range(2):
            with pytest.raises(OutOfStock):
                await db.create_proposal(proposal())
        session.expunge_all()
        await db.create_proposal(proposal())
        await session.commit()
    assert await count(engine, "action_proposals") == 1


async def test_a_service_that_cannot_connect_hears_it_from_us() -> None:
    for driver in ("asyncpg", "psycopg"):
        engine = create_async_engine(f"postgresql+{driver}://nobody@127.0.0.1:1/none")
        async with AsyncSession(engine) as session:
            with pytest.raises(StorageUnavailable):
                await ActionDB(session).open()
        await engine.dispose()


@pytest.mark.parametrize("engine", ["asyncpg", "psycopg"], indirect=True)
async def test_a_read_that_fails_leaves_what_the_service_has_done(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session, ActionDB(session) as db, engine.connect() as other:
        await session.execute(text("SET LOCAL lock_timeout = '1s'"))
        session.add(Own(id=2))
        async with other.begin():
            await other.execute(text("LOCK TABLE action_records IN ACCESS EXCLUSIVE MODE"))
            made = await db.create_proposal(proposal())
            with pytest.raises(Busy):
                await db.get_records_for_proposal(made.id)
        await session.commit()
    assert (await count(engine, "own"), await count(engine, "action_proposals")) == (2, 1)
