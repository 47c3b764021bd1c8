"""Exclusive keys: at most one proposal with the same key is executing."""

from typing import Any

import pytest

from operator_core.actions import (
    ActionStatus,
    Claim,
    ConstraintViolation,
    ExclusiveBusy,
    InvalidTransition,
    InvalidValue,
)
from operator_core.db import ActionDB
from tests.conftest import RawSQL, proposal

pytestmark = pytest.mark.two_backends

S = ActionStatus


async def ready(db: ActionDB, *keys: str | None, **fields: Any) -> list[int]:
    made = await db.create_proposals(
        proposal(status=S.VALIDATED, exclusive_key=key, **fields) for key in keys
    )
    return [each.id for each in made]


def ids(taken: list[Claim]) -> list[int]:
    return [each.proposal.id for each in taken]


@pytest.mark.every_backend
async def test_a_claim_takes_the_first_of_each_key(db: ActionDB) -> None:
    one, _, two, three, _, four = await ready(db, "a", "a", "b", None, "b", None)
    taken = await db.claim("w", limit=10)
    assert ids(taken) == [one, two, three, four]
    assert [each.proposal.exclusive_key for each in taken] == ["a", "b", None, None]
    assert await db.claim("w", limit=10) == []


async def test_a_claim_takes_as_many_as_can_start_together(db: ActionDB) -> None:
    one, _, _, two, _, _, three = await ready(db, *"aaabbbc")
    # Fewer than the limit stand before the next one that can start.
    assert ids(await db.claim("w", limit=3)) == [one, two, three]


async def test_claims_pass_over_what_waits_for_its_key(db: ActionDB) -> None:
    first, *waiting = await ready(db, *("a",) * 5, priority=9)
    other = (await ready(db, "b"))[0]
    taken = await db.claim("w")
    assert ids(taken) == [first]
    assert ids(await db.claim("w")) == [other]
    assert await db.claim("w") == []
    await db.complete(taken[0].record.id)
    assert ids(await db.claim("w", limit=5)) == waiting[:1]


@pytest.mark.parametrize("end", ["complete", "fail", "cancel", "recover"])
async def test_every_end_frees_the_key(db: ActionDB, end: str) -> None:
    _, second = await ready(db, "a", "a")
    (claim,) = await db.claim("w")
    match end:
        case "complete":
            await db.complete(claim.record.id)
        case "fail":
            await db.fail(claim.record.id, "boom")
        case "cancel":
            await db.update_proposal_status(claim.proposal.id, S.CANCELLED)
        case _:
            await db.fail(claim.record.id, "lost", outcome_unknown=True)
    assert ids(await db.claim("w")) == [second]


async def test_a_single_one_says_who_holds_the_key(db: ActionDB, raw: RawSQL) -> None:
    first, second = await ready(db, "store 5", "store 5")
    await db.claim_proposal(first, "w")
    for refused in (db.claim_proposal(second, "w"), db.update_proposal_status(second, S.EXECUTING)):
        with pytest.raises(ExclusiveBusy) as busy:
            await refused
        assert isinstance(busy.value, InvalidTransition)
        assert (busy.value.key, busy.value.proposal_id) == ("store 5", first)
    with pytest.raises(Exception, match="exclusive"):
        await raw("UPDATE action_proposals SET status = 'executing' WHERE id = ?", second)
    with pytest.raises(ConstraintViolation, match="exclusive"):
        await db.create_proposal(proposal(status=S.EXECUTING, exclusive_key="store 5"))
    await db.create_proposal(proposal(status=S.EXECUTING, exclusive_key="store 6"))
    assert (await db.count_proposals())[S.EXECUTING] == 2


async def test_the_key_is_part_of_what_was_proposed(db: ActionDB, raw: RawSQL) -> None:
    with_key = await db.create_proposal(proposal(exclusive_key="a"))
    without = await db.create_proposal(proposal())
    assert with_key.digest != without.digest
    for value in ("'b'", "NULL"):
        with pytest.raises(Exception, match="can not be edited"):
            await raw(f"UPDATE action_proposals SET exclusive_key = {value} WHERE id = 1")
    for wrong in ("", " ", "a" * 256, "\0", 5):
        with pytest.raises(InvalidValue) as invalid:
            proposal(exclusive_key=wrong)
        assert invalid.value.path == "exclusive_key"
