"""Standard output and standard error: how wide, in which colours, and what happens when nobody reads."""

import io
import sys
from collections.abc import Iterable
from typing import Any, Final, cast

from pydantic import BaseModel
from rich.color import ColorSystem
from rich.console import Console
from rich.style import Style

from operator_core.cli.formatting import json_line
from operator_core.cli.table import Line

__all__ = [
    "print_json",
    "print_lines",
    "reader_left",
    "shield_streams",
    "terminal_width",
    "unwritten",
    "write",
]


class _Shielded(io.RawIOBase):
    """A stream whose reader may leave, such as `head`, or whose disk may be full: the rest is dropped.

    So a command does what it was asked to do and prints no traceback.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self.error: OSError | None = None
        """Why the rest is dropped."""

    def write(self, data: Any, /) -> int | None:
        if self.error is None:
            try:
                return self._raw.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._raw.isatty()

    def fileno(self) -> int:
        return self._raw.fileno()


_shields: Final[dict[str, _Shielded]] = {}


def shield_streams() -> None:
    """Makes standard output and standard error survive a reader that leaves, and a full disk, also at exit.

    What agents write may be any text: a letter that the stream's encoding lacks is written as an escape.
    """
    for name in ("stdout", "stderr"):
        stream: object = getattr(sys, name)
        # None where the descriptor is closed.
        if isinstance(stream, io.TextIOWrapper):
            stream.flush()
            # Where Python is told to buffer nothing, there is no buffer around the raw stream.
            buffer = cast(Any, stream).buffer
            _shields[name] = _Shielded(getattr(buffer, "raw", buffer))
            shielded = io.TextIOWrapper(
                io.BufferedWriter(_shields[name]),
                encoding=stream.encoding,
                errors="backslashreplace",
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, shielded)


def reader_left() -> bool:
    """Whether nobody reads standard output any more, as far as the last write could tell."""
    return "stdout" in _shields and isinstance(_shields["stdout"].error, BrokenPipeError)


def unwritten() -> str | None:
    """Why something that somebody may still read is missing from standard output, if it is."""
    _flush()
    error = _shields["stdout"].error if "stdout" in _shields else None
    return None if error is None or isinstance(error, BrokenPipeError) else error.strerror


def write(text: str) -> None:
    """Writes `text` to standard output as it is: nothing in it is taken for markup."""
    if sys.stdout is not None:
        sys.stdout.write(text)


def print_json(value: BaseModel | dict[str, Any]) -> None:
    """Prints `value` as one line of JSON, at once: what is printed has happened."""
    write(json_line(value) + "\n")
    _flush()


def terminal_width() -> int | None:
    """The columns of the terminal that standard output is; None for a pipe or a file, which have no width."""
    console = Console()
    return console.width if console.is_terminal else None


def print_lines(lines: Iterable[Line]) -> None:
    """Prints lines, in their colours if standard output is a terminal that has any."""
    console = Console()
    system = None if console.color_system is None else _SYSTEMS[console.color_system]

    def painted(text: str, style: str) -> str:
        if system is None or not style:
            return text
        parsed = Style.parse(style)
        return (parsed.without_color if console.no_color else parsed).render(
            text, color_system=system
        )

    for line in lines:
        write("".join(painted(*span) for span in line).rstrip() + "\n")
    _flush()


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


_SYSTEMS: Final = {
    "standard": ColorSystem.STANDARD,
    "256": ColorSystem.EIGHT_BIT,
    "truecolor": ColorSystem.TRUECOLOR,
    "windows": ColorSystem.WINDOWS,
}
