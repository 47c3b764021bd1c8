"""What commands print: text of agents as text, nothing cut in a pipe, and a reader that leaves early."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from operator_core.actions.types import ActionProposal, ActionRecord, ActionStatus
from operator_core.cli.formatting import json_line, plain
from operator_core.cli.table import Column, laid_out
from operator_core.db import ActionDB
from tests import warm
from tests.cli.conftest import PROGRAM, Invoke, Program, Terminal

MARKUP = "[bold]x[/bold] [red] :smile: [link=http://x]y[/link] [/]"
# A CSI of one byte, NEL, DEL, the bidi letters (UAX 9), a soft hyphen, separators, and tags beyond the BMP.
UNSEEN = "\x9b2J\x85\x7f\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\xad\u2028\u2029\U000e0041"
SEEN = "é 漢 א 🙂"
LONG = "y" * 700 + " end"


def unseen_in(text: str) -> set[str]:
    return {
        letter for letter in text if (letter in UNSEEN and not letter.isascii()) or letter == "\x7f"
    }


async def fill(path: Path, text: str) -> None:
    """Proposals, records and events that say `text` wherever an agent or a worker may say something."""
    name = text[:200]
    async with ActionDB(path, actor=name) as db:
        for status in (ActionStatus.VALIDATED, ActionStatus.VALIDATED, ActionStatus.PROPOSED):
            await db.create_proposal(
                ActionProposal(
                    action_name=name,
                    reason=text,
                    parameters={text: [text]},
                    proposed_by=name,
                    status=status,
                )
            )
        ((_, record),) = await db.claim(name)
        await db.fail(record.id, text, {text: text})
        await db.claim(name, lease=timedelta(milliseconds=1))
        await db.update_proposal_status(3, ActionStatus.CANCELLED, reason=text)


def made(path: Path, text: str) -> Path:
    asyncio.run(fill(path, text))
    return path


READING = [["list"], ["show", "1"], ["show", "2"], ["show", "3"], ["watch", "--once"]]
JSON = [
    ["list", "--json"],
    ["show", "1", "--json"],
    ["recover", "--json"],
    ["claim", "w", "--json"],
]


@pytest.mark.parametrize("command", [*READING, ["recover"], ["claim", "w"]], ids=" ".join)
@pytest.mark.parametrize("columns", [None, 80, 160])
def test_no_letter_of_an_agents_text_is_obeyed(
    invoke: Invoke, tmp_path: Path, terminal: Terminal, command: list[str], columns: int | None
) -> None:
    made(tmp_path / "ledger.db", f"{UNSEEN} {SEEN}")
    if columns is not None:
        terminal(columns)
    done = invoke("actions", *command)
    assert (done.exit_code, done.stderr) == (0, "")
    assert not unseen_in(done.stdout)
    assert not set(done.stdout) & {"\x1b", "\x9b"}
    if command[0] != "claim":
        assert r"\x9b2J" in done.stdout or r"\u009b2J" in done.stdout


@pytest.mark.parametrize("command", JSON, ids=" ".join)
def test_json_is_lines_that_mean_what_was_written_and_show_nothing_unseen(
    program: Program, tmp_path: Path, command: list[str]
) -> None:
    text = f"{MARKUP} {UNSEEN} {SEEN} \\u009b"
    ledger = made(tmp_path / "ledger.db", text)

    async def due() -> None:
        async with ActionDB(ledger) as db:
            await db.retry(1)

    if command[0] == "claim":
        asyncio.run(due())
    done = program("actions", *command)
    assert (done.returncode, done.stderr) == (0, "")
    assert not unseen_in(done.stdout)
    assert SEEN in done.stdout
    # What ends a line for Python ends it for no JSON reader: there is none of it but the line's own end.
    lines = done.stdout.split("\n")
    assert lines.pop() == ""
    assert done.stdout.splitlines() == lines
    for line in lines:
        found = json.loads(line)
        assert text in texts_of(found)


def texts_of(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {each for pair in value.items() for one in pair for each in texts_of(one)}
    if isinstance(value, list):
        return {each for one in value for each in texts_of(one)}
    return {value} if isinstance(value, str) else set()


def test_events_in_a_pipe_show_nothing_unseen(tmp_path: Path) -> None:
    made(tmp_path / "ledger.db", f"{UNSEEN} {SEEN}")
    with subprocess.Popen(
        [PROGRAM, "actions", "watch"], stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(9)]
        process.terminate()
        rest = process.stdout.read()
        assert process.wait(30) == 0
    for line in [*lines, *rest.splitlines()]:
        assert not unseen_in(line.rstrip("\n")), line
        assert r"\x9b2J" in line


@pytest.mark.parametrize("command", [*READING, ["claim", "w"], ["recover"]], ids=" ".join)
def test_nothing_is_cut_in_a_pipe(invoke: Invoke, tmp_path: Path, command: list[str]) -> None:
    ledger = made(tmp_path / "ledger.db", LONG)

    async def more() -> None:
        async with ActionDB(ledger) as db:
            await db.retry(1)

    if command[0] == "claim":
        asyncio.run(more())
    done = invoke("actions", *command)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "…" not in done.stdout
    if command == ["list"]:
        # A line each, whatever there is to say of it.
        rows = [line for line in done.stdout.splitlines() if "y" * 200 in line]
        assert len(rows) == 3
        for row in rows:
            assert row.count(LONG) >= 3
    elif command[0] in ("show", "claim"):
        assert done.stdout.count(LONG) >= 2


def test_in_a_terminal_what_is_cut_says_so(
    invoke: Invoke, tmp_path: Path, terminal: Terminal
) -> None:
    made(tmp_path / "ledger.db", LONG)
    terminal(80)
    for command in READING:
        shown = invoke("actions", *command).stdout
        assert max(map(len, shown.splitlines())) <= 80
        assert command[0] == "show" or "…" in shown


COLUMNS = (Column("id", right=True), Column("what", share=1), Column("who", most=4))


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (20, [" 7  漢漢漢漢漢  bobb", "12  a              "]),
        (14, [" 7  漢 …  bob…", "12  a          "]),
        (None, [" 7  漢漢漢漢漢  bobby", "12  a      "]),
    ],
)
def test_a_table_counts_the_columns_that_letters_take(width: int | None, lines: list[str]) -> None:
    rows = [
        [[("7", "")], [("漢漢", "red"), ("漢漢漢", "")], [("bobby" if width != 20 else "bobb", "")]]
    ]
    rows.append([[("12", "")], [("a", "")], []])
    shown = ["".join(text for text, _ in line) for line in laid_out(COLUMNS, rows, width)]
    assert [line.rstrip() for line in shown[2:]] == [line.rstrip() for line in lines]


def test_plain_text_and_json_escape_the_same_letters() -> None:
    # What an escape is written with stands alone, everything else in blocks, which is quicker.
    blocks = [range(code, code + 1) for code in range(0x20, 0x80)]
    blocks += [range(start, start + 0x80) for start in range(0x80, 0x110000, 0x80)]
    for block in blocks:
        if 0xD800 <= block[0] < 0xE000:
            continue
        text = "".join(map(chr, block))
        line = json_line({"a": text})
        assert json.loads(line) == {"a": text}
        if text not in '"\\':
            in_line, in_text = set(line), set(plain(text))
            for letter in text:
                assert (letter in in_line) == (letter in in_text), hex(ord(letter))


async def write(path: Path, number: int) -> None:
    async with ActionDB(path) as db:
        statuses = (ActionStatus.FAILED, ActionStatus.EXECUTING, ActionStatus.COMPLETED)
        await db.create_proposals(
            ActionProposal(
                action_name="update_reservation",
                parameters={"n": n, "text": "z" * 300},
                reason="why " * 30,
                status=statuses[n % 3],
            )
            for n in range(number)
        )
        async with db.transaction() as tx:
            for n in range(number):
                await tx.create_record(ActionRecord(proposal_id=n + 1, success=n % 2 == 0))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "large.db"
    asyncio.run(write(path, 5000))
    return path


def closed_early(*command: str | Path) -> tuple[int, str]:
    """How a command ends whose standard output is closed after its first line, and what it says."""
    reader, writer = os.pipe()
    with ThreadPoolExecutor(1) as thread:
        ending = thread.submit(printing_to, writer, *command)
        with open(reader, "rb") as printed:
            printed.readline()
        return ending.result()


def printing_to(writer: int, *command: str | Path) -> tuple[int, str]:
    """How a command ends whose standard output is `writer`, which is closed then, and what it says."""
    try:
        done = warm.run("operator-core", *map(str, command), stdout=writer, timeout=60)
    finally:
        os.close(writer)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("actions", "list", "--limit", "5000"),
        ("actions", "list", "--limit", "5000", "--json"),
        ("actions", "show", "1"),
        ("actions", "show", "1", "--json"),
        ("actions", "watch", "--once"),
        ("actions", "claim", "w"),
        ("actions", "recover"),
        ("actions", "cancel", "1"),
        ("actions", "--help"),
        ("db", "current"),
        ("db", "check"),
    ],
    ids=" ".join,
)
def test_a_reader_that_leaves_early_is_no_failure(large: Path, command: tuple[str, ...]) -> None:
    place = () if "--help" in command else ("--db-path", large)
    # With nobody at the other end from the beginning, and from the first line on.
    reader, writer = os.pipe()
    os.close(reader)
    known = 1 if command[1] == "cancel" else 0
    for status, said in (printing_to(writer, *command, *place), closed_early(*command, *place)):
        assert (status, "Traceback" in said) == (known, False)


def test_head_of_both_streams_is_no_failure(large: Path, program: Program) -> None:
    script = f"'{PROGRAM}' actions list --limit 5000 --db-path '{large}' 2>&1 | head -n 3"
    done = subprocess.run(
        ["bash", "-c", f"{script}; echo ${{PIPESTATUS[0]}} >&2"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stderr == "0\n"
    assert len(done.stdout.splitlines()) == 3
    closed = subprocess.run(
        ["bash", "-c", f"'{PROGRAM}' actions show 99999 --db-path '{large}' 2>&1 | true; exit ${{PIPESTATUS[0]}}"],
        check=False, timeout=60,
    )  # fmt: skip
    assert closed.returncode == 1


def test_what_is_printed_to_nobody_is_done_all_the_same(tmp_path: Path) -> None:
    async def fill_up() -> None:
        async with ActionDB(tmp_path / "ledger.db") as db:
            many = ActionProposal(action_name="x", reason="y", status=ActionStatus.VALIDATED)
            await db.create_proposals([many] * 250)
            await db.claim("w", limit=250, lease=timedelta(milliseconds=1))

    asyncio.run(fill_up())
    reader, writer = os.pipe()
    os.close(reader)
    command = [PROGRAM, "actions", "recover", "--json", "--db-path", tmp_path / "ledger.db"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")

    async def counted() -> int:
        async with ActionDB(tmp_path / "ledger.db") as db:
            return (await db.count_proposals())[ActionStatus.FAILED]

    assert asyncio.run(counted()) == 250


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["table", "json"])
def test_a_list_of_thousands_takes_no_time(
    invoke: Invoke, large: Path, options: tuple[str, ...]
) -> None:
    """Counted and not timed: 195 calls of functions for a line of JSON and 311 for a row; rich's tables take 1,700."""
    few, many = (
        calls_of(lambda limit=limit: listed(invoke, large, limit, options)) for limit in (50, 550)
    )
    assert many - few < 500 * 500


def listed(invoke: Invoke, ledger: Path, limit: int, options: tuple[str, ...]) -> None:
    done = invoke("actions", "list", "--limit", str(limit), "--db-path", ledger, *options)
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) >= limit


def calls_of(work: Callable[[], object]) -> int:
    """How many functions `work` calls, in any of its threads."""
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    threading.setprofile(count)
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
        threading.setprofile(None)  # type: ignore[arg-type]
    return calls


def test_what_a_full_disk_keeps_from_being_printed_is_done_all_the_same(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.db"

    async def fill_up() -> None:
        async with ActionDB(ledger) as db:
            await db.create_proposals([ActionProposal(action_name="x", reason="y")] * 3)

    asyncio.run(fill_up())
    commands: list[tuple[str, ...]] = [
        ("actions", "stop", "--yes"),
        ("actions", "list", "--json"),
        ("actions", "watch", "--once"),
        ("db", "check"),
        ("--version",),
    ]
    for command in commands:
        with open("/dev/full", "wb") as full:
            place = ("--db-path", str(ledger)) if len(command) > 1 else ()
            done = subprocess.run(
                [PROGRAM, *command, *place],
                stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
            )  # fmt: skip
        told = done.stderr.splitlines()
        assert (done.returncode, told[-1:]) == (
            1,
            ["error: standard output: No space left on device"],
        )
        assert "Traceback" not in done.stderr

    async def counted() -> int:
        async with ActionDB(ledger) as db:
            return (await db.count_proposals())[ActionStatus.CANCELLED]

    assert asyncio.run(counted()) == 3


def test_a_check_in_a_pipe_is_a_line_for_each_finding(large: Path, program: Program) -> None:
    done = program("db", "check", "--db-path", large)
    titled, *findings = [line for line in done.stdout.splitlines() if line]
    assert titled == f" {large}"
    assert len(findings) > 10
    for line in findings:
        assert line.split()[0] in ("ok", "warning", "broken")
        assert line == line.rstrip()
