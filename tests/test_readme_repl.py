"""The README's Python, typed line by line into ``python -m asyncio`` as the README says one can."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = [
    text
    for text in re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    # What pytest runs is no session.
    if not re.search(r"^(async )?def test_", text, re.MULTILINE)
]


def typed(lines: str, folder: Path, warnings: str = "error") -> subprocess.CompletedProcess[str]:
    """What the interpreter says to somebody who types `lines` and then Ctrl-D."""
    return subprocess.run(
        [sys.executable, "-m", "asyncio"],
        input=lines,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONWARNINGS": warnings, "TERM": "dumb"},
    )


def complaints(said: subprocess.CompletedProcess[str]) -> list[str]:
    return re.findall(r"^(?:\w+\.)*\w*(?:Error|Warning|Exception)\b.*", said.stderr, re.MULTILINE)


def test_blocks_are_there() -> None:
    assert len(BLOCKS) >= 3


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_can_be_typed_line_by_line_after_those_before_it(
    tmp_path: Path, number: int
) -> None:
    # As one pastes it: a block, and Enter on an empty line, which ends what is still open.
    # Whoever stops before the last one leaves the ledger open.
    warnings = "error" if number == len(BLOCKS) - 1 else "error,ignore::ResourceWarning"
    said = typed("".join(f"{block}\n" for block in BLOCKS[: number + 1]), tmp_path, warnings)
    assert complaints(said) == []
    assert "Traceback" not in said.stderr
    assert (tmp_path / "ledger.db").exists()


def test_planted_a_blank_line_inside_a_block_is_caught(tmp_path: Path) -> None:
    said = typed("async def one():\n    pass\n\n    pass\n\nawait one()\n", tmp_path)
    assert complaints(said)
