"""Anything that callers may do, in any order, on real ledgers: what the model says holds after every step."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from operator_core.actions import ActionStatus
from operator_core.db import ActionDB
from tests.conftest import proposal
from tests.contract.deciding_machine import DecidingMachine

S = ActionStatus

pytestmark = pytest.mark.usefixtures("whole_sweeps")


@pytest.fixture(params=["memory", "file", "postgresql"])
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str | Path]:
    """Where the next ledger is to be; nothing is in it yet."""
    if request.param == "memory":
        return lambda: ":memory:"
    if request.param == "file":
        numbers = itertools.count()
        return lambda: tmp_path / f"{next(numbers)}.db"
    return request.getfixturevalue("postgres").ledger


def explore(new_place: Callable[[], str | Path], examples: int, steps: int) -> None:
    run_state_machine_as_test(
        lambda: DecidingMachine(new_place()),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# Longer than a test may take otherwise: what fails is made as short as it can be first.
@pytest.mark.timeout(600)
def test_a_ledger_is_as_its_model_whatever_callers_do(
    new_place: Callable[[], str | Path],
) -> None:
    explore(new_place, examples=12, steps=40)


@pytest.mark.soak
def test_a_ledger_is_as_its_model_for_thousands_of_steps(
    new_place: Callable[[], str | Path],
) -> None:
    explore(new_place, examples=300, steps=100)


async def test_who_executes_a_retry_by_hand_calls_the_next_one_off() -> None:
    async with ActionDB(":memory:") as db:
        again = proposal(status=S.VALIDATED, max_retries=1, retry_delay=0)
        id = (await db.create_proposal(again)).id
        (claim,) = await db.claim("alice")
        await db.fail(claim.record.id, "boom")
        await db.create_proposal(proposal(status=S.VALIDATED, priority=1))
        # Puts it back among what is due, and takes the other.
        await db.claim("alice")
        await db.update_proposal_status(id, S.EXECUTING)
        await db.update_proposal_status(id, S.FAILED)
        assert await db.claim("alice") == []
        found = await db.get_proposal(id)
        assert found is not None
        assert found.retry_count == 1
