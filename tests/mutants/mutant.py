"""A fault, and what becomes of the tests when it is planted."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

__all__ = [
    "ROOT",
    "Broken",
    "Mutant",
    "Result",
    "Verdict",
    "copy_tree",
    "plant",
    "run_tests",
    "try_one",
]

ROOT: Final = Path(__file__).resolve().parents[2]

_COPIED: Final = ("src", "migrations", "tests", "alembic.ini", "pyproject.toml")

_PATIENCE: Final = 10.0
"""Seconds that a run which is interrupted has to drop its databases and end."""


class Mutant(NamedTuple):
    """One fault: the text `old`, which stands once in `file`, replaced by `new`."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    """Files or node ids, the fastest that should notice."""
    why: str
    """What goes wrong for a caller, in one sentence."""

    def problem(self, root: Path = ROOT) -> str | None:
        """Why it can't be planted in the tree at `root`, or None if it can be."""
        if self.old == self.new:
            return f"{self.name}: it changes nothing"
        file = root / self.file
        found = file.read_text().count(self.old) if file.is_file() else 0
        return None if found == 1 else f"{self.name}: its text stands {found} times in {self.file}"


class Verdict(StrEnum):
    """What the tests made of a mutant."""

    CAUGHT = "caught"
    HUNG = "caught, by a hang"
    SURVIVED = "SURVIVED"
    BROKEN = "BROKEN"


class Result(NamedTuple):
    """A verdict, and what pytest has printed."""

    verdict: Verdict
    output: str


class Broken(Exception):
    """The list of mutants does not fit the tree or the tests."""


def copy_tree(to: Path, root: Path = ROOT) -> None:
    """Copies what the tests need.

    Without compiled files, because one of the same size and second would pass for the changed text.
    """
    for name in _COPIED:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, to / name)


def plant(mutant: Mutant, tree: Path) -> None:
    """Writes the fault into a copy of the tree; raises `Broken` if it can't be planted there."""
    if (problem := mutant.problem(tree)) is not None:
        raise Broken(problem)
    file = tree / mutant.file
    file.write_text(file.read_text().replace(mutant.old, mutant.new))


def run_tests(
    tree: Path, tests: tuple[str, ...], *options: str, seconds: float
) -> tuple[int | None, str]:
    """Runs tests on a copy of the tree; pytest's exit status, None if time was up, and its output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    environment["PYTHONPATH"] = str(tree / "src")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += ["--timeout=60", f"--basetemp={tree / 'temporary'}", *options, *tests]
    with subprocess.Popen(
        command,
        cwd=tree,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=_PATIENCE)
            return None, f"not ended after {seconds:g} s"
        finally:
            # Also what a test has started and could not end, because it failed.
            _signal(process, signal.SIGKILL)
        return process.returncode, output


def _signal(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """To the process and all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def try_one(mutant: Mutant, root: Path = ROOT, *, seconds: float) -> Result:
    """Plants the fault in a copy of the tree and runs its tests; raises `Broken`."""
    with tempfile.TemporaryDirectory(prefix=f"mutant-{mutant.name}-") as folder:
        tree = Path(folder)
        copy_tree(tree, root)
        plant(mutant, tree)
        status, output = run_tests(tree, mutant.tests, seconds=seconds)
    match status:
        case 0:
            return Result(Verdict.SURVIVED, output)
        case 1:
            return Result(Verdict.CAUGHT, output)
        case None:
            return Result(Verdict.HUNG, output)
        case _:
            # No test failed: it could not be imported, or a test is not there.
            return Result(Verdict.BROKEN, output)
