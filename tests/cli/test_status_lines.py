"""What ``list`` and ``show`` say besides the status: who is at it, what went wrong, what comes."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from operator_core.actions.types import ActionProposal, ActionStatus
from operator_core.cli.formatting import clock, span
from operator_core.db import ActionDB
from tests.cli.conftest import Invoke, Terminal

FAR = datetime(2999, 1, 2, 3, 4, tzinfo=UTC)

Made = Callable[..., None]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Makes ``ledger.db`` with one validated proposal, and lives with it."""

    async def make(live: Callable[[ActionDB], Awaitable[Any]] | None, fields: Any) -> None:
        async with ActionDB(tmp_path / "ledger.db") as db:
            common = {"action_name": "drain_store", "reason": "store 2 is hot"}
            await db.create_proposal(
                ActionProposal(**common, status=ActionStatus.VALIDATED, **fields)
            )
            if live is not None:
                await live(db)

    def run(live: Callable[[ActionDB], Awaitable[Any]] | None = None, **fields: Any) -> None:
        asyncio.run(make(live, fields))

    return run


async def claim(db: ActionDB) -> None:
    await db.claim("worker-7", lease=timedelta(hours=2))


async def fail(db: ActionDB) -> None:
    (claim,) = await db.claim("worker-7")
    await db.fail(claim.record.id, "store 2 does not answer")


async def retry(db: ActionDB) -> None:
    await fail(db)
    await db.retry(1)


async def succeed_after_failing(db: ActionDB) -> None:
    await retry(db)
    (claim,) = await db.claim("worker-7")
    await db.complete(claim.record.id)


async def fall_silent(db: ActionDB) -> None:
    await db.claim("worker-7", lease=timedelta(milliseconds=1))
    async with asyncio.timeout(10):
        while (await db.recover_expired()) == []:
            await asyncio.sleep(0.005)


async def run_out(db: ActionDB) -> None:
    (claim,) = await db.claim("worker-7", lease=timedelta(milliseconds=1))
    async with asyncio.timeout(10):
        while datetime.now(UTC) <= (claim.record.lease_expires_at or FAR):
            await asyncio.sleep(0.005)


def seen(invoke: Invoke, *command: str) -> str:
    """What a command prints, its runs of blanks as one, so that a line may break anywhere."""
    done = invoke("actions", *command)
    assert (done.exit_code, done.stderr) == (0, "")
    return " ".join(done.stdout.split())


@pytest.fixture(params=[60, 100, 160, None])
def width(request: pytest.FixtureRequest, terminal: Terminal) -> int | None:
    if request.param is not None:
        terminal(request.param)
    return request.param


@pytest.mark.parametrize(
    ("live", "fields", "said", "unsaid"),
    [
        (None, {}, [], ["priority", "before", "expires", "retry", "lease", "at worker", "error"]),
        (
            None,
            {"priority": 7, "scheduled_at": FAR, "expires_at": FAR},
            ["priority 7", "not before", "expires"],
            [],
        ),
        (claim, {"priority": 7}, ["executing", "at worker-7", "lease 1h59m"], ["priority"]),
        (run_out, {}, ["executing", "at worker-7", "lease expired"], ["unknown"]),
        (fail, {}, ["failed", "last error: "], ["next retry", "unknown"]),
        (fail, {"max_retries": 1}, ["failed", "last error: ", "next retry"], []),
        (retry, {}, ["validated", "last error: "], ["next retry"]),
        (succeed_after_failing, {}, ["completed"], ["error"]),
        (fall_silent, {}, ["failed", "(unknown)", "outcome unknown"], ["last error", "succeeded"]),
        (fall_silent, {"max_retries": 1}, ["(unknown)", "next retry"], ["succeeded"]),
    ],
)
def test_a_list_says_what_the_status_does_not(
    invoke: Invoke,
    made: Made,
    width: int | None,
    live: Callable[[ActionDB], Awaitable[Any]] | None,
    fields: dict[str, Any],
    said: list[str],
    unsaid: list[str],
) -> None:
    made(live, **fields)
    shown = invoke("actions", "list").stdout
    if width is not None:
        assert max(map(len, shown.splitlines())) <= width
    for text in said:
        # Of a remark that is longer than its column the beginning is seen.
        assert text in shown or (width is not None and text[:16] in shown), text
    for text in unsaid:
        assert text not in shown, text


def test_a_page_of_one_that_is_executed_shows_its_worker_and_lease(
    invoke: Invoke, made: Made
) -> None:
    made(claim, priority=-3, scheduled_at=datetime(2026, 1, 1, tzinfo=UTC), expires_at=FAR)
    page = seen(invoke, "show", "1")
    for text in ("priority -3", "not before 2026-01-01", "expires 2999-01-0", "worker worker-7"):
        assert text in page
    assert ", 1h59m outcome none yet" in page
    assert "retries" not in page


def test_a_page_of_one_whose_lease_ran_out_says_so(invoke: Invoke, made: Made) -> None:
    made(run_out)
    assert re.search(r", expired \d+s ago outcome none yet", seen(invoke, "show", "1"))


def test_a_page_of_one_that_failed_says_when_it_is_run_again(invoke: Invoke, made: Made) -> None:
    made(fail, max_retries=2)
    page = seen(invoke, "show", "1")
    assert "drain_store failed type" in page
    assert "retries 0 of 2 next retry 20" in page
    assert "last error store 2 does not answer execution 1" in page
    assert "lease" not in page


def test_an_unknown_outcome_is_neither_success_nor_failure(invoke: Invoke, made: Made) -> None:
    made(fall_silent)
    page = seen(invoke, "show", "1")
    assert "drain_store failed (unknown) type" in page
    assert "outcome unknown: its lease ran out: whether it was done is not known" in page
    assert "execution 1 ended, outcome unknown" in page
    for text in ("succeeded", "outcome failed", "ended, failed", "last error", "error its"):
        assert text not in page


def test_times_are_as_short_as_they_can_be() -> None:
    spans = {0: "0s", 59: "59s", 60: "1m0s", 3599: "59m59s", 3600: "1h0m", 86400: "1d0h", -5: "0s"}
    assert {number: span(timedelta(seconds=number)) for number in spans} == spans
    now = datetime(2026, 3, 1, 12, 0, 0).astimezone()
    assert clock(now - timedelta(hours=1), now) == "11:00:00"
    assert clock(now - timedelta(days=1), now) == "2026-02-28 12:00"
