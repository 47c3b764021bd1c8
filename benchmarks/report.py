"""Formats tables of plain text and the numbers in them."""

import platform
import sqlite3
from collections.abc import Sequence

from operator_core.db.sql.sqlite_library import describe

__all__ = ["SQLITE", "figure", "machine", "spread", "table", "times"]

SQLITE = f"{describe()} (the ledger), {describe(sqlite3)} (the others)"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with columns as narrow as possible; the first is left-aligned, the others right-aligned."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join((first, *others)).rstrip()

    return "\n".join([line(head), "  ".join("-" * width for width in widths), *map(line, rows)])


def figure(value: float) -> str:
    """A number with three significant digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def times(value: float) -> str:
    """A ratio."""
    return f"{value:.2f}x"


def spread(values: Sequence[float]) -> str:
    """The smallest and the largest ratio of single rounds."""
    return f"({min(values):.2f}-{max(values):.2f})"


def machine(database: str = SQLITE) -> str:
    """The software and the machine that the figures depend on."""
    return (
        f"Python {platform.python_version()}, {database}, {platform.system()} {platform.machine()}"
    )
