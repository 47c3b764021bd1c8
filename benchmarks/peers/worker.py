"""A side's own process: it reads requests, each a line of JSON, does the work and answers, until its input ends.

A request is ``{"work": "create", "url": "postgresql://...", "jobs": [...]}``, an answer
``{"per_second": 613.2, "creates": 430}`` or ``{"error": "..."}``. The clock runs here, so that neither the pipe nor
the parent process is measured. This also runs in the peers' environment, so it uses only the standard library.
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
"""The data to store: `action_name`, `parameters`, `reason` and `proposed_by`."""

Answer = dict[str, Any]

Work = Callable[[str, list[Job]], Awaitable[Answer]]
"""Does the work with the jobs in the database at the URL."""


def versions(*packages: str) -> Answer:
    """The installed versions of the measured packages."""
    return {"versions": {package: version(package) for package in packages}}


def serve(works: Mapping[str, Work]) -> None:
    """Answers requests until the input ends; a failed work is an answer, and its traceback goes to stderr."""
    # A library's output must not appear between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = asyncio.run(_do(works[request["work"]], request))
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


async def _do(work: Work, request: dict[str, Any]) -> Answer:
    return await work(request["url"], request["jobs"])
