"""``operator-core actions follow`` and ``history``: what happens to one proposal, or to all."""

import json
import subprocess
from pathlib import Path

import pytest

from operator_core.db import SyncActionDB
from tests.cli.conftest import PATIENCE, PROGRAM, Invoke


@pytest.fixture
def ledger(invoke: Invoke, server_ledger_or_file: str) -> str:
    return server_ledger_or_file


@pytest.fixture(params=["file", "server"])
def server_ledger_or_file(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "server":
        url: str = request.getfixturevalue("server_ledger")
        return url
    SyncActionDB(tmp_path / "ledger.db").open().close()
    return str(tmp_path / "ledger.db")


def where(ledger: str) -> tuple[str, str]:
    return ("--url" if "://" in ledger else "--db-path", ledger)


def propose(invoke: Invoke, ledger: str) -> None:
    done = invoke("actions", "propose", "drain", "--reason", "r", "--actor", "mia", *where(ledger))
    assert done.exit_code == 0


def test_following_prints_each_event_until_the_end(invoke: Invoke, ledger: str) -> None:
    propose(invoke, ledger)
    command = [PROGRAM, "actions", "follow", "1", "--json", *where(ledger)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    seen = [json.loads(process.stdout.readline())]
    assert invoke("actions", "validate", 1, *where(ledger)).exit_code == 0
    seen.append(json.loads(process.stdout.readline()))
    assert seen[1]["to_status"] == "validated"
    assert invoke("actions", "claim", "w", *where(ledger)).exit_code == 0
    assert invoke("actions", "complete", 1, *where(ledger)).exit_code == 0
    rest, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    seen += map(json.loads, rest.splitlines())
    assert [each["id"] for each in seen] == sorted({each["id"] for each in seen})
    assert seen[-1]["to_status"] == "completed" or seen[-1]["record_id"]
    assert {each["to_status"] for each in seen} >= {
        "proposed",
        "validated",
        "executing",
        "completed",
    }


def test_the_exit_status_says_how_it_ended(invoke: Invoke, ledger: str) -> None:
    propose(invoke, ledger)
    assert invoke("actions", "cancel", 1, "--reason", "no", *where(ledger)).exit_code == 0
    done = invoke("actions", "follow", 1, *where(ledger))
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1] == " proposal 1 is cancelled"
    assert invoke("actions", "follow", 2, *where(ledger)).exit_code == 1


def test_history_has_pages(invoke: Invoke, ledger: str) -> None:
    for _ in range(3):
        propose(invoke, ledger)
    latest = invoke("actions", "history", "--limit", 2, "--json", *where(ledger)).stdout
    assert [json.loads(line)["proposal_id"] for line in latest.splitlines()] == [2, 3]
    first = invoke("actions", "history", "--after", 0, "--limit", 1, *where(ledger)).stdout
    assert "1 proposed  drain by mia: r" in first
    assert "later ones: --after" in first
    own = invoke("actions", "history", 2, "--json", *where(ledger)).stdout
    assert [json.loads(line)["proposal_id"] for line in own.splitlines()] == [2]
    assert invoke("actions", "history", 2, "--follow", *where(ledger)).exit_code == 2


def test_history_follows_from_an_event_on(invoke: Invoke, ledger: str) -> None:
    propose(invoke, ledger)
    command = [PROGRAM, "actions", "history", "--follow", "--after", "0", "--json", *where(ledger)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["proposal_id"] == 1
        propose(invoke, ledger)
        assert json.loads(process.stdout.readline())["proposal_id"] == 2
        process.terminate()
        assert process.wait(PATIENCE) == 0


def test_a_reader_that_leaves_ends_it(invoke: Invoke, ledger: str) -> None:
    propose(invoke, ledger)
    command = [PROGRAM, "actions", "follow", "1", *where(ledger)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    # Each change tries to print, so that the pipe is found closed.
    invoke("actions", "validate", 1, *where(ledger))
    assert process.wait(PATIENCE) in (0, 1)
