"""``operator-core actions replay``: recorded calls become proposals that lived."""

import asyncio
import contextlib
import getpass
import json
import os
import pty
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from operator_core.actions.types import ActionStatus, EventType
from operator_core.db import ActionDB
from operator_core.db.migrate import URL_VARIABLE
from operator_core.db.sql.sqlite_library import dbapi
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
    for path, actor in (("a.db", getpass.getuser()), ("b.db", "ops")):
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


def test_the_table_counts_what_happened_to_each_action(installed_program: Program) -> None:
    done = installed_program("actions", "replay", EXAMPLE, "--db-path", "demo.db")
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
    assert (done.exit_code, done.stdout) == (3, "")
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_standard_input_is_read_to_its_end_before_anything_is_written(
    tmp_path: Path, number: signal.Signals
) -> None:
    with subprocess.Popen(
        [PROGRAM, "actions", "replay", "-", "--db-path", "x.db"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        # More than a pipe holds: when all of it has been taken, the program reads.
        process.stdin.write('{"name": "add_peer"}\n' * 20_000)
        process.stdin.flush()
        process.send_signal(number)
        out, errors = process.communicate(timeout=30)
    assert process.returncode not in (0, None)
    assert (out, "Traceback" in errors) == ("", False)
    assert list(tmp_path.iterdir()) == []


async def test_a_call_without_a_result_was_not_executed_and_stays_proposed(
    program: Program, calls_file: CallsFile, tmp_path: Path
) -> None:
    file = calls_file({"name": "drain_store"}, {"name": "drain_store", "result": "ok"})
    done = program("actions", "replay", file, "--db-path", "ledger.db")
    assert done.returncode == 0
    assert "not executed" in done.stdout
    async with ActionDB(tmp_path / "ledger.db") as db:
        found = await db.list_proposals()
        assert [each.status for each in found] == ["completed", "proposed"]
        assert await db.get_records_for_proposal(1) == []
        # No worker runs what was replayed.
        assert await db.claim("worker-1") == []


TOOL_USE = {"type": "tool_use", "id": "c1", "name": "drain_store", "input": {"store_id": 5}}
CHAT_CALL = {
    "id": "c2",
    "type": "function",
    "function": {"name": "drain_store", "arguments": '{"store_id": 6}'},
}


async def test_whole_messages_of_all_providers_are_taken_and_what_is_none_is_left_out(
    program: Program, calls_file: CallsFile, tmp_path: Path
) -> None:
    file = calls_file(
        {"role": "assistant", "content": [{"type": "text", "text": "two:"}, TOOL_USE, TOOL_USE]},
        {"choices": [{"message": {"role": "assistant", "tool_calls": [CHAT_CALL]}}]},
        {"type": "tool_call", "id": "c3", "name": "drain_store", "args": {"store_id": 7}},
        {"role": "assistant", "content": "no call at all"},
        {"name": "drain_store", "argument": {"store_id": 8}},
        {"role": "assistant", "content": [TOOL_USE, {**TOOL_USE, "input": None}]},
    )
    done = program("actions", "replay", file, "--db-path", "ledger.db")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "line 5 left out: arguments: is missing, and 'argument' is not a known key",
        "line 6 left out: content[1].input: must be a JSON object, not null",
    ]
    async with ActionDB(tmp_path / "ledger.db") as db:
        found = [(each.status, each.parameters) for each in await db.list_proposals()]
    assert found[::-1] == [("proposed", {"store_id": number}) for number in (5, 5, 6, 7)]


async def test_a_result_on_a_later_line_is_the_outcome_of_the_call_before_it(
    program: Program, calls_file: CallsFile, tmp_path: Path
) -> None:
    def result(call_id: str, **more: Any) -> dict[str, Any]:
        return {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": call_id, **more}],
        }

    # Ids repeat between runs; and the result may come in another transaction than the call.
    fillers = [{"name": "get_stores", "result": "ok"}] * 100
    file = calls_file(
        {"role": "assistant", "content": [TOOL_USE]},
        result("c1", content=[{"type": "text", "text": "no replica"}], is_error=True),
        {"role": "assistant", "content": [TOOL_USE]},
        *fillers,
        result("c1", content="Error is in the text only", is_error=False),
        {"role": "assistant", "tool_calls": [CHAT_CALL]},
        {"role": "tool", "tool_call_id": "c2", "content": "Error: no such store"},
        result("c9", content="ok"),
    )
    for _ in range(2):
        done = program("actions", "replay", file, "--db-path", "ledger.db")
        assert done.stderr == (
            "line 107 left out: is a result, but no earlier call with the id c9 waits for one\n"
        )
    assert "103 calls of calls.jsonl in ledger.db, 103 already there, 1 broken" in done.stdout
    async with ActionDB(tmp_path / "ledger.db") as db:
        drained = (await db.list_proposals(action_name="drain_store"))[::-1]
        records = [await db.get_records_for_proposal(each.id) for each in drained]
    outcomes = [(each.success, each.error_message, each.result_data) for (each,) in records]
    assert outcomes == [
        (False, "no replica", None),
        (True, None, {"result": "Error is in the text only"}),
        (False, "Error: no such store", None),
    ]
    assert [each.status for each in drained] == ["failed", "completed", "failed"]


async def everything(path: Path) -> tuple[Any, ...]:
    async with ActionDB(path) as db:
        proposals = await db.list_proposals()
        records = [await db.get_records_for_proposal(each.id) for each in proposals]
        return list(proposals), records, list(await db.history())


async def test_a_file_that_is_replayed_twice_is_written_once(
    program: Program, shared_data: Path, tmp_path: Path
) -> None:
    file = shared_data / "airline_tool_calls.jsonl"
    assert program("actions", "replay", file, "--db-path", "ledger.db").returncode == 0
    before = await everything(tmp_path / "ledger.db")
    for source, text in ((file, None), ("-", file.read_text())):
        again = program(
            "actions", "replay", source, "--db-path", "ledger.db", "--actor", "bob", input=text
        )
        assert (again.returncode, again.stderr) == (0, "")
        assert "in ledger.db, 621 already there" in again.stdout
    assert await everything(tmp_path / "ledger.db") == before


async def test_what_stands_twice_in_files_is_written_for_each_line_and_file(
    program: Program, calls_file: CallsFile, tmp_path: Path
) -> None:
    line = {"name": "drain_store", "arguments": {}, "call_id": "call_1"}
    one, two = calls_file(line, line, name="1.jsonl"), calls_file(line, line, line, name="2.jsonl")
    for file in (one, two, one, two):
        assert program("actions", "replay", file, "--db-path", "ledger.db").returncode == 0
    async with ActionDB(tmp_path / "ledger.db") as db:
        assert len(await db.list_proposals()) == 5


async def test_a_replay_that_was_killed_can_be_repeated_and_completes_what_is_missing(
    program: Program, shared_data: Path, tmp_path: Path
) -> None:
    file = shared_data / "airline_tool_calls.jsonl"
    ledger = tmp_path / "ledger.db"
    killed = 0
    with subprocess.Popen(
        [PROGRAM, "actions", "replay", file, "--db-path", ledger], stdout=subprocess.DEVNULL
    ) as process:
        while process.poll() is None and not killed:
            with contextlib.suppress(dbapi.Error), closing(dbapi.connect(ledger)) as connection:
                (killed,) = connection.execute("SELECT count(*) FROM action_proposals").fetchone()
        process.kill()
    # Whatever is there is whole.
    _, records, _ = await everything(ledger)
    assert len(records) > 0
    assert all(len(each) == 1 and each[0].completed_at is not None for each in records)
    done = program("actions", "replay", file, "--db-path", ledger)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{len(records)} already there" in done.stdout
    proposals, records, _ = await everything(ledger)
    assert Counter(each.status for each in proposals) == {"completed": 558, "failed": 63}
    assert all(len(each) == 1 for each in records)


async def test_what_is_imported_is_never_there_to_be_claimed(
    program: Program, shared_data: Path, tmp_path: Path
) -> None:
    file = shared_data / "airline_tool_calls.jsonl"
    async with ActionDB(tmp_path / "ledger.db") as db:
        replaying = asyncio.create_task(
            asyncio.to_thread(program, "actions", "replay", file, "--db-path", "ledger.db")
        )
        taken = []
        async with db.changes() as changed:
            while not replaying.done():
                change = asyncio.create_task(changed.wait())
                await asyncio.wait({replaying, change}, return_when=asyncio.FIRST_COMPLETED)
                change.cancel()
                changed.clear()
                # As a worker that waits for work does.
                taken += await db.claim("worker-1", limit=10)
        assert (await replaying).returncode == 0
        assert taken == []


def test_a_named_pipe_is_read_as_a_file_is(program: Program, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["sh", "-c", 'echo \'{"name": "x"}\' > pipe']):
        done = program("actions", "replay", "pipe", "--db-path", "x.db")
    assert "1 call of pipe in x.db" in done.stdout


async def test_on_a_server_it_is_the_same(
    program: Program, shared_data: Path, server_ledger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URL_VARIABLE, server_ledger)
    file = shared_data / "airline_tool_calls.jsonl"
    for told in ("621 calls of airline_tool_calls.jsonl", "621 already there"):
        done = program("actions", "replay", file)
        assert (done.returncode, done.stderr) == (0, "")
        assert told in done.stdout
    async with ActionDB(server_ledger) as db:
        proposals = (await db.list_proposals())[::-1]
    lines = file.read_text().splitlines()
    assert [each.parameters for each in proposals] == [
        json.loads(line)["arguments"] for line in lines
    ]
    assert Counter(each.status for each in proposals) == {"completed": 558, "failed": 63}
