"""``operator-core actions halt``, ``resume`` and ``mode``."""

import asyncio
import getpass
import json
from pathlib import Path
from typing import Any

import pytest

from operator_core.actions.types import ActionProposal, ActionStatus
from operator_core.db import ActionDB
from tests.cli.conftest import Invoke


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Three proposals: one is executing, and two are pending."""
    path = tmp_path / "ledger.db"

    async def fill() -> None:
        async with ActionDB(path) as db:
            for name in ("drain", "drain", "other"):
                await db.create_proposal(
                    ActionProposal(action_name=name, reason="r", status=ActionStatus.VALIDATED)
                )
            await db.claim("worker-1")

    asyncio.run(fill())
    return path


def test_halt_says_what_it_has_cancelled_and_what_runs(invoke: Invoke, ledger: Path) -> None:
    done = invoke("actions", "halt", "--yes", "--reason", "bad deploy", "--by", "maria")
    assert (done.exit_code, done.stderr) == (0, "")
    halt, cancelled, running = done.stdout.splitlines()
    assert halt.startswith(" halt 1 halted: the whole ledger, by maria at ")
    assert halt.endswith(": bad deploy")
    assert cancelled == " 2 proposals cancelled"
    assert running.startswith(" running: proposal 1 drain, record 1, worker-1 for ")
    mode, open_halt = invoke("actions", "mode").stdout.splitlines()
    assert (mode, open_halt) == (" halted", halt)
    told = json.loads(invoke("actions", "mode", "--json").stdout)
    assert (told["mode"], told["halts"][0]["halted_by"]) == ("halted", "maria")
    done = invoke("actions", "resume", "--reason", "fixed")
    assert done.exit_code == 0
    assert done.stdout.endswith(f", resumed by {getpass.getuser()}\n")
    assert invoke("actions", "mode").stdout == " execute\n"
    again = invoke("actions", "resume", "--reason", "fixed")
    assert (again.exit_code, again.stderr) == (1, "error: ledger.db: no open halt of this scope\n")


def test_a_scope_is_of_one_action_agent_or_run(invoke: Invoke, ledger: Path) -> None:
    scope = ("--action", "dr*", "--agent", "a", "--run", "r")
    done = invoke("actions", "halt", "--observe", *scope, "--reason", "look")
    assert done.stdout.startswith(" halt 1 observe: action_name dr*, agent_id a, run_id r, by ")
    assert invoke("actions", "mode").stdout.startswith(" execute\n")
    named = invoke("actions", "mode", "--action", "drain", "--agent", "a", "--run", "r")
    assert named.stdout.startswith(" observe\n")
    assert invoke("actions", "halt", "--yes", "--keep", "--reason", "all").stdout.splitlines()[
        1
    ] == (" 0 proposals cancelled")
    done = invoke("actions", "resume", "1", "--reason", "seen")
    assert done.stdout.splitlines()[1].endswith(", is still open")


def test_without_a_reason_nothing_is_halted(invoke: Invoke, ledger: Path) -> None:
    assert invoke("actions", "halt").exit_code == 2
    assert invoke("actions", "mode").stdout == " execute\n"


def test_watch_shows_halts(invoke: Invoke, ledger: Path) -> None:
    invoke("actions", "halt", "--reason", "bad\ndeploy", "--by", "maria", "--run", "r")

    async def last() -> Any:
        async with ActionDB(ledger) as db:
            return (await db.history())[-1]

    from operator_core.cli.screen import event_line

    line = "".join(text for text, _ in event_line(asyncio.run(last()), {}, "now"))
    assert line == "now  halted (halt 1): run_id r by maria: bad deploy"


def test_an_incomplete_halt_exits_with_one(
    invoke: Invoke, ledger: Path, server_ledger: str
) -> None:
    import psycopg

    with psycopg.connect(server_ledger, application_name="a service") as conn:
        conn.execute(
            "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at)"
            " VALUES ('a', '{}', 'r', now())"
        )
        done = invoke(
            "actions", "halt", "--yes", "--reason", "stop", "--timeout", "0", "--url", server_ledger
        )
        assert done.exit_code == 1
        assert f" in the way: process {conn.info.backend_pid}, a service, open for " in done.stdout
        assert "not complete" in done.stderr
        conn.rollback()
