"""Plants the faults and says which of them no test notices: ``python -m tests.mutants [NAME ...]``."""

import argparse
import fnmatch
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.databases import URL_VARIABLE
from tests.mutants.everything import MUTANTS
from tests.mutants.mutant import (
    Broken,
    Mutant,
    Result,
    Verdict,
    copy_tree,
    run_tests,
    try_one,
)
from tests.servers import Server, prepared

_SECONDS: Final = 180.0
"""For the tests of one mutant; more is a hang."""

_BASELINE_SECONDS: Final = 1800.0


def main() -> int:
    """0 if each mutant was caught, 1 if one survived, 2 if the list does not fit the tree."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="only these; * stands for anything"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at once")
    parser.add_argument("--list", action="store_true", help="print the mutants and plant none")
    parser.add_argument("--verbose", action="store_true", help="print what the tests have printed")
    arguments = parser.parse_args()
    chosen = _choose(arguments.names)
    if arguments.list:
        for mutant in chosen:
            print(f"{mutant.name}: {mutant.why}")
        return 0
    try:
        with prepared(), _server():
            _check(chosen)
            results = _run(chosen, arguments.jobs, verbose=arguments.verbose)
    except Broken as error:
        print(error, file=sys.stderr)
        return 2
    verdicts = [result.verdict for result in results]
    survived, broken = verdicts.count(Verdict.SURVIVED), verdicts.count(Verdict.BROKEN)
    print(f"{len(results)} mutants: {survived} survived, {broken} could not be tried")
    return 2 if broken else 1 if survived else 0


def _choose(names: Sequence[str]) -> list[Mutant]:
    chosen = [
        mutant
        for mutant in MUTANTS
        if not names or any(fnmatch.fnmatch(mutant.name, name) for name in names)
    ]
    if not chosen:
        sys.exit(f"no such mutant: {', '.join(names)}")
    return chosen


@contextmanager
def _server() -> Iterator[None]:
    """One server for all runs, unless the environment names one."""
    if os.environ.get(URL_VARIABLE):
        yield
        return
    with Server.make(durable=False, settings={"max_connections": "300"}) as server:
        os.environ[URL_VARIABLE] = server.url()
        try:
            yield
        finally:
            del os.environ[URL_VARIABLE]


def _check(mutants: Sequence[Mutant]) -> None:
    """Raises `Broken` unless each can be planted, and all their tests pass where none is."""
    if problems := [problem for mutant in mutants if (problem := mutant.problem())]:
        raise Broken("\n".join(problems))
    tests = tuple(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    with tempfile.TemporaryDirectory(prefix="no-mutant-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        status, output = run_tests(tree, tests, "--no-skips", seconds=_BASELINE_SECONDS)
    if status != 0:
        raise Broken(f"{output}\nwithout any fault the tests don't pass: exit status {status}")
    print(f"without any fault: {output.strip().splitlines()[-1]}", flush=True)


def _run(mutants: Sequence[Mutant], jobs: int, *, verbose: bool) -> list[Result]:
    results: list[Result] = []
    with ThreadPoolExecutor(jobs) as threads:
        started = {threads.submit(try_one, mutant, seconds=_SECONDS): mutant for mutant in mutants}
        for future in as_completed(started):
            mutant, result = started[future], future.result()
            results.append(result)
            said = f": {mutant.why}" if result.verdict is Verdict.SURVIVED else ""
            print(f"{result.verdict:18} {mutant.name}{said}", flush=True)
            if verbose or result.verdict is Verdict.BROKEN:
                print(result.output, flush=True)
    return results


if __name__ == "__main__":
    sys.exit(main())
