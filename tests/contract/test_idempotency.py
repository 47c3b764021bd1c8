"""The same proposal asked for twice is written once, the same on every backend."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from operator_core.actions import (
    ActionError,
    ActionProposal,
    ActionStatus,
    ActionType,
    Conflict,
    InvalidValue,
    NotFound,
    RequesterType,
)
from operator_core.db import ActionDB
from tests.conftest import RawSQL, proposal

pytestmark = pytest.mark.two_backends

S = ActionStatus

KEY = "run 17, step 3"

TICKET = (
    "INSERT INTO tickets (violation_key, invariant_name, first_seen_at, last_seen_at, message) "
    "VALUES (?, 'i', 't', 't', 'm')"
)


async def test_the_same_key_and_content_give_back_the_same_proposal(db: ActionDB) -> None:
    first = await db.create_proposal(proposal(parameters={"a": 1, "b": 2}), idempotency_key=KEY)
    again = await db.create_proposal(proposal(parameters={"b": 2, "a": 1}), idempotency_key=KEY)
    assert (first.replayed, again.replayed) == (False, True)
    assert again == first
    assert again == await db.get_proposal(first.id)
    assert again.model_dump() == first.model_dump()
    assert len(await db.list_proposals()) == len(await db.history()) == 1


async def test_it_comes_back_as_it_stands_now(db: ActionDB) -> None:
    first = await db.create_proposal(proposal(), idempotency_key=KEY)
    await db.update_proposal_status(first.id, S.CANCELLED)
    again = await db.create_proposal(proposal(), idempotency_key=KEY)
    assert (again.id, again.status, again.replayed) == (first.id, S.CANCELLED, True)


@pytest.mark.parametrize(
    "other",
    [
        {"action_name": "drain_store"},
        {"action_type": ActionType.TOOL},
        {"parameters": {"n": 1.0}},
        {"parameters": {"n": True}},
        {"parameters": {}},
        {"proposed_by": "someone else"},
        {"ticket_id": 1},
        {"ticket_id": 2},
        {"ticket_id": None},
    ],
)
async def test_another_content_under_the_same_key_is_a_conflict(
    db: ActionDB, raw: RawSQL, other: dict[str, Any]
) -> None:
    for ticket in (1, 2):
        await raw(TICKET, f"v{ticket}")
    fields: dict[str, Any] = {"parameters": {"n": 1}}
    if "ticket_id" in other:
        fields["ticket_id"] = 1 if other["ticket_id"] != 1 else None
    first = await db.create_proposal(proposal(**fields), idempotency_key=KEY)
    with pytest.raises(Conflict, match="idempotency key") as caught:
        await db.create_proposal(proposal(**{**fields, **other}), idempotency_key=KEY)
    assert caught.value.id == first.id
    assert len(await db.list_proposals()) == 1


async def test_a_reason_in_other_words_is_no_other_content(db: ActionDB) -> None:
    first = await db.create_proposal(proposal(), idempotency_key=KEY)
    again = await db.create_proposal(proposal(reason="in other words"), idempotency_key=KEY)
    assert (again.id, again.replayed, again.reason) == (first.id, True, first.reason)


OTHERS: dict[str, Any] = {
    "ticket_id": 1,
    "action_name": "drain_store",
    "action_type": ActionType.TOOL,
    "parameters": {"n": 1},
    "proposed_by": "someone else",
    "priority": 1,
    "scheduled_at": datetime(2199, 1, 1, tzinfo=UTC),
    "expires_at": datetime(2199, 1, 1, tzinfo=UTC),
    "max_retries": 1,
    "retry_delay": 2.0,
    "max_retry_delay": 2.0,
    "depends_on": [1],
    "wait_on_failure": True,
    "exclusive_key": "store-5",
    "requester_id": "u-7",
    "requester_type": RequesterType.USER,
    "agent_id": "other",
    "run_id": "run",
    "parent_id": 1,
    "call_id": "call",
}
"""For each field in which two proposals under one key must agree, a value that is not its default."""

NOT_COMPARED = {
    "reason", "traceparent", "status", "proposed_at", "validated_at", "cancelled_at",
}  # fmt: skip
"""A model that is asked again words its reason anew, in a trace of its own; the others say what became of it, and when."""

KEPT = {
    "id", "created_at", "updated_at", "retry_count", "next_retry_at", "last_error", "version", "workflow_id",
    "end_code", "content_digest", "supersedes_id", "approval", "lapses_at",
}  # fmt: skip
"""What the ledger gives, and no proposer."""


def test_it_is_decided_of_each_field_whether_it_is_compared() -> None:
    fields = set(ActionProposal.model_fields)
    assert fields == {*OTHERS, *NOT_COMPARED, *KEPT}


@pytest.mark.parametrize("name", OTHERS)
async def test_each_field_that_is_compared_is_enough_for_a_conflict(
    db: ActionDB, raw: RawSQL, name: str
) -> None:
    await raw(TICKET, "v")
    needed = await db.create_proposal(proposal())
    assert needed.id == 1
    plain, other = proposal(), proposal(**{name: OTHERS[name]})
    for first, second in ((plain, other), (other, plain)):
        key = f"{KEY} {first is other}"
        made = await db.create_proposal(first, idempotency_key=key)
        with pytest.raises(Conflict) as caught:
            await db.create_proposal(second, idempotency_key=key)
        assert caught.value.id == made.id
        assert (await db.create_proposal(first, idempotency_key=key)).replayed


async def test_of_many_who_ask_at_once_one_writes(db: ActionDB) -> None:
    made = await asyncio.gather(
        *(db.create_proposal(proposal(), idempotency_key=KEY) for _ in range(30))
    )
    assert len({each.id for each in made}) == 1
    assert sum(not each.replayed for each in made) == 1
    assert len(await db.list_proposals()) == len(await db.history()) == 1


async def test_other_keys_and_none_are_other_proposals(db: ActionDB) -> None:
    keys = [KEY, KEY + " ", KEY.upper(), None, None]
    made = [await db.create_proposal(proposal(), idempotency_key=key) for key in keys]
    assert [each.id for each in made] == [1, 2, 3, 4, 5]
    assert not any(each.replayed for each in made)


async def test_inside_a_transaction_too(db: ActionDB) -> None:
    async with db.transaction() as tx:
        first = await tx.create_proposal(proposal(), idempotency_key=KEY)
        again = await tx.create_proposal(proposal(), idempotency_key=KEY)
        assert (again.id, again.replayed) == (first.id, True)
        with pytest.raises(Conflict):
            await tx.create_proposal(proposal("other"), idempotency_key=KEY)
        await tx.create_proposal(proposal("goes on"))
    assert [each.action_name for each in await db.list_proposals()] == [
        "goes on",
        "transfer_leader",
    ]


async def test_a_key_whose_proposal_was_rolled_back_is_free(db: ActionDB) -> None:
    with pytest.raises(RuntimeError):
        async with db.transaction() as tx:
            await tx.create_proposal(proposal(), idempotency_key=KEY)
            raise RuntimeError
    with pytest.raises(NotFound):
        await db.create_proposal(proposal(ticket_id=4711), idempotency_key=KEY)
    assert not (await db.create_proposal(proposal("other"), idempotency_key=KEY)).replayed


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "\0", "\ud800", 5, b"key"])
async def test_what_is_no_key_is_refused(db: ActionDB, key: Any) -> None:
    with pytest.raises(InvalidValue, match="idempotency_key"):
        await db.create_proposal(proposal(), idempotency_key=key)
    assert await db.list_proposals() == []


async def test_nobody_changes_a_key_or_takes_one_twice(db: ActionDB, raw: RawSQL) -> None:
    await db.create_proposal(proposal(), idempotency_key=KEY)
    await db.create_proposal(proposal())
    for change in ("'other' WHERE id = 1", "NULL WHERE id = 1", "'new' WHERE id = 2"):
        with pytest.raises(ActionError, match="action_proposals_immutable"):
            await raw(f"UPDATE action_proposals SET idempotency_key = {change}")
    with pytest.raises(ActionError, match=r"(?i)unique|this idempotency key is taken"):
        await raw(
            "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at, "
            f"idempotency_key) VALUES ('a', '{{}}', 'r', '2026-01-01 00:00:00.000000', '{KEY}')"
        )
