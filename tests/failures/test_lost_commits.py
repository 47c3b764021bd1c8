"""A unit of several statements whose COMMIT is not answered: its outcome is unknown, and it is not run again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from operator_core.actions import CommitOutcomeUnknown, WorkflowProposal
from operator_core.db import ActionDB
from tests.databases import query
from tests.failures.harness import PATIENCE, proposal
from tests.failures.proxy import proxied


@asynccontextmanager
async def ledger(url: str, kind: str) -> AsyncIterator[ActionDB]:
    """By each driver on a pool of its own, or on an engine of somebody's."""
    if kind != "engine":
        async with ActionDB(url.replace("://", f"+{kind}://")) as db:
            yield db
        return
    engine = create_async_engine(url.replace("://", "+asyncpg://"))
    try:
        async with ActionDB(engine) as db:
            yield db
    finally:
        await engine.dispose()


@pytest.mark.parametrize("kind", ["asyncpg", "psycopg", "engine"])
async def test_it_is_unknown_and_kept_once(server_ledger: str, kind: str) -> None:
    async with proxied(server_ledger) as proxy, ledger(proxy.url, kind) as db:
        await db.create_proposal(proposal())
        # Not READ COMMITTED; asyncpg writes a semicolon behind it.
        proxy.cut_after = lambda said: (
            (b"COMMIT;" in said or b"COMMIT\0" in said) and proxy.cuts < 1
        )
        with pytest.raises(CommitOutcomeUnknown, match="whole or absent"):
            await db.create_workflow(WorkflowProposal(name="move"), [proposal(), proposal()])
        assert proxy.cuts == 1
        # The server may still be at it.
        async with asyncio.timeout(PATIENCE):
            while not query(server_ledger, "SELECT 1 FROM workflows"):
                await asyncio.sleep(0.01)
        await db.create_proposal(proposal())
    assert query(server_ledger, "SELECT count(*) FROM workflows") == [(1,)]
    assert query(server_ledger, "SELECT count(*) FROM action_proposals") == [(4,)]
