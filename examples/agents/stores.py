"""What the agents of this folder share: their tools, the script of their model, and a ledger with a rule and a halt.

Each agent is started with a folder, in which it keeps the ledger, its own state, and a log of what the tools did. One of
its calls waits until a person approves it, at another terminal. Killed while it waits and started again, it goes on.
"""

import sys
from pathlib import Path
from typing import Any, Final

from operator_core.actions import Rule
from operator_core.db import ActionDB

RUN_ID: Final = "run-1"

SCRIPT: Final[list[tuple[str, dict[str, Any]]]] = [
    ("read_metrics", {"store": 4}),
    ("drain_store", {"store": 4}),
    ("delete_backup", {"store": 4}),
]
"""What the model calls, one in each turn: the first runs at once, the second waits for a person, the third is halted."""

FOLDER: Final = Path(sys.argv[1] if len(sys.argv) > 1 else "agent-demo")
LEDGER: Final = sys.argv[2] if len(sys.argv) > 2 else str(FOLDER / "ledger.db")
"""A file, or the URL of a PostgreSQL database."""


def call_id(turn: int) -> str:
    """The id that the model gives to its call, the same one when the agent starts again."""
    return f"call-{turn}"


async def open_ledger() -> ActionDB:
    """Opens the ledger; draining needs an approval, and deletions are halted."""
    FOLDER.mkdir(exist_ok=True)
    db = await ActionDB(LEDGER).open()
    if not await db.rules():
        await db.add_rule(
            Rule(name="drains", action_name="drain_*"), by="lead", reason="change policy 4"
        )
        await db.halt(by="maria", reason="backups are frozen", action_name="delete_*")
    return db


async def read_metrics(store: int) -> dict[str, float]:
    """Reads how full a store is."""
    _log(f"read {store}")
    return {"disk_used": 0.97}


async def drain_store(store: int, slowly: bool = True) -> str:
    """Moves everything out of a store."""
    _log(f"drained {store}{' slowly' if slowly else ''}")
    return f"store {store} is drained"


async def delete_backup(store: int) -> None:
    """Deletes the backup of a store."""
    _log(f"deleted {store}")


def _log(line: str) -> None:
    with (FOLDER / "stores.log").open("a") as log:
        log.write(f"{line}\n")


def waits(proposal_id: int) -> None:
    """Tells that a call waits, and how a person approves it."""
    database = f"--url {LEDGER}" if "://" in LEDGER else f"--db-path {LEDGER}"
    print(
        f"proposal {proposal_id} waits: operator-core actions approve {proposal_id} {database}",
        flush=True,
    )


def told(answer: str) -> None:
    """Prints what the model is told about its last call."""
    print(f"told: {answer}", flush=True)
