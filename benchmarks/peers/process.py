"""Starts a side's process and sends it requests."""

import asyncio
import json
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from benchmarks.peers.worker import Answer, Job

__all__ = ["Worker", "WorkerFailed", "worker"]

_ROOT = Path(__file__).parents[2]
_TURN = 600.0
_END = 10.0


class WorkerFailed(Exception):
    """A side could not do its work; the message contains the side's error."""


class Worker:
    """A side's process, which takes one request at a time."""

    def __init__(self, name: str, process: Process, errors: IO[bytes]) -> None:
        self.name = name
        self._process = process
        self._errors = errors

    async def ask(self, work: str, url: str, jobs: Sequence[Job] = ()) -> Answer:
        """The side's answer; raises `WorkerFailed` for an error, or if the side ends or does not answer in time."""
        request = json.dumps({"work": work, "url": url, "jobs": jobs})
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = b""
        try:
            async with asyncio.timeout(_TURN):
                self._process.stdin.write(request.encode() + b"\n")
                await self._process.stdin.drain()
                line = await self._process.stdout.readline()
        except ConnectionError:
            pass  # it has ended, and the reason is on stderr
        except TimeoutError:
            raise WorkerFailed(f"{self.name}: {work} took more than {_TURN:.0f} s") from None
        if not line:
            raise WorkerFailed(f"{self.name} ended at {work}:\n{self._error_output()}")
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(
                f"{self.name} failed at {work}: {answer['error']}\n{self._error_output()}"
            )
        return answer

    def _error_output(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-4000:].strip()


@asynccontextmanager
async def worker(name: str, *command: str) -> AsyncIterator[Worker]:
    """Starts the side by `command`, in the project's folder; it ends with the block."""
    with tempfile.TemporaryFile() as errors:
        try:
            process = await asyncio.create_subprocess_exec(
                *command, cwd=_ROOT, stdin=PIPE, stdout=PIPE, stderr=errors
            )
        except OSError as error:
            raise WorkerFailed(f"{name} could not be started: {error}") from error
        try:
            yield Worker(name, process, errors)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), _END)
            except TimeoutError:
                process.kill()
                await process.wait()
