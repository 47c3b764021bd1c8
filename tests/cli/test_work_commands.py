"""``operator-core actions claim``, ``complete``, ``fail``, ``retry`` and ``recover``."""

import asyncio
import getpass
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from operator_core.actions.types import (
    ActionProposal,
    ActionRecord,
    ActionStatus,
    ActionType,
    StoredRecord,
)
from operator_core.db import ActionDB
from tests.cli.conftest import Invoke, Program

VALIDATED = ActionStatus.VALIDATED

Ask = Callable[[Callable[[ActionDB], Awaitable[Any]]], Any]


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """Three validated proposals, of two actions."""
    path = tmp_path / "ledger.db"

    async def fill() -> None:
        async with ActionDB(path) as db:
            for name in ("restart", "drain", "restart"):
                await db.create_proposal(
                    ActionProposal(
                        action_name=name,
                        parameters={"host": "web-1"},
                        reason="it is slow",
                        status=VALIDATED,
                    )
                )

    asyncio.run(fill())
    return path


@pytest.fixture
def ask(ledger: Path) -> Ask:
    """Asks the ledger, as another process would between two commands."""

    def asked(question: Callable[[ActionDB], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            async with ActionDB(ledger) as db:
                return await question(db)

        return asyncio.run(run())

    return asked


def claimed(invoke: Invoke, *options: str) -> list[dict[str, Any]]:
    """What a claim takes, as programs read it."""
    done = invoke("actions", "claim", "maria", "--json", *options)
    assert (done.exit_code, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def run_out(ask: Ask, record_id: int) -> None:
    """Waits until the lease of an execution has run out by the database's clock."""

    async def wait(db: ActionDB) -> None:
        record = await db.get_record(record_id)
        assert record is not None
        assert record.lease_expires_at is not None
        while datetime.now(UTC) <= record.lease_expires_at:
            await asyncio.sleep(0.01)

    ask(wait)


def test_a_claim_prints_what_it_took_and_for_how_long(program: Program, ledger: Path) -> None:
    done = program("actions", "claim", "maria", "--limit", "2")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["1", "1", "restart", 'host="web-1"'] in rows
    assert ["2", "2", "drain", 'host="web-1"'] in rows
    assert "actions complete RECORD" in done.stdout


def test_a_claim_as_json_is_a_line_each_with_proposal_and_record(
    invoke: Invoke, ledger: Path, ask: Ask
) -> None:
    before = datetime.now(UTC)
    lines = claimed(invoke, "--limit", "9", "--lease", "90")
    proposals = [ActionProposal.model_validate(each["proposal"]) for each in lines]
    records = [StoredRecord.model_validate(each["record"]) for each in lines]
    assert [each.id for each in proposals] == [1, 2, 3]
    assert {each.status for each in proposals} == {ActionStatus.EXECUTING}
    assert {each.worker for each in records} == {"maria"}
    lease = (records[0].lease_expires_at or before) - before
    assert timedelta(seconds=89) < lease < timedelta(seconds=150)
    assert [ask(partial(ActionDB.get_record, record_id=each.id)) for each in records] == records


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ([], [1]),
        (["--action", "drain"], [2]),
        (["--action", "drain", "--action", "restart", "--limit", "3"], [1, 2, 3]),
        (["--action-type", "subject"], [1]),
        (["--action-type", "tool", "--action-type", "workflow"], []),
    ],
)
def test_a_claim_takes_only_what_it_is_asked_for(
    invoke: Invoke, ledger: Path, options: list[str], ids: list[int]
) -> None:
    assert [each["proposal"]["id"] for each in claimed(invoke, *options)] == ids


def test_nothing_due_is_said_plainly_and_is_no_failure(invoke: Invoke, ledger: Path) -> None:
    done = invoke("actions", "claim", "maria", "--action-type", ActionType.TOOL.value)
    assert (done.exit_code, done.stdout, done.stderr) == (0, " nothing is due\n", "")
    assert claimed(invoke, "--action", "nothing") == []


@pytest.mark.parametrize("lease", ["0", "-1", "604801", "nan", "inf", "soon"])
def test_a_lease_that_is_none_is_a_usage_error(invoke: Invoke, ledger: Path, lease: str) -> None:
    done = invoke("actions", "claim", "maria", "--lease", lease)
    assert (done.exit_code, "--lease" in done.stderr) == (2, True)


def test_what_the_ledger_refuses_is_one_line(invoke: Invoke, ledger: Path) -> None:
    done = invoke("actions", "claim", " ")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ledger.db: worker: must not be blank")


@pytest.mark.parametrize(
    "command", ["claim x", "complete 1", "fail 1 x", "retry 1", "recover", "watch", "watch --once"]
)
def test_working_makes_no_ledger(invoke: Invoke, tmp_path: Path, command: str) -> None:
    done = invoke("actions", *command.split(), "--db-path", "absent.db")
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr == "error: absent.db: no such file, so no ledger to look at\n"
    assert list(tmp_path.iterdir()) == []


def test_complete_ends_the_execution_and_the_proposal(
    program: Program, invoke: Invoke, ledger: Path, ask: Ask
) -> None:
    claimed(invoke)
    done = program("actions", "complete", "1", "--result", '{"leader": 3}')
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == " execution 1 has ended, proposal 1 is completed\n"
    assert ask(lambda db: db.get_proposal(1)).status is ActionStatus.COMPLETED
    record = ask(lambda db: db.get_record(1))
    assert (record.success, record.result_data) == (True, {"leader": 3})
    event = next(each for each in ask(lambda db: db.history(1))[::-1] if each.record_id)
    assert (event.actor, event.worker) == (getpass.getuser(), "maria")


def test_fail_says_when_it_is_run_again(invoke: Invoke, ledger: Path, ask: Ask) -> None:
    again = ActionProposal(
        action_name="again",
        reason="it may be repeated",
        status=VALIDATED,
        max_retries=1,
        retry_delay=3600,
        max_retry_delay=3600,
    )
    ask(lambda db: db.create_proposal(again))
    claimed(invoke, "--action", "again")
    claimed(invoke, "--action", "drain")
    done = invoke("actions", "fail", "1", "Error: web-1 is down", "--result", '{"tries": 3}')
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith(" execution 1 has ended, proposal 4 is failed; next retry 20")
    record = ask(lambda db: db.get_record(1))
    assert (record.success, record.error_message) == (False, "Error: web-1 is down")
    assert record.result_data == {"tries": 3}
    done = invoke("actions", "fail", "2", "no")
    assert done.stdout == " execution 2 has ended, proposal 2 is failed\n"


def test_the_execution_of_something_cancelled_says_that_it_stays_so(
    invoke: Invoke, ledger: Path, ask: Ask
) -> None:
    claimed(invoke)
    ask(lambda db: db.update_proposal_status(1, ActionStatus.CANCELLED))
    done = invoke("actions", "complete", "1")
    assert done.stdout == " execution 1 has ended, proposal 1 is cancelled\n"


@pytest.mark.parametrize("command", [["complete", "1"], ["fail", "1", "why"]])
def test_a_lost_lease_and_an_unknown_record_are_one_line(
    invoke: Invoke, ledger: Path, command: list[str]
) -> None:
    done = invoke("actions", *command)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "error: ledger.db: no record with id 1\n"
    claimed(invoke)
    assert invoke("actions", *command).exit_code == 0
    done = invoke("actions", *command)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ledger.db: the lease of record 1 is lost: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("result", "said"),
    [
        ("{", "is not JSON: Expecting property name"),
        ("", "is not JSON: Expecting value"),
        ("[1]", "must be a JSON object, not a list"),
        ("null", "must be a JSON object, not null"),
        ("[" * 100_000, "is nested too deep"),
    ],
)
@pytest.mark.parametrize("command", [["complete", "1"], ["fail", "1", "why"]])
def test_a_result_that_is_no_object_is_a_usage_error_and_ends_nothing(
    invoke: Invoke, ledger: Path, ask: Ask, command: list[str], result: str, said: str
) -> None:
    claimed(invoke)
    done = invoke("actions", *command, "--result", result)
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"--result: {said}" in done.stderr
    assert ask(lambda db: db.get_record(1)).completed_at is None


def test_a_result_that_the_ledger_cant_keep_is_one_line(invoke: Invoke, ledger: Path) -> None:
    claimed(invoke)
    done = invoke("actions", "complete", "1", "--result", '{"a": [NaN]}')
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "error: ledger.db: result_data.a[0]: must be a finite number\n"


def test_retry_names_who_decided_so_and_why(
    invoke: Invoke, ledger: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "jo")
    assert getpass.getuser() == "jo"
    for options, actor, reason in (
        (["--actor", "maria", "--reason", "it was not done"], "maria", "it was not done"),
        ([], "jo", None),
    ):
        (claim,) = claimed(invoke)
        invoke("actions", "fail", str(claim["record"]["id"]), "why")
        done = invoke("actions", "retry", "1", *options)
        assert (done.exit_code, done.stdout, done.stderr) == (0, " proposal 1 is due again\n", "")
        event = ask(lambda db: db.history(1))[-1]
        assert (event.to_status, event.actor, event.reason) == (VALIDATED, actor, reason)
    done = invoke("actions", "retry", "1")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        "error: ledger.db: proposal 1 can't go from validated to validated "
        "(allowed: cancelled, executing)\n"
    )


def test_recover_prints_what_ended_as_unknown(invoke: Invoke, ledger: Path, ask: Ask) -> None:
    nothing = invoke("actions", "recover")
    assert (nothing.exit_code, nothing.stdout) == (0, " no lease has expired\n")
    claimed(invoke, "--lease", "0.001", "--limit", "2")
    run_out(ask, 2)
    done = invoke("actions", "recover")
    assert (done.exit_code, done.stderr) == (0, "")
    rows = [line.split()[:3] for line in done.stdout.splitlines() if "maria" in line]
    assert rows == [["1", "1", "maria"], ["2", "2", "maria"]]
    assert "actions retry PROPOSAL" in done.stdout
    assert ask(lambda db: db.get_record(1)).outcome_unknown


def test_recover_goes_on_until_nothing_is_left(invoke: Invoke, tmp_path: Path, ask: Ask) -> None:
    wanted = [
        ActionProposal(action_name="many", reason="of them", status=VALIDATED) for _ in range(150)
    ]
    ask(lambda db: db.create_proposals(wanted))
    claimed(invoke, "--lease", "0.001", "--limit", "200")
    run_out(ask, 153)
    done = invoke("actions", "recover", "--json")
    records = [ActionRecord.model_validate_json(line) for line in done.stdout.splitlines()]
    assert sorted(each.id or 0 for each in records) == list(range(1, 154))
    assert all(each.outcome_unknown and each.success is None for each in records)
    assert invoke("actions", "recover", "--json").stdout == ""
