"""What the works came to, as text for a person and as JSON for a program."""

from typing import Any

from benchmarks.peers.compare import OURS, Compared, Turns
from benchmarks.peers.databases import Written
from benchmarks.report import figure, spread, table, times

__all__ = ["as_json", "report", "sqlite_report"]

_NOTES = """\
Each answers when its commit is on the disk. Each turn has a new database, a copy of what the side's own installation
made, after a checkpoint, and connections that are warm. What a caller passes (proposals, dicts, encoded bytes) is made
before the clock starts. All run on asyncio's own event loop. To drain, four tasks of ours take batches of that size, and
pgqueuer's QueueManager; procrastinate's worker takes one at a time, 20 at once."""

_SQLITE_NOTES = """\
DBOS's call starts and ends a workflow of one step, and answers its result: it writes down what is to be done, too,
which ours does in the second work. Both answer when it is on the disk (synchronous=FULL; operator-core with WAL, DBOS
as it makes its database, with a rollback journal). Each turn has a new file, a copy of what the side made."""

# What catalogues don't count.
_WRITES = {
    OURS: "The event comes from a trigger of the statement; CHECKs, foreign keys and every value are checked. The\n"
    "    stored row is answered. Creates that wait at the same time share a statement and its commit.",
    "procrastinate": "A trigger of each row writes the event, another sends two NOTIFYs. The id is answered.",
    "pgqueuer": "The log is written by the same statement, a trigger of the statement sends one NOTIFY. The id is\n"
    "    answered.",
    "dbos": "A create is a workflow of one step, run to its end: its status, inputs, the step's and its own output.",
}


def _ratios(compared: Compared, side: str) -> tuple[str, str, str, str]:
    if side == OURS:
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


def report(found: list[Compared], turns: Turns, floors: dict[str, float]) -> str:
    """What was found, for a person."""
    rounds = len(found[0].figures[OURS])
    written = "\n".join(_written(side, each) for side, each in turns.written.items())
    return "\n\n".join(
        [
            f"Against job queues on the same PostgreSQL, in turns, medians of {rounds} rounds",
            _versions(turns),
            _works(found),
            _NOTES,
            f"Written for each create, counted: rows (and index entries)\n{written}",
            _floors(floors),
        ]
    )


def sqlite_report(found: list[Compared], turns: Turns, floors: dict[str, float]) -> str:
    """What was found without a server, for a person."""
    rounds = len(found[0].figures[OURS])
    return "\n\n".join(
        [
            f"Against DBOS on SQLite, in turns, medians of {rounds} rounds",
            _versions(turns),
            _works(found),
            _SQLITE_NOTES,
            _floors(floors),
        ]
    )


def _versions(turns: Turns) -> str:
    return ", ".join(f"{name} {version}" for name, version in turns.versions.items())


def _floors(floors: dict[str, float]) -> str:
    return table(("floor", "a second"), [(name, figure(speed)) for name, speed in floors.items()])


def as_json(found: list[Compared], turns: Turns, floors: dict[str, float]) -> dict[str, Any]:
    """What was found, for a program."""
    return {
        "works": [
            {
                "name": each.work.name,
                "promised": each.work.promised,
                "figures": each.figures,
                "fastest": each.fastest,
                "ratios": {side: each.ratio(side) for side in each.work.sides if side != OURS},
                "behind": each.behind,
            }
            for each in found
        ],
        "versions": turns.versions,
        "written": turns.written,
        "floors": floors,
    }
