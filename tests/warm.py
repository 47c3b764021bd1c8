"""Programs of Python's that start warm: each run is a fork of one process that has imported what they need.

A fresh interpreter takes a second of a core to import SQLAlchemy, Alembic and the command line, which is most
of what a test would wait for. The fork is a process like any other: its streams, its folder, its environment,
its exit status are its own. What an interpreter does as it starts is for tests that start one.
"""

import atexit
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NoReturn

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


def run(
    program: str,
    *arguments: str,
    cwd: Path | str | None = None,
    env: Mapping[str, str] | None = None,
    input: str | None = None,
    stdout: int | None = None,
    timeout: float,
) -> Completed:
    """What `subprocess.run` gives back of the program, its output captured as text.

    `stdout`: what it prints to instead.
    """
    with (
        tempfile.TemporaryFile() as stdin,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        stdin.write((input or "").encode())
        stdin.seek(0)
        status = _run(
            {
                "program": program,
                "arguments": arguments,
                "cwd": str(cwd or Path.cwd()),
                "env": dict(os.environ if env is None else env),
            },
            (stdin.fileno(), out.fileno() if stdout is None else stdout, err.fileno()),
            timeout,
        )
        said: list[str] = []
        for stream in (out, err):
            stream.seek(0)
            said.append(stream.read().decode())
    return Completed([program, *arguments], status, *said)


def _run(request: Mapping[str, Any], streams: tuple[int, int, int], timeout: float) -> int:
    ended, tell = os.pipe()
    with open(ended, "rb", buffering=0) as news:
        try:
            fds = [*streams, tell]
            with _lock:
                mother = _mother()
                line = json.dumps(request).encode() + b"\n"
                sent = socket.send_fds(mother, [line], fds)
                mother.sendall(line[sent:])
        finally:
            os.close(tell)
        deadline, told = time.monotonic() + timeout, b""
        while select.select([news], [], [], max(0, deadline - time.monotonic()))[0]:
            if not (more := news.read(100)):
                pid, status = told.split()
                return int(status)
            told += more
        pid = int(told.split()[0])
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        raise subprocess.TimeoutExpired([request["program"], *request["arguments"]], timeout)


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
    sys.argv = [request["program"], *request["arguments"]]
    # As for what is started by `python -m`.
    sys.path[0] = request["cwd"]
    module, _, name = _PROGRAMS[request["program"]].partition(":")
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
