"""`make` takes the newest Python that can run the ledger, or the one that it is told to take."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A folder that is all of the PATH, with no Python in it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("make", "sh"):
        found = shutil.which(name)
        assert found is not None
        (folder / name).symlink_to(found)
    return folder


def add(path: Path, name: str, script: str) -> None:
    program = path / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def works(path: Path, name: str) -> None:
    add(path, name, f'exec {sys.executable} "$@"')


def is_a_shim(path: Path, name: str) -> None:
    add(path, name, f"echo {name}: command not found >&2\nexit 127")


def make(path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """What `make test` would run first; VENV is a place where nothing is."""
    command = [path / "make", "--dry-run", "test", f"VENV={path.parent / 'venv'}", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={"PATH": str(path)}, capture_output=True, text=True, check=False
    )


def chosen(path: Path, *arguments: str) -> str:
    return make(path, *arguments).stdout.partition(" -m venv ")[0]


def test_the_newest_is_taken(path: Path) -> None:
    for name in ("python3", "python3.11", "python3.13", "python3.12"):
        works(path, name)
    assert chosen(path) == "python3.13"


def test_one_that_does_not_run_is_passed_over(path: Path) -> None:
    is_a_shim(path, "python3.13")
    works(path, "python3.12")
    is_a_shim(path, "python3")
    assert chosen(path) == "python3.12"


def test_a_version_without_a_name_of_its_own_is_found(path: Path) -> None:
    works(path, "python3")
    assert chosen(path) == "python3"


def test_one_that_is_too_old_or_has_no_venv_is_no_python(path: Path) -> None:
    add(path, "python3", "exit 1")
    done = make(path)
    assert done.returncode != 0
    assert "no Python 3.11 or newer" in done.stderr


def test_python_names_another(path: Path) -> None:
    works(path, "python3.12")
    assert chosen(path, "PYTHON=/opt/python") == "/opt/python"
