"""A limit of n starts is never n + 1, and one exclusive key is never twice executing, whoever starts something."""

from typing import Any, Final

import pytest

from operator_core.actions import ActionProposal, ActionStatus
from operator_core.db import ActionDB
from tests.failures.harness import finish, let_go, start
from tests.failures.worker_processes import Place, check_whole, seen

WHO: Final = {"by": "oncall", "reason": "race"}

STARTS: Final = "SELECT count(*) FROM action_events WHERE to_status = 'executing'"

# At each start, whether the proposal before it with the same key has ended by then, in the order of the history.
TWICE: Final = """
    SELECT count(*) FROM (
        SELECT to_status, lag(to_status) OVER (PARTITION BY exclusive_key ORDER BY event.id) AS before
        FROM action_events AS event JOIN action_proposals AS proposal ON proposal.id = event.proposal_id
        WHERE exclusive_key IS NOT NULL AND (from_status = 'executing' OR to_status = 'executing')) AS moves
    WHERE to_status = 'executing' AND before = 'executing'"""

on_each = pytest.mark.parametrize("backend", ["file", "postgresql"])


async def fill(place: Place, number: int, **fields: Any) -> None:
    async with ActionDB(place) as db:
        await db.create_proposals(
            ActionProposal(
                action_name="race",
                reason="to be first",
                status=ActionStatus.VALIDATED,
                parameters={"n": 1 + each % 3},
                exclusive_key=f"key {each % 7}" if fields.get("keyed") else None,
            )
            for each in range(number)
        )


def race(place: Place, processes: int) -> dict[str, int]:
    children = [start("limit_racer.py", place, f"racer-{each}") for each in range(processes)]
    try:
        let_go(children, "ready")
        told: list[dict[str, int]] = []
        for child in children:
            told.extend(finish(child))
    finally:
        for child in children:
            child.kill()
            child.communicate()
    return {name: sum(each[name] for each in told) for name in told[0]}


async def limited(place: Place, number: int, starts: int, most: int) -> None:
    await fill(place, number)
    async with ActionDB(place) as db:
        await db.set_limit("starts", action_name="r*", window=3600.0, max_starts=starts, **WHO)
        await db.set_limit("sum", sum_of=["n"], max_sum=most, window=3600.0, **WHO)
    told = race(place, 8)
    async with ActionDB(place) as db:
        by_starts, by_sum = await db.limits()
    ((begun,),) = seen(place, STARTS)
    print(f"\n{number=} {starts=} {most=} {begun=} spent={by_sum.spent} {told}")
    assert begun == by_starts.starts == by_sum.starts <= starts
    assert by_sum.spent <= most
    # Nobody waits without need: one of the two is used up.
    assert begun == starts or by_sum.spent >= most - 2
    check_whole(place)


@on_each
async def test_a_limit_of_n_is_never_one_more(place: Place) -> None:
    await limited(place, 200, starts=100, most=10_000)


@on_each
async def test_a_sum_is_never_more(place: Place) -> None:
    await limited(place, 200, starts=1000, most=150)


@on_each
async def test_an_exclusive_key_is_never_twice_executing(place: Place) -> None:
    await exclusive(place, 200)


@pytest.mark.soak
@on_each
async def test_an_exclusive_key_is_never_twice_executing_in_10_000_actions(place: Place) -> None:
    await exclusive(place, 10_000)


async def exclusive(place: Place, number: int) -> None:
    await fill(place, number, keyed=True)
    told = race(place, 8)
    ((twice,),) = seen(place, TWICE)
    ((begun,),) = seen(place, STARTS)
    print(f"\n{number=} {begun=} {twice=} {told}")
    assert twice == 0
    assert begun > number // 10
    check_whole(place)
