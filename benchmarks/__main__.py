"""``python -m benchmarks``: measures the ledger on SQLite, and prints the results."""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import compare, floor, gate_latency, governance, growth, startup, works
from benchmarks.report import machine

_PARTS = ("compare", "floor", "growth", "governance", "gate", "startup")


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to test that it runs, not how fast"
    )
    parser.add_argument("--only", choices=_PARTS, help="one part instead of all")
    parser.add_argument(
        "--rounds", type=int, help="number of rounds (default: 7, or 2 with --quick)"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 if a promise is not kept")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument(
        "--dir", type=Path, help="folder for the ledgers (default: a folder on a disk)"
    )
    return parser.parse_args(arguments)


def _show_progress(what: str) -> None:
    print(f"... {what}", file=sys.stderr, flush=True)


async def _run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    rounds = options.rounds or (2 if options.quick else 7)
    sizes = works.QUICK if options.quick else works.Sizes()
    results: dict[str, Any] = {}
    for part in _PARTS:
        if options.only not in (None, part):
            continue
        place = folder / part
        place.mkdir()
        if part == "compare":
            compared = await compare.compare(place, sizes, rounds, _show_progress)
            print(f"\n{compare.report(*compared)}", flush=True)
            results[part] = compare.as_json(*compared)
        elif part == "floor":
            beside = await floor.floor(place, sizes, rounds, _show_progress)
            print(f"\n{floor.report(beside)}", flush=True)
            results[part] = floor.as_json(beside)
        elif part == "growth":
            growing = growth.QUICK_SIZES if options.quick else growth.SIZES
            costs, memory = await growth.growth(place, growing, rounds, _show_progress)
            print(f"\n{growth.report(costs, memory, growing)}", flush=True)
            results[part] = growth.as_json(costs, memory, growing)
        elif part == "governance":
            governed = governance.QUICK if options.quick else governance.Sizes()
            created, listed = await _governance(place, governed, rounds)
            print(f"\n{governance.report(created, listed, governed)}", flush=True)
            results[part] = governance.as_json(created, listed, governed)
        elif part == "gate":
            calls = gate_latency.QUICK_CALLS if options.quick else gate_latency.CALLS
            waited = {
                gate_latency.SQLITE: await gate_latency.gate_latency(
                    place / "ledger.db", calls, rounds, _show_progress
                )
            }
            print(f"\n{gate_latency.report(waited, calls)}", flush=True)
            results[part] = gate_latency.as_json(waited)
        else:
            seconds = await startup.startup(place, rounds, _show_progress)
            print(f"\n{startup.report(seconds)}", flush=True)
            results[part] = startup.as_json(seconds)
    return results


async def _governance(
    place: Path, sizes: governance.Sizes, rounds: int
) -> tuple[governance.Costs, governance.Costs]:
    targets = {case: place / f"{number}.db" for number, case in enumerate(governance.CASES)}
    created = await governance.creates(targets, sizes.creates, rounds, _show_progress)
    path = place / "inbox.db"

    async def fill(rows: int) -> None:
        await asyncio.to_thread(growth.fill, path, rows)

    return created, await governance.inbox(path, fill, sizes, rounds, _show_progress)


def _behind(results: dict[str, Any]) -> list[str]:
    compared = results.get("compare", {}).get("works", [])
    beside = results.get("floor", {}).get("works", [])
    return [
        *(work["name"] for work in compared if work["behind"]),
        *(f"floor of {work['name']} ({work['place']})" for work in beside if work["behind"]),
        *results.get("growth", {}).get("behind", []),
        *results.get("governance", {}).get("behind", []),
        *results.get("gate", {}).get("behind", []),
        *results.get("startup", {}).get("behind", []),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Runs the selected parts; returns 1 if a promise is not kept and ``--check`` is set."""
    options = _parsed(arguments)
    start = time.monotonic()
    # /tmp may be in memory, where a durable write costs nothing; /var/tmp is not.
    usual = Path("/var/tmp")
    place = options.dir or (usual if usual.is_dir() else None)
    with tempfile.TemporaryDirectory(prefix="operator-core-bench-", dir=place) as folder:
        results = asyncio.run(_run(options, Path(folder)))
    behind = _behind(results)
    print(f"\n{machine()}; {time.monotonic() - start:.0f} s")
    if options.quick:
        print("With --quick these figures are no measurements.")
    if behind:
        print(f"Behind the promise: {', '.join(behind)}")
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": machine(), **results}, indent=2) + "\n")
    return 1 if behind and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
