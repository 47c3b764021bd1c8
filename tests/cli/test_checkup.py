"""``operator-core db check``: what is wrong with a ledger is found, and nothing of it is changed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from operator_core.actions.types import ActionProposal
from operator_core.cli.checkup import has_wal_reset_bug
from operator_core.cli.findings import Verdict
from operator_core.db import ActionDB
from operator_core.db.sql.sqlite_library import dbapi, describe
from tests.cli.conftest import Invoke, Program, change, digest, findings
from tests.legacy import make_legacy


@pytest.fixture
def ledger(full_ledger: Path) -> Path:
    return full_ledger


def test_a_sound_ledger_is_found_sound_and_left_as_it_is(program: Program, ledger: Path) -> None:
    before = digest(ledger)
    checked = program("db", "check", "--db-path", "ledger.db")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "ledger.db" in checked.stdout
    assert describe() in checked.stdout
    assert (
        "40 proposals, 40 records, 80 events, 0 halts, 0 limits, 0 rules, 0 requirements, 0 decisions, "
        "0 grants, 0 resolutions: all readable" in checked.stdout
    )
    assert digest(ledger) == before
    assert [path.name for path in ledger.parent.iterdir()] == ["ledger.db"]
    found = findings(ledger)
    assert {finding.verdict for name, finding in found.items() if name != "SQLite library"} == {
        Verdict.OK
    }


@pytest.mark.parametrize(
    ("version", "has_it"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 52, 0), False),
        ((3, 53, 1), False),
        ((4, 0, 0), False),
    ],
)
def test_the_versions_with_the_wal_reset_bug_are_known(
    version: tuple[int, int, int], *, has_it: bool
) -> None:
    assert has_wal_reset_bug(version) is has_it


def test_the_library_alone_is_a_warning(ledger: Path) -> None:
    library = findings(ledger)["SQLite library"]
    has_it = has_wal_reset_bug(dbapi.sqlite_version_info[:3])
    assert library.verdict is (Verdict.WARNING if has_it else Verdict.OK)
    assert "WAL-reset bug" in library.text
    assert library.text.startswith(describe())


def test_findings_as_json(invoke: Invoke, ledger: Path) -> None:
    printed = invoke("db", "check", "--json", "--db-path", ledger)
    assert printed.exit_code == 0
    found = [json.loads(line) for line in printed.stdout.splitlines()]
    assert found == [
        {"subject": each.subject, "verdict": each.verdict, "text": each.text}
        for each in findings(ledger).values()
    ]


@pytest.mark.parametrize(
    ("subject", "script", "said"),
    [
        (
            "schema",
            "DROP TRIGGER action_events_not_deleted",
            "trigger action_events_not_deleted is ",
        ),
        ("schema", "DROP INDEX idx_action_records_proposal", "index idx_action_records_proposal"),
        (
            "foreign keys",
            "INSERT INTO action_records (proposal_id) VALUES (999)",
            "action_records row 41 refers to a row of action_proposals that isn't there",
        ),
        (
            "rows",
            "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at) "
            "VALUES ('x', '[]', 'y', '2026-01-01 00:00:00.000000')",
            "action_proposals row 41 can't be read: parameters is not a JSON object",
        ),
        (
            "rows",
            "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at) "
            "VALUES ('x', '{}', CAST(x'ff' AS TEXT), '2026-01-01 00:00:00.000000')",
            "action_proposals row 41 can't be read: reason is not text",
        ),
        (
            "rows",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 25) "
            "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at) "
            "SELECT 'x', '{}', 'y', 'yesterday' FROM n",
            "and 15 more",
        ),
    ],
)
def test_what_other_tools_broke_is_found(
    invoke: Invoke, ledger: Path, subject: str, script: str, said: str
) -> None:
    connection = dbapi.connect(ledger)
    if subject != "schema":
        triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND sql LIKE '%INSERT%'"
        kept = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (name,) in connection.execute(triggers).fetchall():
            connection.execute(f"DROP TRIGGER {name}")
    connection.executescript(script)
    if subject != "schema":
        for (sql,) in kept:
            connection.execute(sql.replace("CREATE TRIGGER", "CREATE TRIGGER IF NOT EXISTS"))
    connection.close()
    found = findings(ledger)
    assert found[subject].verdict is Verdict.BROKEN
    assert said in found[subject].text
    others = {name for name, each in found.items() if each.verdict is Verdict.BROKEN}
    # What was written past the triggers has no history, either.
    assert others - {"statuses", "executions"} == {subject}
    assert invoke("db", "check", "--db-path", ledger).exit_code == 1


def test_an_overwritten_page_is_found(program: Program, ledger: Path) -> None:
    size = 4096
    pages = ledger.stat().st_size // size
    connection = dbapi.connect(ledger)
    root = "SELECT rootpage FROM sqlite_master WHERE name = 'idx_action_proposals_action_name'"
    (page,) = connection.execute(root).fetchone()
    connection.close()
    assert 1 < page <= pages
    with ledger.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xa5" * size)
    before = digest(ledger)
    checked = program("db", "check", "--db-path", "ledger.db")
    assert checked.returncode == 1
    assert checked.stderr == ""
    assert "broken" in checked.stdout
    assert findings(ledger)["integrity"].verdict is Verdict.BROKEN
    assert digest(ledger) == before


def test_a_database_of_something_else_is_no_ledger(invoke: Invoke, tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    change(path, "CREATE TABLE songs (title TEXT)")
    checked = invoke("db", "check", "--db-path", "other.db")
    assert checked.exit_code == 1
    assert "this is not a ledger" in checked.stdout


def test_a_ledger_that_is_behind_is_a_warning(invoke: Invoke, tmp_path: Path) -> None:
    invoke("db", "upgrade", "--db-path", "x.db", "--revision", "0001")
    checked = invoke("db", "check", "--db-path", "x.db")
    assert checked.exit_code == 0
    assert "operator-core db upgrade" in " ".join(checked.stdout.split())
    assert findings(tmp_path / "x.db")["revision"].verdict is Verdict.WARNING


async def test_a_ledger_in_use_is_checked_beside_its_writer(ledger: Path) -> None:
    async with ActionDB(ledger) as db, db.transaction() as units:
        await units.create_proposal(ActionProposal(action_name="x", reason="y"))
        found = findings(ledger)
        await units.create_proposal(ActionProposal(action_name="x", reason="y"))
    assert Verdict.BROKEN not in {finding.verdict for finding in found.values()}
    assert "40 proposals" in found["rows"].text
    assert "42 proposals" in findings(ledger)["rows"].text


_AS_NOBODY = """
import os, sys
from pathlib import Path
from operator_core.cli.checkup import check_up
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
print({finding.subject: finding.verdict.value for finding in check_up(Path(sys.argv[1]))})
"""


def test_a_ledger_in_a_folder_that_cant_be_written_is_checked(ledger: Path) -> None:
    # Without WAL files beside it, as its last writer left it.
    os.chmod(ledger, 0o444)
    for folder in (ledger.parent, *ledger.parent.parents):
        if folder.owner() == ledger.owner() and folder.stat().st_mode & 0o777 == 0o700:
            os.chmod(folder, 0o755)
    os.chmod(ledger.parent, 0o555)
    try:
        checked = subprocess.run(
            [sys.executable, "-c", _AS_NOBODY, str(ledger)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.chmod(ledger.parent, 0o755)
    assert checked.stderr == ""
    assert "'rows': 'ok'" in checked.stdout
    assert "broken" not in checked.stdout
    assert [path.name for path in ledger.parent.iterdir()] == ["ledger.db"]


def test_a_predecessor_of_an_unknown_shape_is_not_said_to_be_adoptable(
    invoke: Invoke, tmp_path: Path
) -> None:
    path = tmp_path / "legacy.db"
    make_legacy(path)
    assert invoke("db", "check", "--db-path", path).exit_code == 0
    change(path, "ALTER TABLE action_proposals ADD COLUMN approved_by TEXT")
    done = invoke("db", "check", "--db-path", path)
    assert done.exit_code == 1
    assert "approved_by" in done.stdout
