"""What a proposal says of when, how urgently and how often it may run, the same on every backend."""

import itertools
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from operator_core.actions import (
    ActionError,
    ActionProposal,
    ActionRecord,
    ActionStatus,
    Conflict,
    InvalidValue,
)
from operator_core.db import ActionDB
from tests.conftest import RawSQL, proposal

pytestmark = pytest.mark.two_backends

S = ActionStatus

WHEN = datetime(2199, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
PLAN: dict[str, Any] = {
    "priority": -7,
    "scheduled_at": WHEN,
    "expires_at": WHEN + timedelta(microseconds=1),
    "max_retries": 3,
    "retry_delay": 0.1,
    "max_retry_delay": 1234.5678,
}
DEFAULTS: dict[str, Any] = {
    "priority": 0,
    "scheduled_at": None,
    "expires_at": None,
    "max_retries": 0,
    "retry_delay": 1.0,
    "max_retry_delay": 300.0,
}
KEPT: dict[str, Any] = {
    "retry_count": 1,
    "next_retry_at": WHEN,
    "last_error": "boom",
    "version": 1,
}
LIMITS: list[dict[str, Any]] = [
    {"priority": -32768},
    {"priority": 32767},
    {"max_retries": 1000},
    {"retry_delay": 0.0, "max_retry_delay": 0.0},
    {"retry_delay": 604_800.0, "max_retry_delay": 604_800.0},
    {"retry_delay": 5e-324},
    {"scheduled_at": datetime(1970, 1, 1, tzinfo=UTC)},
    {"expires_at": datetime(9998, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)},
]

REFUSED: list[tuple[str, list[Any]]] = [
    ("priority", [-32769, 32768, 1.0, "1", True, None]),
    ("max_retries", [-1, 1001, 1.0, "1", True, None]),
    ("retry_delay", [-0.001, 604_800.1, math.nan, math.inf, "soon", None]),
    ("max_retry_delay", [-1, 604_801, math.nan, -math.inf, "soon", None]),
    ("scheduled_at", [datetime.max, datetime(1969, 12, 31, tzinfo=UTC), "soon"]),
    ("expires_at", [datetime.max, datetime(9999, 1, 1, tzinfo=UTC), "soon"]),
]


@pytest.mark.parametrize(("path", "values"), REFUSED)
async def test_a_plan_that_makes_no_sense_is_refused(path: str, values: list[Any]) -> None:
    # A ledger that is not open runs no SQL; it would say so.
    db = ActionDB(":memory:")
    for value in values:
        with pytest.raises(InvalidValue) as caught:
            proposal(**{path: value})
        assert caught.value.path == path
        smuggled = proposal().model_copy(update={path: value})
        with pytest.raises(InvalidValue) as caught:
            await db.create_proposal(smuggled)
        assert caught.value.path == path
        with pytest.raises(InvalidValue):
            await db.create_proposals([proposal(), smuggled])


@pytest.mark.parametrize("name", KEPT)
async def test_what_the_ledger_keeps_is_not_proposed(name: str) -> None:
    db = ActionDB(":memory:")
    for made in (
        proposal(**{name: KEPT[name]}),
        proposal().model_copy(update={name: KEPT[name]}),
    ):
        with pytest.raises(InvalidValue, match=name):
            await db.create_proposal(made)
        with pytest.raises(InvalidValue, match=name):
            await db.create_proposal(made, idempotency_key="k")
        with pytest.raises(InvalidValue, match=name):
            await db.create_proposals([proposal(), made])


async def test_who_plans_nothing_gets_what_the_row_says_by_itself(
    db: ActionDB, raw: RawSQL
) -> None:
    created = await db.create_proposal(proposal())
    await db.create_proposals([proposal(), proposal()])
    await raw(
        "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at) "
        "VALUES ('a', '{}', 'r', '2026-01-01 00:00:00.000000')"
    )
    assert {name: getattr(created, name) for name in DEFAULTS} == DEFAULTS
    kept = {"retry_count": 0, "next_retry_at": None, "last_error": None, "version": 1}
    for each in await db.list_proposals():
        found = each.model_dump()
        assert {name: found[name] for name in {**DEFAULTS, **kept}} == {**DEFAULTS, **kept}
        assert (type(each.retry_delay), type(each.max_retry_delay)) == (float, float)


@pytest.mark.parametrize("key", [None, "k"])
async def test_every_plan_comes_back_as_it_was_given(db: ActionDB, key: str | None) -> None:
    plans = [PLAN, *LIMITS, *({name: value} for name, value in PLAN.items())]
    for n, plan in enumerate(plans):
        given = proposal(**plan)
        name = None if key is None else f"{key} {n}"
        created = await db.create_proposal(given, idempotency_key=name)
        assert {name: getattr(created, name) for name in DEFAULTS} == {**DEFAULTS, **plan}
        assert await db.get_proposal(created.id) == created
        if key is not None:
            assert await db.create_proposal(given, idempotency_key=name) == created


async def test_planned_and_unplanned_ones_are_created_together(db: ActionDB) -> None:
    plans = [{}, PLAN, {}, *LIMITS, *({name: value} for name, value in PLAN.items()), {}]
    given = [
        proposal(f"step {n}", status=status, parameters={"n": n}, **plan)
        for (n, plan), status in zip(enumerate(plans), itertools.cycle(ActionStatus), strict=False)
    ]
    created = await db.create_proposals(given)
    assert list(reversed(await db.list_proposals())) == created
    assert [each.content_digest for each in created] == [each.digest for each in given]
    kept = ("id", "created_at", "updated_at", "version", "content_digest", "end_code")
    ids = dict.fromkeys(kept)
    assert [{**each.model_dump(), **ids} for each in created] == [
        each.model_dump() for each in given
    ]
    assert len(created) == len(plans)
    # And where all are planned.
    assert [each.priority for each in await db.create_proposals([proposal(**PLAN)] * 2)] == [-7, -7]


async def test_times_are_stored_in_utc_and_numbers_as_what_they_are(db: ActionDB) -> None:
    local = datetime(2030, 6, 1, 12, 0)
    east = datetime(2030, 6, 1, 12, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    given = proposal(scheduled_at=local, expires_at=east, retry_delay=2, max_retry_delay=5)
    created = await db.create_proposal(given)
    found = await db.get_proposal(created.id)
    assert found == created == (await db.list_proposals())[0]
    assert found is not None
    assert found.scheduled_at == local.astimezone(UTC)
    assert found.expires_at == east
    assert found.scheduled_at is not None
    assert found.scheduled_at.tzinfo is UTC
    assert (repr(found.retry_delay), repr(found.max_retry_delay)) == ("2.0", "5.0")


async def test_a_plan_is_part_of_what_is_proposed_under_a_key(db: ActionDB) -> None:
    first = await db.create_proposal(proposal(), idempotency_key="plain")
    for name, value in PLAN.items():
        with pytest.raises(Conflict) as caught:
            await db.create_proposal(proposal(**{name: value}), idempotency_key="plain")
        assert caught.value.id == first.id
    whole = await db.create_proposal(proposal(**PLAN), idempotency_key="planned")
    for name, value in DEFAULTS.items():
        with pytest.raises(Conflict) as caught:
            await db.create_proposal(proposal(**{**PLAN, name: value}), idempotency_key="planned")
        assert caught.value.id == whole.id
    again = await db.create_proposal(proposal(**PLAN), idempotency_key="planned")
    assert (again, again.replayed) == (whole, True)
    # What became of it is not.
    await db.update_proposal_status(first.id, S.VALIDATED)
    (claim,) = await db.claim("worker-1")
    await db.fail(claim.record.id, "boom")
    again = await db.create_proposal(proposal(), idempotency_key="plain")
    assert (again.id, again.last_error, again.version) == (first.id, "boom", 4)


async def test_a_plan_can_not_be_edited(db: ActionDB, raw: RawSQL) -> None:
    created = [await db.create_proposal(proposal(**PLAN)), await db.create_proposal(proposal())]
    values = {**dict.fromkeys(PLAN, "9"), **dict.fromkeys(("scheduled_at", "expires_at"), "NULL")}
    values_of_the_other = {"scheduled_at": "'2030-01-01 00:00:00'", "expires_at": "'2030-01-01 00:00:00'"}  # fmt: skip
    for name, value in values.items():
        with pytest.raises(ActionError, match="action_proposals_immutable"):
            await raw(f"UPDATE action_proposals SET {name} = {value} WHERE id = 1")
        other = values_of_the_other.get(name, value)
        with pytest.raises(ActionError, match="action_proposals_immutable"):
            await raw(f"UPDATE action_proposals SET {name} = {other} WHERE id = 2")
    assert [await db.get_proposal(1), await db.get_proposal(2)] == created


async def test_a_record_by_hand_may_name_its_worker_and_has_no_lease(db: ActionDB) -> None:
    await db.create_proposal(proposal(status=S.EXECUTING))
    record = await db.create_record(ActionRecord(proposal_id=1, worker="worker-1"))
    assert (record.worker, record.lease_expires_at, record.outcome_unknown) == ("worker-1", None, False)  # fmt: skip
    assert await db.get_record(record.id) == record
    for given in ({"lease_expires_at": WHEN}, {"outcome_unknown": True}):
        with pytest.raises(InvalidValue, match="lease_expires_at"):
            await db.create_record(ActionRecord(proposal_id=1, **given))
    for worker in ("", " ", "x" * 256, "a\0b", "\ud800", 5):
        with pytest.raises(InvalidValue) as caught:
            ActionRecord(proposal_id=1, worker=worker)  # type: ignore[arg-type]
        assert caught.value.path == "worker"
        smuggled = ActionRecord(proposal_id=1).model_copy(update={"worker": worker})
        with pytest.raises(InvalidValue, match="worker"):
            await db.create_record(smuggled)
    assert await db.get_records_for_proposal(1) == [record]


def test_every_new_field_says_what_it_is() -> None:
    described = {**ActionProposal.model_fields, **ActionRecord.model_fields}
    for name in (*PLAN, *KEPT, "worker", "lease_expires_at", "outcome_unknown"):
        assert described[name].description


async def test_what_one_call_leaves_out_the_next_may_say(db: ActionDB) -> None:
    """Calls of one ledger, one after another, so that none takes the statement of the one before."""
    made = [
        await db.create_proposal(proposal(**fields))
        for fields in ({}, {}, {"priority": 5, "max_retries": 2}, {}, {"retry_delay": 7.0})
    ]
    assert [(each.priority, each.max_retries, each.retry_delay) for each in made] == [
        (0, 0, 1.0),
        (0, 0, 1.0),
        (5, 2, 1.0),
        (0, 0, 1.0),
        (0, 0, 7.0),
    ]
    assert [await db.get_proposal(each.id) for each in made] == made
