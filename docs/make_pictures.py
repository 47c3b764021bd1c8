"""Makes the pictures of the command line in the README, from a ledger that it makes first: ``make pictures``.

``python docs/make_pictures.py FOLDER`` writes them into another folder.
"""

import os
import re
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from operator_core.actions import ActionProposal, ActionStatus, Rule
from operator_core.db import SyncActionDB

PICTURES: Final = {
    "list": ("actions", "list"),
    "show": ("actions", "show", "3"),
    "inbox": ("actions", "inbox"),
    "watch": ("actions", "watch", "--once"),
}
WIDTH: Final = 110

CELL: Final = 12.2
"""The width of a column in the SVG of rich."""


def make_ledger(path: Path) -> None:
    """Makes a ledger in which something has run, something waits, and something is being executed."""
    with SyncActionDB(path, actor="gateway") as db:
        db.add_rule(
            Rule(name="drains", action_name="drain_*", approvals=2, roles=["sre"]),
            by="lead",
            reason="change policy 4",
        )

        def propose(name: str, reason: str, **parameters: Any) -> int:
            made = db.create_proposal(
                ActionProposal(
                    action_name=name,
                    parameters=parameters,
                    reason=reason,
                    agent_id="planner",
                    run_id="run-17",
                ),
                proposed_by="planner",
            )
            return made.id

        read = propose("get_hot_regions", "store 2 serves 61% of all writes", limit=5)
        move = propose("transfer_leader", "store 3 has room", region_id=4711, to_store_id=3)
        drain = propose("drain_store", "its disk reports read errors", store=5)
        propose("drain_store", "rebalance before the backup", store=7, slowly=True)
        split = propose("split_region", "region 4711 is hot", region_id=4711)
        for each in (read, move, split):
            db.update_proposal_status(each, ActionStatus.VALIDATED, actor="policy")
        claim = db.claim_proposal(read, "worker-1")
        db.complete(claim.record.id, {"hot_regions": [4711, 4720]})
        claim = db.claim_proposal(move, "worker-1")
        db.fail(claim.record.id, "store 3 has refused the leader")
        for person in ("maria", "noa"):
            seen = db.get_proposal(drain)
            assert seen is not None
            db.approve_proposal(drain, by=person, roles=["sre"], digest=seen.digest)
        claim = db.claim_proposal(drain, "worker-2")
        db.complete(claim.record.id, {"moved_regions": 18})
        db.claim_proposal(split, "worker-2", lease=timedelta(minutes=15))


def picture(command: tuple[str, ...], ledger: Path) -> str:
    """Returns what a command prints on a terminal as SVG."""
    program = Path(sys.executable).with_name("operator-core")
    printed = subprocess.run(  # noqa: S603
        [program, *command, "--db-path", ledger.name],
        cwd=ledger.parent,
        env={
            **os.environ,
            "TERM": "xterm-256color",
            "TTY_COMPATIBLE": "1",
            "COLUMNS": str(WIDTH),
            "LINES": "60",
            "TZ": "UTC",
        },
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True)
        console.print(Text.from_ansi(printed), end="")
        title = f"operator-core {' '.join(command)}"
        made = console.export_svg(title=title, unique_id=f"cli-{command[1]}")
    # The picture asks no other site for a font.
    made = re.sub(r"\s*@font-face \{.*?\}", "", made, flags=re.DOTALL)
    # Some programs draw nothing for blanks at the beginning of a text.
    return re.sub(
        r'x="([\d.]+)" y="([\d.]+)" textLength="([\d.]+)"([^>]*)>((?:&#160;)+)(?=[^<\n])',
        _moved,
        made,
    )


def _moved(text: re.Match[str]) -> str:
    blanks = CELL * text[5].count("&")
    x, length = float(text[1]) + blanks, float(text[3]) - blanks
    return f'x="{x:.1f}" y="{text[2]}" textLength="{length:.1f}"{text[4]}>'


def main(folder: Path) -> None:
    """Writes all pictures into a folder."""
    with tempfile.TemporaryDirectory() as place:
        ledger = Path(place) / "ledger.db"
        make_ledger(ledger)
        for name, command in PICTURES.items():
            (folder / f"cli-{name}.svg").write_text(picture(command, ledger))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
