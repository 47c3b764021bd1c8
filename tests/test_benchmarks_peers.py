"""The parts of `make bench-peers` that need no peer installed; how fast is for it to say."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import __main__ as peers
from benchmarks.peers import compare, report
from benchmarks.peers.process import WorkerFailed, worker
from benchmarks.peers.works import WORKS

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
    lines = report.report([compared], _turns(), {"SELECT 1": 6280.0}).splitlines()
    verdicts = [line for line in lines if line.endswith(("BEHIND", "ok"))]
    assert len(verdicts) == 1
    assert verdicts[0].split()[0] == FAST
    assert verdicts[0].endswith("BEHIND" if behind else "ok")
    assert "  operator-core: action_proposals 1.0 (5.0)." in lines


def test_the_figures_are_written_for_programs() -> None:
    (work,) = report.as_json([_compared(900.0)], _turns(), {})["works"]
    assert (work["fastest"], work["behind"]) == (FAST, True)
    assert work["ratios"] == {SLOW: 1.8, FAST: 0.9, "dbos": 9.0}
    assert _compared(900.0, promised=None).behind is False


def test_every_work_has_its_worker() -> None:
    assert {work.asked for work in compare.WORKS} == set(WORKS)


@pytest.mark.parametrize(("behind", "status"), [(["get"], 1), ([], 0)])
def test_only_a_check_fails_for_what_is_behind(
    behind: list[str], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(*_: object) -> dict[str, Any]:
        return {"server": {"PostgreSQL": "15", "fsync": "on"}, "growth": {"behind": behind}}

    monkeypatch.setenv("OPERATOR_TEST_POSTGRES_URL", "postgresql://nowhere")
    monkeypatch.setattr(peers, "_run", run)
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
    async with worker(OURS, sys.executable, "-m", f"{SIDES}.ledger") as ledger:
        assert "operator-core" in (await ledger.ask("install", postgres_url))["versions"]
        for work in compare.WORKS:
            answer = await ledger.ask(work.asked, postgres_url, compare.jobs(3))
            assert answer["per_second"] > 0
