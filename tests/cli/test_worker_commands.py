"""``operator-core worker run``, and the names that no worker handles."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from operator_core.actions.types import ActionProposal, ActionStatus
from operator_core.db import SyncActionDB
from tests.cli.conftest import PATIENCE, PROGRAM, Invoke

HANDLERS = """
from operator_core.actions import ActionProposal

async def drain(proposal: ActionProposal) -> dict[str, object]:
    return {"drained": proposal.parameters["store"]}

class Groups:
    HANDLERS = {"drain_store": drain}

HANDLERS = Groups.HANDLERS
EMPTY = {}
WRONG = {"drain_store": 5}
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    (tmp_path / "store_handlers.py").write_text(HANDLERS)
    (tmp_path / "broken_handlers.py").write_text("import no_such_package_of_theirs\n")
    with SyncActionDB(tmp_path / "ledger.db") as db:
        for name in ("drain_store", "reboot"):
            db.create_proposal(
                ActionProposal(
                    action_name=name,
                    parameters={"store": 4},
                    reason="r",
                    status=ActionStatus.VALIDATED,
                )
            )
    return tmp_path / "ledger.db"


@pytest.mark.parametrize("target", ["store_handlers:HANDLERS", "store_handlers:Groups.HANDLERS"])
def test_a_worker_runs_until_it_is_told_to_stop(ledger: Path, target: str) -> None:
    command = [PROGRAM, "worker", "run", target, "--name", "w-1", "--lease", "1m"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ledger.parent
    )
    try:
        with SyncActionDB(ledger) as db:
            assert db.wait_for(1, timeout=PATIENCE).status is ActionStatus.COMPLETED
            (record,) = db.get_records_for_proposal(1)
    finally:
        process.send_signal(signal.SIGTERM)
        out, log = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, "")
    assert (record.worker, record.result_data) == ("w-1", {"drained": 4})
    assert "ledger.db: waiting for drain_store" in log
    assert log.endswith("1 execution\n")


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("store_handlers", "must be MODULE:HANDLERS"),
        ("store_handlers:", "must be MODULE:HANDLERS"),
        (".store_handlers:HANDLERS", "must be MODULE:HANDLERS"),
        ("no_such_module:HANDLERS", "there is no module no_such_module"),
        ("store_handlers.inner:HANDLERS", "there is no module"),
        ("store_handlers:NOTHING", "must be a dict of handlers"),
        ("store_handlers:EMPTY", "must be a dict of handlers"),
        ("store_handlers:WRONG", "no name with a function"),
    ],
)
def test_what_is_no_handlers_is_a_usage_error(invoke: Invoke, target: str, problem: str) -> None:
    done = invoke("worker", "run", target)
    assert done.exit_code == 2
    assert problem in " ".join(done.stderr.split())


@pytest.mark.usefixtures("ledger")
def test_a_module_that_lacks_a_package_shows_its_own_error(invoke: Invoke) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_package_of_theirs"):
        invoke("worker", "run", "broken_handlers:HANDLERS")


@pytest.mark.parametrize("on", ["file", "server"])
def test_actions_without_a_worker_are_named(
    invoke: Invoke, tmp_path: Path, on: str, request: pytest.FixtureRequest
) -> None:
    target = tmp_path / "other.db" if on == "file" else request.getfixturevalue("server_ledger")
    where = ("--db-path" if on == "file" else "--url", target)
    with SyncActionDB(target) as db:
        for name in ("lost", "handled", "by hand", "later", "lost", "pending"):
            db.create_proposal(ActionProposal(action_name=name, reason="r"))
        for id_ in (1, 2, 3, 4, 5):
            db.update_proposal_status(id_, ActionStatus.VALIDATED)
        claim = db.claim_proposal(2, "w")
        db.fail(claim.record.id, "no")
        db.retry(2)
        db.update_proposal_status(3, ActionStatus.EXECUTING)
        db.update_proposal_status(3, ActionStatus.FAILED)
        db.retry(3)
    names = ["by hand", "later", "lost"]
    overview = json.loads(invoke("actions", "watch", "--once", "--json", *where).stdout)
    assert overview["unhandled"] == names
    assert "no worker has handled: by hand, later, lost" in (
        invoke("actions", "watch", "--once", *where).stdout
    )
    done = invoke("db", "check", "--json", *where)
    assert done.exit_code == 0
    (finding,) = [
        each for each in map(json.loads, done.stdout.splitlines()) if each["subject"] == "workers"
    ]
    assert finding["verdict"] == "ok"
    assert all(
        f"{name} waits, and no worker has handled it yet" in finding["text"] for name in names
    )
