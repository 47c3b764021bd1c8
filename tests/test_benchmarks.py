"""The benchmarks run, on both sides and to the end; how fast is for `make bench` to say."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import compare, floor, gate_latency, governance, growth, startup, works
from benchmarks.replay import recording, run
from benchmarks.sides import BASELINE, OURS
from operator_core.actions.types import ActionStatus
from operator_core.db import ActionDB
from operator_core.db.sql.sqlite_library import dbapi

TINY = works.Sizes(
    create=3, create_each=1, get=5, rows=20, list=1, life=2, cycle=3, cancel=4, open=2, limit=3
)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(works, "QUICK", TINY)
    monkeypatch.setattr(growth, "QUICK_SIZES", (100, 200))
    monkeypatch.setattr(growth, "PENDING", 10)
    monkeypatch.setattr(growth, "WAITING", 10)
    monkeypatch.setattr(growth, "REPEATS", 2)
    monkeypatch.setattr(startup, "_MODULES", ("sqlalchemy.ext.asyncio", "operator_core.db"))


def _run(folder: Path, *arguments: str) -> int:
    return benchmarks.main(["--quick", "--rounds", "1", "--dir", str(folder), *arguments])


async def test_both_sides_do_the_same_work(tmp_path: Path) -> None:
    seen = []
    for side in (OURS, BASELINE):
        path = tmp_path / side.name
        await side.make(path, 2)
        async with side.open(path) as db:
            created = await db.create_proposal(side.proposal(2))
            for status in ("validated", "executing"):
                await db.update_proposal_status(created.id, status)
            record = await db.create_record(side.record(created.id))
            await db.update_record(record.id, True, result_data={"moved": True})
            await db.update_proposal_status(created.id, "completed")
            found = await db.list_proposals()
        assert [each.id for each in found] == [3, 2, 1]
        assert record.started_at is not None
        assert found[0].validated_at is not None
        kept = {"id", "action_name", "parameters", "reason", "status", "proposed_by"}
        seen.append([each.model_dump(mode="json", include=kept) for each in found])
    assert seen[0] == seen[1]


def test_each_work_runs_on_both_sides_and_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json_file = tmp_path / "figures.json"
    assert _run(tmp_path, "--only", "compare", "--json", str(json_file)) == 0
    assert list(tmp_path.iterdir()) == [json_file], "ledgers were left behind"
    printed = capsys.readouterr().out
    for work in compare.WORKS:
        assert work.name in printed
    assert "fdatasync" in printed
    assert "no measurements" in printed
    found = json.loads(json_file.read_text())["compare"]["works"]
    assert [each["name"] for each in found] == [work.name for work in compare.WORKS]
    for each in found:
        assert len(each["ours"]) == len(each["theirs"]) == 1
        assert min(*each["ours"], *each["theirs"]) > 0


def test_the_floor_of_each_work_is_reported_on_a_disk_and_in_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, folder = tmp_path / "memory", tmp_path / "disk"
    memory.mkdir()
    folder.mkdir()
    monkeypatch.setattr(floor, "IN_MEMORY", memory)
    json_file = tmp_path / "figures.json"
    _run(folder, "--only", "floor", "--json", str(json_file))
    assert [*memory.iterdir(), *folder.iterdir()] == [], "ledgers were left behind"
    printed = capsys.readouterr().out
    assert "skipped" not in printed
    found = json.loads(json_file.read_text())["floor"]["works"]
    assert [(each["name"], each["place"]) for each in found] == [
        (work.name, place) for work in floor.WORKS for place in (floor.DISK, floor.TMPFS)
    ]
    for each in found:
        assert each["name"] in printed
        assert min(*each["ours"], *each["floor"], *each["without_triggers"]) > 0
    promised = [(each["name"], each["place"]) for each in found if each["promised"] is not None]
    assert promised == [(work.name, place) for work in floor.WORKS for place in work.promised]


def test_a_machine_without_a_folder_in_memory_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floor, "IN_MEMORY", tmp_path / "none")
    monkeypatch.setattr(floor, "WORKS", floor.WORKS[:1])
    _run(tmp_path, "--only", "floor")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines if line.startswith("  ")][1] == [
        floor.TMPFS,
        "skipped",
        "no",
    ]


def _contents(path: Path) -> list[tuple[Any, ...]]:
    """The proposals and their events, without times."""
    with closing(sqlite3.connect(path)) as conn:
        return [
            *conn.execute("SELECT id, action_name, parameters, status FROM action_proposals"),
            *conn.execute("SELECT event_type, to_status, actor FROM action_events ORDER BY id"),
        ]


async def test_the_floor_does_what_the_ledger_does(tmp_path: Path) -> None:
    """The statements that a ledger sends, on a copy of its file, leave the same contents."""
    path, copy = tmp_path / "ledger.db", tmp_path / "copy.db"
    await OURS.make(path, 2)
    shutil.copyfile(path, copy)
    with recording() as recorded:
        async with ActionDB(path) as db:
            before = len(recorded)
            for number in (2, 3):
                await db.create_proposal(OURS.proposal(number))
            await db.update_proposal_status(3, ActionStatus.VALIDATED)
            (claim,) = await db.claim("worker-1")
            await db.complete(claim.record.id)
            assert await db.cancel_all_pending() == 3
    statements = [each for each in recorded[before:] if "PRAGMA" not in each.sql]
    with closing(sqlite3.connect(copy, isolation_level=None)) as conn:
        run(conn, statements)
    assert _contents(copy) == _contents(path)
    # Outside of the block nothing is recorded.
    async with ActionDB(path) as db:
        assert await db.get_proposal(1) is not None
    assert recorded[-1] == statements[-1]


def test_a_batch_of_rows_is_recorded_and_runs_again() -> None:
    with recording() as recorded, closing(dbapi.connect(":memory:")) as conn:
        conn.execute("CREATE TABLE t (n)")
        conn.executemany("INSERT INTO t VALUES (?)", iter([(1,), (2,)]))
    with closing(dbapi.connect(":memory:")) as conn:
        run(conn, recorded)
        assert conn.execute("SELECT n FROM t").fetchall() == [(1,), (2,)]


@pytest.mark.parametrize(("place", "behind"), [(floor.DISK, True), (floor.TMPFS, False)])
def test_a_floor_is_promised_in_its_place(
    place: str, behind: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work,) = [each for each in floor.WORKS if each.promised == {floor.DISK: 1.6}]
    found = floor.Compared(
        work.name, place, work.promised.get(place), [1.7] * 3, [1.2] * 3, [1.0] * 3, [0.5] * 3
    )
    assert found.ratio_without_triggers == 3.4
    assert found.sync_ratio == 1.2
    assert found.behind is behind

    async def compared(*_: object) -> list[floor.Compared]:
        return [found]

    monkeypatch.setattr(floor, "floor", compared)
    assert _run(tmp_path, "--only", "floor", "--check") == behind


def test_growth_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(tmp_path, "--only", "growth")
    printed = capsys.readouterr().out
    assert growth.CLAIM in printed
    assert "cancel_all_pending of" in printed
    assert "iter_proposals over" in printed


def test_what_governance_costs_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(tmp_path, "--only", "governance")
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*governance.CASES, *governance.INBOX))
    assert f"{governance.QUICK.waiting} proposals wait for people" in printed


def test_a_waiting_gate_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(tmp_path, "--only", "gate")
    assert gate_latency.NAME in capsys.readouterr().out
    late = {gate_latency.SQLITE: [0.02, 0.04, 0.05], gate_latency.POSTGRESQL: [0.01, 0.01, 0.2]}
    assert gate_latency.behind(late) == [f"{gate_latency.NAME} (SQLite)"]
    assert gate_latency.report(late, 2).count("BEHIND") == 1


def test_rules_and_lists_have_promises() -> None:
    created = dict(zip(governance.CASES, ([1.0], [2.3], [3.6]), strict=True))
    pages = ([0.001, 0.006], [0.001, 0.001], [0.004, 0.004], [1.0, 1.0])
    listed = dict(zip(governance.INBOX, pages, strict=True))
    _, two, _ = governance.CASES
    assert governance.behind(created, listed) == [two, "pending_approvals(limit=50)"]
    assert governance.report(created, listed, governance.QUICK).count("BEHIND") == 2


async def test_a_measured_claim_leaves_as_many_waiting(tmp_path: Path) -> None:
    async with ActionDB(tmp_path / "ledger.db") as db:
        for _ in range(2):
            await growth.keep_waiting(db)
            assert (await db.count_proposals())[ActionStatus.VALIDATED] == growth.WAITING
        await growth.cost(db, growth.OPERATIONS[growth.CLAIM], Random(0), 0)
        counts = await db.count_proposals()
    assert counts[ActionStatus.VALIDATED] == growth.WAITING
    assert counts[ActionStatus.COMPLETED] == growth.REPEATS


def test_a_claim_must_stay_flatter_than_the_rest() -> None:
    costs = {growth.CLAIM: [1.0, 1.6], "get": [1.0, 1.6], "create": [1.0, 2.1]}
    assert growth.behind(costs) == [growth.CLAIM, "create"]
    verdicts = [line.split()[-2:] for line in growth.costs_table(costs, (1, 2)).splitlines()[-3:]]
    assert verdicts == [["1.50x", "BEHIND"], ["2.00x", "ok"], ["2.00x", "BEHIND"]]


def test_startup_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(tmp_path, "--only", "startup")
    printed = capsys.readouterr().out
    assert "import operator_core.db" in printed
    assert "open, one read, close" in printed
    assert startup.COMMAND in printed


def test_the_start_is_promised_beside_the_import_of_sqlalchemy() -> None:
    seconds = {"sqlalchemy.ext.asyncio": 0.2, "operator_core.db": 0.4, startup.COMMAND: 0.55}
    assert startup.behind(seconds) == ["operator_core.db"]
    assert startup.report(seconds).count("BEHIND") == 1
    assert benchmarks._behind({"startup": startup.as_json(seconds)}) == ["operator_core.db"]


@pytest.mark.parametrize(("a_second", "behind"), [(1000.0, False), (700.0, True)])
def test_opening_has_a_promised_time(a_second: float, behind: bool) -> None:
    (work,) = [each for each in compare.WORKS if each.at_most is not None]
    compared = compare.Compared(
        work.name, work.unit, work.promised, [a_second], [500.0], work.at_most
    )
    assert compared.behind is behind
    assert compared.asked == "0.50x, 1.3 ms"


@pytest.mark.parametrize(("ours", "status"), [(9.0, 1), (10.0, 0)])
def test_only_a_check_fails_for_what_is_behind(
    ours: float, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def compared(*_: object) -> tuple[list[compare.Compared], dict[str, float]]:
        return [compare.Compared("work", "rows", 1.0, [ours], [10.0])], {}

    monkeypatch.setattr(compare, "compare", compared)
    assert _run(tmp_path, "--only", "compare") == 0
    assert _run(tmp_path, "--only", "compare", "--check") == status
