"""The parts of `make bench-peers` that need no peer installed; how fast is for it to say."""

import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gate_latency, governance, growth
from benchmarks.peers import __main__ as peers
from benchmarks.peers import compare, growing, report, waking
from benchmarks.peers.databases import databases
from benchmarks.peers.files import Files
from benchmarks.peers.process import WorkerFailed, worker
from benchmarks.peers.works import WORKS, in_threads

SIDES = "benchmarks.peers.sides"
OURS, FAST, SLOW = compare.OURS, "pgqueuer", "procrastinate"

SCRIPT = """
import sys
from benchmarks.peers.worker import serve

async def echo(url, jobs):
    print("a line of a library's own")
    return {"url": url, "jobs": jobs}

async def fail(url, jobs):
    raise ValueError("no such table")

async def die(url, jobs):
    sys.exit("out of memory")

serve({"echo": echo, "fail": fail, "die": die})
"""


def _compared(ours: float, promised: float | None = 1.0) -> compare.Compared:
    work = compare.Work("create", "create", lambda sizes: 1, promised, (SLOW, FAST), ("dbos",))
    figures = {OURS: [ours, 1.0, ours], SLOW: [500.0] * 3, FAST: [1000.0] * 3, "dbos": [100.0] * 3}
    return compare.Compared(work, figures)


def _turns() -> compare.Turns:
    written = {OURS: {"action_proposals": (1.0, 5.0)}}
    return compare.Turns(None, {}, {"pgqueuer": "1.6.0"}, written)  # type: ignore[arg-type]


@pytest.mark.parametrize(("ours", "behind"), [(999.0, True), (1000.0, False)])
def test_the_promise_is_against_the_fastest(ours: float, behind: bool) -> None:
    compared = _compared(ours)
    assert compared.fastest == FAST
    assert compared.ratio(SLOW) == ours / 500
    assert compared.behind is behind
    for told in (report.report, report.sqlite_report):
        lines = told([compared], _turns(), {"SELECT 1": 6280.0}).splitlines()
        verdicts = [line for line in lines if line.endswith(("BEHIND", "ok"))]
        assert len(verdicts) == 1
        assert verdicts[0].split()[0] == FAST
        assert verdicts[0].endswith("BEHIND" if behind else "ok")
        counted = "  operator-core: action_proposals 1.0 (5.0)." in lines
        assert counted is (told is report.report)


def test_another_side_of_the_ledger_can_make_a_promise() -> None:
    work = compare.Work("act", "act", lambda sizes: 1, 1.2, (FAST,), ours="another ledger")
    compared = compare.Compared(work, {"another ledger": [1300.0], FAST: [1000.0]})
    assert compared.ratio(FAST) == 1.3
    assert compared.behind is False
    assert report.as_json([compared], _turns(), {})["works"][0]["ratios"] == {FAST: 1.3}
    assert "another ledger" in report.sqlite_report([compared], _turns(), {"SELECT 1": 6280.0})
    assert compare.sides_of([work, *compare.SQLITE_WORKS])[:3] == ["another ledger", FAST, OURS]


def test_a_synchronous_side_acts_in_threads() -> None:
    done: list[int] = []
    # Each waits for the others, so that one thread alone would not end.
    together = threading.Barrier(3)

    def act(number: int) -> None:
        together.wait()
        done.append(number)

    in_threads(act, [[1, 4], [2, 5], [3, 6]])
    assert sorted(done) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda number: 1 / number, [[1], [0]])


def test_the_figures_are_written_for_programs() -> None:
    (work,) = report.as_json([_compared(900.0)], _turns(), {})["works"]
    assert (work["fastest"], work["behind"]) == (FAST, True)
    assert work["ratios"] == {SLOW: 1.8, FAST: 0.9, "dbos": 9.0}
    assert _compared(900.0, promised=None).behind is False


def test_every_work_has_its_worker() -> None:
    assert {work.asked for work in (*compare.WORKS, *compare.SQLITE_WORKS)} == set(WORKS)


_WORK = {"name": "cycle", "behind": True}


@pytest.mark.parametrize(
    ("results", "status"),
    [
        ({"growth": {"behind": []}, "sqlite": {"works": [{**_WORK, "behind": False}]}}, 0),
        ({"growth": {"behind": ["get"]}}, 1),
        ({"compare": {"works": [_WORK]}}, 1),
        ({"sqlite": {"works": [_WORK]}}, 1),
    ],
)
def test_only_a_check_fails_for_what_is_behind(
    results: dict[str, Any], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = {"PostgreSQL": "15", "fsync": "on"}
    monkeypatch.setattr(peers, "_run", lambda _: {"server": server, **results})
    assert peers.main(["--quick"]) == 0
    assert peers.main(["--quick", "--check"]) == status


@asynccontextmanager
async def _scripted(folder: Path) -> AsyncIterator[Any]:
    script = folder / "side.py"
    script.write_text(f"import sys; sys.path.insert(0, '.')\n{SCRIPT}")
    async with worker("side", sys.executable, str(script)) as side:
        yield side


async def test_a_side_answers_whatever_its_library_prints(tmp_path: Path) -> None:
    job = {"reason": "größer"}
    async with _scripted(tmp_path) as side:
        for _ in range(2):
            assert await side.ask("echo", "there", [job]) == {"url": "there", "jobs": [job]}


async def test_a_side_that_fails_is_told_with_its_message_and_goes_on(tmp_path: Path) -> None:
    async with _scripted(tmp_path) as side:
        with pytest.raises(WorkerFailed, match="side failed at fail: ValueError: no such table"):
            await side.ask("fail", "there")
        assert (await side.ask("echo", "there"))["url"] == "there"


async def test_a_side_that_ends_is_told_with_what_it_said(tmp_path: Path) -> None:
    async with _scripted(tmp_path) as side:
        for _ in range(2):
            with pytest.raises(WorkerFailed, match="side ended at die:\nout of memory"):
                await side.ask("die", "there")


async def test_a_side_that_is_not_installed_is_told() -> None:
    with pytest.raises(WorkerFailed, match="side could not be started"):
        async with worker("side", "/nowhere/bin/python"):
            pass


async def test_the_ledger_does_each_work(postgres_url: str) -> None:
    async with (
        worker(OURS, sys.executable, "-m", f"{SIDES}.ledger") as ledger,
        databases(postgres_url) as made,
    ):
        turns = compare.Turns(made, {OURS: ledger})
        await turns.install()
        assert "operator-core" in turns.versions
        for work in compare.WORKS:
            assert await turns.take(OURS, work.asked, compare.jobs(3)) > 0
    assert turns.written[OURS]["action_proposals"][0] == 1


async def test_the_ledger_does_each_work_on_sqlite_in_files_of_its_own(tmp_path: Path) -> None:
    async with worker(OURS, sys.executable, "-m", f"{SIDES}.ledger") as ledger:
        turns = compare.Turns(Files(tmp_path), {OURS: ledger})
        await turns.install()
        (template,) = tmp_path.iterdir()
        for work in compare.SQLITE_WORKS:
            assert await turns.take(OURS, work.asked, compare.jobs(3)) > 0
            assert list(tmp_path.iterdir()) == [template], "a turn left its files behind"


def test_a_peer_that_is_not_installed_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No server is needed, or asked, for the part that is about SQLite."""
    monkeypatch.setenv("OPERATOR_TEST_POSTGRES_URL", "postgresql://nowhere")
    assert peers.main(["--quick", "--only", "sqlite", "--python", sys.executable]) == 1
    assert "No module named 'dbos'" in capsys.readouterr().err


async def test_a_waiting_gate_is_measured_on_the_server(server_ledger: str) -> None:
    found = await gate_latency.gate_latency(server_ledger, 1, 1, lambda _: None)
    assert len(found) == 1
    assert found[0] > 0


async def test_governance_is_measured_on_the_server(
    server_ledger: str, postgres_copy: Callable[[str], str]
) -> None:
    filled: list[int] = []

    async def fill(rows: int) -> None:
        await growing.fill(server_ledger, sum(filled), rows)
        filled.append(rows - sum(filled))

    cases = {case: postgres_copy(server_ledger) for case in governance.CASES}
    created = await governance.creates(cases, 2, 1, lambda _: None)
    assert all(len(each) == 1 for each in created.values())
    listed = await governance.inbox(server_ledger, fill, governance.QUICK, 1, lambda _: None)
    assert all(len(each) == len(governance.QUICK.finished) for each in listed.values())


async def test_growth_is_measured_on_the_server(
    server_ledger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "WAITING", 10)
    monkeypatch.setattr(growth, "REPEATS", 2)
    costs = await growing.growing(server_ledger, (20, 40), 1, lambda _: None)
    assert set(costs) == {*growing.PROMISED}
    assert growth.CLAIM in costs
    assert all(len(each) == 2 and min(each) > 0 for each in costs.values())


async def test_who_waits_is_woken_and_it_is_reported(server_ledger: str) -> None:
    found = await waking.waking(server_ledger, 3)
    assert len(found) == 3
    # Nothing but the server's word wakes it: without that it would look after seconds.
    assert 0 < max(found) < 2
    assert waking.NAME in waking.waking_table(found)
    assert waking.waking_table([1.0]).endswith("BEHIND")
