"""The lifecycle: one table, kept by the facade and by the schema, on every backend."""

import asyncio
from itertools import product

import pytest

from operator_core.actions import (
    TRANSITIONS,
    ActionError,
    ActionStatus,
    EventType,
    InvalidTransition,
    InvalidValue,
    NotFound,
    can_move,
)
from operator_core.db import ActionDB
from tests.conftest import RawSQL, proposal

pytestmark = pytest.mark.two_backends

S = ActionStatus


async def test_the_facade_knows_every_step_and_no_other(db: ActionDB) -> None:
    for before, after in product(ActionStatus, repeat=2):
        id = (await db.create_proposal(proposal(status=before))).id
        if can_move(before, after):
            await db.update_proposal_status(id, after)
            expected = after
        else:
            with pytest.raises(InvalidTransition) as caught:
                await db.update_proposal_status(id, after)
            error = caught.value
            assert (error.id, error.from_status, error.to_status) == (id, before, after)
            assert set(error.allowed) == TRANSITIONS[before]
            expected = before
        found = await db.get_proposal(id)
        assert found is not None
        assert found.status is expected


async def test_the_schema_knows_every_step_and_no_other(db: ActionDB, raw: RawSQL) -> None:
    for before, after in product(ActionStatus, repeat=2):
        id = (await db.create_proposal(proposal(status=before))).id
        move = "UPDATE action_proposals SET status = ? WHERE id = ?"
        if can_move(before, after):
            await raw(move, after.value, id)
            last = (await db.history(id))[-1]
            assert (last.from_status, last.to_status) == (before, after)
            assert (last.actor, last.reason) == ("raw SQL", None)
        elif before is after:
            await raw(move, after.value, id)
            assert [event.event_type for event in await db.history(id)] == [
                EventType.PROPOSAL_CREATED
            ]
        else:
            with pytest.raises(ActionError, match="action_proposals_lifecycle"):
                await raw(move, after.value, id)


async def test_of_two_that_make_the_same_move_one_loses(db: ActionDB) -> None:
    id = (await db.create_proposal(proposal(status=S.VALIDATED))).id
    outcomes = await asyncio.gather(
        *(db.update_proposal_status(id, S.EXECUTING, actor=f"worker-{n}") for n in range(8)),
        return_exceptions=True,
    )
    assert sorted(map(repr, map(type, outcomes))) == sorted(
        map(repr, [type(None)] + [InvalidTransition] * 7)
    )
    assert len(await db.history(id)) == 2


async def test_a_move_stamps_its_times_and_moves_updated_at_forward(db: ActionDB) -> None:
    created = await db.create_proposal(proposal())
    id = created.id
    seen = [created.updated_at]
    for status in (S.VALIDATED, S.EXECUTING, S.FAILED, S.VALIDATED, S.CANCELLED):
        await db.update_proposal_status(id, status)
        now = await db.get_proposal(id)
        assert now is not None
        assert now.updated_at is not None
        assert seen[-1] is not None
        assert now.updated_at > seen[-1]
        seen.append(now.updated_at)
    assert now.validated_at is not None
    assert now.cancelled_at is not None
    assert created.created_at is not None
    assert created.created_at <= now.validated_at <= now.cancelled_at


async def test_an_unknown_proposal_is_not_found(db: ActionDB) -> None:
    with pytest.raises(NotFound) as caught:
        await db.update_proposal_status(5, S.VALIDATED)
    assert (caught.value.kind, caught.value.id) == ("proposal", 5)


async def test_a_move_says_who_and_why(db: ActionDB) -> None:
    id = (await db.create_proposal(proposal())).id
    await db.update_proposal_status(id, S.VALIDATED, actor="mallory; DROP", reason='it\'s "fine"')
    await db.update_proposal_status(id, "executing")  # type: ignore[arg-type]
    created, validated, executing = await db.history(id)
    assert (created.actor, created.reason) == ("agent", "store 2 is hot")
    assert (validated.actor, validated.reason) == ("mallory; DROP", 'it\'s "fine"')
    assert (executing.actor, executing.reason) == ("agent", None)


@pytest.mark.parametrize(
    "said",
    [
        {"actor": ""},
        {"actor": "x" * 256},
        {"reason": " "},
        {"reason": 5},
        {"actor": "\0"},
        {"actor": "raw SQL"},
    ],
)
async def test_who_and_why_are_checked(db: ActionDB, said: dict[str, str]) -> None:
    id = (await db.create_proposal(proposal())).id
    with pytest.raises(InvalidValue) as caught:
        await db.update_proposal_status(id, S.VALIDATED, **said)
    assert caught.value.path in said
    with pytest.raises(InvalidValue):
        await db.cancel_all_pending(**said)
    with pytest.raises(InvalidValue, match="status"):
        await db.update_proposal_status(id, "done")  # type: ignore[arg-type]
    assert len(await db.history(id)) == 1


async def test_the_kill_switch_cancels_all_that_nobody_started(db: ActionDB) -> None:
    await db.create_proposals(proposal(status=status) for status in ActionStatus for _ in range(3))
    assert await db.cancel_all_pending(actor="oncall", reason="bad deploy") == 6
    assert await db.cancel_all_pending() == 0
    assert await db.count_proposals() == {
        S.PROPOSED: 0,
        S.VALIDATED: 0,
        S.EXECUTING: 3,
        S.COMPLETED: 3,
        S.FAILED: 3,
        S.CANCELLED: 9,
    }
    cancelled = [event for event in await db.history() if event.actor == "oncall"]
    assert len(cancelled) == 6
    assert {(event.from_status, event.to_status, event.reason) for event in cancelled} == {
        (S.PROPOSED, S.CANCELLED, "bad deploy"),
        (S.VALIDATED, S.CANCELLED, "bad deploy"),
    }
    for each in await db.list_proposals(S.CANCELLED, limit=1, before=7):
        assert each.cancelled_at is not None


async def test_the_ledgers_own_actor_is_who_acts_by_default(open_ledger) -> None:  # type: ignore[no-untyped-def]
    db = await open_ledger(actor="gateway-2")
    await db.create_proposal(proposal())
    await db.cancel_all_pending()
    assert [event.actor for event in await db.history()] == ["gateway-2", "gateway-2"]
