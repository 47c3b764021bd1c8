"""What was approved is what runs: a proposal that was changed behind the triggers is never handed out."""

import pytest

from operator_core.actions import ActionStatus, EndCode, Rule, StoredProposal, TamperedProposal
from operator_core.db import ActionDB
from tests.conftest import RawSQL, proposal

pytestmark = pytest.mark.two_backends


async def approved(db: ActionDB) -> StoredProposal:
    made = await db.create_proposal(proposal("drop", parameters={"table": "a"}))
    await db.approve_proposal(made.id, by="ann", digest=made.digest)
    return made


async def tamper(db: ActionDB, raw: RawSQL, proposal_id: int) -> None:
    """Changes the parameters as the owner of the tables can: without the triggers."""
    server = "postgresql" in repr(db)
    if server:
        await raw("ALTER TABLE action_proposals DISABLE TRIGGER action_proposals_immutable")
    else:
        await raw("DROP TRIGGER action_proposals_immutable")
    await raw(
        f'UPDATE action_proposals SET parameters = \'{{"table": "b"}}\' WHERE id = {proposal_id}'
    )
    if server:
        await raw("ALTER TABLE action_proposals ENABLE TRIGGER action_proposals_immutable")


async def test_it_is_not_handed_out_and_fails(db: ActionDB, raw: RawSQL) -> None:
    await db.add_rule(Rule(name="r", action_name="drop"), by="boss", reason="careful")
    good, bad = await approved(db), await approved(db)
    await tamper(db, raw, bad.id)
    (claim,) = await db.claim("w", limit=10)
    assert claim.proposal.id == good.id
    found = await db.get_proposal(bad.id)
    assert found is not None
    assert (found.status, found.end_code) == (ActionStatus.FAILED, EndCode.TAMPERED)
    last = (await db.history(bad.id))[-1]
    assert (last.actor, last.details) == ("ledger", {"end_code": "tampered"})
    assert not await db.claim("w", limit=10)


async def test_who_claims_this_very_one_is_told(db: ActionDB, raw: RawSQL) -> None:
    await db.add_rule(Rule(name="r", action_name="drop"), by="boss", reason="careful")
    bad = await approved(db)
    await tamper(db, raw, bad.id)
    with pytest.raises(TamperedProposal) as error:
        await db.claim_proposal(bad.id, "w")
    assert error.value.id == bad.id
