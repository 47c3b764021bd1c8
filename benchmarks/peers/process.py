"""The parent's end of a side's process."""

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
    """A side could not do its work; the message is its own."""


class Worker:
    """A side's process, waiting to be asked; one question at a time."""

    def __init__(self, name: str, process: Process, errors: IO[bytes]) -> None:
        self.name = name
        self._process = process
        self._errors = errors

    async def ask(self, work: str, url: str, jobs: Sequence[Job] = ()) -> Answer:
        """What the side answers; raises `WorkerFailed` if it answers an error, ends or is silent."""
        asked = json.dumps({"work": work, "url": url, "jobs": jobs})
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = b""
        try:
            async with asyncio.timeout(_TURN):
                self._process.stdin.write(asked.encode() + b"\n")
                await self._process.stdin.drain()
                line = await self._process.stdout.readline()
        except ConnectionError:
            pass  # it has ended, and said why on stderr
        except TimeoutError:
            raise WorkerFailed(f"{self.name}: {work} took more than {_TURN:.0f} s") from None
        if not line:
            raise WorkerFailed(f"{self.name} ended at {work}:\n{self._told()}")
        answer: Answer = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(f"{self.name} failed at {work}: {answer['error']}\n{self._told()}")
        return answer

    def _told(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-4000:].strip()


@asynccontextmanager
async def worker(name: str, *command: str) -> AsyncIterator[Worker]:
    """The side that the command starts, in the project's folder; it ends with the block."""
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
