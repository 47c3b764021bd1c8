"""The example of the gate, as `make demo-gate` runs it."""

import subprocess
import sys

from tests.clocks import PATIENCE
from tests.distribution import ROOT


def test_it_shows_what_the_model_is_told() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / "gate.py")],
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith("told:")]
    assert told[0] == 'told:  {"disk_used":0.97}'
    assert told[1] == "told:  store 4 is drained"
    assert "agents are stopped" in told[2]
    assert "store: Field required" in told[3]
    assert len(told) == 4
