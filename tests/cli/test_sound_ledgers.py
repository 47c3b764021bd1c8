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
    HaltMode,
    Rule,
    StoredProposal,
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
        await use_approvals(db)


async def use_approvals(db: ActionDB) -> None:
    """The verbs of rules, approvals and grants, in every state that a proposal with requirements has."""

    async def make(name: str, **fields: Any) -> StoredProposal:
        return await db.create_proposal(ActionProposal(action_name=name, reason="r", **fields))

    async def approve(found: StoredProposal, by: str = "Zoë", **options: Any) -> None:
        await db.approve_proposal(found.id, by=by, digest=found.digest, roles=["sre"], **options)

    rules = [
        await db.add_rule(rule, by="olga", reason="policy")
        for rule in (
            Rule(name="two", action_name="two", approvals=2, decide_within=3600.0),
            Rule(name="one", action_name="one", roles=["sre"], valid_for=3600.0),
            Rule(name="retries", action_name="retried", covers_retries=True),
            Rule(name="short", action_name="short", valid_for=0.001, decide_within=3600.0),
            Rule(name="late", action_name="late", decide_within=0.001),
            Rule(name="denied", action_name="denied", effect="deny"),
            Rule(name="gone", action_name="gone"),
        )
    ]
    await make("denied")
    await make("late")
    await make("gone")
    await db.revoke_rule(rules[-1].id, by="olga", reason="obsolete")
    await make("two")
    half = await make("two", requester_id="Ömer")
    await approve(half)
    await db.withdraw_approval(half.id, by="Zoë", reason="misread")
    await db.reject_proposal((await make("two")).id, by="mia", reason="no")
    await db.amend_proposal((await make("two")).id, parameters={"a": 1}, by="mia", reason="typo")
    withdrawn = await make("one")
    await approve(withdrawn)
    await db.withdraw_approval(withdrawn.id, by="Zoë", reason="misread")
    await approve(await make("one"), validate=False)
    await approve(await make("short"), validate=False)
    for name in ("one", "retried"):
        for ends in (None, "completed", "failed", "retried"):
            made = await make(name, max_retries=1, retry_delay=0.0)
            await approve(made)
            claim = await db.claim_proposal(made.id, "w")
            if ends == "completed":
                await db.complete(claim.record.id)
            elif ends is not None:
                await db.fail(claim.record.id, "e")
            if ends == "retried" and name == "one":
                await approve(made, by="mia")
    until = datetime.now(UTC) + timedelta(hours=1)
    for uses in (1, 2):
        await db.grant(
            by=f"voter {uses}",
            action_name="t*",
            max_uses=uses,
            valid_until=until,
            reason="night",
        )
    await make("two")
    await make("two")
    await db.revoke_grant(2, by="olga", reason="morning")
    held = await make("one")
    observe = {"mode": HaltMode.OBSERVE, "action_name": "one"}
    await db.halt(by="olga", reason="look", **observe)
    await approve(held)
    await approve(await make("one"))
    await db.withdraw_approval(held.id, by="Zoë", reason="misread")
    await db.resume(by="olga", reason="seen", action_name="one")


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
