"""``operator-core actions replay``: recorded calls become proposals that lived."""

import json
import os
import pty
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from operator_core.actions.types import ActionStatus, EventType
from operator_core.db import ActionDB
from tests.cli.conftest import PROGRAM, Invoke, Program

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "tool_calls.jsonl"

CallsFile = Callable[..., Path]


async def test_every_real_call_of_the_airline_agent_is_taken(
    program: Program, shared_data: Path, tmp_path: Path
) -> None:
    file = shared_data / "airline_tool_calls.jsonl"
    done = program("actions", "replay", file, "--db-path", tmp_path / "ledger.db")
    assert (done.returncode, done.stderr) == (0, "")
    assert "621 calls of airline_tool_calls.jsonl" in done.stdout
    recorded = [json.loads(line) for line in file.read_text().splitlines()]
    async with ActionDB(tmp_path / "ledger.db") as db:
        counts = await db.count_proposals()
        assert {status: count for status, count in counts.items() if count} == {
            ActionStatus.COMPLETED: 558,
            ActionStatus.FAILED: 63,
        }
        proposals = (await db.list_proposals())[::-1]
        for number, (proposal, call) in enumerate(zip(proposals, recorded, strict=True), 1):
            assert proposal.id == number
            assert proposal.action_name == call["name"]
            assert proposal.parameters == call["arguments"]
            assert proposal.reason == (
                f"replayed from airline_tool_calls.jsonl line {number} ({call['call_id']})"
            )
            (record,) = await db.get_records_for_proposal(number)
            outcome = record.error_message or (record.result_data or {})["result"]
            assert outcome == call["result"]
            assert record.success is not call["result"].startswith("Error")


async def test_the_history_tells_each_step_and_who_took_it(
    program: Program, calls_file: CallsFile, tmp_path: Path
) -> None:
    file = calls_file({"name": "drain_store", "result": "Error: too few replicas"})
    assert program("actions", "replay", file, "--db-path", "a.db").returncode == 0
    assert program("actions", "replay", file, "--db-path", "b.db", "--actor", "ops").returncode == 0
    for path, actor in (("a.db", "replay"), ("b.db", "ops")):
        async with ActionDB(tmp_path / path) as db:
            events = await db.history(1)
        assert [(event.event_type, event.to_status, event.success) for event in events] == [
            (EventType.PROPOSAL_CREATED, ActionStatus.PROPOSED, None),
            (EventType.STATUS_CHANGED, ActionStatus.VALIDATED, None),
            (EventType.STATUS_CHANGED, ActionStatus.EXECUTING, None),
            (EventType.RECORD_STARTED, None, None),
            (EventType.RECORD_FINISHED, None, False),
            (EventType.STATUS_CHANGED, ActionStatus.FAILED, None),
        ]
        assert {event.actor for event in events} == {actor}


def test_the_table_counts_what_happened_to_each_action(program: Program) -> None:
    done = program("actions", "replay", EXAMPLE, "--db-path", "demo.db")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["add_peer", "2", "0"] in rows
    assert ["drain_store", "0", "1"] in rows
    assert ["total", "11", "1"] in rows
    assert "12 calls of tool_calls.jsonl in demo.db" in done.stdout


async def test_broken_lines_are_reported_by_number_and_the_rest_goes_on(
    program: Program, calls_file: CallsFile, tmp_path: Path
) -> None:
    file = calls_file(
        {"name": "add_peer", "result": "ok"},
        b"",
        b"{broken",
        {"name": "add_peer", "arguments": "[]"},
        {"arguments": {}},
        {"name": "remove_peer", "result": "Error: no such peer"},
        {"name": "add_peer", "result": "\0"},
    )
    done = program("actions", "replay", file, "--db-path", "ledger.db")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "line 3 left out: is not JSON: Expecting property name enclosed in double quotes at column 2",
        "line 4 left out: arguments: must be a JSON object, not a list",
        "line 5 left out: name: is missing",
        "line 7 left out: result_data.result: must not contain a NUL character",
    ]
    assert "2 calls of calls.jsonl in ledger.db, 4 broken lines left out" in done.stdout
    async with ActionDB(tmp_path / "ledger.db") as db:
        assert [each.status for each in await db.list_proposals()] == ["failed", "completed"]


def test_standard_input_is_read_for_a_dash(program: Program) -> None:
    done = program("actions", "replay", "-", "--db-path", "x.db", input='{"name": "add_peer"}\n')
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 call of stdin in x.db" in done.stdout


def test_a_file_of_nothing_is_no_error(invoke: Invoke, calls_file: CallsFile) -> None:
    done = invoke("actions", "replay", calls_file(b"", b""), "--db-path", "x.db")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "0 calls of calls.jsonl in x.db" in done.stdout


def test_a_replay_into_memory_keeps_no_file(
    invoke: Invoke, calls_file: CallsFile, tmp_path: Path
) -> None:
    done = invoke("actions", "replay", calls_file({"name": "x"}), "--db-path", ":memory:")
    assert done.exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["calls.jsonl"]


def test_a_missing_file_is_a_usage_error_and_makes_no_ledger(
    program: Program, tmp_path: Path
) -> None:
    done = program("actions", "replay", "absent.jsonl", "--db-path", "x.db")
    assert done.returncode == 2
    assert "absent.jsonl" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(invoke: Invoke) -> None:
    done = invoke("actions", "replay", EXAMPLE, "--db-path", "no/where/x.db")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "error: no/where/x.db: there is no folder no/where for it\n"


def test_text_of_an_agent_is_printed_without_its_control_characters(
    invoke: Invoke, calls_file: CallsFile
) -> None:
    file = calls_file({"name": "\x1b[2J[bold]x\u202e", "reason": "\x1b]0;owned\x07"})
    out = invoke("actions", "replay", file, "--db-path", "x.db").stdout
    out += invoke("actions", "list", "--db-path", "x.db").stdout
    out += invoke("actions", "show", "1", "--db-path", "x.db").stdout
    assert not set(out) & {"\x1b", "\x07", "\u202e"}
    assert out.count(r"\x1b[2J[bold]x\u202e") == 3


@pytest.mark.parametrize(("lines", "shown"), [(12, False), (400, True)])
def test_a_bar_is_shown_for_a_long_file_on_a_terminal(
    calls_file: CallsFile, lines: int, *, shown: bool
) -> None:
    file = calls_file(*[{"name": "add_peer", "arguments": {"n": n}} for n in range(lines)])
    main, terminal = pty.openpty()
    process = subprocess.Popen(
        [PROGRAM, "actions", "replay", file, "--db-path", "x.db"],
        stdout=subprocess.DEVNULL,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(terminal)
    seen = b""
    try:
        while part := os.read(main, 4096):
            seen += part
    except OSError:  # how Linux tells that nobody has the terminal open any more
        pass
    os.close(main)
    assert process.wait(60) == 0
    assert (b"replaying" in seen) is shown


def test_an_interrupt_while_input_is_awaited_ends_it_and_tells_what_was_done() -> None:
    with subprocess.Popen(
        [PROGRAM, "actions", "replay", "-", "--db-path", "x.db"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        # 64 calls are a group; the complaint about the line after it comes when that is done.
        process.stdin.write('{"name": "add_peer"}\n' * 64 + "broken\n")
        process.stdin.flush()
        assert "line 65" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=30)
    assert process.returncode not in (0, None)
    assert "64 calls of stdin in x.db" in out
    assert "Traceback" not in errors


async def test_a_call_without_a_result_was_not_executed_and_stays_validated(
    program: Program, calls_file: CallsFile, tmp_path: Path
) -> None:
    file = calls_file({"name": "drain_store"}, {"name": "drain_store", "result": "ok"})
    done = program("actions", "replay", file, "--db-path", "ledger.db")
    assert done.returncode == 0
    assert "not executed" in done.stdout
    async with ActionDB(tmp_path / "ledger.db") as db:
        found = await db.list_proposals()
        assert [each.status for each in found] == ["completed", "validated"]
        assert await db.get_records_for_proposal(1) == []
