"""The results of the works as text and as JSON."""

from typing import Any

from benchmarks.peers.compare import OURS, Compared, Turns
from benchmarks.peers.databases import Written
from benchmarks.report import figure, spread, table, times

__all__ = ["as_json", "report", "sqlite_report"]

_NOTES = """\
Each side answers when its commit is on the disk. Each turn starts after a checkpoint, with warm connections and a
new database, a copy of the side's own installation. The arguments of calls (proposals, dicts, encoded bytes) are
made before the clock starts. All run on asyncio's own event loop. To drain, the ledger uses four tasks and pgqueuer
its QueueManager, with batches of that size; procrastinate's worker takes jobs one by one and runs 20 at once.
agentbarrier approves, claims and completes the action that it has submitted. Its tasks are threads, each with
a store and a connection of its own."""

_SQLITE_NOTES = """\
DBOS's call starts and ends a workflow of one step, and returns its result. So it also stores the job, which the
ledger does only in the second work. Both answer when the commit is on the disk (synchronous=FULL). operator-core
uses WAL; DBOS creates its database with a rollback journal. Each turn has a new file, a copy of the side's own
installation. agentbarrier has the ledger's settings, WAL and synchronous=FULL; its tasks are threads, which share
one store."""

# Facts that the counts from the catalogue don't show.
_WRITES = {
    OURS: "A statement trigger writes the event. CHECKs, foreign keys and every value are checked. It returns the\n"
    "    stored row. Creates that wait at the same time share a statement and its commit.",
    "procrastinate": "A row trigger writes the event, another sends two NOTIFYs. It returns the id.",
    "pgqueuer": "The same statement writes the log; a statement trigger sends one NOTIFY. It returns the id.",
    "dbos": "A create is a workflow of one step, run to its end: its status, inputs, the step's and its own output.",
}


def _ratios(compared: Compared, side: str) -> tuple[str, str, str, str]:
    if side == compared.work.ours:
        return "", "", "", ""
    found = times(compared.ratio(side)), spread(compared.paired(side))
    promised = compared.work.promised
    if promised is None or side != compared.fastest:
        return *found, "", ""
    return *found, times(promised), "BEHIND" if compared.behind else "ok"


def _works(found: list[Compared]) -> str:
    rows: list[tuple[str, ...]] = []
    for each in found:
        rows.append((each.work.name, "", "", "", "", ""))
        rows.extend(
            (f"  {side}", figure(each.median(side)), *_ratios(each, side))
            for side in each.work.sides
        )
    head = ("work", "a second", f"{OURS} / it", "(min-max)", "promised", "")
    return table(head, rows)


def _written(side: str, written: Written) -> str:
    tables = ", ".join(
        f"{name} {rows:.1f} ({entries:.1f})" for name, (rows, entries) in written.items()
    )
    return f"  {side}: {tables}.\n    {_WRITES.get(side, '')}"


def report(found: list[Compared], turns: Turns, limits: dict[str, float]) -> str:
    """The result on a server as text."""
    rounds = _rounds(found)
    written = "\n".join(_written(side, each) for side, each in turns.written.items())
    return "\n\n".join(
        [
            f"Compared with job queues on the same PostgreSQL, in turns, medians of {rounds} rounds",
            _versions(turns),
            _works(found),
            _NOTES,
            f"Writes of each create, counted: rows (and index entries)\n{written}",
            _limits(limits),
        ]
    )


def sqlite_report(found: list[Compared], turns: Turns, limits: dict[str, float]) -> str:
    """The result on SQLite as text."""
    rounds = _rounds(found)
    return "\n\n".join(
        [
            f"Compared with DBOS and agentbarrier on SQLite, in turns, medians of {rounds} rounds",
            _versions(turns),
            _works(found),
            _SQLITE_NOTES,
            _limits(limits),
        ]
    )


def _rounds(found: list[Compared]) -> int:
    return len(found[0].figures[found[0].work.ours])


def _versions(turns: Turns) -> str:
    return ", ".join(f"{name} {version}" for name, version in turns.versions.items())


def _limits(limits: dict[str, float]) -> str:
    return table(("limit", "a second"), [(name, figure(speed)) for name, speed in limits.items()])


def as_json(found: list[Compared], turns: Turns, limits: dict[str, float]) -> dict[str, Any]:
    """The result as JSON values."""
    return {
        "works": [
            {
                "name": each.work.name,
                "promised": each.work.promised,
                "figures": each.figures,
                "fastest": each.fastest,
                "ratios": {side: each.ratio(side) for side in each.work.sides[1:]},
                "behind": each.behind,
            }
            for each in found
        ],
        "versions": turns.versions,
        "written": turns.written,
        "limits": limits,
    }
