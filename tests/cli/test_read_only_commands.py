"""Commands that look write nothing: no ledger is made, none is upgraded, and a read-only copy will do."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from operator_core.actions.types import ActionProposal, ActionStatus, Rule
from operator_core.db import ActionDB, migrate
from tests import warm
from tests.cli.conftest import PATIENCE, Invoke, Program, digest
from tests.legacy import make_legacy

READING = [
    ("actions", "list"),
    ("actions", "list", "--json"),
    ("actions", "show", "1"),
    ("actions", "show", "1", "--json"),
    ("actions", "watch", "--once"),
    ("actions", "export"),
    ("actions", "history"),
    ("actions", "unresolved"),
    ("actions", "inbox"),
    ("actions", "inbox", "--approved", "--json"),
    ("rules", "list"),
    ("rules", "explain", "--action", "drain_store"),
    ("grants", "list"),
    ("db", "check"),
    ("db", "current"),
]
SHORT = [
    ("actions", "count", "--search", "x"),
    ("actions", "halts", "--json"),
    ("actions", "mode"),
    ("limits", "list"),
]
"""These read too, and name no action."""
WORKING = [
    ("actions", "claim", "w"),
    ("actions", "complete", "1"),
    ("actions", "fail", "1", "why"),
    ("actions", "retry", "1"),
    ("actions", "recover"),
    ("actions", "cancel", "1"),
    ("actions", "resolve", "1", "--done", "--evidence", "seen"),
    ("actions", "stop", "--yes"),
    ("actions", "propose", "drain", "--reason", "full"),
    ("actions", "validate", "1"),
    ("actions", "heartbeat", "1"),
    ("actions", "record", "1"),
    ("actions", "claim", "w", "--id", "1"),
    ("actions", "halt", "--yes", "--reason", "bad deploy"),
    ("actions", "resume", "--reason", "rolled back"),
    ("limits", "remove", "x", "--reason", "obsolete"),
    ("workflows", "cancel", "1"),
    ("actions", "approve", "1", "--digest", f"oc1:{'0' * 64}"),
    ("actions", "reject", "1", "--reason", "no"),
    ("actions", "withdraw", "1", "--reason", "misread"),
    ("actions", "amend", "1", "--parameters", "{}", "--reason", "typo"),
    ("rules", "add", "--name", "all", "--reason", "policy"),
    ("rules", "revoke", "1", "--reason", "obsolete"),
    (
        "grants",
        "add",
        *["--action", "a", "--max-uses", "1", "--valid-for", "1h", "--reason", "night"],
    ),
    ("grants", "revoke", "1", "--reason", "morning"),
]
PROPOSED = {"status": ActionStatus.PROPOSED}
OPENING = [each for each in READING + SHORT + WORKING if each[0] != "db"]


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    return {each.name: (digest(each), each.stat().st_mtime_ns) for each in folder.iterdir()}


@pytest.mark.parametrize("command", OPENING, ids=" ".join)
def test_an_empty_file_stays_empty(
    invoke: Invoke, tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "empty.db").touch()
    before = contents(tmp_path)
    done = invoke(*command, "--db-path", "empty.db")
    assert (done.exit_code, done.stdout) == (1, "")
    as_json = "--json" in command
    assert done.stderr.startswith('{"error": "empty.db: ' if as_json else "error: empty.db: ")
    assert len(done.stderr.splitlines()) == 1
    assert contents(tmp_path) == before


@pytest.mark.parametrize("command", OPENING, ids=" ".join)
@pytest.mark.parametrize("kind", ["legacy", "behind"])
def test_a_ledger_that_is_behind_is_not_upgraded(
    invoke: Invoke, tmp_path: Path, command: tuple[str, ...], kind: str
) -> None:
    path = tmp_path / "old.db"
    if kind == "legacy":
        make_legacy(path)
    else:
        migrate.upgrade(f"sqlite:///{path}", migrate.REVISIONS[-2])
    before = contents(tmp_path)
    done = invoke(*command, "--db-path", "old.db")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "operator-core db upgrade" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert contents(tmp_path) == before


@pytest.mark.parametrize("command", READING + SHORT, ids=" ".join)
def test_looking_changes_no_byte_and_leaves_no_file(
    program: Program, full_ledger: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    before = contents(tmp_path)
    done = program(*command, "--db-path", full_ledger)
    assert (done.returncode, done.stderr) == (0, "")
    assert contents(tmp_path) == before


@pytest.fixture
def copy() -> Iterator[Path]:
    """A copy of a ledger in WAL mode, in a folder that nobody may write and everyone can reach."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        place = Path(folder) / "copies"
        place.mkdir()

        async def fill() -> None:
            async with ActionDB(Path(folder) / "ledger.db") as db:
                proposal = ActionProposal(
                    action_name="drain_store", reason="why", status=ActionStatus.VALIDATED
                )
                await db.create_proposal(proposal)
                (claim,) = await db.claim("worker-7")
                await db.fail(claim.record.id, "lost", outcome_unknown=True)
                await db.add_rule(Rule(name="of drain_store"), by="olga", reason="policy")
                approved = await db.create_proposal(proposal.model_copy(update=PROPOSED))
                await db.approve_proposal(approved.id, by="mia", digest=approved.digest)
                await db.create_proposal(proposal.model_copy(update=PROPOSED))
                await db.grant(
                    by="mia",
                    action_name="drain_store",
                    max_uses=1,
                    valid_until=datetime.now(UTC) + timedelta(days=1),
                    reason="night",
                )

        asyncio.run(fill())
        shutil.copyfile(Path(folder) / "ledger.db", place / "copy.db")
        # The file's header says that it is in WAL mode.
        assert (place / "copy.db").read_bytes()[18:20] == b"\2\2"
        (place / "copy.db").chmod(0o444)
        place.chmod(0o555)
        yield place / "copy.db"
        place.chmod(0o755)


def as_nobody(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs the program as a user who may write nothing; the others are run as whoever runs the tests."""
    return warm.run(
        "operator-core",
        *map(str, command),
        cwd="/",
        env={**os.environ, "HOME": "/"},
        user=65534 if os.geteuid() == 0 else None,
        timeout=PATIENCE,
    )


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_a_copy_that_cant_be_written_can_be_read(copy: Path, command: tuple[str, ...]) -> None:
    before = copy.read_bytes()
    done = as_nobody(*command, "--db-path", copy)
    assert (done.returncode, done.stderr.replace("\n", "")) == (0, "")
    if command[0] != "db":
        assert "drain_store" in done.stdout
    assert copy.read_bytes() == before
    assert [each.name for each in copy.parent.iterdir()] == ["copy.db"]


@pytest.mark.parametrize("command", WORKING, ids=" ".join)
def test_a_copy_that_cant_be_written_says_so_to_who_would_write(
    copy: Path, command: tuple[str, ...]
) -> None:
    done = as_nobody(*command, "--db-path", copy)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert [each.name for each in copy.parent.iterdir()] == ["copy.db"]
