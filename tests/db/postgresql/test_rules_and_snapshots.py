"""What a transaction with an older snapshot sees of rules and decisions, as docs/governance.md says."""

from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any, Final, LiteralString

import psycopg
import pytest

from operator_core.actions import Rule, StoredProposal
from operator_core.db import ActionDB
from tests.conftest import proposal
from tests.databases import query

INSERT: Final = (
    "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at) "
    "VALUES ('watched', '{}', 'r', now()) RETURNING id"
)
LEVELS: Final = (psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE)


@pytest.fixture
async def db(server_ledger: str) -> AsyncIterator[ActionDB]:
    async with ActionDB(server_ledger) as db:
        yield db


@pytest.fixture(params=LEVELS, ids=lambda level: level.name)
def old(server_ledger: str, request: pytest.FixtureRequest) -> Iterator[psycopg.Connection[Any]]:
    """A connection whose transactions see what was there at their first statement."""
    with closing(psycopg.connect(server_ledger)) as connection:
        connection.isolation_level = request.param
        yield connection


def look(old: psycopg.Connection[Any]) -> None:
    old.execute("SELECT 1 FROM action_rules")


async def watched(db: ActionDB) -> StoredProposal:
    await db.add_rule(Rule(name="watched", action_name="watched"), by="lead", reason="r")
    return await db.create_proposal(proposal("watched"))


async def test_nothing_is_proposed_past_a_rule_that_is_newer_than_the_snapshot(
    db: ActionDB, old: psycopg.Connection[Any]
) -> None:
    look(old)
    rule = await db.add_rule(Rule(name="watched", action_name="watched"), by="lead", reason="r")
    with pytest.raises(psycopg.errors.SerializationFailure, match="a rule was written"):
        old.execute(INSERT)
    old.rollback()
    ((again,),) = old.execute(INSERT).fetchall()
    old.commit()
    look(old)
    # One that was revoked meanwhile asks for more than the rules do, which is safe.
    await db.revoke_rule(rule.id, by="lead", reason="r")
    ((after,),) = old.execute(INSERT).fetchall()
    old.commit()
    found = {each.id: each.approval for each in await db.list_proposals()}
    assert found == {again: "needed", after: "needed"}


MORE: LiteralString = "INSERT INTO action_requirements (proposal_id, name) VALUES (%s, 'more')"


@pytest.mark.parametrize("change", ["approved", "withdrawn", "required"])
async def test_no_move_overlooks_a_decision(
    db: ActionDB, old: psycopg.Connection[Any], server_ledger: str, change: str
) -> None:
    made = await watched(db)
    if change != "approved":
        await db.approve_proposal(made.id, by="mia", digest=made.digest, validate=False)
    look(old)
    if change == "approved":
        await db.approve_proposal(made.id, by="mia", digest=made.digest, validate=False)
    elif change == "withdrawn":
        await db.withdraw_approval(made.id, by="mia", reason="no")
    else:
        query(server_ledger, MORE, made.id)
    with pytest.raises(psycopg.errors.SerializationFailure):
        old.execute("UPDATE action_proposals SET status = 'validated' WHERE id = %s", (made.id,))
    old.rollback()
