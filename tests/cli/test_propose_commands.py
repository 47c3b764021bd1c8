"""``operator-core actions propose``, ``validate``, ``heartbeat``, ``record`` and ``workflows``."""

import json
from pathlib import Path
from typing import Any

import pytest

from operator_core.actions.types import ActionStatus, ActionType, RequesterType, Rule
from operator_core.db import SyncActionDB
from tests.cli.conftest import Invoke
from tests.cli.watcher import Watcher, plain


@pytest.fixture(params=["file", "server"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    if request.param == "server":
        return "--url", request.getfixturevalue("server_ledger")
    SyncActionDB(tmp_path / "ledger.db").open().close()
    return "--db-path", str(tmp_path / "ledger.db")


@pytest.fixture
def run(invoke: Invoke, where: tuple[str, str]) -> Any:
    def run(*arguments: object) -> Any:
        return invoke(*map(str, arguments), *where)

    return run


def test_a_proposal_has_all_that_was_given(
    run: Any, where: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "parameters.json").write_text('{"store": 4, "note": "ü"}')
    assert run("actions", "propose", "first", "--reason", "r").stdout == " proposal 1 is proposed\n"
    done = run(
        *("actions", "propose", "drain_store", "--parameters", "@parameters.json"),
        *("--reason", "full", "--actor", "mia", "--type", "tool", "--key", "k", "--priority", 3),
        *("--not-before", "2h", "--expires", "2030-01-01T00:00Z", "--max-retries", 2),
        *("--depends-on", 1, "--exclusive-key", "store-4", "--requester", "u-17"),
        *("--requester-type", "user", "--agent", "planner", "--run", "r-1", "--call", "c-1"),
    )
    assert (done.exit_code, done.stdout) == (0, " proposal 2 is proposed\n")
    with SyncActionDB(where[1]) as db:
        made = db.get_proposal(2)
        assert made is not None
    assert (made.parameters, made.reason) == ({"store": 4, "note": "ü"}, "full")
    assert (made.proposed_by, made.action_type) == ("mia", ActionType.TOOL)
    assert (made.priority, made.max_retries, made.depends_on) == (3, 2, (1,))
    assert (made.requester_id, made.requester_type) == ("u-17", RequesterType.USER)
    assert (made.agent_id, made.run_id, made.call_id) == ("planner", "r-1", "c-1")
    assert made.exclusive_key == "store-4"
    assert made.expires_at is not None
    assert made.expires_at.year == 2030
    assert made.scheduled_at is not None
    assert made.scheduled_at > made.proposed_at
    same = ("actions", "propose", "again", "--reason", "r", "--key", "k-2")
    assert run(*same).stdout == " proposal 3 is proposed\n"
    assert run(*same).stdout == " proposal 3 was proposed before and is proposed\n"
    child = run("actions", "propose", "x", "--reason", "r", "--run", "r-1", "--parent", 2, "--json")
    assert json.loads(child.stdout)["parent_id"] == 2


def test_several_are_validated_and_the_others_reported(run: Any) -> None:
    for _ in range(2):
        run("actions", "propose", "drain", "--reason", "r")
    done = run("actions", "validate", 1, 9, 2, "--actor", "mia", "--reason", "looks good")
    assert done.exit_code == 1
    assert done.stdout == " proposal 1 is validated\n proposal 2 is validated\n"
    assert "no proposal with id 9" in done.stderr
    lines = run("actions", "history", 1, "--json").stdout.splitlines()
    assert json.loads(lines[-1])["reason"] == "looks good"


def test_one_proposal_is_claimed_and_kept(run: Any) -> None:
    run("actions", "propose", "drain", "--reason", "r")
    run("actions", "validate", 1)
    claimed = run("actions", "claim", "w", "--id", 1, "--json")
    record = json.loads(claimed.stdout)["record"]
    again = run("actions", "claim", "w", "--id", 1)
    assert (again.exit_code, "executing" in again.stderr) == (1, True)
    kept = json.loads(run("actions", "heartbeat", record["id"], "--lease", "1h", "--json").stdout)
    assert kept["lease_expires_at"] > record["lease_expires_at"]
    assert "is good until" in run("actions", "heartbeat", record["id"]).stdout
    ended = json.loads(run("actions", "complete", record["id"], "--json").stdout)
    assert (ended["proposal"]["status"], ended["record"]["success"]) == ("completed", True)


def test_an_execution_by_hand_is_recorded(run: Any) -> None:
    run("actions", "propose", "drain", "--reason", "r")
    assert run("actions", "record", 1).stdout == " execution 1 of proposal 1 is recorded\n"
    done = run(
        "actions", "record", 1, "--failed", "--error", "no disk", "--result", '{"n": 1}', "--json"
    )
    record = json.loads(done.stdout)
    assert (record["success"], record["error_message"], record["result_data"]) == (
        False,
        "no disk",
        {"n": 1},
    )
    assert json.loads(run("actions", "record", 1, "--succeeded", "--json").stdout)["success"]


def test_a_workflow_is_created_shown_and_cancelled(run: Any, tmp_path: Path) -> None:
    spec = {
        "name": "upgrade",
        "description": "of store 4",
        "proposals": [
            {"action_name": "drain", "reason": "r", "parameters": {"store": 4}},
            {"action_name": "restart", "reason": "r", "after": [0]},
        ],
    }
    (tmp_path / "w.json").write_text(json.dumps(spec))
    created = run("workflows", "create", "w.json", "--actor", "mia")
    assert (created.exit_code, created.stdout) == (0, " workflow 1 has the proposals 1 2\n")
    shown = run("workflows", "show", 1)
    for text in ("workflow 1", "upgrade", "of store 4", "drain", "restart"):
        assert text in shown.stdout
    story = json.loads(run("workflows", "show", 1, "--json").stdout)
    assert [each["depends_on"] for each in story["proposals"]] == [[], [1]]
    assert story["proposals"][0]["proposed_by"] == "mia"
    assert run("workflows", "cancel", 1).stdout == " 2 proposals cancelled\n"
    assert json.loads(run("workflows", "cancel", 1, "--json").stdout) == {"cancelled": 0}


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ('{"name": "w"}', "proposals: must be a list"),
        ('{"name": "w", "proposals": [4]}', "proposals[0]: must be an object"),
        ('{"name": "w", "proposals": []}', "proposals: must have at least one"),
        ('{"name": "w", "proposals": [{"reason": "r"}]}', "proposals[0].action_name"),
        (
            '{"name": "w", "proposals": [{"action_name": "a", "reason": "r", "after": [0]}]}',
            "cycle",
        ),
        ('{"name": "w", "colour": 1, "proposals": []}', "colour"),
    ],
)
def test_a_wrong_workflow_is_refused(run: Any, tmp_path: Path, spec: str, problem: str) -> None:
    (tmp_path / "w.json").write_text(spec)
    done = run("workflows", "create", "w.json")
    assert (done.exit_code, problem in done.stderr) == (1, True), done.stderr
    assert json.loads(run("actions", "count", "--json").stdout)["total"] == 0


def test_a_halt_of_everything_asks_first(run: Any, where: tuple[str, str]) -> None:
    refused = run("actions", "halt", "--reason", "r")
    assert refused.exit_code == 1
    assert "--yes halts the whole ledger" in refused.stderr
    assert run("actions", "halts").stdout == " no open halts\n"
    # A part is halted without a question.
    part = json.loads(run("actions", "halt", "--reason", "r", "--agent", "a", "--json").stdout)
    assert (part["complete"], part["cancelled"], part["running"]) == (True, 0, [])
    assert run("actions", "halt", "--yes", "--reason", "all").exit_code == 0
    listed = run("actions", "halts", "--json").stdout.splitlines()
    assert [json.loads(line)["agent_id"] for line in listed] == ["a", None]
    assert run("actions", "halts", 2).stdout.startswith(" halt 2 halted: the whole ledger")
    report = json.loads(run("actions", "halts", 2, "--json").stdout)
    assert report["halt"]["reason"] == "all"
    (over,) = run("actions", "resume", "--reason", "ok", "--json").stdout.splitlines()
    assert json.loads(over)["id"] == 2
    assert "resumed by" in run("actions", "halts", "--all").stdout
    with SyncActionDB(where[1]) as db:
        assert db.count_proposals()[ActionStatus.CANCELLED] == 0


def test_at_a_terminal_a_person_says_yes_to_a_halt(run: Any, where: tuple[str, str]) -> None:
    for key, code, open_halts in (("n\n", 1, 0), ("\n", 1, 0), ("y\n", 0, 1)):
        with Watcher("actions", "halt", "--reason", "bad deploy", *where) as person:
            person.wait_for("Halt the whole ledger", "[y/N]:")
            person.press(key)
            assert person.wait() == code
            assert ("nothing was halted" in plain(person.seen)) is (code == 1)
        assert len(run("actions", "halts", "--json").stdout.splitlines()) == open_halts


def test_a_denial_and_what_is_missing_are_told(run: Any, where: tuple[str, str]) -> None:
    with SyncActionDB(where[1]) as db:
        deny = Rule(name="no drops", action_name="drop_*", effect="deny")
        db.add_rule(deny, by="lead", reason="policy")
        db.add_rule(Rule(name="drains", action_name="drain_*"), by="lead", reason="policy")
    denied = run("actions", "propose", "drop_table", "--reason", "r")
    assert (denied.exit_code, denied.stdout) == (
        1,
        " proposal 1 is cancelled, denied for no drops\n",
    )
    assert run("actions", "propose", "drop_table", "--reason", "r", "--json").exit_code == 1
    waits = run("actions", "propose", "drain_store", "--reason", "r", "--parameters", '{"n": 7}')
    assert (waits.exit_code, waits.stdout) == (
        0,
        " proposal 3 is proposed, missing 1 of 1 for drains\n",
    )
    inbox = run("actions", "inbox", "--action", "drain_store").stdout
    assert "; n=7  r" in inbox


def test_a_halt_lists_what_was_cancelled_and_is_still_executed(run: Any) -> None:
    run("actions", "propose", "drain", "--reason", "r", "--agent", "planner")
    run("actions", "validate", 1)
    run("actions", "claim", "w-9", "--lease", "10m")
    run("actions", "cancel", 1)
    done = run("actions", "halt", "--reason", "r", "--agent", "planner")
    assert "running: proposal 1 drain, record 1, w-9" in done.stdout
    report = json.loads(run("actions", "halts", 1, "--json").stdout)
    assert [each["worker"] for each in report["running"]] == ["w-9"]
    assert "halted halt 1 halted: agent_id planner" in run("actions", "watch", "--once").stdout
    watched = json.loads(run("actions", "watch", "--once", "--json").stdout)
    assert [each["id"] for each in watched["halts"]] == [1]


def test_a_halt_of_nobody_warns(run: Any) -> None:
    for scope in (("--agent", "plannr"), ("--run", "r-x")):
        done = run("actions", "halt", "--reason", "r", *scope)
        assert (done.exit_code, scope[1] in done.stderr) == (0, True)


def test_a_freeze_begins_and_ends_by_itself(run: Any) -> None:
    done = run("actions", "halt", "--yes", "--reason", "backup", "--from", "+1h", "--until", "+2h")
    assert (done.exit_code, ", from 20" in done.stdout, ", until 20" in done.stdout) == (
        0,
        True,
        True,
    )
    assert run("actions", "mode").stdout.splitlines()[0] == " execute"


def test_stopping_everything_asks_first(run: Any, where: tuple[str, str]) -> None:
    run("actions", "propose", "drain", "--reason", "r")
    refused = run("actions", "stop")
    assert (refused.exit_code, "--yes cancels it" in refused.stderr) == (1, True)
    with Watcher("actions", "stop", *where) as person:
        person.wait_for("Cancel everything in", "[y/N]:")
        person.press("n\n")
        assert person.wait() == 1
        assert "nothing was cancelled" in plain(person.seen)
    done = run("actions", "stop", "--yes")
    assert done.stdout.splitlines() == [
        " 1 proposal cancelled",
        " agents can go on; to keep them from it: operator-core actions halt",
    ]
