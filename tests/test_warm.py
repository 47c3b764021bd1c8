"""Programs that start warm are processes of their own, with all that a process has."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests import warm
from tests.migrations.tools import version

SCRIPT = """
import os, random, sys
print(os.getpid(), random.random(), os.environ["COLOUR"], *sys.argv[1:], flush=True)
sys.exit(int(sys.stdin.readline() or 7))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def begin(script: Path, colour: str) -> tuple[warm.Child, list[str]]:
    """The child, and what it says of itself: its process, its dice, its environment, its arguments."""
    child = warm.start(script, "a", "b c", env={**os.environ, "COLOUR": colour, "PYTHONPATH": ""})
    assert child.stdout is not None
    return child, child.stdout.readline().decode().split()


def test_each_is_a_process_with_its_own_dice_environment_and_arguments(script: Path) -> None:
    (first, one), (second, two) = begin(script, "red"), begin(script, "blue")
    assert (int(one[0]), int(two[0])) == (first.pid, second.pid)
    assert len({os.getpid(), first.pid, second.pid}) == 3
    assert one[1] != two[1]
    assert (one[2:], two[2:]) == (["red", "a", "b", "c"], ["blue", "a", "b", "c"])
    assert first.poll() is None
    assert first.stdin is not None
    first.stdin.write(b"3\n")
    assert first.communicate(timeout=60) == (b"", None)
    assert (first.returncode, first.poll()) == (3, 3)
    # The end of its input ends it otherwise.
    second.communicate(timeout=60)
    assert second.returncode == 7


def test_one_that_is_killed_or_stopped_is_so(script: Path) -> None:
    child, _ = begin(script, "red")
    child.send_signal(signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(1)
    child.kill()
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    child.kill()


def test_a_command_has_its_folder_its_streams_and_its_exit_status(tmp_path: Path) -> None:
    env = {**os.environ, "OPERATOR_DATABASE_URL": "sqlite:///here.db"}
    made = warm.run("operator-core", "db", "upgrade", cwd=tmp_path, env=env, timeout=60)
    assert (made.returncode, made.stderr) == (0, "")
    assert made.stdout.startswith("here.db: ")
    assert made.stdout.split()[1:2] == version(tmp_path / "here.db")
    failed = warm.run("alembic", "nonsense", timeout=60)
    assert (failed.returncode, failed.stdout) == (2, "")
    assert "invalid choice" in failed.stderr
    raised = warm.run("alembic", "history", cwd=tmp_path, timeout=60)
    assert raised.returncode != 0


def test_one_that_does_not_end_is_ended(tmp_path: Path) -> None:
    env = {**os.environ, "OPERATOR_DATABASE_URL": "sqlite:///here.db"}
    warm.run("operator-core", "db", "upgrade", cwd=tmp_path, env=env, timeout=60)
    with pytest.raises(subprocess.TimeoutExpired):
        warm.run("operator-core", "actions", "watch", cwd=tmp_path, env=env, timeout=1)
