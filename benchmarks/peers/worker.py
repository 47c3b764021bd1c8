"""A side's own process: it does the works it is asked for, a line of JSON each, until its input ends.

Asked ``{"work": "create", "url": "postgresql://...", "jobs": [...]}`` it answers
``{"per_second": 613.2, "creates": 430}``, or ``{"error": "..."}``. The clock runs here, so that neither the pipe nor
the parent's process is measured. It runs in the peers' environment too: nothing but the standard library.
"""

import asyncio
import json
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version
from typing import Any

__all__ = ["Answer", "Job", "Work", "serve", "versions"]

Job = dict[str, Any]
"""What is to be stored: `action_name`, `parameters`, `reason` and `proposed_by`."""

Answer = dict[str, Any]

Work = Callable[[str, list[Job]], Awaitable[Answer]]
"""Does its work with the jobs in the database at the URL."""


def versions(*packages: str) -> Answer:
    """What is measured, as installed."""
    return {"versions": {package: version(package) for package in packages}}


def serve(works: Mapping[str, Work]) -> None:
    """Answers until the input ends; a work that fails is an answer, and its traceback goes to stderr."""
    # Whatever a library prints must not come between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = asyncio.run(_do(works[asked["work"]], asked))
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


async def _do(work: Work, asked: dict[str, Any]) -> Answer:
    return await work(asked["url"], asked["jobs"])
