"""Limits: what counts, what waits, and what is told of it."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from operator_core.actions import (
    ActionStatus,
    Claim,
    ConstraintViolation,
    EventType,
    InvalidTransition,
    InvalidValue,
    LimitReached,
    NotFound,
    StoredProposal,
    TransitionHalted,
)
from operator_core.db import ActionDB
from tests.clocks import asleep
from tests.conftest import RawSQL, proposal

pytestmark = pytest.mark.two_backends

S = ActionStatus
WHO: dict[str, Any] = {"by": "oncall", "reason": "careful"}
HOUR = 3600.0


async def ready(db: ActionDB, number: int = 1, **fields: Any) -> list[StoredProposal]:
    return await db.create_proposals(proposal(status=S.VALIDATED, **fields) for _ in range(number))


def ids(taken: list[Claim]) -> list[int]:
    return [each.proposal.id for each in taken]


async def used(db: ActionDB) -> list[tuple[int, int]]:
    return [(each.starts, each.spent) for each in await db.limits()]


async def later(db: ActionDB, seconds: float) -> None:
    """As if this time had passed: what was told and counted is that much older."""
    for table, column in (("action_starts", "started_at"), ("action_events", "occurred_at")):
        older = (
            f"{column} - interval '{seconds} seconds'"
            if not await on_sqlite(db)
            else f"strftime('%Y-%m-%d %H:%M:%f000', {column}, '{-seconds:+} seconds')"
        )
        await asleep(db, f"UPDATE {table} SET {column} = {older}")


async def on_sqlite(db: ActionDB) -> bool:
    return await db._units.read(lambda conn: conn.dialect.name == "sqlite")


@pytest.mark.every_backend
async def test_claims_take_as_many_as_fit_and_pass_over_the_others(db: ActionDB) -> None:
    limit = await db.set_limit("drains", action_name="drain_*", window=HOUR, max_starts=2, **WHO)
    assert (limit.name, limit.window, limit.max_starts) == ("drains", HOUR, 2)
    waiting = await ready(db, 5, action_name="drain_store", priority=9)
    others = await ready(db, 3, action_name="split")
    first = await db.claim("w", limit=6)
    assert ids(first)[:2] == [each.id for each in waiting[:2]]
    rest = await db.claim("w", limit=10)
    assert sorted(ids(first) + ids(rest)) == [each.id for each in (*waiting[:2], *others)]
    assert await db.claim("w", limit=10) == []
    assert await used(db) == [(2, 0)]
    (found,) = await db.list_proposals(S.VALIDATED, limit=1)
    assert found.action_name == "drain_store"


async def test_a_single_one_says_why_and_until_when(db: ActionDB) -> None:
    limit = await db.set_limit("all", window=HOUR, max_starts=1, **WHO)
    one, two = await ready(db, 2)
    begun = (await db.claim_proposal(one.id, "w")).record.started_at
    assert begun is not None
    for refused in (db.claim_proposal(two.id, "w"), db.update_proposal_status(two.id, S.EXECUTING)):
        with pytest.raises(LimitReached) as reached:
            await refused
        error = reached.value
        assert isinstance(error, InvalidTransition)
        assert (error.limit_id, error.name, error.used, error.to_status) == (
            limit.id,
            "all",
            1,
            "executing",
        )
        assert error.retry_at is not None
        assert abs(error.retry_at - begun - timedelta(hours=1)) < timedelta(seconds=30)
    (use,) = await db.limits()
    assert use.is_reached
    assert use.free_at == error.retry_at
    found = await db.get_proposal(two.id)
    assert found is not None
    assert (found.status, found.version) == (S.VALIDATED, two.version)
    with pytest.raises(ConstraintViolation, match="limit_reached"):
        await db.create_proposal(proposal(status=S.EXECUTING))
    await db.create_proposal(proposal(status=S.COMPLETED))


async def test_the_window_slides(db: ActionDB) -> None:
    await db.set_limit("all", window=HOUR, max_starts=2, **WHO)
    await ready(db, 6)
    assert len(await db.claim("w")) == 1
    await later(db, 1800)
    assert len(await db.claim("w", limit=5)) == 1
    await later(db, 1790)
    assert await db.claim("w") == []
    await later(db, 20)
    assert await used(db) == [(1, 0)]
    assert len(await db.claim("w", limit=5)) == 1
    await later(db, 1795)
    assert len(await db.claim("w", limit=5)) == 1
    assert await used(db) == [(2, 0)]


async def test_a_sum_of_an_integer(db: ActionDB) -> None:
    path = ["order", "items", 0]
    await db.set_limit("money", sum_of=path, max_sum=10, window=HOUR, **WHO)

    async def order(amount: object) -> int:
        (made,) = await ready(db, parameters={"order": {"items": [amount]}})
        return made.id

    four, five, three, one = [await order(each) for each in (4, 5, 3, 1)]
    assert ids(await db.claim("w", limit=10)) == [four, five, one]
    assert await used(db) == [(3, 10)]
    with pytest.raises(LimitReached) as reached:
        await db.claim_proposal(three, "w")
    assert reached.value.used == 10
    assert reached.value.retry_at is not None
    zero = await order(0)
    # Once it is used up, nothing starts.
    with pytest.raises(LimitReached):
        await db.claim_proposal(zero, "w")
    await later(db, 3601)
    assert ids(await db.claim("w", limit=10)) == [three, zero]


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"amount": None},
        {"amount": "5"},
        {"amount": 5.0},
        {"amount": 1e3},
        {"amount": True},
        {"amount": -1},
        {"amount": 2**63},
        {"amount": [5]},
        {"amount": {"amount": 5}},
        {"amount": 11},
        {"other": 1, "amount ": 5},
    ],
    ids=str,
)
async def test_what_can_not_be_counted_does_not_start(
    db: ActionDB, raw: RawSQL, parameters: dict[str, Any]
) -> None:
    await db.set_limit("money", sum_of=["amount"], max_sum=10, window=HOUR, **WHO)
    (bad,) = await ready(db, parameters=parameters, priority=1)
    (good,) = await ready(db, parameters={"amount": 10})
    for refused in (db.claim_proposal(bad.id, "w"), db.update_proposal_status(bad.id, S.EXECUTING)):
        with pytest.raises(LimitReached) as reached:
            await refused
        assert reached.value.retry_at is None
    with pytest.raises(Exception, match="limit_reached"):
        await raw("UPDATE action_proposals SET status = 'executing' WHERE id = ?", bad.id)
    assert ids(await db.claim("w", limit=10)) == [good.id]


async def test_what_was_not_begun_gives_its_start_back_and_only_that(db: ActionDB) -> None:
    await db.set_limit("all", window=HOUR, max_starts=3, **WHO)
    await ready(db, 5, max_retries=3, retry_delay=0)
    first = await db.claim("w", limit=3)
    await db.fail(first[0].record.id, "lost", outcome_unknown=True)
    await db.fail(first[1].record.id, "boom")
    assert await used(db) == [(3, 0)]
    await db._give_back(first[2:])
    assert await used(db) == [(2, 0)]
    (again,) = await db.claim("w", limit=5)
    assert await used(db) == [(3, 0)]
    # Once for each start.
    await db._give_back([again])
    assert await used(db) == [(2, 0)]
    await db.update_proposal_status(first[2].proposal.id, S.CANCELLED)
    assert await used(db) == [(2, 0)]


async def test_a_retry_is_another_start(db: ActionDB) -> None:
    await db.set_limit("all", window=HOUR, max_starts=2, **WHO)
    (made,) = await ready(db, max_retries=5, retry_delay=0)
    for _ in range(2):
        (claim,) = await db.claim("w")
        await db.fail(claim.record.id, "boom")
    # The retry is put back, and waits.
    assert await db.claim("w") == []
    found = await db.get_proposal(made.id)
    assert found is not None
    assert (found.status, found.retry_count) == (S.VALIDATED, 2)


async def test_a_limit_is_set_replaced_and_removed_and_the_history_tells(db: ActionDB) -> None:
    await ready(db, 4)
    await db.claim("w", limit=2)
    await later(db, 100)
    first = await db.set_limit("all", window=HOUR, max_starts=3, by="ann", reason="one")
    # It counts what has started before.
    assert await used(db) == [(2, 0)]
    await db.claim("w", limit=2)
    assert await used(db) == [(3, 0)]
    second = await db.set_limit("all", window=50.0, max_starts=3, by="bob", reason="two")
    assert await used(db) == [(1, 0)]
    assert [each.limit for each in await db.limits()] == [second]
    everything = [each.limit for each in await db.limits(active=False)]
    assert [each.id for each in everything] == [first.id, second.id]
    assert (everything[0].removed_by, everything[0].remove_reason) == ("bob", "two")
    removed = await db.remove_limit("all", by="cid", reason="three")
    assert (removed.id, removed.removed_by, removed.remove_reason) == (second.id, "cid", "three")
    assert len(await db.claim("w", limit=9)) == 1
    with pytest.raises(NotFound, match="no limit named all"):
        await db.remove_limit("all", **WHO)
    told = [each for each in await db.history() if each.proposal_id is None]
    kinds = EventType
    assert [(each.event_type, each.actor, each.reason) for each in told] == [
        (kinds.LIMIT_SET, "ann", "one"),
        (kinds.LIMIT_REMOVED, "bob", "two"),
        (kinds.LIMIT_SET, "bob", "two"),
        (kinds.LIMIT_REMOVED, "cid", "three"),
    ]
    assert told[0].details == {"limit": 1, "name": "all", "window": 3600, "max_starts": 3}


async def test_the_history_tells_the_scope(db: ActionDB) -> None:
    odd = 'a"b\\c\x01\u00e9'
    await db.set_limit(
        odd,
        action_name=odd,
        agent_id="Bot",
        window=0.5,
        sum_of=["a", 0, odd],
        max_sum=7,
        **WHO,
    )
    (event,) = await db.history()
    assert event.details == {
        "limit": 1,
        "name": odd,
        "action_name": odd,
        "agent_id": "bot",
        "window": 0.5,
        "sum_of": ["a", 0, odd],
        "max_sum": 7,
    }
    (use,) = await db.limits()
    assert use.limit.sum_of == ("a", 0, odd)


async def test_what_started_before_counts_if_it_matches_and_was_begun(db: ActionDB) -> None:
    await ready(db, 1, action_name="drain", parameters={"n": 5})
    await ready(db, 1, action_name="drain", parameters={"n": "x"})
    await ready(db, 1, action_name="drain", parameters={"n": 99})
    await ready(db, 2, action_name="drain", parameters={"n": 1})
    await ready(db, 1, action_name="other", parameters={"n": 3})
    taken = await db.claim("w", limit=10)
    await db._give_back(taken[3:4])
    await db.fail(taken[4].record.id, "boom")
    await db.set_limit("n", action_name="dr?in", sum_of=["n"], max_sum=10, window=HOUR, **WHO)
    # More than the whole limit is as much as the whole limit.
    assert await used(db) == [(4, 16)]


async def test_an_agents_limit_covers_its_proposals_and_those_that_name_none(db: ActionDB) -> None:
    await db.set_limit("bot", agent_id="Bot", window=HOUR, max_starts=1, **WHO)
    other = (await ready(db, agent_id="bott"))[0]
    (odd,) = await ready(db, agent_id="b\u00f6t")
    named = await ready(db, 1, agent_id="bOT", priority=9)
    nobody = await ready(db, 1)
    assert ids(await db.claim("w", limit=9)) == [named[0].id, other.id]
    for each in (nobody[0], odd):
        with pytest.raises(LimitReached):
            await db.claim_proposal(each.id, "w")


async def test_all_limits_that_cover_it_hold(db: ActionDB) -> None:
    await db.set_limit("many", window=HOUR, max_starts=3, **WHO)
    await db.set_limit("few", action_name="drain", window=HOUR, max_starts=1, **WHO)
    await db.set_limit("sum", action_name="drain", sum_of=["n"], max_sum=5, window=HOUR, **WHO)
    drains = await ready(db, 3, action_name="drain", parameters={"n": 5}, priority=1)
    others = await ready(db, 4, action_name="other")
    first = await db.claim("w", limit=10)
    taken = ids(first) + ids(await db.claim("w", limit=10))
    assert sorted(taken) == [drains[0].id, *(each.id for each in others[:2])]
    assert await used(db) == [(3, 0), (1, 0), (1, 5)]
    assert await db.claim("w", limit=10) == []


async def test_a_halt_comes_first(db: ActionDB) -> None:
    await db.set_limit("all", window=HOUR, max_starts=1, **WHO)
    _, two = await ready(db, 2)
    await db.claim("w")
    await db.halt(**WHO, cancel=False)
    with pytest.raises(TransitionHalted):
        await db.claim_proposal(two.id, "w")
    await db.resume(**WHO)


@pytest.mark.every_backend
async def test_a_move_that_is_rolled_back_counts_nothing(db: ActionDB) -> None:
    await db.set_limit("all", window=HOUR, max_starts=2, **WHO)
    one, _ = await ready(db, 2)

    class Undo(Exception):
        pass

    with pytest.raises(Undo):
        async with db.transaction() as tx:
            await tx.update_proposal_status(one.id, S.EXECUTING)
            assert await used(tx) == [(1, 0)]
            raise Undo
    assert await used(db) == [(0, 0)]
    assert len(await db.claim("w", limit=5)) == 2


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ({"window": 0.0}, "window"),
        ({"window": 31_622_401.0}, "window"),
        ({"window": float("nan")}, "window"),
        ({"max_starts": 0}, "max_starts"),
        ({"max_starts": None}, "max_starts"),
        ({"max_starts": 10**9 + 1}, "max_starts"),
        ({"max_starts": True}, "max_starts"),
        ({"sum_of": ["a"]}, "max_sum"),
        ({"max_sum": 5}, "max_sum"),
        ({"sum_of": [], "max_sum": 5}, "sum_of"),
        ({"sum_of": [-1], "max_sum": 5}, "sum_of[0]"),
        ({"sum_of": "a", "max_sum": 5}, "sum_of"),
        ({"sum_of": ["a"], "max_sum": 0}, "max_sum"),
        ({"sum_of": ["a"], "max_sum": 10**15 + 1}, "max_sum"),
        ({"agent_id": "\u200b"}, "agent_id"),
        ({"action_name": ""}, "action_name"),
        ({"by": "ledger"}, "by"),
        ({"reason": " "}, "reason"),
    ],
    ids=str,
)
async def test_only_limits_that_make_sense(db: ActionDB, wrong: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidValue) as invalid:
        await db.set_limit("n", **{"window": HOUR, "max_starts": 1, **WHO, **wrong})
    assert invalid.value.path == path
    with pytest.raises(InvalidValue):
        await db.set_limit(" ", window=HOUR, max_starts=1, **WHO)
    assert await db.limits() == []


async def test_a_clock_that_was_set_back_frees_nothing(db: ActionDB) -> None:
    await db.set_limit("all", window=HOUR, max_starts=2, **WHO)
    await ready(db, 3)
    await db.claim("w")
    # The start is in the future: the clock was ahead then.
    await later(db, -7200)
    assert len(await db.claim("w", limit=5)) == 1
    assert await used(db) == [(2, 0)]
    (use,) = await db.limits()
    assert use.free_at is not None
    assert use.free_at > datetime.now(UTC) + timedelta(hours=2)
