"""``operator-core actions watch``, at a terminal and without one."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Select
from sqlalchemy.dialects import sqlite

from operator_core.actions.types import ActionProposal, ActionStatus
from operator_core.cli import overview
from operator_core.db import ActionDB
from operator_core.db.sql.sqlite_library import dbapi
from tests.cli.conftest import PROGRAM, Invoke, Terminal, change
from tests.cli.watcher import LEAVE, Watcher, plain
from tests.failures.server_harness import make_ledger, own_server

HINT = "q or Ctrl-C ends this"


@pytest.fixture
async def ledger(tmp_path: Path) -> Path:
    """Two validated proposals and one that is over."""
    path = tmp_path / "ledger.db"
    async with ActionDB(path) as db:
        await propose(db, "restart", ActionStatus.VALIDATED)
        await propose(db, "drain_store", ActionStatus.VALIDATED)
        await propose(db, "split_region", ActionStatus.COMPLETED)
    return path


async def propose(db: ActionDB, name: str, status: ActionStatus) -> None:
    await db.create_proposal(ActionProposal(action_name=name, reason="it is slow", status=status))


@contextmanager
def watching(**size: int) -> Iterator[Watcher]:
    with Watcher("actions", "watch", **size) as watcher:
        watcher.wait_for(HINT)
        yield watcher


def press_q(watcher: Watcher) -> None:
    watcher.press("q")


def press_control_c(watcher: Watcher) -> None:
    watcher.press("\x03")


def terminate(watcher: Watcher) -> None:
    watcher.process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("end", [press_q, press_control_c, terminate])
async def test_it_shows_what_happens_and_gives_the_terminal_back(
    ledger: Path, end: Callable[[Watcher], None]
) -> None:
    with watching() as watcher:
        first = plain(watcher.wait_for("nothing is being executed"))
        lines = [line.split() for line in first.splitlines()]
        assert ["0", "2", "0", "1", "0", "0"] in lines
        assert "3 completed  split_region by agent: it is slow" in first
        async with ActionDB(ledger) as db:
            (claim,) = await db.claim("worker-7")
            shown = plain(watcher.wait_for("worker-7", "1 execution 1 started  restart"))
            assert ["0", "1", "1", "1", "0", "0"] in [line.split() for line in shown.splitlines()]
            row = next(line for line in shown.splitlines() if line.startswith("  1  restart"))
            assert "worker-7" in row
            assert re.search(r" 4m\d\ds$", row.rstrip())
            await db.fail(claim.record.id, "store 2 is down")
        watcher.wait_for("nothing is being executed", "by worker-7: store 2 is down")
        assert watcher.reads_without_waiting
        watcher.press("x")
        # It has been read when it is drawn again: else it may be echoed when the terminal is given back.
        next_frame(watcher)
        end(watcher)
        assert watcher.wait() == 0
        assert watcher.is_given_back()
        assert plain(watcher.seen[watcher.seen.rfind(LEAVE) :]).strip() == ""


async def test_a_lease_that_runs_out_turns_red_though_nothing_is_committed(ledger: Path) -> None:
    with watching() as watcher:
        async with ActionDB(ledger) as db:
            await db.claim("worker-7", lease=timedelta(seconds=3))
        alive = watcher.wait_for("worker-7")
        assert "expired" not in alive
        assert "\x1b[1;31mexpired" in watcher.wait_for("expired")


async def test_a_heartbeat_is_seen_though_it_is_no_event(ledger: Path) -> None:
    async with ActionDB(ledger) as db:
        (claim,) = await db.claim("worker-7", lease=timedelta(seconds=60))
        with watching() as watcher:
            await db.heartbeat(claim.record.id, timedelta(hours=30))
            watcher.wait_for("1d5h")


async def test_a_worker_that_goes_on_with_what_was_cancelled_is_seen(ledger: Path) -> None:
    async with ActionDB(ledger) as db:
        await db.claim("worker-7")
        await db.update_proposal_status(1, ActionStatus.CANCELLED, reason="wrong host")
        # By hand, as it was before there were leases.
        await db.update_proposal_status(2, ActionStatus.EXECUTING, actor="maria")
    with watching() as watcher:
        shown = plain(watcher.wait_for(HINT))
    rows = [line.split() for line in shown.splitlines()]
    assert any(row[:4] == ["1", "(cancelled)", "restart", "worker-7"] for row in rows)
    assert any(row[:3] == ["2", "drain_store", "maria"] and row[-1] == "none" for row in rows)


@pytest.mark.parametrize(("columns", "rows"), [(60, 24), (160, 50), (60, 12)])
async def test_it_fits_the_terminal_and_a_change_of_its_size(
    ledger: Path, columns: int, rows: int
) -> None:
    async with ActionDB(ledger) as db:
        for _ in range(40):
            await propose(db, "transfer_leader_of_a_region", ActionStatus.VALIDATED)
        await db.claim("a-worker-with-a-long-name:48213", limit=40, lease=timedelta(days=7))
    with watching(columns=80, rows=40) as watcher:
        before = len(watcher.frames()) + 1
        watcher.resize(columns, rows)
        watcher.wait_for("proposed", after=before)
        while len(watcher.frames()) < before + 2:
            watcher.read()
        lines = plain(watcher.frames()[-1]).split("\r\n")
    assert len(lines) == rows
    assert {len(line) for line in lines} == {columns}
    statuses = ["proposed", "validated", "executing", "completed", "failed", "cancelled"]
    assert lines[2].split() == statuses
    if rows > 12:
        assert any("others" in line for line in lines)
        assert "latest events" in "".join(lines)
        assert lines[-1].strip() == HINT


async def test_suspended_it_gives_the_terminal_back_and_takes_it_again(ledger: Path) -> None:
    with watching() as watcher:
        watcher.press("\x1a")
        watcher.wait_until_stopped()
        assert watcher.is_given_back()
        before = len(watcher.frames()) + 1
        async with ActionDB(ledger) as db:
            await db.claim("worker-7")
        watcher.process.send_signal(signal.SIGCONT)
        watcher.wait_for("worker-7", after=before)
        watcher.press("q")
        assert watcher.wait() == 0
        assert watcher.is_given_back()


async def test_a_ledger_that_fails_meanwhile_is_one_line_on_a_sane_terminal(ledger: Path) -> None:
    with watching() as watcher:
        change(ledger, "DROP TABLE action_records")
        assert watcher.wait() == 3
        assert watcher.is_given_back()
        said = plain(watcher.seen[watcher.seen.rfind(LEAVE) :]).strip()
    assert said.startswith("error: ledger.db: ")
    assert "Traceback" not in said


def next_frame(watcher: Watcher) -> float:
    """Waits until it is drawn again, and says when that was."""
    frames = len(watcher.frames())
    while len(watcher.frames()) == frames:
        assert watcher.process.poll() is None
        watcher.read()
    return time.monotonic()


def test_a_change_of_size_is_drawn_when_it_happens(ledger: Path) -> None:
    # With a clock that draws nothing for an hour, only the signal can be what it is drawn for.
    patient = "from operator_core.cli import app, main, watch; watch._TICK = 3600.0; main()"
    with Watcher("actions", "watch", program=(sys.executable, "-c", patient)) as watcher:
        watcher.wait_for(HINT)
        for columns in (60, 100) * 5:
            watcher.resize(columns, 30)
            while {len(line) for line in watcher.last_lines()} != {columns}:
                assert watcher.process.poll() is None
                watcher.read()


def test_waiting_costs_nothing(ledger: Path) -> None:
    with watching() as watcher:
        # What is committed when it starts to listen it reads again.
        next_frame(watcher)
        started, before = next_frame(watcher), _seconds_of(watcher)
        for _ in range(4):
            ended = next_frame(watcher)
        spent = _seconds_of(watcher) - before
    # It is drawn each second and not more often. Other work on the machine makes that longer, never shorter.
    assert ended - started > 3
    # A loop that never waits takes all that it gets of a processor, the same share of any machine.
    assert spent < (ended - started) / 4


def _seconds_of(watcher: Watcher) -> float:
    fields = Path(f"/proc/{watcher.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
async def test_without_a_terminal_each_event_is_a_line(ledger: Path, end: signal.Signals) -> None:
    with subprocess.Popen(
        [PROGRAM, "actions", "watch"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        seen = [process.stdout.readline() for _ in range(3)]
        assert [line.split(" UTC  ")[-1] for line in seen] == [
            "1 validated  restart by agent: it is slow\n",
            "2 validated  drain_store by agent: it is slow\n",
            "3 completed  split_region by agent: it is slow\n",
        ]
        async with ActionDB(ledger) as db:
            (claim,) = await db.claim("worker-7")
            await db.complete(claim.record.id)
        seen = [process.stdout.readline() for _ in range(4)]
        assert [line.split(" UTC  ")[-1] for line in seen] == [
            "1 execution 1 started  restart by worker-7\n",
            "1 executing  restart by worker-7\n",
            "1 execution 1 ended, succeeded  restart by worker-7\n",
            "1 completed  restart by worker-7\n",
        ]
        process.send_signal(end)
        out, errors = process.communicate(timeout=30)
    assert (process.returncode, out, errors) == (0, "", "")


@pytest.mark.parametrize("width", [60, 160])
def test_once_prints_it_and_exits(
    invoke: Invoke, ledger: Path, terminal: Terminal, width: int
) -> None:
    terminal(width)
    assert invoke("actions", "claim", "\x1b[2Jworker-7").exit_code == 0
    done = invoke("actions", "watch", "--once")
    assert (done.exit_code, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= width
    assert ["0", "1", "1", "1", "0", "0"] in [line.split() for line in done.stdout.splitlines()]
    assert r"\x1b[2Jworker" in done.stdout
    assert "\x1b" not in done.stdout
    assert HINT not in done.stdout


def test_on_a_server_it_is_the_same(invoke: Invoke, server_ledger: str) -> None:
    async def fill() -> None:
        async with ActionDB(server_ledger) as db:
            await propose(db, "restart", ActionStatus.VALIDATED)
            await propose(db, "drain_store", ActionStatus.EXECUTING)

    asyncio.run(fill())
    at = ("--url", server_ledger)
    assert invoke("actions", "claim", "worker-7", "--actor", "worker-7", *at).exit_code == 0
    done = invoke("actions", "watch", "--once", *at)
    assert (done.exit_code, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert any(row[:3] == ["1", "restart", "worker-7"] for row in rows)
    assert any(row[:3] == ["2", "drain_store", "agent"] for row in rows)
    assert "1 execution 1 started  restart by worker-7" in done.stdout
    assert "at worker-7 for" in invoke("actions", "list", *at).stdout
    assert "worker-7" in invoke("actions", "show", "1", *at).stdout


async def test_a_server_that_goes_away_is_waited_for() -> None:
    with own_server(durable=False) as server:
        url = make_ledger(server)
        async with ActionDB(url) as db:
            await propose(db, "restart", ActionStatus.VALIDATED)
        piped = subprocess.Popen(
            [PROGRAM, "actions", "watch", "--url", url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with Watcher("actions", "watch", "--url", url) as watcher, piped:
            watcher.wait_for("nothing is being executed")
            assert piped.stdout is not None
            assert "1 validated" in piped.stdout.readline()
            await asyncio.to_thread(server.stop, "immediate")
            watcher.wait_for("the ledger does not answer")
            # By and by it is known why.
            shown = plain(watcher.wait_for("reached"))
            assert re.search(r"state of \d+s ago: .*can't be reached", shown)
            assert "nothing is being executed" in shown
            assert piped.stderr is not None
            said = await asyncio.to_thread(piped.stderr.readline)
            assert said.startswith("warning: ")
            assert said.endswith("; waiting for it\n")
            await asyncio.to_thread(server.start)
            async with ActionDB(url) as db:
                await db.claim("worker-7")
            before = len(watcher.frames())
            watcher.wait_for("worker-7", "1 execution 1 started", after=before - 1)
            assert "1 execution 1 started" in piped.stdout.readline()
            assert "1 executing" in piped.stdout.readline()
            watcher.press("q")
            assert watcher.wait() == 0
            piped.terminate()
            out, errors = piped.communicate(timeout=30)
            assert (piped.returncode, out, errors) == (0, "", "")


async def test_a_reader_that_has_enough_is_the_end(ledger: Path) -> None:
    with subprocess.Popen(
        [PROGRAM, "actions", "watch"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        async with ActionDB(ledger) as db:
            await db.claim("worker-7")
        assert await asyncio.to_thread(process.stderr.read) == ""
        assert process.wait(30) == 0


@pytest.mark.parametrize("statement", [overview._LEASED, overview._WITHOUT_LEASE])
def test_what_is_under_way_is_found_by_an_index(full_ledger: Path, statement: Select[Any]) -> None:
    options = {"dialect": sqlite.dialect(), "compile_kwargs": {"literal_binds": True}}
    with closing(dbapi.connect(full_ledger)) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {statement.compile(**options)}").fetchall()
    steps = [step for *_, step in plan]
    assert steps
    assert not [step for step in steps if step.startswith("SCAN") and "INDEX" not in step], steps
