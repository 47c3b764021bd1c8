"""No room left, on a small disk and below a limit of the process: nothing acknowledged is missing."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.failures.harness import check_whole, rows, run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB, of which a file `ballast` takes the half."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"mounting a small disk is not permitted here: {mounted.stderr.strip()}")
    (folder / "ballast").write_bytes(bytes(2 << 20))
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(params=["tmpfs", "RLIMIT_FSIZE"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """Where a ledger soon has no room, and the file whose removal makes some, if that is how."""
    if request.param == "tmpfs":
        folder: Path = request.getfixturevalue("small_disk")
        return folder / "ledger.db", str(folder / "ballast")
    return tmp_path / "ledger.db", ""


def check_acknowledged(path: Path, seen: dict[str, Any]) -> None:
    """Fails unless the rows are those that were acknowledged, no more and no less."""
    kept = [row[0] for row in rows(path, "SELECT id FROM action_proposals")]
    assert sorted(kept) == sorted(seen["acknowledged"])


def test_a_full_disk_is_told_and_keeps_what_was_acknowledged(place: tuple[Path, str]) -> None:
    path, ballast = place
    (seen,) = run("full_disk.py", path, "fill", ballast)
    kept = rows(path, "SELECT count(*) FROM action_proposals")[0][0]
    acknowledged = len(seen["acknowledged"])
    print(
        f"acknowledged={acknowledged} rows={kept} readable when full={seen['readable when full']}"
        f" told={seen['told']}"
    )
    assert set(seen["told"]) == {"StorageFull"}
    assert seen["readable when full"] == seen["when full"]
    assert seen["afterwards"], "it does not work again although there is room"
    check_acknowledged(path, seen)
    check_whole(path)


@pytest.mark.parametrize("kind", ["file", "engine", "session"])
def test_a_transaction_that_ran_out_of_room_is_over_whatever_its_caller_does(
    place: tuple[Path, str], kind: str
) -> None:
    path, ballast = place
    (seen,) = run("full_disk.py", path, f"transaction on {kind}", ballast)
    print(seen)
    kept = rows(path, "SELECT action_name FROM action_proposals")
    assert seen["first"] == "StorageFull"
    # SQLite has rolled it back; what came later must not be committed on its own.
    assert seen["outcome"] != "committed"
    assert kept == [("afterwards",)]
    check_whole(path)


def test_planted_a_writer_that_swallows_the_error_is_caught(place: tuple[Path, str]) -> None:
    path, ballast = place
    (seen,) = run("full_disk.py", path, "swallow", ballast)
    with pytest.raises(AssertionError):
        check_acknowledged(path, seen)
