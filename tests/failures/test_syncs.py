"""An answered write is on the disk: each is answered after an fsync that came after it."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.failures.harness import run

COUNTER = """
#define _GNU_SOURCE
#include <dlfcn.h>
static long count;
long syncs(void) { return __atomic_load_n(&count, __ATOMIC_SEQ_CST); }
#define COUNTED(name)                                                        \\
    int name(int fd) {                                                       \\
        int done = ((int (*)(int))dlsym(RTLD_NEXT, #name))(fd);              \\
        __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);                     \\
        return done;                                                         \\
    }
COUNTED(fsync)
COUNTED(fdatasync)
"""


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that counts a process's fsync calls when it is preloaded."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler to count fsync calls")
    folder = tmp_path_factory.mktemp("counter")
    source, library = folder / "syncs.c", folder / "syncs.so"
    source.write_text(COUNTER)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


def count_syncs(counter: Path, path: Path, writes: int, mode: str) -> dict[str, Any]:
    (counted,) = run("syncs.py", path, writes, mode, environment={"LD_PRELOAD": str(counter)})
    print(f"{mode}: writes={writes} fsyncs={counted}")
    return counted


def check_each_is_synced(counted: dict[str, Any], writes: int) -> None:
    assert counted["alone"] >= writes


def check_shared(counted: dict[str, Any], writes: int) -> None:
    assert counted["together"] < writes
    assert counted["before the first answer"] >= 1


def measure(counter: Path, path: Path, writes: int) -> None:
    counted = count_syncs(counter, path, writes, "ledger")
    check_each_is_synced(counted, writes)
    check_shared(counted, writes)


def test_every_answered_write_was_synced_and_waiting_ones_share_a_sync(
    counter: Path, tmp_path: Path
) -> None:
    measure(counter, tmp_path / "ledger.db", 64)


@pytest.mark.soak
def test_thousands_of_answered_writes_were_synced(counter: Path, tmp_path: Path) -> None:
    measure(counter, tmp_path / "ledger.db", 5_000)


@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL"])
def test_planted_a_weaker_synchronous_is_caught(
    counter: Path, tmp_path: Path, synchronous: str
) -> None:
    counted = count_syncs(counter, tmp_path / "naive.db", 64, synchronous)
    with pytest.raises(AssertionError):
        check_each_is_synced(counted, 64)
