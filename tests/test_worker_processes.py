"""Workers as processes, and a server that goes away under them: what runs is ended, and work goes on."""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from operator_core.actions import ActionProposal, ActionStatus
from operator_core.db import ActionDB
from operator_core.db.sql.sqlite_library import dbapi
from tests.failures.harness import PATIENCE, start
from tests.failures.server_harness import DRIVERS, by, make_ledger, own_server
from tests.test_worker import ended, validated, working

ROOT: Final = Path(__file__).resolve().parents[1]

S = ActionStatus


async def test_a_busy_ledger_is_asked_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def restart(_: ActionProposal) -> None:
        pass

    path = tmp_path / "ledger.db"
    async with ActionDB(path, busy_timeout=0.05) as db, ActionDB(path) as other:
        id = await validated(db)
        with closing(dbapi.connect(path, isolation_level=None)) as stranger:
            stranger.execute("BEGIN IMMEDIATE")
            async with working(db, {"restart": restart}) as task:
                async with asyncio.timeout(30):
                    while "could not claim" not in caplog.text:
                        await asyncio.sleep(0.01)
                assert not task.done()
                stranger.execute("ROLLBACK")
                assert (await ended(other, id))[0].status is S.COMPLETED


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_server_that_is_restarted_does_not_end_it(
    driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def restart(_: ActionProposal) -> dict[str, bool]:
        await asyncio.sleep(0.01)
        return {"done": True}

    # What is answered outlives the server's death, if not the machine's.
    with own_server(durable=False, settings={"synchronous_commit": "on"}) as server:
        url = by(driver, make_ledger(server))
        # So impatient that it is refused while the server is away.
        async with ActionDB(url, busy_timeout=0.1) as db, ActionDB(url, busy_timeout=60) as other:
            # A claim may be committed and its answer lost; its lease ends that.
            again: dict[str, Any] = {"max_retries": 1000, "retry_delay": 0}
            ids = [await validated(other, **again) for _ in range(3)]
            lease = timedelta(seconds=1)
            async with working(db, {"restart": restart}, lease=lease) as task:
                await ended(other, ids[-1])
                await asyncio.to_thread(server.stop, "immediate")
                async with asyncio.timeout(30):
                    while "could not claim" not in caplog.text:
                        await asyncio.sleep(0.01)
                await asyncio.to_thread(server.start)
                ids += [await validated(other, **again) for _ in range(3)]
                found = [await other.wait_for(id, timeout=30) for id in ids]
                assert not task.done()
    assert {each.status for each in found} == {S.COMPLETED}


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
async def test_a_process_that_is_told_to_end_finishes_what_it_runs(
    tmp_path: Path, signal_: signal.Signals
) -> None:
    path = tmp_path / "ledger.db"
    async with ActionDB(path, busy_timeout=PATIENCE) as db:
        ids = [await validated(db, "slow") for _ in range(5)]
        process = start("slow_worker.py", path, stderr=subprocess.PIPE)
        try:
            async with asyncio.timeout(PATIENCE), db.changes() as changed:
                while (await db.count_proposals())[S.EXECUTING] != 2:
                    await changed.wait()
                    changed.clear()
            process.send_signal(signal_)
            printed, errors = await asyncio.to_thread(process.communicate, timeout=PATIENCE)
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == 0, errors
        # Both workers of the process have heard of it, and each has ended the one that it ran.
        assert printed.decode().split() == ["1", "1"]
        found = await db.count_proposals()
        assert (found[S.COMPLETED], found[S.VALIDATED], found[S.EXECUTING]) == (2, 3, 0)
        results = [record for id in ids for record in await db.get_records_for_proposal(id)]
        assert [record.result_data for record in results] == [{"done": True}] * 2


@pytest.mark.parametrize("where", ["file", "postgresql"])
def test_the_example_carries_out_each_once(where: str, request: pytest.FixtureRequest) -> None:
    ledger = [request.getfixturevalue("server_ledger")] if where == "postgresql" else []
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "worker.py"), *ledger],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "{'completed': 10, 'failed': 1}",
        "the failed one: ConnectionError: db-1 does not answer",
    ]
    said = done.stderr.splitlines()
    assert sum(" starts proposal " in line for line in said) == 11, done.stderr
    assert sum(" completed proposal " in line for line in said) == 10, done.stderr
