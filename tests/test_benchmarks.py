"""The benchmarks run, on both sides and to the end; how fast is for `make bench` to say."""

import json
from pathlib import Path
from random import Random

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import compare, growth, startup
from benchmarks.sides import BASELINE, OURS
from operator_core.actions.types import ActionStatus
from operator_core.db import ActionDB

TINY = compare.Sizes(create=3, create_each=1, get=5, rows=20, list=1, life=2, open=2, floor=3)


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "QUICK", TINY)
    monkeypatch.setattr(growth, "QUICK_SIZES", (100, 200))
    monkeypatch.setattr(growth, "PENDING", 10)
    monkeypatch.setattr(growth, "WAITING", 10)
    monkeypatch.setattr(growth, "REPEATS", 2)
    monkeypatch.setattr(startup, "_MODULES", ("operator_core.db",))


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


def test_growth_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(tmp_path, "--only", "growth")
    printed = capsys.readouterr().out
    assert growth.CLAIM in printed
    assert "cancel_all_pending of" in printed
    assert "iter_proposals over" in printed


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


@pytest.mark.parametrize(("ours", "status"), [(9.0, 1), (10.0, 0)])
def test_only_a_check_fails_for_what_is_behind(
    ours: float, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def compared(*_: object) -> tuple[list[compare.Compared], dict[str, float]]:
        return [compare.Compared("work", "rows", 1.0, [ours], [10.0])], {}

    monkeypatch.setattr(compare, "compare", compared)
    assert _run(tmp_path, "--only", "compare") == 0
    assert _run(tmp_path, "--only", "compare", "--check") == status
