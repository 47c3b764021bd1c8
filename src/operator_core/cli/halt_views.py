"""Views of halts for people."""

from operator_core.actions.types import Halt
from operator_core.cli.formatting import one_line, when
from operator_core.cli.table import Line

__all__ = ["halt_line"]


def halt_line(halt: Halt, what: str = "") -> Line:
    """Formats a halt in a line, and what is to be said of it besides."""
    limits = ", ".join(f"{name} {one_line(value)}" for name, value in halt.scope.items())
    line: Line = [
        (f" halt {halt.id}", "bold"),
        (f" {halt.mode.value}: {limits or 'the whole ledger'}", ""),
        (f", by {one_line(halt.halted_by)} at {when(halt.created_at)}", "dim"),
        (f": {one_line(halt.reason)}", "dim"),
    ]
    if halt.valid_from is not None:
        line.append((f", from {when(halt.valid_from)}", ""))
    if halt.valid_until is not None:
        line.append((f", until {when(halt.valid_until)}", ""))
    if what:
        line.append((f", {what}", ""))
    return line
