"""Programs of Python's that start warm: each run is a fork of one process that has imported what they need.

A fresh interpreter takes a second of a core to import SQLAlchemy, Alembic and the command line, which is most
of what a test would wait for. The fork is a process like any other: its streams, its folder, its environment,
its exit status are its own. What an interpreter does as it starts is for tests that start one.
"""

import atexit
import gc
import json
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Final, NoReturn

_PROGRAMS: Final = {
    "alembic": "alembic.config:main",
    "operator-core": "operator_core.cli:main",
}

_IMPORTED: Final = (
    "aiosqlite",
    "alembic.autogenerate",
    "alembic.command",
    "alembic.config",
    "asyncpg",
    "operator_core.cli.app",
    "operator_core.db",
    "operator_core.db.migrate",
    "operator_core.db.sql.tables",
    "psycopg",
    "sqlalchemy.dialects.postgresql.asyncpg",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.aiosqlite",
)

Completed = subprocess.CompletedProcess[str]

_lock = threading.Lock()
_mothers: dict[int, tuple[subprocess.Popen[bytes], socket.socket]] = {}
"""By the process that started each: a forked one has to start its own."""


class Child:
    """A running program, as far as tests need what `subprocess.Popen` has; its pipes buffer nothing."""

    def __init__(
        self,
        request: Mapping[str, Any],
        streams: tuple[int, int, int],
        ours: tuple[int, int] | None,
    ) -> None:
        self.args = [request["program"], *request["arguments"]]
        self.returncode: int | None = None
        self.stdin, self.stdout = None, None
        if ours is not None:
            self.stdin, self.stdout = (
                os.fdopen(ours[0], "wb", buffering=0),
                os.fdopen(ours[1], "rb", buffering=0),
            )
        ended, tell = os.pipe()
        self._news = os.fdopen(ended, "rb", buffering=0)
        self._told = b""
        try:
            with _lock:
                mother = _mother()
                line = json.dumps(request).encode() + b"\n"
                sent = socket.send_fds(mother, [line], [*streams, tell])
                mother.sendall(line[sent:])
        finally:
            os.close(tell)
        while b" " not in self._told:
            self._told += self._news.read(1) or b"? "
        self.pid = int(self._told)

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            self._await(self._news, deadline, timeout)
            if more := self._news.read(100):
                self._told += more
                continue
            self._news.close()
            self.returncode = int(self._told.split()[1])
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[bytes, None]:
        """Ends its input, and gives back what it printed that nobody has read."""
        deadline = None if timeout is None else time.monotonic() + timeout
        printed = b""
        assert self.stdin is not None
        assert self.stdout is not None
        self.stdin.close()
        while not self.stdout.closed:
            self._await(self.stdout, deadline, timeout)
            if more := self.stdout.read(1 << 16):
                printed += more
            else:
                self.stdout.close()
        self.wait(None if deadline is None else max(0, deadline - time.monotonic()))
        return printed, None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _await(self, stream: IO[bytes], deadline: float | None, timeout: float | None) -> None:
        left = None if deadline is None else max(0, deadline - time.monotonic())
        if not select.select([stream], [], [], left)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)


def start(script: Path, *arguments: str, env: Mapping[str, str]) -> Child:
    """Runs a script, with pipes to and from it."""
    theirs_in, ours_in = os.pipe()
    ours_out, theirs_out = os.pipe()
    try:
        return Child(
            _request(str(script), arguments, None, env),
            (theirs_in, theirs_out, 2),
            (ours_in, ours_out),
        )
    finally:
        os.close(theirs_in)
        os.close(theirs_out)


def run(
    program: str,
    *arguments: str,
    cwd: Path | str | None = None,
    env: Mapping[str, str] | None = None,
    input: str | None = None,
    stdout: int | None = None,
    user: int | None = None,
    timeout: float,
) -> Completed:
    """What `subprocess.run` gives back of the program, its output captured as text.

    `stdout`: what it prints to instead. `user`: as whom it runs, and in which group.
    """
    with (
        tempfile.TemporaryFile() as stdin,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        stdin.write((input or "").encode())
        stdin.seek(0)
        streams = (stdin.fileno(), out.fileno() if stdout is None else stdout, err.fileno())
        child = Child({**_request(program, arguments, cwd, env), "user": user}, streams, None)
        try:
            status = child.wait(timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            raise
        said: list[str] = []
        for stream in (out, err):
            stream.seek(0)
            said.append(stream.read().decode())
    return Completed(child.args, status, *said)


def _request(
    program: str,
    arguments: Sequence[str],
    cwd: Path | str | None,
    env: Mapping[str, str] | None,
) -> Mapping[str, Any]:
    return {
        "program": program,
        "arguments": arguments,
        "cwd": str(cwd or Path.cwd()),
        "env": dict(os.environ if env is None else env),
    }


def _mother() -> socket.socket:
    if (pid := os.getpid()) not in _mothers:
        ours, hers = socket.socketpair()
        with hers:
            process = subprocess.Popen(
                [sys.executable, __file__, str(hers.fileno())],
                pass_fds=[hers.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        _mothers[pid] = process, ours
    return _mothers[pid][1]


@atexit.register
def _end() -> None:
    if mother := _mothers.pop(os.getpid(), None):
        process, ours = mother
        ours.close()
        process.wait()


# ------ in the process that is forked


def _serve(door: socket.socket) -> Callable[[], Any]:
    """Forks for each request; returns in the children, with what each has to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Nobody waits for those that wait for the programs.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        line, fds, _, _ = socket.recv_fds(door, 1 << 16, 4)
        if not line:
            os._exit(0)
        while not line.endswith(b"\n"):
            line += door.recv(1 << 16)
        if not os.fork():
            door.close()
            return _start(json.loads(line), fds)
        for fd in fds:
            os.close(fd)


def _start(request: Mapping[str, Any], fds: list[int]) -> Callable[[], Any]:
    """Forks once more and, in the first of the two, waits for the second and tells its status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *streams, tell = fds
    if child := os.fork():
        _wait_for(child, tell)
    os.close(tell)
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
        os.close(fd)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    if (user := request.get("user")) is not None:
        os.setgid(user)
        os.setuid(user)
    # Two of them throw no dice alike.
    random.seed()
    program = request["program"]
    sys.argv = [program, *request["arguments"]]
    if program not in _PROGRAMS:
        sys.path[0] = str(Path(program).parent)
        sys.path[1:1] = request["env"]["PYTHONPATH"].split(os.pathsep)
        return lambda: runpy.run_path(program, run_name="__main__") and None
    # As for what is started by `python -m`.
    sys.path[0] = request["cwd"]
    module, _, name = _PROGRAMS[program].partition(":")
    return getattr(import_module(module), name)


def _wait_for(child: int, tell: int) -> NoReturn:
    os.write(tell, f"{child} ".encode())
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.write(tell, str(status).encode())
    os._exit(0)


if __name__ == "__main__":
    for each in _IMPORTED:
        import_module(each)
    # A collection would touch, and so copy, every page that the children share; the last one comes at their end.
    gc.freeze()
    sys.exit(_serve(socket.socket(fileno=int(sys.argv[1])))())
