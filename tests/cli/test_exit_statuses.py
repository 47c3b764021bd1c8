"""Exit statuses (0 done, 1 refused, 2 usage, 3 not reachable), and errors as JSON."""

import json
import os
from pathlib import Path

import pytest

from operator_core.db.sql.sqlite_library import dbapi
from tests.cli.conftest import Invoke, Program


@pytest.fixture
def ledger(invoke: Invoke) -> Path:
    assert invoke("db", "upgrade").exit_code == 0
    assert invoke("actions", "propose", "drain", "--reason", "r").exit_code == 0
    return Path("ledger.db")


REFUSED = (
    ("actions", "show", "9"),
    ("actions", "retry", "1"),
    ("actions", "cancel", "9"),
    ("actions", "validate", "9"),
    ("actions", "complete", "9"),
    ("actions", "heartbeat", "9"),
    ("actions", "claim", "w", "--id", "1"),
    ("actions", "halts", "9"),
    ("actions", "resume", "--reason", "r"),
    ("actions", "record", "9"),
    ("rules", "revoke", "9", "--reason", "r"),
    ("limits", "remove", "none", "--reason", "r"),
    ("workflows", "show", "9"),
    ("workflows", "cancel", "9"),
    ("actions", "halt", "--reason", "r"),
)

WRONG = (
    ("actions", "show"),
    ("actions", "show", "x"),
    ("actions", "list", "--since", "soon"),
    ("actions", "propose", "drain", "--reason", "r", "--parameters", "[]"),
    ("actions", "propose", "drain", "--reason", "r", "--parameters", "@nowhere.json"),
    ("actions", "list", "--colour"),
    ("actions", "nothing"),
    ("workflows", "create", "nowhere.json"),
)


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize("command", REFUSED, ids=" ".join)
def test_what_the_ledger_refuses_ends_with_1(invoke: Invoke, command: tuple[str, ...]) -> None:
    for options, expected in ((), "error: "), (("--json",), '{"error": "'):
        done = invoke(*command, *options)
        assert (done.exit_code, done.stderr[: len(expected)]) == (1, expected)
        assert len(done.stderr.splitlines()) == 1
    assert set(json.loads(done.stderr)) == {"error"}


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize("command", WRONG, ids=" ".join)
def test_a_wrong_command_line_ends_with_2(invoke: Invoke, command: tuple[str, ...]) -> None:
    assert invoke(*command).exit_code == 2
    done = invoke(*command, "--json")
    assert done.exit_code == 2
    assert set(json.loads(done.stderr)) == {"error"}
    assert done.stdout == ""


def test_a_ledger_that_can_not_be_reached_ends_with_3(
    invoke: Invoke, ledger: Path, tmp_path: Path
) -> None:
    lost = "postgresql://nobody@127.0.0.1:1/x"
    for where in (("--db-path", "no.db"), ("--db-path", tmp_path), ("--url", lost)):
        for command in (("actions", "list"), ("actions", "stop", "--yes"), ("db", "current")):
            done = invoke(*command, *where, "--json")
            assert done.exit_code == 3, (command, where, done.stderr)
            assert set(json.loads(done.stderr)) == {"error"}
    holder = dbapi.connect(ledger, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        busy = invoke("actions", "cancel", 1)
    finally:
        holder.close()
    # The proposal is not refused: it was not asked.
    assert busy.exit_code == 3, busy.stderr


def test_a_usage_error_is_json_in_the_installed_program_too(installed_program: Program) -> None:
    done = installed_program("actions", "list", "--json", "--limit", "0")
    assert done.returncode == 2
    assert set(json.loads(done.stderr)) == {"error"}
    assert installed_program("--json").returncode == 2
    assert "Usage" in installed_program("--help").stdout


def test_the_shells_can_complete_commands(program: Program) -> None:
    for shell in ("bash", "zsh", "fish"):
        asked = {**os.environ, "_OPERATOR_CORE_COMPLETE": f"source_{shell}"}
        done = program(env=asked)
        assert (done.returncode, "operator-core" in done.stdout) == (0, True)
    # The shell that has sourced it asks like this.
    asks = {
        **os.environ,
        "_OPERATOR_CORE_COMPLETE": "complete_bash",
        "COMP_WORDS": "operator-core actions re",
        "COMP_CWORD": "2",
    }
    assert {"replay", "resume", "retry"} <= set(program(env=asks).stdout.split())
