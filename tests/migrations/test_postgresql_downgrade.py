"""Down to the plain schema and up again on a server: a ledger that was worked in can be read afterwards."""

import pytest

from operator_core.actions import ActionStatus, WouldLoseData
from operator_core.db import ActionDB, migrate
from tests.conftest import proposal
from tests.databases import Databases, query
from tests.migrations.postgresql_tools import (
    alembic_here,
    catalogue,
    ledger_at,
    made_by,
    snapshot,
    version,
)


async def test_what_was_discarded_leaves_a_ledger_that_can_be_read(postgres: Databases) -> None:
    url = ledger_at(postgres, "head")
    async with ActionDB(url, actor="planner") as db:
        for number in range(3):
            status = ActionStatus.VALIDATED
            await db.create_proposal(proposal(status=status, priority=number, max_retries=number))
        taken = {each.proposal.priority: each.record.id for each in await db.claim("w1", limit=3)}
        await db.fail(taken[2], "no leader")
    alembic_here(url, "downgrade", "0001", x={"discard-history": "yes"})
    assert version(url) == ["0001"]
    assert catalogue(url) == made_by(postgres, "0001")
    migrate.upgrade(url)
    assert catalogue(url) == made_by(postgres, "head")
    planned = "SELECT DISTINCT priority, max_retries, next_retry_at, version FROM action_proposals"
    assert query(url, planned) == [(0, 0, None, 1)]
    # Older than any transaction to come.
    assert query(url, "SELECT DISTINCT transaction_id FROM action_events") == [(0,)]
    async with ActionDB(url) as db:
        for id_ in (1, 2, 3):
            assert not (await db.get_records_for_proposal(id_)).corrupt
        assert [event.proposal_id async for event in db.events()] == [
            event.proposal_id for event in await db.history()
        ]


def test_a_workflow_that_raw_sql_has_made_is_not_lost_either(postgres: Databases) -> None:
    url = ledger_at(postgres, "head")
    query(url, "INSERT INTO workflows (name) VALUES ('w')")
    before = snapshot(url)
    with pytest.raises(WouldLoseData, match=r"^workflows has rows .*discard-history"):
        alembic_here(url, "downgrade", "0001")
    assert snapshot(url) == before


async def test_a_halt_is_history_and_goes_only_if_told(postgres: Databases) -> None:
    url = ledger_at(postgres, "head")
    async with ActionDB(url) as db:
        await db.create_proposal(proposal())
        await db.halt(by="oncall", reason="stop", run_id="run-1")
    with pytest.raises(WouldLoseData, match=r"^action_halts has rows .*discard-history"):
        alembic_here(url, "downgrade", "0004")
    alembic_here(url, "downgrade", "0004", x={"discard-history": "yes"})
    assert catalogue(url) == made_by(postgres, "0004")
    migrate.upgrade(url)
    assert catalogue(url) == made_by(postgres, "head")
    async with ActionDB(url) as db:
        assert len(await db.history()) == 1
        await db.create_proposal(proposal(run_id="run-1"))


async def test_limits_and_exclusive_keys_go_only_if_told(postgres: Databases) -> None:
    url = ledger_at(postgres, "head")
    async with ActionDB(url) as db:
        await db.create_proposal(proposal(exclusive_key="a"))
    with pytest.raises(WouldLoseData, match=r"^action_proposals has rows .*discard-history"):
        alembic_here(url, "downgrade", "0007")
    async with ActionDB(url) as db:
        await db.set_limit("all", window=60.0, max_starts=1, by="oncall", reason="careful")
    with pytest.raises(WouldLoseData, match=r"^action_limits has rows .*discard-history"):
        alembic_here(url, "downgrade", "0007")
    alembic_here(url, "downgrade", "0007", x={"discard-history": "yes"})
    assert catalogue(url) == made_by(postgres, "0007")
    migrate.upgrade(url)
    assert catalogue(url) == made_by(postgres, "head")
    async with ActionDB(url) as db:
        assert [each.event_type for each in await db.history()] == ["proposal_created"]
