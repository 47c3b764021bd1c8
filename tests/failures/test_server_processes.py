"""Many processes on one server: killed, racing, forked; and a ledger that is closed while it is in use."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import pytest
from sqlalchemy import event
from sqlalchemy.util import await_only

from operator_core.actions.errors import NotOpen, WrongLoop
from operator_core.actions.types import ActionStatus
from operator_core.db import ActionDB, SyncActionDB
from tests.databases import connected, query
from tests.failures.cancelling import OPERATIONS, Bench
from tests.failures.harness import PATIENCE, proposal, run, start
from tests.failures.server_harness import (
    DRIVERS,
    await_no_session,
    await_waiting,
    by,
    check_whole,
    contend,
)
from tests.failures.test_kills import kill_writers

PROCESSES = 8

# ------ killed

_KEPT = """
    SELECT 'proposal ' || id FROM action_proposals
    UNION ALL SELECT 'record ' || id FROM action_records
    UNION ALL SELECT 'outcome ' || id FROM action_records WHERE completed_at IS NOT NULL
    UNION ALL SELECT 'status ' || proposal_id || ' ' || to_status FROM action_events
        WHERE to_status IS NOT NULL"""


def check_kept(url: str, acknowledged: list[str]) -> None:
    await_no_session(url)
    missing = set(acknowledged) - {line for (line,) in query(url, _KEPT)}
    print(f"acknowledged={len(acknowledged)} lost={len(missing)}")
    assert acknowledged
    assert not missing, f"{len(missing)} acknowledged writes are lost"
    check_whole(url)


def kill_and_check(url: str, kills: int) -> None:
    print(f"\nkills={kills}")
    check_kept(url, kill_writers(url, kills))  # type: ignore[arg-type]


def test_killed_writers_lose_nothing_that_was_acknowledged(server_ledger: str) -> None:
    kill_and_check(server_ledger, kills=12)


@pytest.mark.soak
@pytest.mark.parametrize("driver", DRIVERS)
def test_hundreds_of_killed_writers_lose_nothing(driver: str, server_ledger: str) -> None:
    kill_and_check(by(driver, server_ledger), kills=150)


def test_planted_a_writer_that_acknowledges_before_the_commit_is_caught(server_ledger: str) -> None:
    acknowledged: list[str] = []
    for _ in range(3):
        writer = start("server_early_writer.py", server_ledger)
        assert writer.stdout is not None
        said = [writer.stdout.readline() for _ in range(70)]
        writer.kill()
        rest, _ = writer.communicate()
        acknowledged += (b"".join(said) + rest).decode().splitlines()
    with pytest.raises(AssertionError, match="acknowledged writes are lost"):
        check_kept(server_ledger, acknowledged)


# ------ racing


async def fill(url: str, proposals: int, status: ActionStatus) -> None:
    async with ActionDB(url) as db:
        await db.create_proposals([proposal(status=status) for _ in range(proposals)])


def check_won_once(url: str, printed: list[dict[str, Any]], proposals: int) -> None:
    winners = Counter(won for each in printed for won in each["won"])
    doubles = sum(count > 1 for count in winners.values())
    share = [len(each["won"]) for each in printed]
    print(f"\nproposals={proposals} winners={len(winners)} doubles={doubles} by process={share}")
    assert doubles == 0
    assert set(winners) == set(range(1, proposals + 1))
    told = {(won, each["name"]) for each in printed for won in each["won"]}
    sql = "SELECT proposal_id, actor FROM action_events WHERE to_status = 'executing'"
    assert set(query(url, sql)) == told
    check_whole(url)


async def claim(url: str, proposals: int) -> None:
    await fill(url, proposals, ActionStatus.VALIDATED)
    arguments = ("server_claimant.py", "ledger", url, proposals)
    rounds = [f"from {first}" for first in range(1, proposals + 1, 30)]
    printed = await asyncio.to_thread(contend, *arguments, processes=PROCESSES, stops=rounds)
    check_won_once(url, printed, proposals)


async def test_of_eight_processes_one_gets_to_execute_each_proposal(server_ledger: str) -> None:
    await claim(server_ledger, proposals=300)


@pytest.mark.soak
@pytest.mark.parametrize("driver", DRIVERS)
async def test_of_eight_processes_one_gets_to_execute_each_of_1500_proposals(
    driver: str, server_ledger: str
) -> None:
    await claim(by(driver, server_ledger), proposals=1_500)


async def test_planted_a_claim_that_looks_first_and_updates_then_is_caught(
    server_ledger: str,
) -> None:
    # The lifecycle's trigger is there and does not help: to set the status that is there already changes nothing.
    await fill(server_ledger, 200, ActionStatus.VALIDATED)
    arguments = ("server_claimant.py", "naive", server_ledger, 200)
    printed = contend(*arguments, processes=PROCESSES, stops=["ready", "read"])
    with pytest.raises(AssertionError):
        check_won_once(server_ledger, printed, 200)


async def read_then_write(url: str, units: int, proposals: int = 5) -> None:
    await fill(url, proposals, ActionStatus.PROPOSED)
    arguments = ("server_contender.py", url, proposals, units)
    printed = await asyncio.to_thread(contend, *arguments, processes=PROCESSES, stops=["ready"])
    told = sum(map(Counter, printed), Counter[str]())
    print(f"\nunits={PROCESSES * units} {dict(told)}")
    # Who lost a race was told so, and no one that the server had to choose a victim.
    assert {"done", "InvalidTransition"} <= set(told) <= {"done", "InvalidTransition", "Conflict"}
    assert told.total() == PROCESSES * units
    # What failed left nothing, and what was done is there with all that belongs to it.
    for what in (
        "action_events WHERE event_type = 'status_changed'",
        "action_records",
        "action_proposals WHERE parameters->>'after' IS NOT NULL",
    ):
        assert query(url, f"SELECT count(*) FROM {what}") == [(told["done"],)], what
    check_whole(url)


async def test_transactions_that_read_and_then_write_fail_only_by_the_lifecycle(
    server_ledger: str,
) -> None:
    await read_then_write(server_ledger, units=40)


@pytest.mark.soak
@pytest.mark.parametrize("driver", DRIVERS)
async def test_thousands_of_transactions_fail_only_by_the_lifecycle(
    driver: str, server_ledger: str
) -> None:
    await read_then_write(by(driver, server_ledger), units=600)


# ------ closed


@pytest.mark.parametrize("turns", [0, 1, 5, 20, 100])
@pytest.mark.parametrize("driver", DRIVERS)
async def test_closing_with_calls_in_flight_answers_them_and_leaves_no_connection(
    driver: str, turns: int, server_ledger: str
) -> None:
    db = ActionDB(by(driver, server_ledger))
    await db.open()
    made = await db.create_proposal(proposal())

    async def transact() -> None:
        async with db.transaction() as tx:
            await tx.create_proposal(proposal(action_name="together"))
            await tx.create_proposal(proposal(action_name="together"))

    work = [db.create_proposal(proposal(action_name="alone")) for _ in range(60)]
    work += [db.get_proposal(made.id) for _ in range(30)]
    work += [transact() for _ in range(30)]  # type: ignore[misc]
    tasks = [asyncio.create_task(each) for each in work]
    for _ in range(turns):
        await asyncio.sleep(0)
    await asyncio.wait_for(db.close(), PATIENCE)
    answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE)
    told = [answer for answer in answers if isinstance(answer, BaseException)]
    print(f"\n{driver} turns={turns} calls={len(tasks)} told NotOpen={len(told)}")
    for each in told:
        assert isinstance(each, NotOpen), repr(each)
    await asyncio.to_thread(await_no_session, server_ledger)
    names = "SELECT action_name, count(*) FROM action_proposals GROUP BY action_name"
    kept = dict(query(server_ledger, names))
    assert kept.get("alone", 0) == 60 - sum(isinstance(each, NotOpen) for each in answers[:60])
    assert kept.get("together", 0) == 2 * answers[90:].count(None)


@pytest.mark.parametrize("driver", DRIVERS)
async def test_closing_under_an_open_transaction_rolls_it_back_and_says_so(
    driver: str, server_ledger: str
) -> None:
    db = ActionDB(by(driver, server_ledger))
    await db.open()
    made = await db.create_proposal(proposal())
    locked = asyncio.Event()

    async def wait_for_the_lock() -> None:
        await locked.wait()
        await db.update_proposal_status(made.id, ActionStatus.VALIDATED)

    # `close` waits for a call that waits for the transaction.
    behind = asyncio.create_task(wait_for_the_lock())
    with pytest.raises(NotOpen):
        async with db.transaction() as tx:
            await tx.update_proposal_status(made.id, ActionStatus.CANCELLED)
            locked.set()
            await asyncio.to_thread(await_waiting, server_ledger)
            await asyncio.wait_for(db.close(), 20)
            with pytest.raises(NotOpen):
                await tx.create_proposal(proposal())
    await behind
    await asyncio.to_thread(await_no_session, server_ledger)
    assert query(server_ledger, "SELECT status FROM action_proposals") == [("validated",)]


@pytest.mark.parametrize("driver", DRIVERS)
async def test_closing_waits_for_a_connection_on_its_way_back(
    driver: str, server_ledger: str
) -> None:
    """It would return to a pool that is disposed of, and its session stay until it is collected."""
    db = ActionDB(by(driver, server_ledger))
    await db.open()
    closings: list[asyncio.Task[None]] = []
    early: list[asyncio.Task[None]] = []

    def close(*_: object) -> None:
        closings.append(asyncio.get_running_loop().create_task(db.close()))
        # The pool drops what is raised here.
        closed, _ = await_only(asyncio.wait(closings, timeout=0.2))
        early.extend(closed)

    async with db.transaction() as tx:
        await tx.create_proposal(proposal())
        event.listen(db._units._engine.sync_engine, "reset", close, once=True)
    await closings[0]
    assert not early
    await asyncio.to_thread(await_no_session, server_ledger)


def test_a_sync_ledger_waits_for_a_connection_on_its_way_back(server_ledger: str) -> None:
    db = SyncActionDB(by("postgresql+psycopg", server_ledger))
    db.open()
    closing = threading.Thread(target=db.close)
    waited: list[bool] = []

    def close(*_: object) -> None:
        closing.start()
        closing.join(0.2)
        waited.append(closing.is_alive())

    with db.transaction() as tx:
        tx.create_proposal(proposal())
        event.listen(db._units._engine, "reset", close, once=True)
    closing.join(PATIENCE)
    assert waited == [True]
    await_no_session(server_ledger)


_SLOW: Final = """
    CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$;
    CREATE TRIGGER wait BEFORE INSERT ON action_proposals FOR EACH ROW
        WHEN (NEW.action_name = 'slow') EXECUTE FUNCTION wait();"""


@pytest.mark.parametrize("driver", DRIVERS)
async def test_closing_waits_for_what_a_cancelled_caller_has_left_under_way(
    driver: str, server_ledger: str, postgres_copy: Callable[[str], str]
) -> None:
    ledger = postgres_copy(server_ledger)
    db = ActionDB(by(driver, ledger))
    await db.open()
    with connected(ledger) as other:
        other.execute(_SLOW)
        other.execute("SELECT pg_advisory_lock(1)")
        # The second one goes with whoever else may come, in nobody's own task.
        quick = asyncio.create_task(db.create_proposal(proposal()))
        slow = asyncio.create_task(db.create_proposal(proposal(action_name="slow")))
        await quick
        await asyncio.to_thread(await_waiting, ledger)
        slow.cancel()
        await asyncio.wait([slow])
        closing = asyncio.create_task(db.close())
        _, waiting = await asyncio.wait([closing], timeout=0.1)
        assert waiting
        other.execute("SELECT pg_advisory_unlock(1)")
        await asyncio.wait_for(closing, PATIENCE)
    await asyncio.to_thread(await_no_session, ledger)
    assert query(ledger, "SELECT count(*) FROM action_proposals") == [(2,)]


# ------ forked, and in another event loop


@pytest.mark.parametrize("driver", DRIVERS)
def test_forked_children_are_told_and_no_one_gets_anothers_answer(
    driver: str, server_ledger: str
) -> None:
    (seen,) = run("server_forking.py", by(driver, server_ledger))
    for child in seen["children"]:
        assert len(child["told"]) == seen["operations"]
        assert set(child["told"].values()) == {"WrongProcess"}
    wrong = seen["wrong answers"] + sum(child["wrong answers"] for child in seen["children"])
    print(f"\n{driver} children={len(seen['children'])} wrong answers={wrong}")
    assert wrong == 0
    await_no_session(server_ledger)
    check_whole(server_ledger)


@pytest.mark.parametrize("driver", DRIVERS)
async def test_in_another_event_loop_each_call_says_so_and_the_first_goes_on(
    driver: str, server_ledger: str
) -> None:
    async with ActionDB(by(driver, server_ledger)) as db:
        on = Bench(db)
        await on.prepare()

        async def elsewhere() -> list[str]:
            told = []
            for operation in (*OPERATIONS.values(), lambda on: on.db.close()):
                with pytest.raises(WrongLoop):
                    await operation(on)
                told.append("WrongLoop")
            return told

        assert len(await asyncio.to_thread(asyncio.run, elsewhere())) == len(OPERATIONS) + 1
        assert len(await db.list_proposals()) == 3
