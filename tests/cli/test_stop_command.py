"""``operator-core actions cancel`` and ``stop``, and ``--actor`` of every command that writes."""

import asyncio
import getpass
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from operator_core.actions.types import ActionEvent, ActionProposal, ActionStatus
from operator_core.db import ActionDB
from tests.cli.conftest import Invoke, Program

Ask = Callable[[Callable[[ActionDB], Awaitable[Any]]], Any]

S = ActionStatus


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Five proposals: proposed, validated, executing, failed with a retry to come, completed."""
    path = tmp_path / "ledger.db"

    async def fill() -> None:
        async with ActionDB(path, actor="agent") as db:
            for status in (S.PROPOSED, S.VALIDATED, S.VALIDATED, S.VALIDATED, S.COMPLETED):
                await db.create_proposal(
                    ActionProposal(
                        action_name="drain",
                        reason="it is slow",
                        status=status,
                        max_retries=3,
                        retry_delay=3600.0,
                        max_retry_delay=3600.0,
                    )
                )
            two, _ = await db.claim("worker-1", limit=2)
            await db.fail(two.record.id, "no")
            await db.update_proposal_status(4, S.CANCELLED)
            await db.create_proposal(
                ActionProposal(action_name="drain", reason="it is slow", status=S.VALIDATED)
            )

    asyncio.run(fill())
    return path


@pytest.fixture
def ask(ledger: Path) -> Ask:
    def asked(question: Callable[[ActionDB], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            async with ActionDB(ledger) as db:
                return await question(db)

        return asyncio.run(run())

    return asked


def statuses(ask: Ask) -> list[str]:
    return [each.status.value for each in ask(lambda db: db.list_proposals())][::-1]


BEFORE = ["proposed", "failed", "executing", "cancelled", "completed", "validated"]


def last_of(ask: Ask, proposal_id: int) -> ActionEvent:
    return ask(lambda db: db.history(proposal_id))[-1]


def test_stop_cancels_what_nobody_has_started_and_says_how_many(
    program: Program, ledger: Path, ask: Ask
) -> None:
    assert statuses(ask) == BEFORE
    done = program("actions", "stop", "--yes", "--reason", "bad deploy", "--actor", "maria")
    assert (done.returncode, done.stderr) == (0, "")
    first, hint, second = done.stdout.splitlines()
    assert "operator-core actions halt" in hint
    assert first.startswith(" ")
    assert first.endswith(" cancelled")
    assert second == " 1 proposal being executed: operator-core actions list --status executing"
    assert statuses(ask) == [
        "cancelled",
        "failed",
        "executing",
        "cancelled",
        "completed",
        "cancelled",
    ]
    assert ask(lambda db: db.get_proposal(2)).next_retry_at is None
    for id_ in (1, 6):
        event = last_of(ask, id_)
        assert (event.to_status, event.actor, event.reason) == (S.CANCELLED, "maria", "bad deploy")
    again = program("actions", "stop", "--yes")
    assert again.stdout.splitlines()[0] == " 0 proposals cancelled"


def test_stop_counts_the_proposals_that_were_cancelled(
    program: Program, ledger: Path, ask: Ask
) -> None:
    # A retry that is called off is no proposal that was cancelled.
    assert program("actions", "stop", "--yes").stdout.splitlines()[0] == " 2 proposals cancelled"


def test_cancel_says_how_many_and_what_was_in_the_way_of_others(
    invoke: Invoke, ledger: Path, ask: Ask
) -> None:
    done = invoke("actions", "cancel", "1", "5", "3", "99", "--reason", "wrong host")
    assert (done.exit_code, done.stdout) == (1, " 2 proposals cancelled\n")
    assert done.stderr.splitlines() == [
        "error: ledger.db: proposal 5 can't go from completed to cancelled "
        "(allowed: nothing, it is final)",
        "error: ledger.db: no proposal with id 99",
    ]
    assert statuses(ask) == ["cancelled", *BEFORE[1:2], "cancelled", *BEFORE[3:]]
    event = last_of(ask, 3)
    assert (event.actor, event.reason) == (getpass.getuser(), "wrong host")
    alone = invoke("actions", "cancel", "6")
    assert (alone.exit_code, alone.stdout, alone.stderr) == (0, " 1 proposal cancelled\n", "")


@pytest.mark.parametrize("options", [[], ["x"], ["0"], ["-1"], ["1.5"]])
def test_cancel_needs_ids(invoke: Invoke, ledger: Path, options: list[str]) -> None:
    assert invoke("actions", "cancel", *options).exit_code == 2


WRITING = {
    "claim": (["claim", "worker-9"], 6, S.VALIDATED),
    "complete": (["complete", "2"], 3, S.EXECUTING),
    "fail": (["fail", "2", "why"], 3, S.EXECUTING),
    "retry": (["retry", "2"], 2, S.FAILED),
    "cancel": (["cancel", "6"], 6, S.VALIDATED),
    "stop": (["stop", "--yes"], 6, S.VALIDATED),
}


@pytest.mark.parametrize(("command", "id_", "before"), WRITING.values(), ids=WRITING)
@pytest.mark.parametrize("given", [True, False])
def test_every_command_that_writes_says_who_did_it(
    invoke: Invoke,
    ledger: Path,
    ask: Ask,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    id_: int,
    before: ActionStatus,
    given: bool,
) -> None:
    monkeypatch.setenv("LOGNAME", "jo")
    done = invoke("actions", *command, *(["--actor", "maria"] if given else []))
    assert (done.exit_code, done.stderr) == (0, "")
    event = last_of(ask, id_)
    assert (event.from_status, event.actor) == (before, "maria" if given else "jo")
    record_events = [each for each in ask(lambda db: db.history(id_)) if each.record_id]
    if command[0] in ("complete", "fail"):
        # Who did it, and whose execution it was.
        assert (record_events[-1].actor, record_events[-1].worker) == (event.actor, "worker-1")
        page = invoke("actions", "show", str(id_)).stdout
        assert f"by {event.actor} (execution of worker-1)" in page


@pytest.mark.parametrize("name", ["ledger", "Migration", "raw SQL"])
def test_a_login_name_that_stands_for_the_ledger_itself_is_marked(
    invoke: Invoke, ledger: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("LOGNAME", name)
    assert invoke("actions", "cancel", "1").exit_code == 0
    assert last_of(ask, 1).actor == f"user {name}"


def test_fail_can_say_that_the_outcome_is_unknown(invoke: Invoke, ledger: Path, ask: Ask) -> None:
    done = invoke("actions", "fail", "2", "the connection broke", "--unknown")
    assert (done.exit_code, done.stderr) == (0, "")
    record = ask(lambda db: db.get_record(2))
    assert (record.success, record.outcome_unknown) == (None, True)
    assert record.error_message == "the connection broke"


def test_recover_ends_what_was_started_by_hand_and_abandoned(
    invoke: Invoke, ledger: Path, ask: Ask
) -> None:
    ask(lambda db: db.update_proposal_status(6, S.EXECUTING))
    assert invoke("actions", "recover").stdout == " no lease has expired\n"
    young = invoke("actions", "recover", "--older-than", "7d")
    assert young.stdout == " no lease has expired, and no execution without a lease is that old\n"
    done = invoke("actions", "recover", "--older-than", "0.001s", "--json", "--actor", "maria")
    assert (done.exit_code, done.stderr) == (0, "")
    assert '"proposal_id":6' in done.stdout.replace(" ", "")
    assert ask(lambda db: db.get_proposal(6)).status is S.FAILED
    assert ask(lambda db: db.get_proposal(3)).status is S.EXECUTING
    assert last_of(ask, 6).actor == "maria"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("90", timedelta(seconds=90)),
        ("0.5", timedelta(seconds=0.5)),
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("1h", timedelta(hours=1)),
        ("2d", timedelta(days=2)),
        ("1.5h", timedelta(minutes=90)),
    ],
)
def test_a_length_of_time_may_have_a_unit(
    invoke: Invoke, ledger: Path, monkeypatch: pytest.MonkeyPatch, text: str, wanted: timedelta
) -> None:
    taken: list[Any] = []

    async def recover(_: ActionDB, *, older_than: timedelta | None, actor: str) -> list[Any]:
        taken.append(older_than)
        return []

    monkeypatch.setattr(ActionDB, "recover_expired", recover)
    assert invoke("actions", "recover", "--older-than", text).exit_code == 0
    assert taken == [wanted]


@pytest.mark.parametrize("text", ["", "x", "-1", "1y", "1 h", "1h30m", "nan", "inf", "1e3"])
def test_a_length_of_time_that_is_none_is_a_usage_error(
    invoke: Invoke, ledger: Path, text: str
) -> None:
    done = invoke("actions", "recover", "--older-than", text)
    assert (done.exit_code, "--older-than" in done.stderr) == (2, True)
