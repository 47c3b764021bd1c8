"""The program itself, as a process and, for the details, inside the test's own."""

import hashlib
import json
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from operator_core.actions.types import ActionProposal, ActionRecord
from operator_core.cli.app import app
from operator_core.cli.checkup import check_up
from operator_core.cli.findings import Finding
from operator_core.db import ActionDB
from operator_core.db.migrate import URL_VARIABLE
from operator_core.db.sql.sqlite_library import dbapi
from tests import warm

PROGRAM = Path(sysconfig.get_path("scripts")) / "operator-core"

PATIENCE = 100.0
"""Seconds after which a program that does not end is given up, on a machine however busy."""

Program = Callable[..., subprocess.CompletedProcess[str]]
Invoke = Callable[..., Result]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, no ledger named by the environment, and one zone and width everywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


Terminal = Callable[[int], None]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Makes standard output a terminal without colours, of so many columns, for `invoke`."""

    def make(columns: int) -> None:
        monkeypatch.setenv("TTY_COMPATIBLE", "1")
        monkeypatch.setenv("TERM", "dumb")
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("LINES", "50")

    return make


@pytest.fixture
def program() -> Program:
    """Runs ``operator-core`` in a process of its own, which starts warm."""

    def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        return warm.run("operator-core", *map(str, arguments), timeout=PATIENCE, **options)

    return run


@pytest.fixture
def installed_program() -> Program:
    """Runs ``operator-core`` as users do: the installed script, by an interpreter of its own."""

    def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [str(PROGRAM), *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", timeout=PATIENCE, check=False, **options
        )

    return run


@pytest.fixture
def invoke() -> Invoke:
    """Runs it in this process; an exception that is no exit status is the test's own failure."""

    def run(*arguments: str | Path, **options: Any) -> Result:
        return CliRunner().invoke(app, [str(each) for each in arguments], **options)

    def checked(*arguments: str | Path, **options: Any) -> Result:
        result = run(*arguments, **options)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return checked


@pytest.fixture
def calls_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of tool calls: objects become JSON, bytes stay as they are."""

    def write(*lines: dict[str, Any] | bytes, name: str = "calls.jsonl") -> Path:
        path = tmp_path / name
        encoded = (each if isinstance(each, bytes) else json.dumps(each).encode() for each in lines)
        path.write_bytes(b"\n".join(encoded) + b"\n")
        return path

    return write


@pytest.fixture
async def full_ledger(tmp_path: Path) -> Path:
    """Forty proposals with an execution each, in ``ledger.db``."""
    path = tmp_path / "ledger.db"
    async with ActionDB(path) as db:
        for number in range(40):
            made = await db.create_proposal(
                ActionProposal(action_name="drain_store", reason=f"{number} " + "why " * 100)
            )
            await db.create_record(ActionRecord(proposal_id=made.id or 0))
    return path


def change(ledger: Path, script: str) -> None:
    """Writes as another tool would."""
    connection = dbapi.connect(ledger)
    connection.executescript(script)
    connection.close()


def findings(ledger: Path) -> dict[str, Finding]:
    """What a check-up finds, by subject."""
    return {finding.subject: finding for finding in check_up(ledger)}


def digest(path: Path) -> str:
    """What a file holds, byte for byte."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
