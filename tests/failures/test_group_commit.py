"""Units that are committed together: one that fails costs its neighbours nothing, and nobody acts twice."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from operator_core.actions.errors import ActionError, InvalidTransition, NotFound
from operator_core.actions.types import ActionRecord, ActionStatus, WorkflowProposal
from operator_core.db import ActionDB
from tests.failures.harness import proposal

pytestmark = pytest.mark.two_backends

S = ActionStatus

SIZE = 60

Call = Callable[[ActionDB], Awaitable[object]]

FAILING: dict[str, tuple[Call, type[ActionError]]] = {
    "unknown ticket": (lambda db: db.create_proposal(proposal(ticket_id=4711)), NotFound),
    "unknown proposal": (lambda db: db.create_record(ActionRecord(proposal_id=4711)), NotFound),
    "forbidden move": (lambda db: db.update_proposal_status(99, S.COMPLETED), InvalidTransition),
    "second half": (
        lambda db: db.create_workflow(
            WorkflowProposal(name="n"), [proposal(), proposal(depends_on=[4711])]
        ),
        NotFound,
    ),
}


def call(db: ActionDB, n: int) -> Awaitable[object]:
    """The `n`th unit. Neighbours are of different kinds, so that each is a statement of its own."""
    kinds: list[Callable[[], Awaitable[object]]] = [
        lambda: db.create_proposal(proposal(parameters={"n": n})),
        lambda: db.update_proposal_status(1 + n, S.VALIDATED, reason=f"{n}"),
        lambda: db.create_record(ActionRecord(proposal_id=1 + n, worker=f"{n}")),
        lambda: db.retry(101 + n, reason=f"{n}"),
        lambda: db.update_record(1 + n, False, f"{n}"),
    ]
    return kinds[n % len(kinds)]()


async def fill(db: ActionDB) -> None:
    """A hundred that are proposed, the first of them with a record each, and a hundred that failed."""
    await db.create_proposals(proposal() for _ in range(100))
    await db.create_proposals(proposal(status=S.FAILED) for _ in range(100))
    for n in range(SIZE):
        await db.create_record(ActionRecord(proposal_id=1 + n))


async def check_one_pays(db: ActionDB, answers: Sequence[object], broken: int) -> None:
    """Fails unless the unit at `broken` alone has an error, and each of the others is done once."""
    failed = [n for n, each in enumerate(answers) if isinstance(each, BaseException)]
    assert failed == [broken]
    assert await db.get_workflow(1) is None
    made = [each.parameters["n"] for each in await db.list_proposals() if each.parameters]
    assert sorted(made) == list(range(0, SIZE, 5))
    for n in range(SIZE):
        id = 101 + n if n % 5 == 3 else 1 + n
        *_, last = await db.history(id)
        records = await db.get_records_for_proposal(id)
        if n % 5 == 2:
            assert [each.worker for each in records] == [None, f"{n}"]
        elif n % 5 == 4:
            assert [(each.success, each.error_message) for each in records] == [(False, f"{n}")]
        elif n % 5 in (1, 3):
            assert (last.to_status, last.reason) == (S.VALIDATED, f"{n}")
    # Each of them writes one event, and so nobody else has written any.
    assert len(await db.history()) == 200 + SIZE + SIZE


@pytest.mark.parametrize("kind", FAILING)
@pytest.mark.parametrize("broken", [0, SIZE // 2, SIZE])
async def test_one_failing_unit_of_a_group_costs_its_neighbours_nothing(
    db: ActionDB, kind: str, broken: int
) -> None:
    fails, error = FAILING[kind]
    await fill(db)
    calls = [call(db, n) for n in range(SIZE)]
    calls.insert(broken, fails(db))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    await check_one_pays(db, answers, broken)
    assert isinstance(answers[broken], error)


@pytest.mark.parametrize("planted", ["all pay", "done twice", "half is kept"])
async def test_planted_a_group_that_is_not_undone_as_one_is_caught(planted: str) -> None:
    async with ActionDB(":memory:") as db:
        await fill(db)
        answers: list[object] = [None] * (SIZE + 1)
        answers[SIZE // 2] = NotFound("ticket", 4711)
        if planted == "all pay":
            answers = [NotFound("ticket", 4711)] * len(answers)
        else:
            for n in range(SIZE if planted == "done twice" else SIZE // 2):
                await call(db, n)
            if planted == "done twice":
                await db.create_record(ActionRecord(proposal_id=1))
        with pytest.raises(AssertionError):
            await check_one_pays(db, answers, SIZE // 2)


async def test_units_of_a_group_that_do_not_fail_are_all_done(db: ActionDB) -> None:
    await fill(db)
    await asyncio.gather(*(call(db, n) for n in range(SIZE)))
    error = NotFound("ticket", 4711)
    await check_one_pays(db, [error, *([None] * SIZE)], 0)
