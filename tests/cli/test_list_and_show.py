"""``operator-core actions list`` and ``show``: what people and programs see of a ledger."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from operator_core.actions.types import (
    ActionProposal,
    ActionRecord,
    ActionStatus,
    RequesterType,
)
from operator_core.cli.formatting import compact, plain
from operator_core.db import ActionDB
from operator_core.db.sql.sqlite_library import dbapi
from tests.cli.conftest import Invoke, Program, Terminal
from tests.legacy import make_legacy

DAY = "2026-03-01T12:00:00+00:00"


@pytest.fixture
async def ledger(tmp_path: Path) -> Path:
    """Three proposals: one waits, one failed, one is cancelled."""
    path = tmp_path / "ledger.db"
    common = {"proposed_at": DAY, "reason": "store 2 is hot"}
    async with ActionDB(path, actor="worker") as db:
        await db.create_proposals(
            [
                ActionProposal(
                    action_name="transfer_leader",
                    parameters={"region_id": 7, "note": "ü" * 300},
                    **common,
                ),
                ActionProposal(action_name="drain_store", parameters={"store_id": 5}, **common),
                ActionProposal(action_name="split_region", proposed_by="alice", **common),
            ]
        )
        await db.update_proposal_status(2, ActionStatus.VALIDATED)
        await db.update_proposal_status(2, ActionStatus.EXECUTING)
        record = await db.create_record(ActionRecord(proposal_id=2))
        await db.update_record(record.id or 0, False, "Error: too few replicas", {"missing": 3})
        await db.update_proposal_status(2, ActionStatus.FAILED)
        await db.update_proposal_status(
            3, ActionStatus.CANCELLED, actor="bob", reason="not during the backup"
        )
    return path


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def damage(ledger: Path, sql: str) -> None:
    """Writes as a tool would that knows no rules."""
    connection = dbapi.connect(ledger)
    triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
    for (name,) in triggers.fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    connection.executescript(sql)
    connection.close()


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_list_is_newest_first_and_fits_the_terminal(
    invoke: Invoke, ledger: Path, terminal: Terminal, width: int
) -> None:
    terminal(width)
    listed = invoke("actions", "list", "--db-path", ledger)
    assert (listed.exit_code, listed.stderr) == (0, "")
    lines = listed.stdout.splitlines()
    assert max(map(len, lines)) <= width
    found = [line.split()[:3] for line in lines if line.strip()[:1].isdigit()]
    assert found == [
        ["3", "cancelled", "split_region"],
        ["2", "failed", "drain_store"],
        ["1", "proposed", "transfer_leader"],
    ]
    for text in ("store_id=5", "store 2 is hot", "alice", "2026-03-01 13:00:00 CET", "…"):
        assert text in listed.stdout


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--status", "failed"], [2]),
        (["--status", "failed", "--status", "proposed"], [2, 1]),
        (["--action", "split_region"], [3]),
        (["--proposed-by", "alice"], [3]),
        (["--before", "3"], [2, 1]),
        (["--limit", "1"], [3]),
        (["--ticket", "9"], []),
    ],
)
def test_filters_choose_and_json_is_a_line_each(
    invoke: Invoke, ledger: Path, options: list[str], ids: list[int]
) -> None:
    listed = invoke("actions", "list", "--db-path", ledger, "--json", *options)
    proposals = [ActionProposal.model_validate_json(line) for line in listed.stdout.splitlines()]
    assert [each.id for each in proposals] == ids
    assert listed.exit_code == 0


def test_a_full_page_says_how_to_go_on(invoke: Invoke, ledger: Path) -> None:
    assert "--before 2" in invoke("actions", "list", "--db-path", ledger, "--limit", "2").stdout
    assert "--before" not in invoke("actions", "list", "--db-path", ledger).stdout
    nothing = invoke("actions", "list", "--db-path", ledger, "--status", "executing")
    assert (nothing.exit_code, nothing.stdout) == (0, " no such proposals\n")


def test_the_real_program_lists_and_shows(program: Program, ledger: Path) -> None:
    listed = program("actions", "list", "--db-path", ledger)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "drain_store" in listed.stdout
    shown = program("actions", "show", "2", "--db-path", ledger)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "Error: too few replicas" in shown.stdout


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_unreadable_rows_are_told_and_the_others_listed(
    invoke: Invoke, ledger: Path, options: list[str]
) -> None:
    damage(ledger, "UPDATE action_proposals SET parameters = '[1]' WHERE id = 2")
    listed = invoke("actions", "list", "--db-path", ledger, *options)
    assert listed.exit_code == 1
    assert "split_region" in listed.stdout
    assert "drain_store" not in listed.stdout
    problem = "action_proposals row 2 can't be read: parameters is not a JSON object"
    if options:
        assert json.loads(listed.stderr) == {"error": problem}
    else:
        assert listed.stderr == f"error: {problem}\n"


def test_a_page_of_unreadable_rows_only_still_says_how_to_go_on(
    invoke: Invoke, ledger: Path
) -> None:
    damage(ledger, "UPDATE action_proposals SET parameters = '[1]'")
    listed = invoke("actions", "list", "--db-path", ledger, "--limit", "2")
    assert (listed.exit_code, listed.stdout) == (1, " older ones: --before 2\n")
    assert len(listed.stderr.splitlines()) == 2


@pytest.mark.usefixtures("berlin")
def test_a_page_holds_all_that_is_known_of_a_proposal(invoke: Invoke, ledger: Path) -> None:
    page = invoke("actions", "show", "2", "--db-path", ledger)
    assert (page.exit_code, page.stderr) == (0, "")
    for text in (
        "proposal 2  drain_store  failed",
        '"store_id": 5',
        "store 2 is hot",
        "2026-03-01 13:00:00 CET by agent",
        "Error: too few replicas",
        '"missing": 3',
        "execution 1 ended, failed",
        "by worker",
    ):
        assert text in page.stdout
    cancelled = invoke("actions", "show", "3", "--db-path", ledger).stdout
    assert "by bob: not during the backup" in cancelled
    assert "execution" not in cancelled


def test_a_page_as_json_is_one_object(invoke: Invoke, ledger: Path) -> None:
    found = json.loads(invoke("actions", "show", "2", "--db-path", ledger, "--json").stdout)
    assert found["proposal"]["action_name"] == "drain_store"
    assert found["records"][0]["result_data"] == {"missing": 3}
    assert [event["to_status"] for event in found["history"]] == [
        "proposed",
        "validated",
        "executing",
        None,
        None,
        "failed",
    ]


def test_an_unknown_id_is_told_in_one_line(program: Program, ledger: Path) -> None:
    shown = program("actions", "show", "99", "--db-path", "ledger.db")
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr == "error: ledger.db: no proposal with id 99\n"


def test_damage_is_told_in_one_line(invoke: Invoke, ledger: Path) -> None:
    damage(ledger, "UPDATE action_proposals SET reason = x'00' WHERE id = 2")
    shown = invoke("actions", "show", "2", "--db-path", "ledger.db")
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert shown.stderr == (
        "error: ledger.db: action_proposals row 2 can't be read: reason is not text\n"
    )
    damage(ledger, "UPDATE action_records SET result_data = 'no JSON'")
    shown = invoke("actions", "show", "1", "--db-path", "ledger.db")
    assert shown.exit_code == 0
    damage(ledger, "UPDATE action_proposals SET reason = 'why' WHERE id = 2")
    shown = invoke("actions", "show", "2", "--db-path", "ledger.db")
    assert shown.exit_code == 1
    assert "action_records row 1 can't be read" in shown.stderr
    assert "history" in shown.stdout


@pytest.mark.parametrize("command", [["list"], ["show", "1"]])
def test_looking_makes_no_ledger(invoke: Invoke, tmp_path: Path, command: list[str]) -> None:
    looked = invoke("actions", *command, "--db-path", "absent.db")
    assert looked.exit_code == 3
    assert looked.stderr == "error: absent.db: no such file, so no ledger to look at\n"
    assert list(tmp_path.iterdir()) == []


def test_control_characters_become_escapes_and_letters_stay() -> None:
    assert plain("é 漢 🙂\tא\n") == "é 漢 🙂\tא\n"
    assert plain("\x1b\x9b\x7f\u202e\u2028\ud800") == r"\x1b\x9b\x7f\u202e\u2028\ud800"


def test_compact_parameters_look_like_a_call() -> None:
    assert compact({"region_id": 7, "why": "a  b", "stores": [1, 2]}) == (
        'region_id=7, why="a b", stores=[1, 2]'
    )
    assert compact({}) == ""
    assert len(compact({"x": "y" * 500})) == 200


@pytest.mark.parametrize("command", [["list"], ["show", "1"]])
def test_looking_at_a_ledger_that_is_behind_does_not_upgrade_it(
    invoke: Invoke, tmp_path: Path, command: list[str]
) -> None:
    path = tmp_path / "legacy.db"
    make_legacy(path)
    before = path.read_bytes()
    done = invoke("actions", *command, "--db-path", str(path))
    assert done.exit_code == 1
    assert "operator-core db upgrade" in done.stderr
    assert path.read_bytes() == before


@pytest.fixture
async def with_origins(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.db"
    origin = {
        "requester_id": "u-17",
        "agent_id": "store-operator",
        "run_id": "thread-9",
        "call_id": "toolu_01",
    }
    async with ActionDB(path) as db:
        parent = await db.create_proposal(
            ActionProposal(
                action_name="ask", reason="r", requester_type=RequesterType.USER, **origin
            )
        )
        child = {**origin, "call_id": "toolu_02", "parent_id": parent.id}
        await db.create_proposals(
            [
                ActionProposal(
                    action_name="go", reason="r", status=ActionStatus.VALIDATED, **child
                ),
                ActionProposal(action_name="other", reason="r"),
            ]
        )
        await db.claim_proposal(2, "worker-7", actor="ops")
    return path


def test_who_asked_and_where_it_comes_from_is_shown_and_chosen(
    invoke: Invoke, with_origins: Path
) -> None:
    path = with_origins
    asked = {
        ("--requester", "u-17"): [2, 1],
        ("--agent", "store-operator"): [2, 1],
        ("--run", "thread-9"): [2, 1],
        ("--parent", "1"): [2],
        ("--call", "toolu_01"): [1],
        ("--end-code", "halted"): [],
        ("--worker", "worker-7"): [2],
        ("--actor", "ops"): [2],
        ("--since", "2001-01-01"): [3, 2, 1],
        ("--until", "2001-01-01 10:30"): [],
    }
    for option, ids in asked.items():
        result = invoke("actions", "list", "--db-path", str(path), *option, "--json")
        assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == ids, option
    page = invoke("actions", "show", "1", "--db-path", str(path)).stdout
    for name, value in (
        ("requester", r"u-17 \(user\)"),
        ("agent", "store-operator"),
        ("run", "thread-9"),
        ("call", "toolu_01"),
    ):
        assert re.search(rf"{name}:?\s+{value}", page), page
    assert re.search(
        r"parent:?\s+1\b", invoke("actions", "show", "2", "--db-path", str(path)).stdout
    )


async def _halted(path: Path) -> None:
    async with ActionDB(path) as db:
        await db.create_proposal(ActionProposal(action_name="a", reason="r"))
        await db.create_proposal(ActionProposal(action_name="b", reason="r", proposed_by="eve"))
        await db.cancel_proposal(1, by="oncall", reason="no")
        await db.halt(by="oncall", reason="stop")


def test_how_it_ended_is_shown_and_chosen(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    asyncio.run(_halted(path))
    place = ("--db-path", str(path))
    listed = invoke("actions", "list", *place).stdout
    assert "end code halted" in listed
    assert "end code cancelled" not in listed
    for code, ids in (("halted", [2]), ("cancelled", [1]), ("denied", [])):
        result = invoke("actions", "list", *place, "--end-code", code, "--json")
        assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == ids
    assert invoke("actions", "list", *place, "--end-code", "lost").exit_code == 2
    page = " ".join(invoke("actions", "show", "2", *place).stdout.split())
    assert "end code halted" in page
    assert "digest oc1:" in page
    assert "cancelled (halted, halt 1) by oncall" in page
    page = " ".join(invoke("actions", "show", "1", *place).stdout.split())
    assert "end code cancelled" in page
    assert "cancelled by oncall: no" in page
