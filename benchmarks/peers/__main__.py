"""``python -m benchmarks.peers``: compares the ledger with its peers, and prints the results.

The server is the one that OPERATOR_TEST_POSTGRES_URL names (as a superuser), or one that the run starts. The part
``sqlite``, the comparison with DBOS and agentbarrier, needs no server.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import gate_latency, governance, growth
from benchmarks.limits import limits as disk_limits
from benchmarks.peers import compare, drivers, growing, limits, waking
from benchmarks.peers.databases import Databases, databases
from benchmarks.peers.files import Files
from benchmarks.peers.process import Worker, WorkerFailed, worker
from benchmarks.peers.report import as_json, report, sqlite_report
from benchmarks.report import SQLITE, machine
from operator_core.db import migrate

_ON_SERVER = ("compare", "growth", "governance", "drivers", "waking", "gate")
_PARTS = (*_ON_SERVER, "sqlite")
_PEERS = Path(__file__).parents[2] / ".venv-peers/bin/python"
# The ledger's sides run in this environment, the others in the peers'. A side that is not listed has a module of its
# own name.
_LEDGER = {compare.OURS: "ledger", compare.SYNC: "sync_ledger"}


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.peers", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to test that it runs, not how fast"
    )
    parser.add_argument("--only", choices=_PARTS, help="one part instead of all")
    parser.add_argument(
        "--rounds", type=int, help="number of rounds (default: 7, or 2 with --quick)"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 if a promise is not kept")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--python", default=str(_PEERS), help="Python of the peers' environment")
    return parser.parse_args(arguments)


def _show_progress(what: str) -> None:
    print(f"... {what}", file=sys.stderr, flush=True)


@contextmanager
def _server() -> Iterator[str]:
    """The URL of a server that flushes its commits."""
    if url := os.environ.get("OPERATOR_TEST_POSTGRES_URL"):
        yield url
        return
    from tests.servers import NoServer, Server

    try:
        server = Server.make(durable=True)
    except NoServer as error:
        sys.exit(f"{error}, and OPERATOR_TEST_POSTGRES_URL names no server")
    with server:
        yield server.url()


@asynccontextmanager
async def _workers(python: str, *sides: str) -> AsyncIterator[dict[str, Worker]]:
    async with AsyncExitStack() as stack:
        yield {
            side: await stack.enter_async_context(
                worker(
                    side,
                    sys.executable if side in _LEDGER else python,
                    "-m",
                    f"benchmarks.peers.sides.{_LEDGER.get(side, side)}",
                )
            )
            for side in sides
        }


async def _compare(made: Databases, options: argparse.Namespace, rounds: int) -> dict[str, Any]:
    sizes = compare.QUICK if options.quick else compare.Sizes()
    sides = (*compare.sides_of(compare.WORKS), limits.SIDE)
    async with _workers(options.python, *sides) as workers:
        turns = compare.Turns(made, workers)
        _show_progress("installing each side")
        await turns.install()
        found = await compare.compare(turns, sizes, rounds, _show_progress)
        _show_progress("limits")
        speeds = await limits.limits(turns, sizes.limit, rounds)
    print(f"\n{report(found, turns, speeds)}", flush=True)
    return as_json(found, turns, speeds)


async def _growth(made: Databases, options: argparse.Namespace, rounds: int) -> dict[str, Any]:
    sizes = growth.QUICK_SIZES if options.quick else growth.SIZES
    url = await made.new("growing")
    await asyncio.to_thread(migrate.upgrade, url)
    costs = await growing.growing(url, sizes, rounds, _show_progress)
    print(f"\n{growth.costs_table(costs, sizes)}", flush=True)
    return {"sizes": sizes, "seconds": costs, "behind": growth.behind(costs)}


async def _governance(made: Databases, options: argparse.Namespace, rounds: int) -> dict[str, Any]:
    sizes = governance.QUICK if options.quick else governance.Sizes()
    *targets, waiting = [await made.new(f"governed_{n}") for n in range(len(governance.CASES) + 1)]
    for url in (*targets, waiting):
        await asyncio.to_thread(migrate.upgrade, url)
    filled = 0

    async def fill(rows: int) -> None:
        nonlocal filled
        await growing.fill(waiting, filled, rows)
        filled = rows
        await growing.settle(waiting)

    cases = dict(zip(governance.CASES, targets, strict=True))
    created = await governance.creates(cases, sizes.creates, rounds, _show_progress)
    listed = await governance.inbox(waiting, fill, sizes, rounds, _show_progress)
    print(f"\n{governance.report(created, listed, sizes)}", flush=True)
    return governance.as_json(created, listed, sizes)


async def _drivers(made: Databases, options: argparse.Namespace, rounds: int) -> dict[str, Any]:
    found = await drivers.drivers(made, 20 if options.quick else 600, rounds, _show_progress)
    print(f"\n{drivers.drivers_table(found)}", flush=True)
    return {"per_second": found}


async def _waking(made: Databases, options: argparse.Namespace, rounds: int) -> dict[str, Any]:
    url = await made.new("waking")
    await asyncio.to_thread(migrate.upgrade, url)
    _show_progress(waking.NAME)
    seconds = await waking.waking(url, rounds if options.quick else rounds * 20)
    print(f"\n{waking.waking_table(seconds)}", flush=True)
    late = statistics.median(seconds) >= waking.PROMISED
    return {"seconds": seconds, "behind": [waking.NAME] if late else []}


async def _gate(made: Databases, options: argparse.Namespace, rounds: int) -> dict[str, Any]:
    url = await made.new("gate")
    await asyncio.to_thread(migrate.upgrade, url)
    calls = gate_latency.QUICK_CALLS if options.quick else gate_latency.CALLS
    found = await gate_latency.gate_latency(url, calls, rounds, _show_progress)
    waited = {gate_latency.POSTGRESQL: found}
    print(f"\n{gate_latency.report(waited, calls)}", flush=True)
    return gate_latency.as_json(waited)


async def _sqlite(options: argparse.Namespace, rounds: int) -> dict[str, Any]:
    sizes = compare.QUICK if options.quick else compare.Sizes()
    with tempfile.TemporaryDirectory(prefix="operator-core-bench-", dir=limits.PLACE) as folder:
        place = Path(folder)
        async with _workers(options.python, *compare.sides_of(compare.SQLITE_WORKS)) as workers:
            turns = compare.Turns(Files(place), workers)
            _show_progress("installing each side, on SQLite")
            await turns.install()
            found = await compare.compare(
                turns, sizes, rounds, _show_progress, compare.SQLITE_WORKS
            )
        _show_progress("limits")
        speeds = disk_limits(place, sizes.limit, rounds)
    print(f"\n{sqlite_report(found, turns, speeds)}", flush=True)
    return as_json(found, turns, speeds)


async def _run_on_server(options: argparse.Namespace, rounds: int, url: str) -> dict[str, Any]:
    async with databases(url) as made:
        results: dict[str, Any] = {"server": await made.settings()}
        measures = (_compare, _growth, _governance, _drivers, _waking, _gate)
        for part, measure in zip(_ON_SERVER, measures, strict=True):
            if options.only in (None, part):
                results[part] = await measure(made, options, rounds)
    return results


def _run(options: argparse.Namespace) -> dict[str, Any]:
    rounds = options.rounds or (2 if options.quick else 7)
    results: dict[str, Any] = {}
    if options.only != "sqlite":
        with _server() as url:
            results |= asyncio.run(_run_on_server(options, rounds, url))
    if options.only in (None, "sqlite"):
        results["sqlite"] = asyncio.run(_sqlite(options, rounds))
    return results


def _behind(results: dict[str, Any]) -> list[str]:
    return [
        *(
            f"{work['name']} ({part})"
            for part in ("compare", "sqlite")
            for work in results.get(part, {}).get("works", [])
            if work["behind"]
        ),
        *(
            name
            for part in ("growth", "governance", "waking", "gate")
            for name in results.get(part, {}).get("behind", [])
        ),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Runs the selected parts; returns 1 if a side fails, or if a promise is not kept and ``--check`` is set."""
    options = _parsed(arguments)
    start = time.monotonic()
    try:
        results = _run(options)
    except WorkerFailed as error:
        print(error, file=sys.stderr)
        return 1
    behind = _behind(results)
    server = results.get("server", {})
    named = [f"{name} {value}" for name, value in server.items()]
    if "sqlite" in results:
        named.append(SQLITE)
    ran_on = machine(", ".join(named))
    print(f"\n{ran_on}; {time.monotonic() - start:.0f} s")
    if options.quick or "off" in server.values():
        print("With --quick, or a server that does not flush, these figures are no measurements.")
    if behind:
        print(f"Behind the promise: {'; '.join(behind)}")
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": ran_on, **results}, indent=2) + "\n")
    return 1 if behind and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
