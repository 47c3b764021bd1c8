"""A unit that fails inside somebody's transaction is undone to its first statement, and that transaction goes on."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from operator_core.actions import NotFound, WorkflowProposal
from operator_core.db import ActionDB
from operator_core.db.ledger import proposals
from tests.conftest import proposal
from tests.engines import engine_on


async def a_workflow(db: ActionDB) -> None:
    """Its row is written, and then what it consists of is refused."""
    await db.create_workflow(WorkflowProposal(name="n"), [proposal(), proposal(depends_on=[99])])


async def a_workflow_with_a_ticket(db: ActionDB) -> None:
    await db.create_workflow(WorkflowProposal(name="n"), [proposal(), proposal(ticket_id=99)])


async def more_than_one_statement_takes(db: ActionDB) -> None:
    """The last of them is refused, some statements after the first."""
    count = proposals.MAX_ROWS + 1
    await db.create_proposals([*(proposal() for _ in range(count)), proposal(ticket_id=99)])


@pytest.fixture(autouse=True)
def _few_rows_in_a_statement(monkeypatch: pytest.MonkeyPatch) -> None:
    # SQLite's are fewer anyway.
    monkeypatch.setattr(proposals, "MAX_ROWS", 200)


async def some_with_dependencies(db: ActionDB) -> None:
    await db.create_proposals([proposal(depends_on=[1]), proposal(depends_on=[99])])


FAILING = [
    a_workflow,
    a_workflow_with_a_ticket,
    more_than_one_statement_takes,
    some_with_dependencies,
]
EACH_FAILURE = pytest.mark.parametrize("failing", FAILING, ids=lambda each: each.__name__)

Failing = Callable[[ActionDB], Awaitable[None]]


async def standing(db: ActionDB) -> tuple[Any, ...]:
    """Everything that there is to see."""
    workflows = [await db.get_workflow(id) for id in range(1, 5)]
    listed = [(each.id, each.action_name, each.status) for each in await db.list_proposals()]
    return workflows, listed, len(await db.history())


async def check_undone(db: ActionDB, failing: Failing) -> None:
    """Fails unless `failing` leaves the transaction that `db` is in as it was."""
    await db.create_proposal(proposal("before"))
    before = await standing(db)
    with pytest.raises(NotFound):
        await failing(db)
    assert await standing(db) == before
    await db.create_proposal(proposal("after"))


async def check_kept(db: ActionDB) -> None:
    workflows, listed, events = await standing(db)
    assert workflows == [None] * 4
    assert [name for _, name, _ in listed] == ["after", "before"]
    assert events == 2


@EACH_FAILURE
async def test_in_a_transaction_of_the_ledgers(db: ActionDB, failing: Failing) -> None:
    async with db.transaction() as tx:
        await check_undone(tx, failing)  # type: ignore[arg-type]
    await check_kept(db)


@pytest.fixture
def joined(place: str | Path, backend: str) -> Callable[[], Any]:
    """Opens a ledger in the transaction of a session of somebody's, which commits at the end."""

    @asynccontextmanager
    async def join() -> AsyncIterator[ActionDB]:
        engine = engine_on(place)
        try:
            async with AsyncSession(engine) as session, session.begin(), ActionDB(session) as db:
                yield db
        finally:
            await engine.dispose()

    return join


# Nobody else has a session in its memory; the others differ by driver and by who owns the engine.
EACH_SESSION = pytest.mark.parametrize("backend", ["file", "postgresql", "psycopg"], indirect=True)


@EACH_SESSION
@EACH_FAILURE
async def test_in_a_session_of_somebodys(
    db: ActionDB, joined: Callable[[], Any], failing: Failing
) -> None:
    async with joined() as inside:
        await check_undone(inside, failing)
    await check_kept(db)


@EACH_SESSION
@EACH_FAILURE
async def test_in_a_transaction_within_a_session(
    db: ActionDB, joined: Callable[[], Any], failing: Failing
) -> None:
    async with joined() as inside, inside.transaction() as tx:
        await check_undone(tx, failing)
    await check_kept(db)
