"""SIGKILL before and after every statement of every unit: all of the unit is there, or nothing."""

from pathlib import Path

import pytest

from tests.failures.harness import rows, run, snapshot


def check_points(operation: str, folder: Path) -> str:
    """Runs `operation`, killed at every step in turn, and compares what is left with before and after."""
    *killed, survived = run("kill_points.py", operation, folder)
    assert killed
    before, after = snapshot(folder / "template.db"), snapshot(Path(survived["path"]))
    assert before != after
    absent = whole = 0
    for point in killed:
        path = Path(point["path"])
        assert rows(path, "PRAGMA integrity_check") == [("ok",)]
        left = snapshot(path)
        assert left in (before, after), f"half of the unit is left at {path.stem}: {left}"
        absent += left == before
        whole += left == after
    # Both ends were hit: a kill before the first statement, and one after the commit.
    assert absent
    assert whole
    return f"{operation}: kill points={len(killed)} absent={absent} whole={whole}"


@pytest.mark.parametrize(
    "operation", ["create", "bulk", "status", "cancel", "start", "finish", "transaction"]
)
def test_a_unit_killed_at_any_step_is_whole_or_absent(operation: str, tmp_path: Path) -> None:
    print(check_points(operation, tmp_path))


def test_planted_a_history_written_in_its_own_transaction_is_caught(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="half of the unit is left"):
        check_points("naive", tmp_path)
