"""``operator-core actions unresolved`` and ``resolve``."""

import asyncio
import getpass
import json
from pathlib import Path

import pytest

from operator_core.actions.types import ActionProposal, ActionStatus
from operator_core.db import ActionDB
from tests.cli.conftest import Invoke


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Two executions whose outcome is unknown, records 1 and 2, and one that has succeeded."""
    path = tmp_path / "ledger.db"

    async def fill() -> None:
        async with ActionDB(path) as db:
            for number in range(3):
                made = await db.create_proposal(
                    ActionProposal(
                        action_name="drain", reason="disk is dying", status=ActionStatus.VALIDATED
                    )
                )
                claim = await db.claim_proposal(made.id, "maria")
                if number < 2:
                    await db.fail(claim.record.id, "lost", outcome_unknown=True)
                else:
                    await db.complete(claim.record.id)

    asyncio.run(fill())
    return path


def test_what_nobody_has_resolved_is_listed(invoke: Invoke, ledger: Path) -> None:
    place = ("--db-path", str(ledger))
    done = invoke("actions", "unresolved", *place)
    rows = [line.split() for line in done.stdout.splitlines() if "drain" in line]
    assert [(row[:4], row[-1]) for row in rows] == [
        (["1", "1", "drain", "maria"], "failed"),
        (["2", "2", "drain", "maria"], "failed"),
    ]
    assert "actions resolve RECORD" in done.stdout
    some = invoke("actions", "unresolved", *place, "--limit", "1")
    assert "later ones: --after 1" in some.stdout
    lines = invoke("actions", "unresolved", *place, "--after", "1", "--json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [2]


def test_a_person_says_what_became_of_it(invoke: Invoke, ledger: Path) -> None:
    place = ("--db-path", str(ledger))
    done = invoke("actions", "resolve", "1", "--done", "--evidence", "the console", *place)
    me = getpass.getuser()
    assert f"execution 1 was done, by {me}; proposal 1 is completed" in done.stdout
    done = invoke(
        "actions", "resolve", "2", "--not-done", "--evidence", "no", "--actor", "mia", *place
    )
    assert "execution 2 was not done, by mia; proposal 2 is failed" in done.stdout
    assert "operator-core actions retry 2" in done.stdout
    assert "every outcome is known" in invoke("actions", "unresolved", *place).stdout
    assert invoke("actions", "unresolved", *place, "--json").stdout == ""
    page = invoke("actions", "show", "1", *place).stdout
    assert "execution 1 resolved, succeeded" in page
    assert f"by {me}: the console" in page
    again = invoke("actions", "resolve", "1", "--done", "--evidence", "e", *place)
    assert again.exit_code == 1
    assert again.stderr.endswith(": record 1 is already resolved\n")
    for record, words in (
        ("3", "record 3 is already known to have succeeded"),
        ("9", "no record with id 9"),
    ):
        wrong = invoke("actions", "resolve", record, "--done", "--evidence", "e", *place)
        assert wrong.exit_code == 1
        assert words in wrong.stderr


def test_it_must_be_said_whether_and_how_one_knows(invoke: Invoke, ledger: Path) -> None:
    place = ("--db-path", str(ledger))
    for options in (("--evidence", "e"), ("--done",), ()):
        assert invoke("actions", "resolve", "1", *options, *place).exit_code == 2
    blank = invoke("actions", "resolve", "1", "--done", "--evidence", " ", *place)
    assert blank.exit_code == 1
    assert "evidence" in blank.stderr
    assert "1" in invoke("actions", "unresolved", *place).stdout
