"""Standard output and standard error: width, colours, and readers that have gone."""

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
    "report_as_json",
    "reports_as_json",
    "shield_streams",
    "terminal_width",
    "unwritten",
    "write",
]


class _Shielded(io.RawIOBase):
    """A stream that drops its output after an error: its reader has exited, as `head` does, or its disk is full.

    So a command still does its work, and prints no traceback.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self.error: OSError | None = None
        """The error after which output is dropped."""

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
    """Lets the program continue if a reader of its output exits or a disk is full, also at exit.

    Agents may write any text: a character that the stream's encoding lacks is written as an escape.
    """
    for name in ("stdout", "stderr"):
        stream: object = getattr(sys, name)
        # None if the descriptor is closed.
        if isinstance(stream, io.TextIOWrapper):
            stream.flush()
            # In unbuffered mode (python -u), the buffer is the raw stream.
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
    """Whether the last write found that the reader of standard output has exited."""
    return "stdout" in _shields and isinstance(_shields["stdout"].error, BrokenPipeError)


def unwritten() -> str | None:
    """Returns the reason why output was lost, or None; a reader that has exited does not count."""
    _flush()
    error = _shields["stdout"].error if "stdout" in _shields else None
    return None if error is None or isinstance(error, BrokenPipeError) else error.strerror


def write(text: str) -> None:
    """Writes `text` to standard output without interpreting markup."""
    if sys.stdout is not None:
        sys.stdout.write(text)


def print_json(value: BaseModel | dict[str, Any], *, error: bool = False) -> None:
    """Prints `value` as one line of JSON and flushes it, so that a reader sees each change at once."""
    stream = sys.stderr if error else sys.stdout
    if stream is not None:
        stream.write(json_line(value) + "\n")
        stream.flush()


_form: Final = {"json": False}


def report_as_json(wanted: bool) -> bool:
    """Sets whether errors are reported as JSON lines; returns `wanted`, as the callback of an option must."""
    _form["json"] = wanted
    return wanted


def reports_as_json() -> bool:
    """Whether errors are reported as JSON lines."""
    return _form["json"]


def terminal_width() -> int | None:
    """The number of columns if standard output is a terminal; None for a pipe or a file."""
    console = Console()
    return console.width if console.is_terminal else None


def print_lines(lines: Iterable[Line]) -> None:
    """Prints lines, in their colours if standard output is a terminal with colours."""
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
