"""``operator-core db check`` finds nothing wrong with ledgers that only the ledger and its upgrades wrote."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from operator_core.actions.errors import ActionError
from operator_core.actions.types import (
    ActionProposal,
    ActionRecord,
    ActionStatus,
    WorkflowProposal,
)
from operator_core.db import ActionDB, migrate
from tests.cli.tampering import File, Ledger, Server
from tests.databases import Databases
from tests.migrations.postgresql_tools import unversioned

NOW = "'2026-01-01 00:00:00.000000'"


@pytest.fixture(params=["file", "server"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    """A database with nothing in it."""
    if request.param == "file":
        return File(tmp_path / "ledger.db")
    postgres: Databases = request.getfixturevalue("postgres")
    return Server(postgres.new())


def upgrade(ledger: Ledger) -> None:
    migrate.upgrade(ledger.url)


async def use(ledger: Ledger) -> None:
    """Every verb that writes, and what other tools may write."""
    async with ActionDB(ledger.url) as db:

        async def make(**fields: Any) -> int:
            made = await db.create_proposal(
                ActionProposal(**{"action_name": "a", "reason": "r"} | fields)
            )
            return made.id or 0

        await make(status="completed")
        hand = await make()
        for status in ("validated", "executing"):
            await db.update_proposal_status(hand, ActionStatus(status), reason="by hand")
        record = await db.create_record(ActionRecord(proposal_id=hand))
        await db.update_record(record.id, success=True)
        await db.update_proposal_status(hand, ActionStatus.COMPLETED)
        for _ in range(6):
            await make(action_name="b", status="validated", max_retries=2, retry_delay=0)
        await make(status="validated", expires_at=datetime.now(UTC) - timedelta(hours=1))
        claims = await db.claim("w", limit=5, action_names=["b"])
        await db.complete(claims[0].record.id)
        await db.fail(claims[1].record.id, "e")
        await db.complete_many([claims[2].record.id])
        await db.fail_many({claims[3].record.id: "e"})
        await db.heartbeat(claims[4].record.id)
        again = await db.claim("w", limit=2, action_names=["b"])
        assert claims[1].proposal.id in {each.proposal.id for each in again}
        await db.fail(again[0].record.id, "e")
        await db.recover_expired()
        _, planned = await db.create_workflow(
            WorkflowProposal(name="w"),
            [ActionProposal(action_name="a", reason="r") for _ in range(3)],
            after={1: 0, 2: 1},
        )
        await db.update_proposal_status(planned[0].id, ActionStatus.CANCELLED)
        await make(depends_on=(planned[0].id or 0,))
        ledger.run(
            "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at) "
            f"VALUES ('a', '{{}}', 'r', {NOW});"
            "UPDATE action_proposals SET status = 'validated' WHERE status = 'proposed'"
        )
        with pytest.raises(ActionError):
            await db.update_proposal_status(hand, ActionStatus.EXECUTING)
        await db.cancel_all_pending(reason="stop")


async def test_what_every_verb_has_written_is_sound(empty: Ledger) -> None:
    upgrade(empty)
    await use(empty)
    assert empty.bad() == {}


async def test_what_was_adopted_is_sound(shared_data: Path, tmp_path: Path) -> None:
    ledger = File(Path(shutil.copy(shared_data / "predecessor_p12.db", tmp_path / "ledger.db")))
    upgrade(ledger)
    assert ledger.bad() == {}
    await use(ledger)
    assert ledger.bad() == {}


async def test_what_was_adopted_on_a_server_is_sound(postgres: Databases) -> None:
    ledger = Server(unversioned(postgres))
    upgrade(ledger)
    assert ledger.bad() == {}
    await use(ledger)
    assert ledger.bad() == {}
