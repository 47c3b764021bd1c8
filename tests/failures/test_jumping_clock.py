"""Clocks that are hours wrong, a worker's own and the database's: nothing is lost, doubled, or claimed too early."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from operator_core.actions.errors import LeaseLost
from operator_core.actions.types import ActionStatus
from operator_core.db import ActionDB
from tests.failures.harness import PATIENCE, finish, let_go, proposal, start
from tests.failures.programs.clocks import faketime
from tests.failures.worker_processes import UNFINISHED, Place, check_whole, fill, reckon, seen

HOUR = timedelta(hours=1)
WRONG = 6 * HOUR
LEASE = timedelta(minutes=5)
SOON = timedelta(seconds=PATIENCE)
"""What a test takes at the most, and so how exact a clock has to be that is not hours wrong."""

NEEDS_FAKETIME = "needs Debian's package faketime"

# Whose clock is wrong, and where: a worker's own beside a database's that is right, or the database's.
on_right_databases = pytest.mark.parametrize(
    ("backend", "clock"),
    [("file", "own"), ("postgresql", "own"), ("postgresql", "machine's")],
)
on_wrong_databases = pytest.mark.parametrize(
    ("backend", "clock"), [("file", "sqlite's"), ("file", "machine's")]
)

Environment = Callable[[str], dict[str, str]]


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """What a process with such a clock has to run with, the file of its own clock included."""

    def prepare(clock: str) -> dict[str, str]:
        if clock != "machine's":
            return {}
        found = sorted(Path("/usr/lib").glob("**/faketime/libfaketime.so.1"))
        if not found:
            pytest.skip(NEEDS_FAKETIME)
        number = len(list(tmp_path.glob("clock-*")))
        return faketime(found[0], tmp_path / f"clock-{number}")

    return prepare


class Clocked:
    """A worker in a process of its own, whose clock the test sets."""

    def __init__(self, place: Place, clock: str, environment: dict[str, str]) -> None:
        self.clock, self.by_database = clock, not isinstance(place, Path) or clock == "own"
        self.child = start("clocked_worker.py", place, clock, "clocked", environment=environment)

    def ask(self, *command: object) -> Any:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(json.dumps(command).encode() + b"\n")
        self.child.stdin.flush()
        answer = self.child.stdout.readline()
        assert answer, "the worker has died"
        return json.loads(answer)

    def claim(self, limit: int = 10) -> dict[str, int]:
        """The records of what it got, by the proposals' names, in the order of the claim."""
        return dict(self.ask("claim", limit))

    def set(self, ahead: timedelta) -> None:
        """Sets the clock, and fails unless exactly the one that is meant is as wrong as it is to be."""
        own, database = map(datetime.fromisoformat, self.ask("set", ahead.total_seconds()))
        assert near(own, timedelta() if self.clock == "sqlite's" else ahead)
        assert near(database, timedelta() if self.by_database else ahead)


@contextmanager
def clocked(place: Place, clock: str, environment: Environment) -> Iterator[Clocked]:
    worker = Clocked(place, clock, environment(clock))
    try:
        yield worker
        finish(worker.child)
    finally:
        worker.child.kill()
        worker.child.communicate()


def near(moment: datetime, ahead: timedelta) -> bool:
    return abs(moment - datetime.now(UTC) - ahead) < SOON


def valid(action_name: str, **fields: Any) -> Any:
    return proposal(action_name=action_name, status=ActionStatus.VALIDATED, **fields)


def around_now() -> list[Any]:
    now = datetime.now(UTC)
    return [
        valid("unscheduled"),
        valid("in an hour", scheduled_at=now + HOUR),
        valid("an hour ago", scheduled_at=now - HOUR),
        valid("until in an hour", expires_at=now + HOUR),
    ]


async def outcomes(db: ActionDB) -> dict[str, str]:
    return {each.action_name: each.status.value for each in await db.list_proposals()}


DUE = ["an hour ago", "unscheduled", "until in an hour"]


@pytest.mark.parametrize("ahead", [-WRONG, WRONG], ids=["behind", "ahead"])
@on_right_databases
async def test_a_worker_whose_own_clock_is_wrong_claims_what_is_due_by_the_databases(
    place: Place, clock: str, ahead: timedelta, environment: Environment
) -> None:
    async with ActionDB(place) as db:
        await db.create_proposal(valid("held"))
        (held,) = await db.claim("another", lease=LEASE)
        await db.create_proposals(around_now())
        with clocked(place, clock, environment) as worker:
            worker.set(ahead)
            claims = worker.claim()
            assert list(claims) == DUE
            for id in claims.values():
                record = await db.get_record(id)
                assert record is not None
                assert record.started_at is not None
                assert record.lease_expires_at is not None
                assert near(record.started_at, timedelta())
                assert near(record.lease_expires_at, LEASE)
            # And it jumps while they are under way.
            worker.set(-ahead)
            assert worker.ask("recover") == []
            until = [datetime.fromisoformat(worker.ask("heartbeat", id)) for id in claims.values()]
            assert all(near(moment, LEASE) for moment in until)
            assert [worker.ask("complete", id) for id in claims.values()] == ["done"] * 3
            assert worker.claim() == {}
        await db.complete(held.record.id)
        expected = dict.fromkeys([*DUE, "held"], "completed")
        assert await outcomes(db) == {**expected, "in an hour": "validated"}
    check_whole(place)


@pytest.mark.parametrize("ahead", [-WRONG, WRONG], ids=["behind", "ahead"])
async def test_planted_a_claim_by_the_workers_own_clock_is_caught(
    tmp_path: Path, ahead: timedelta, environment: Environment
) -> None:
    place = tmp_path / "ledger.db"
    await fill(place, around_now())
    with clocked(place, "own", environment) as worker:
        worker.set(ahead)
        assert [name for name, _ in worker.ask("claim_by_own_clock", 10)] != DUE


@on_wrong_databases
async def test_a_database_clock_set_back_keeps_nothing_unscheduled_from_being_claimed(
    place: Place, clock: str, environment: Environment
) -> None:
    async with ActionDB(place) as db:
        await db.create_proposals([valid("first"), valid("second"), *around_now()])
        failing = await db.create_proposal(valid("retried", max_retries=1, retry_delay=0.01))
        (claim,) = await db.claim("another", action_names="first")
        await db.complete(claim.record.id)
        (claim,) = await db.claim("another", action_names="retried")
        await db.fail(claim.record.id, "once")
        with clocked(place, clock, environment) as worker:
            worker.set(-WRONG)
            # By this clock all of them were proposed in the future, and the retry is hours away.
            claims = worker.claim()
            assert list(claims) == ["second", "unscheduled", "until in an hour"]
            assert worker.ask("complete", claims["second"]) == "done"
            # A person's decision waits for no clock.
            await db.retry(failing.id)
            again = worker.claim()
            assert list(again) == ["retried"]
            # By the right clock its leases ran out long ago; it is not believed in, and told so.
            late = {claims["unscheduled"], claims["until in an hour"], again["retried"]}
            recovered = await db.recover_expired()
            assert {record.id for record in recovered} == late
            assert all(record.outcome_unknown for record in recovered)
            assert [worker.ask("complete", id) for id in late] == ["LeaseLost"] * 3
            worker.set(timedelta())
            # What waited was not lost; of what is not known nothing is done twice, or by itself.
            rest = worker.claim()
            assert set(rest) <= {"an hour ago", "retried"}
            assert "an hour ago" in rest
            assert worker.ask("complete", rest["an hour ago"]) == "done"
        found = await db.list_proposals()
        changed = [each for each in found if each.action_name != "in an hour"]
        assert all(each.updated_at > each.created_at for each in changed)
        told = await outcomes(db)
        assert {told[name] for name in ("unscheduled", "until in an hour")} == {"failed"}
        assert {told[name] for name in ("first", "second", "an hour ago")} == {"completed"}
        assert told["in an hour"] == "validated"
    check_whole(place)


@on_wrong_databases
async def test_a_database_clock_set_forth_ends_leases_and_doubles_nothing(
    place: Place, clock: str, environment: Environment
) -> None:
    async with ActionDB(place) as db:
        await db.create_proposal(valid("held"))
        (held,) = await db.claim("another", lease=LEASE)
        await db.create_proposals(around_now())
        with clocked(place, clock, environment) as worker:
            worker.set(WRONG)
            claims = worker.claim()
            # What is due and what is too late, the database's clock says, also when it errs.
            assert list(claims) == ["an hour ago", "unscheduled", "in an hour"]
            with pytest.raises(LeaseLost):
                await db.complete(held.record.id, {"by": "another"})
            record = await db.get_record(held.record.id)
            assert record is not None
            assert (record.outcome_unknown, record.result_data) == (True, None)
            assert worker.ask("propose", "in the future") is not None
            worker.set(timedelta())
            assert worker.ask("complete", claims["unscheduled"]) == "done"
            # Who holds on has a lease by the clock as it is now; who has fallen silent is waited for.
            assert near(
                datetime.fromisoformat(worker.ask("heartbeat", claims["an hour ago"])), LEASE
            )
            assert await db.recover_expired() == []
            (future,) = await db.claim("another")
            assert future.proposal.action_name == "in the future"
            await db.complete(future.record.id)
            worker.set(WRONG + HOUR)
            assert worker.ask("recover") == sorted([claims["in an hour"], claims["an hour ago"]])
            assert worker.claim() == {}
        assert await outcomes(db) == {
            "held": "failed",
            "unscheduled": "completed",
            "in an hour": "failed",
            "an hour ago": "failed",
            "until in an hour": "cancelled",
            "in the future": "completed",
        }
        assert seen(place, UNFINISHED) == []
    check_whole(place)


@pytest.mark.parametrize(
    ("backend", "clock"),
    [("file", "sqlite's"), ("file", "machine's"), ("postgresql", "machine's")],
)
async def test_workers_whose_clocks_jump_all_the_time_lose_and_double_nothing(
    place: Place, clock: str, tmp_path: Path, environment: Environment
) -> None:
    retries = {"max_retries": 3, "retry_delay": 0.01}
    await fill(place, [valid("any", **(retries if each % 3 else {})) for each in range(60)])
    diary = tmp_path / "diary"
    arguments = ("mortal_worker.py", place, diary, LEASE.total_seconds(), "sound", clock)
    children = [
        start(*arguments, f"worker-{number}", environment=environment(clock)) for number in range(4)
    ]
    try:
        await asyncio.to_thread(let_go, children, "ready")
        async with asyncio.timeout(PATIENCE):
            # Nothing but the ledger knows when all is done.
            while seen(place, UNFINISHED):
                await asyncio.sleep(0.05)
        for child in children:
            child.communicate(timeout=PATIENCE)
            assert child.returncode == 0
    finally:
        for child in children:
            child.kill()
            child.communicate()
    figures = reckon(place, diary)
    if isinstance(place, Path):
        # Leases ended too early, as the clock had it.
        assert figures.lost
    else:
        assert (figures.lost, figures.unknown) == (0, 0)
