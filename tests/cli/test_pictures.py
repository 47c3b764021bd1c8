"""The pictures in the README and the docs show what the commands print."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import PATIENCE
from tests.distribution import ROOT

PICTURES = ("list", "show", "inbox", "watch")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    script = ROOT / "docs" / "make_pictures.py"
    subprocess.run([sys.executable, str(script), str(folder)], check=True, timeout=PATIENCE)
    return folder


def masked(svg: str) -> str:
    """Without what is another at each time: digits, and the blanks beside a number of another length."""
    return re.sub(r"\d+", "0", re.sub(r"(&#160;)+", " ", svg))


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_what_the_command_prints(name: str, made: Path) -> None:
    kept = (ROOT / "docs" / f"cli-{name}.svg").read_text()
    assert masked((made / f"cli-{name}.svg").read_text()) == masked(kept), "run: make pictures"

    assert "@font-face" not in kept
