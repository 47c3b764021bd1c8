"""Many processes on one file: no one is told that it is locked, and nothing is done twice."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from operator_core.actions.types import ActionStatus
from operator_core.db import ActionDB
from tests.failures.harness import PATIENCE, check_whole, finish, let_go, proposal, rows, start

PROCESSES = 8


def contend(
    program: str, mode: str, path: Path, processes: int, count: int
) -> list[dict[str, Any]]:
    """Lets the processes loose on the file, all at once, and gives back what each printed."""
    children = [start(program, mode, path, f"worker-{n}", count) for n in range(processes)]
    # The naive ones meet again when all have read and none has written: a moment that comes by
    # itself too, but not in every run.
    stops = ("ready", "read") if program.startswith("naive") else ("ready",)
    try:
        for stop in stops:
            let_go(children, stop)
        return [printed for child in children for printed in finish(child)]
    finally:
        for child in children:
            child.kill()
            child.communicate()


def make(path: Path, proposals: int = 0) -> None:
    async def fill() -> None:
        async with ActionDB(path, busy_timeout=PATIENCE) as db:
            await db.create_proposals(
                [proposal(status=ActionStatus.VALIDATED) for _ in range(proposals)]
            )

    asyncio.run(fill())


def check_serial(path: Path, printed: list[dict[str, Any]], total: int) -> None:
    busy = sum(each["busy"] for each in printed)
    seen = [
        json.loads(text)["seen"]
        for (text,) in rows(path, "SELECT parameters FROM action_proposals ORDER BY id")
    ]
    print(f"units={total} written={len(seen)} busy={busy} read twice={total - len(set(seen))}")
    assert busy == 0
    assert seen == list(range(total))


def contend_for_the_lock(path: Path, units: int) -> None:
    make(path)
    printed = contend("contender.py", "serial", path, PROCESSES, units)
    check_serial(path, printed, PROCESSES * units)
    check_whole(path)


def test_units_that_read_and_then_write_run_one_after_another_and_none_is_busy(
    tmp_path: Path,
) -> None:
    contend_for_the_lock(tmp_path / "ledger.db", units=25)


@pytest.mark.soak
def test_thousands_of_units_that_read_and_then_write_are_never_busy(tmp_path: Path) -> None:
    contend_for_the_lock(tmp_path / "ledger.db", units=500)


def test_planted_a_deferred_begin_is_caught(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    make(path)
    printed = contend("naive_contender.py", "serial", path, PROCESSES, 25)
    # All had read before the first wrote, so that of the first units one alone could succeed.
    assert sum(each["busy"] for each in printed) >= PROCESSES - 1
    with pytest.raises(AssertionError):
        check_serial(path, printed, PROCESSES * 25)


def check_won_once(path: Path, printed: list[dict[str, Any]], proposals: int) -> None:
    winners = Counter(won for each in printed for won in each["won"])
    doubles = sum(count > 1 for count in winners.values())
    share = [len(each["won"]) for each in printed]
    print(f"proposals={proposals} winners={len(winners)} doubles={doubles} by process={share}")
    assert doubles == 0
    assert set(winners) == set(range(1, proposals + 1))
    told = {(won, each["name"]) for each in printed for won in each["won"]}
    sql = "SELECT proposal_id, actor FROM action_events WHERE to_status = 'executing'"
    assert set(rows(path, sql)) == told


def contend_for_proposals(path: Path, processes: int, proposals: int) -> None:
    make(path, proposals)
    printed = contend("contender.py", "claim", path, processes, proposals)
    check_won_once(path, printed, proposals)
    check_whole(path)


def test_of_several_processes_one_gets_to_execute_each_proposal(tmp_path: Path) -> None:
    contend_for_proposals(tmp_path / "ledger.db", processes=4, proposals=200)


@pytest.mark.soak
def test_of_eight_processes_one_gets_to_execute_each_of_1500_proposals(tmp_path: Path) -> None:
    contend_for_proposals(tmp_path / "ledger.db", processes=8, proposals=1_500)


def test_planted_a_claim_that_looks_first_and_updates_then_is_caught(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    make(path, 200)
    printed = contend("naive_contender.py", "claim", path, 4, 200)
    with pytest.raises(AssertionError):
        check_won_once(path, printed, 200)
