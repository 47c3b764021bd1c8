"""``operator-core actions list``, ``count`` and ``export``: the options that select and shape."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from operator_core.actions.types import ActionProposal, ActionStatus, StoredProposal
from operator_core.db import ActionDB
from tests.cli.conftest import Invoke, Terminal
from tests.cli.test_list_and_show import damage

NAMES = ("drain_store", "restart", "=cmd()", "restart")


@pytest.fixture
async def ledger(tmp_path: Path) -> Path:
    """Four proposals; the second was executed and failed."""
    path = tmp_path / "ledger.db"
    async with ActionDB(path) as db:
        for number, name in enumerate(NAMES, 1):
            await db.create_proposal(
                ActionProposal(
                    action_name=name,
                    parameters={"n": number, "host": "db-7" if number == 4 else 'a "b"'},
                    reason="-1 is a\nreason",
                    agent_id="planner",
                    run_id="r",
                    call_id=f"c-{number}",
                )
            )
        await db.update_proposal_status(2, ActionStatus.VALIDATED)
        claim = await db.claim_proposal(2, "w-1")
        await db.fail(claim.record.id, "No route to host")
    return path


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--search", "db-7"], [4]),
        (["--search", 'A "B"'], [3, 2, 1]),
        (["--search", "no ROUTE"], [2]),
        (["--worker", "w-1"], [2]),
        (["--agent", "planner", "--action", "restart"], [4, 2]),
        (["--run", "r", "--call", "c-3"], [3]),
        (["--since", "1h"], [4, 3, 2, 1]),
        (["--since", "1h", "--until", "30m"], []),
        (["--until", "now"], None),
        (["--oldest-first", "--limit", "2"], [1, 2]),
        (["--oldest-first", "--after", "2"], [3, 4]),
        (["--status", "proposed", "--status", "failed", "--before", "4"], [3, 2, 1]),
    ],
)
def test_each_option_selects(
    invoke: Invoke, ledger: Path, options: list[str], ids: list[int] | None
) -> None:
    listed = invoke("actions", "list", *options, "--db-path", ledger, "--json")
    if ids is None:
        assert listed.exit_code == 2
        assert "must be a time" in json.loads(listed.stderr)["error"]
        return
    assert [json.loads(line)["id"] for line in listed.stdout.splitlines()] == ids
    if "--limit" in options or "--before" in options or "--after" in options:
        return
    counted = invoke("actions", "count", *options, "--db-path", ledger, "--json")
    assert json.loads(counted.stdout)["total"] == len(ids)
    exported = invoke("actions", "export", *options, "--db-path", ledger)
    stories = [json.loads(line) for line in exported.stdout.splitlines()]
    assert [story["proposal"]["id"] for story in stories] == sorted(ids)


def test_the_next_page_is_named_in_both_directions(invoke: Invoke, ledger: Path) -> None:
    assert "older ones: --before 3" in invoke("actions", "list", "--limit", 2).stdout
    oldest = invoke("actions", "list", "--limit", 2, "--oldest-first").stdout
    assert "later ones: --after 2" in oldest
    assert "ones:" not in invoke("actions", "list", "--limit", 5).stdout


def test_csv_is_what_a_spreadsheet_reads(invoke: Invoke, ledger: Path) -> None:
    columns = "id,action_name,parameters,reason,created_at,wait_on_failure,priority,last_error"
    printed = invoke("actions", "list", "--csv", "--columns", columns, "--oldest-first")
    head, *rows = csv.reader(io.StringIO(printed.stdout))
    assert head == columns.split(",")
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    # What a spreadsheet would take for a formula is text.
    assert [row[1] for row in rows] == ["drain_store", "restart", "'=cmd()", "restart"]
    assert json.loads(rows[0][2]) == {"n": 1, "host": 'a "b"'}
    assert rows[0][3] == "'-1 is a\nreason"
    age = datetime.now(UTC) - datetime.fromisoformat(rows[0][4])
    assert timedelta() <= age < timedelta(hours=1)
    assert rows[1][5:] == ["false", "0", "No route to host"]
    assert rows[0][7] == ""
    whole = csv.DictReader(io.StringIO(invoke("actions", "list", "--csv").stdout))
    assert whole.fieldnames == list(StoredProposal.model_fields)
    empty = invoke("actions", "list", "--csv", "--columns", "id", "--action", "x")
    assert empty.stdout.split() == ["id"]


def test_csv_can_not_move_the_cursor(invoke: Invoke, ledger: Path) -> None:
    done = invoke("actions", "propose", "x\x1b[31m", "--reason", "\u202ea\x07\nb")
    assert done.exit_code == 0
    printed = invoke("actions", "list", "--csv", "--columns", "action_name,reason", "--limit", 1)
    row = list(csv.reader(io.StringIO(printed.stdout)))[1]
    assert row == [r"x\x1b[31m", "\\u202ea\\x07\nb"]


def test_columns_shape_the_table_and_json(invoke: Invoke, ledger: Path, terminal: Terminal) -> None:
    printed = invoke(
        "actions", "list", "--columns", "call_id, id,parameters", "--json", "--limit", 1
    )
    assert printed.stdout == '{"call_id": "c-4", "id": 4, "parameters": {"n": 4, "host": "db-7"}}\n'
    for width in (80, 200):
        terminal(width)
        table = invoke(
            "actions", "list", "--columns", "id,status,last_error,created_at,reason"
        ).stdout
        assert max(map(len, table.splitlines())) <= width
        assert "No route to host" in table
        assert "-1 is a reason" in table
    wrong = invoke("actions", "list", "--columns", "id,colour")
    assert wrong.exit_code == 2
    assert "'colour' must be one of" in wrong.stderr
    both = invoke("actions", "list", "--csv", "--json")
    assert (both.exit_code, list(json.loads(both.stderr))) == (2, ["error"])


def test_counting_is_a_table_with_a_total(invoke: Invoke, ledger: Path) -> None:
    lines = invoke("actions", "count", "--action", "restart").stdout.split()
    assert lines[-2:] == ["total", "2"]
    assert lines[lines.index("failed") + 1] == "1"
    only = json.loads(invoke("actions", "count", "--status", "failed", "--json").stdout)
    assert only == {"failed": 1, "total": 1}


def test_an_export_has_the_whole_story_and_tells_of_what_it_lacks(
    invoke: Invoke, ledger: Path
) -> None:
    stories = [json.loads(line) for line in invoke("actions", "export").stdout.splitlines()]
    shown = json.loads(invoke("actions", "show", 2, "--json").stdout)
    assert stories[1] == shown
    assert [event["to_status"] for event in shown["history"] if not event["record_id"]] == [
        "proposed",
        "validated",
        "executing",
        "failed",
    ]
    damage(ledger, "UPDATE action_proposals SET parameters = '[' WHERE id = 3")
    done = invoke("actions", "export")
    assert done.exit_code == 1
    assert "action_proposals row 3" in done.stderr
    assert len(done.stdout.splitlines()) == 3
