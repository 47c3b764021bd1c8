"""A person at a terminal, for the tests of what takes it over."""

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
import tty
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

from tests.cli.conftest import PROGRAM

_CODES: Final = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]")
_HOME: Final = "\x1b[H"

LEAVE: Final = "\x1b[?1049l"
"""What brings the shell's screen back."""
SHOW_CURSOR: Final = "\x1b[?25h"


class Watcher:
    """The program at a terminal of its own, and what it has drawn there."""

    def __init__(
        self,
        *arguments: str | Path,
        columns: int = 100,
        rows: int = 30,
        program: Sequence[str | Path] = (PROGRAM,),
    ) -> None:
        self._main, self._terminal = pty.openpty()
        self.resize(columns, rows, tell=False)
        self.mode = self._mode()
        self.seen = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.process = subprocess.Popen(
            [*map(str, program), *map(str, arguments)],
            stdin=self._terminal,
            stdout=self._terminal,
            stderr=self._terminal,
            env={key: os.environ[key] for key in os.environ if key not in ("COLUMNS", "LINES")}
            | {"TERM": "xterm-256color"},
            start_new_session=True,
            # So that Ctrl-C and Ctrl-Z come to it as signals; it waits for no lock of another thread.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._main)
        os.close(self._terminal)

    def resize(self, columns: int, rows: int, *, tell: bool = True) -> None:
        fcntl.ioctl(self._main, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if tell:
            self.process.send_signal(signal.SIGWINCH)

    def press(self, keys: str) -> None:
        os.write(self._main, keys.encode())

    def read(self, seconds: float = 0.05) -> None:
        """Reads what was drawn meanwhile, or waits a moment for it."""
        while select.select([self._main], [], [], seconds)[0]:
            # A character may come in two pieces.
            self.seen += self._decoder.decode(os.read(self._main, 65536))
            seconds = 0

    def frames(self) -> list[str]:
        """The screens that are drawn whole, in colour."""
        return self.seen.split(_HOME)[1:-1]

    def last_lines(self) -> list[str]:
        """The lines of the screen that was drawn last, as far as it is drawn."""
        return plain(self.seen.rpartition(_HOME)[2]).split("\r\n")

    def wait_for(self, *texts: str, after: int = 0) -> str:
        """The first screen on which all of the texts stand, of those that come after so many."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for frame in [*self.frames(), self.seen.split(_HOME)[-1]][after:]:
                if all(text in plain(frame) for text in texts):
                    return frame
            assert self.process.poll() is None, plain(self.seen)
            self.read()
        raise AssertionError(f"{texts} not in {plain(self.seen.split(_HOME)[-1])}")

    def wait_until_stopped(self) -> None:
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)
        self.read()

    def wait(self) -> int:
        """How it ended; reads to the end, so that it is not held up by what nobody reads."""
        deadline = time.monotonic() + 30
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "it goes on"
            self.read()
        self.read()
        return self.process.returncode

    @property
    def reads_without_waiting(self) -> bool:
        """Whether a read of a key that is gone again, as Ctrl-C drops the ones before it, would end at once."""
        return self._mode()[tty.CC][termios.VMIN] in (0, b"\0")

    def is_given_back(self) -> bool:
        """Whether the terminal is as it was: its mode, its screen, its cursor."""
        last_screen = self.seen.rfind("\x1b[?1049")
        return (
            self._mode() == self.mode
            and self.seen[last_screen:].startswith(LEAVE)
            and self.seen.rfind(SHOW_CURSOR) > self.seen.rfind("\x1b[?25l")
        )

    def _mode(self) -> list[Any]:
        return termios.tcgetattr(self._terminal)


def plain(text: str) -> str:
    """Without colours and the like."""
    return _CODES.sub("", text)
