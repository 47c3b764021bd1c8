"""A trigger of another program that ignores rows or ends the transaction costs an error, and never a lost caller."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from operator_core.actions import (
    ActionProposal,
    ActionRecord,
    ActionStatus,
    CommitOutcomeUnknown,
    ConstraintViolation,
    StorageUnavailable,
)
from operator_core.db import ActionDB
from tests.clocks import PATIENCE
from tests.conftest import ON_SERVER, RawSQL, proposal

pytestmark = pytest.mark.two_backends


def ignoring(table: str, event: str, when: str, backend: str) -> list[str]:
    """A trigger that ignores the rows for which `when` is true."""
    if backend not in ON_SERVER:
        return [
            f"CREATE TRIGGER a_service BEFORE {event} ON {table} WHEN {when} "
            "BEGIN SELECT RAISE(IGNORE); END"
        ]
    return [
        "CREATE FUNCTION a_service_ignores() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        f"CREATE TRIGGER a_service BEFORE {event} ON {table} FOR EACH ROW WHEN ({when}) "
        "EXECUTE FUNCTION a_service_ignores()",
    ]


@pytest.fixture
async def ignore(raw: RawSQL, backend: str) -> Any:
    made: list[str] = []

    async def make(table: str, event: str, when: str) -> None:
        made.append(table)
        for each in ignoring(table, event, when, backend):
            await raw(each)

    yield make
    if backend in ON_SERVER:
        for table in made:
            await raw(f"DROP TRIGGER a_service ON {table}")
        await raw("DROP FUNCTION IF EXISTS a_service_ignores()")


async def test_a_new_row_that_is_ignored_is_an_error_of_its_caller(
    db: ActionDB, backend: str, ignore: Any
) -> None:
    await ignore("action_proposals", "INSERT", "NEW.action_name = 'bad'")
    good, bad = proposal("good"), proposal("bad")
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ConstraintViolation, match="ignored a new row"):
            await db.create_proposal(bad)
        with pytest.raises(ConstraintViolation, match="ignored a new row"):
            await db.create_proposal(bad, idempotency_key="once")
        # On a server the rest of the statement is kept.
        several = CommitOutcomeUnknown if backend in ON_SERVER else ConstraintViolation
        with pytest.raises(several, match="ignored a new row"):
            await db.create_proposals([good, bad, good])
        kept = len(await db.list_proposals())
        assert kept == (2 if backend in ON_SERVER else 0)
        answers = await asyncio.gather(
            *(db.create_proposal(each) for each in (good, bad, good)), return_exceptions=True
        )
    answered = [each for each in answers if isinstance(each, ActionProposal)]
    assert isinstance(answers[1], ConstraintViolation | CommitOutcomeUnknown)
    assert backend in ON_SERVER or len(answered) == 2
    # Nothing is written twice.
    assert len(answered) <= len(await db.list_proposals()) - kept <= 2


async def test_so_is_a_record(db: ActionDB, ignore: Any) -> None:
    id = (await db.create_proposal(proposal(status=ActionStatus.EXECUTING))).id
    await ignore("action_records", "INSERT", f"NEW.proposal_id = {id}")
    with pytest.raises(ConstraintViolation, match="ignored a new row"):
        await db.create_record(ActionRecord(proposal_id=id))


async def test_a_start_that_is_ignored_keeps_no_claim_from_the_others(
    db: ActionDB, ignore: Any
) -> None:
    await db.create_proposals(
        [proposal(name, status=ActionStatus.VALIDATED) for name in ("one", "bad", "two")]
    )
    await ignore(
        "action_proposals", "UPDATE", "NEW.status = 'executing' AND NEW.action_name = 'bad'"
    )
    async with asyncio.timeout(PATIENCE):
        taken = await db.claim("w", limit=5)
    assert [claim.proposal.action_name for claim in taken] == ["one", "two"]


@pytest.mark.parametrize("limit", [1, 5])
async def test_a_trigger_that_ends_the_transaction_doubles_no_neighbour(
    tmp_path: Path, limit: int
) -> None:
    async with ActionDB(tmp_path / "ledger.db") as db:
        await db.create_proposal(proposal("bad", status=ActionStatus.VALIDATED))
        await db._units.write(
            lambda conn: conn.exec_driver_sql(
                "CREATE TRIGGER a_service BEFORE UPDATE OF status ON action_proposals "
                "WHEN NEW.status = 'executing' BEGIN SELECT RAISE(ROLLBACK, 'not today'); END"
            )
        )
        async with asyncio.timeout(PATIENCE):
            answers = await asyncio.gather(
                db.create_proposal(proposal("before")),
                db.claim("w", limit=limit),
                db.create_proposal(proposal("after")),
                return_exceptions=True,
            )
        assert isinstance(answers[1], ConstraintViolation | StorageUnavailable)
        names = sorted(each.action_name for each in await db.list_proposals())
        assert names == ["after", "bad", "before"]
