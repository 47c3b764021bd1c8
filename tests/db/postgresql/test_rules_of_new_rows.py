"""How a new row comes to what rules require of it: one round trip where none matches, and rules that change meanwhile."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from operator_core.actions import ActionStatus, Rule
from operator_core.actions.types import StoredProposal
from operator_core.db import ActionDB
from tests.clocks import PATIENCE
from tests.conftest import proposal
from tests.databases import connected
from tests.failures.proxy import proxied
from tests.failures.server_harness import await_waiting


@pytest.fixture
async def db(server_ledger: str) -> AsyncIterator[ActionDB]:
    async with ActionDB(server_ledger) as db:
        yield db


async def test_only_what_a_rule_matches_is_read_again(server_ledger: str) -> None:
    async with proxied(server_ledger) as proxy, ActionDB(proxy.url) as db:
        await db.add_rule(Rule(name="r", action_name="drain_*"), by="mia", reason="r")
        trips = {}
        for name in ("restart", "drain_store"):
            for _ in range(6):
                before = proxy.trips
                await db.create_proposal(proposal(name))
                # The first ones prepare statements.
                trips[name] = proxy.trips - before
    assert trips == {"restart": 1, "drain_store": 2}


@pytest.mark.parametrize("stays", [False, True])
async def test_a_rule_may_be_revoked_while_a_row_is_written(
    db: ActionDB, server_ledger: str, stays: bool
) -> None:
    """The row has asked the rules and waits; when its requirements are written, one of them is gone."""
    gone = await db.add_rule(Rule(name="gone", decide_within=60.0), by="mia", reason="r")
    if stays:
        await db.add_rule(Rule(name="stays"), by="mia", reason="r")
    with connected(server_ledger) as other:
        other.execute(
            "CREATE FUNCTION zz_wait() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$"
        )
        other.execute(
            "CREATE TRIGGER zz_wait BEFORE INSERT ON action_proposals FOR EACH ROW EXECUTE FUNCTION zz_wait()"
        )
        try:
            other.execute("SELECT pg_advisory_lock(1)")
            creating = asyncio.create_task(db.create_proposal(proposal()))
            await asyncio.to_thread(await_waiting, server_ledger)
            await db.revoke_rule(gone.id, by="mia", reason="r")
            other.execute("SELECT pg_advisory_unlock(1)")
            made = await asyncio.wait_for(creating, PATIENCE)
        finally:
            other.execute("DROP TRIGGER zz_wait ON action_proposals")
            other.execute("DROP FUNCTION zz_wait")
    asked = [each.requirement.name for each in (await db.approvals(made.id)).requirements]
    assert asked == (["stays"] if stays else [])
    assert (made.approval, made.lapses_at) == ("needed" if stays else None, None)
    await check_start(db, made)


async def check_start(db: ActionDB, made: StoredProposal) -> None:
    if made.approval is not None:
        await db.approve_proposal(made.id, by="ann", digest=made.digest)
    else:
        await db.update_proposal_status(made.id, ActionStatus.VALIDATED)
    assert [claim.proposal.id for claim in await db.claim("w")] == [made.id]
