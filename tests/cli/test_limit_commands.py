"""``operator-core limits`` and what ``actions show`` says of them."""

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
    """Three proposals that wait, two of them with one exclusive key."""
    path = tmp_path / "ledger.db"

    async def fill() -> None:
        async with ActionDB(path) as db:
            for key in (None, "store 5", "store 5"):
                await db.create_proposal(
                    ActionProposal(
                        action_name="drain",
                        reason="r",
                        status=ActionStatus.VALIDATED,
                        parameters={"n": 3},
                        exclusive_key=key,
                    )
                )

    asyncio.run(fill())
    return path


def claim(path: Path, *ids: int) -> None:
    async def take() -> None:
        async with ActionDB(path) as db:
            for each in ids:
                await db.claim_proposal(each, "w")

    asyncio.run(take())


def test_a_limit_is_set_listed_and_removed(invoke: Invoke, ledger: Path) -> None:
    assert invoke("limits", "list").stdout == ""
    options = ("--window", "3600", "--starts", "1", "--action", "dr*", "--reason", "careful")
    done = invoke("limits", "set", "drains", *options, "--by", "maria")
    assert (done.exit_code, done.stderr) == (0, "")
    line = " drains in 1h0m: action dr*, 0 of 1 starts used, by maria: careful\n"
    assert done.stdout == line
    assert invoke("limits", "list").stdout == line
    claim(ledger, 1)
    assert "1 of 1 starts used, free at " in invoke("limits", "list").stdout
    told = json.loads(invoke("limits", "list", "--json").stdout)
    assert (told["name"], told["used_starts"], told["max_starts"]) == ("drains", 1, 1)
    shown = invoke("actions", "show", "2").stdout
    assert "limit 1, drains, is reached (1 used): it may start at " in shown
    assert "waits" not in invoke("actions", "show", "1").stdout
    done = invoke("limits", "remove", "drains", "--reason", "over")
    assert done.stdout.startswith(" drains in 1h0m: action dr*, removed by " + getpass.getuser())
    assert invoke("limits", "list").stdout == ""
    assert ", removed at " in invoke("limits", "list", "--all").stdout
    assert "waits" not in invoke("actions", "show", "2").stdout
    again = invoke("limits", "remove", "drains", "--reason", "over")
    assert (again.exit_code, again.stderr) == (1, "error: ledger.db: no limit named drains\n")


def test_a_sum_and_an_exclusive_key(invoke: Invoke, ledger: Path) -> None:
    options = ("--window", "60", "--sum-of", '["n"]', "--sum", "5", "--reason", "careful")
    assert 'sum of ["n"], 0 of 5 used' in invoke("limits", "set", "n", *options).stdout
    claim(ledger, 2)
    assert "limit 1, n, is reached (3 used)" in invoke("actions", "show", "1").stdout
    shown = invoke("actions", "show", "3").stdout
    assert "for proposal 2, with the same exclusive key" in shown
    assert "exclusive   store 5" in shown
    wrong = invoke("limits", "set", "n", *options[:3], "[", *options[4:])
    assert wrong.exit_code != 0
    assert "sum_of" in wrong.stderr
