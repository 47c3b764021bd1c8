"""``operator-core db``: upgrade, current, sql, and what each says of files that are no ledgers."""

import json
import shutil
from pathlib import Path

import pytest

from operator_core.cli.findings import Verdict
from operator_core.db import ActionDB
from operator_core.db.migrate import HEAD, VERSION_TABLE
from operator_core.db.schema import ACTIONS_SCHEMA_SQL, SCHEMA_SQL
from operator_core.db.sql.sqlite_library import dbapi, describe
from tests.cli.conftest import Invoke, Program, change, digest, findings
from tests.databases import Databases


def test_upgrade_makes_a_ledger_and_current_names_its_revision(program: Program) -> None:
    made = program("db", "upgrade", "--db-path", "new.db")
    assert (made.returncode, made.stdout, made.stderr) == (0, f"new.db: {HEAD} (head)\n", "")
    at = program("db", "current", "--db-path", "new.db")
    library = f"SQLite library: {describe()}\n"
    assert (at.returncode, at.stdout, at.stderr) == (0, f"new.db: {HEAD} (head)\n{library}", "")
    as_json = program("db", "current", "--json", "--db-path", "new.db")
    module, version = describe().split()
    assert json.loads(as_json.stdout) == {
        "database": "new.db",
        "revision": HEAD,
        "head": HEAD,
        "sqlite_library": {"module": module, "version": version},
    }


def test_upgrade_goes_as_far_as_it_is_told(invoke: Invoke) -> None:
    part = invoke("db", "upgrade", "--db-path", "x.db", "--revision", "0001")
    assert part.stdout == f"x.db: 0001 (behind head, which is {HEAD})\n"
    assert invoke("db", "current", "--db-path", "x.db").stdout.startswith(part.stdout)
    assert invoke("db", "upgrade", "--db-path", "x.db").stdout == f"x.db: {HEAD} (head)\n"


def test_an_unknown_revision_or_zone_is_a_usage_error(invoke: Invoke, tmp_path: Path) -> None:
    done = invoke("db", "upgrade", "--db-path", "x.db", "--revision", "9999")
    assert (done.exit_code, "0001" in done.stderr) == (2, True)
    done = invoke("db", "upgrade", "--db-path", "x.db", "--legacy-timezone", "Mars/Base")
    assert (done.exit_code, "Mars/Base" in done.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []


async def test_a_predecessor_is_adopted_in_its_own_zone(
    invoke: Invoke, shared_data: Path, tmp_path: Path
) -> None:
    times = []
    for zone in ("UTC", "Asia/Tokyo"):
        path = tmp_path / f"{zone.replace('/', '-')}.db"
        shutil.copyfile(shared_data / "predecessor_p12.db", path)
        assert "no revision" in invoke("db", "current", "--db-path", path).stdout
        assert findings(path)["revision"].verdict is Verdict.WARNING
        assert invoke("db", "upgrade", "--db-path", path, "--legacy-timezone", zone).exit_code == 0
        async with ActionDB(path) as db:
            times.append((await db.list_proposals(limit=1))[0].proposed_at)
    assert (times[0] - times[1]).total_seconds() == 9 * 3600


@pytest.mark.parametrize("command", ["current", "check"])
def test_looking_makes_no_ledger(program: Program, tmp_path: Path, command: str) -> None:
    looked = program("db", command, "--db-path", "absent.db")
    assert (looked.returncode, looked.stdout) == (3, "")
    assert looked.stderr == "error: absent.db: no such file, so no ledger to look at\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["current", "check", "upgrade"])
def test_what_is_no_database_is_told_and_left_alone(
    invoke: Invoke, tmp_path: Path, command: str
) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("buy milk\n" * 200)
    before = digest(path)
    told = invoke("db", command, "--db-path", "notes.txt")
    assert (told.exit_code, told.stdout) == (1, "")
    assert told.stderr.startswith("error: notes.txt: not a SQLite database")
    assert len(told.stderr.splitlines()) == 1
    assert digest(path) == before


def test_a_newer_ledger_is_named_and_not_upgraded(invoke: Invoke, full_ledger: Path) -> None:
    change(full_ledger, f"UPDATE {VERSION_TABLE} SET version_num = '7777'")
    assert "7777 (newer" in invoke("db", "current", "--db-path", full_ledger).stdout
    done = invoke("db", "upgrade", "--db-path", full_ledger)
    assert done.exit_code == 1
    assert "newer than this code's" in done.stderr
    assert findings(full_ledger)["revision"].verdict is Verdict.BROKEN


def test_sql_is_a_script_that_makes_the_schema(program: Program) -> None:
    printed = program("db", "sql")
    assert (printed.returncode, printed.stderr) == (0, "")

    def catalogue(script: str) -> list[tuple[str, ...]]:
        connection = dbapi.connect(":memory:")
        connection.executescript(script)
        found = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2")
        result = found.fetchall()
        connection.close()
        return result

    assert catalogue(printed.stdout) == catalogue(SCHEMA_SQL + ACTIONS_SCHEMA_SQL)


def test_grants_are_printed_for_a_ledger_that_is_current(
    invoke: Invoke, postgres: Databases
) -> None:
    url = postgres.new()
    assert invoke("db", "upgrade", "--url", url, "--revision", "0001").exit_code == 0
    # What is not there yet can't be granted.
    behind = invoke("db", "grants", "service", "--url", url)
    assert (behind.exit_code, behind.stdout) == (1, "")
    assert "operator-core db upgrade" in behind.stderr
    assert invoke("db", "upgrade", "--url", url).exit_code == 0
    printed = invoke("db", "grants", "service", "--url", url)
    assert printed.exit_code == 0
    assert printed.stdout.startswith('GRANT USAGE ON SCHEMA "public" TO "service";')
    for duty in ("proposer", "worker", "approver", "operator"):
        less = invoke("db", "grants", "service", "--role-for", duty, "--url", url)
        assert less.exit_code == 0
        assert len(less.stdout) < len(printed.stdout)
    assert invoke("db", "grants", "service", "--role-for", "owner", "--url", url).exit_code == 2
    assert invoke("db", "grants", "", "--url", url).exit_code == 2
    assert invoke("db", "grants", "service", "--url", "sqlite:///x.db").exit_code == 1
