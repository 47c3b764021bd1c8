"""Tables of text with a fast layout: rich's tables take a millisecond per row, and lists have thousands of rows."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, TypeAlias

from rich.cells import cell_len, set_cell_size
from rich.text import Text

__all__ = ["Column", "Line", "Span", "fitted", "laid_out", "to_text"]

Span: TypeAlias = tuple[str, str]
"""A text and its style; an empty style means none."""

Line: TypeAlias = Sequence[Span]
"""Spans side by side: a cell, or a whole line."""

_GAP: Final = 2
"""Blanks between two columns."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: as wide as its cells, at most `most`; or with a `share` of the width that the others leave."""

    title: str
    right: bool = False
    most: int | None = None
    share: int = 0


def laid_out(
    columns: Sequence[Column],
    rows: Iterable[Sequence[Line]],
    width: int | None,
    *,
    gap: int = _GAP,
    footer: Sequence[Line] | None = None,
) -> Iterator[Line]:
    """Yields the lines of a table: its titles, a rule and `rows`; each row is a sequence of cells.

    For a terminal of `width` columns, cells that don't fit end in an ellipsis. Without a width nothing is cut, and
    columns with a share have no fixed width.
    """
    rows = list(rows)
    heads = _heads(columns)
    widths = _widths(columns, [*heads, *rows, *([footer] if footer else [])], width, gap)
    total = sum(each or 0 for each in widths) + gap * (len(columns) - 1)
    rule: Line = [("─" * (total if width is None else min(total, width)), "")]

    def line(cells: Sequence[Line]) -> Line:
        return fitted(_joined(columns, cells, widths, width, gap), width)

    yield from map(line, heads)
    yield rule
    yield from map(line, rows)
    if footer:
        yield rule
        yield line(footer)


def _heads(columns: Sequence[Column]) -> list[list[Line]]:
    titles = [column.title.split("\n") for column in columns]
    return [
        [[(title[index], "bold")] if index < len(title) else [] for title in titles]
        for index in range(max(map(len, titles)))
    ]


def _length(cell: Line) -> int:
    return sum(cell_len(text) for text, _ in cell)


def _widths(
    columns: Sequence[Column], rows: Sequence[Sequence[Line]], width: int | None, gap: int
) -> list[int | None]:
    """Returns the columns' widths; None for a column whose cells are neither cut nor padded."""
    widths: list[int | None] = []
    for index, column in enumerate(columns):
        if column.share:
            widths.append(None)
            continue
        natural = max((_length(row[index]) for row in rows), default=0)
        widths.append(natural if column.most is None else min(natural, column.most))
    shares = sum(column.share for column in columns)
    if width is None or not shares:
        return widths
    rest = max(width - sum(each or 0 for each in widths) - gap * (len(columns) - 1), shares)
    used = 0
    for index, column in enumerate(columns):
        if column.share:
            part = rest * column.share // shares
            rest, shares, used = rest - part, shares - column.share, used + part
            widths[index] = part
    return widths


def _joined(
    columns: Sequence[Column],
    cells: Sequence[Line],
    widths: Sequence[int | None],
    width: int | None,
    gap: int,
) -> Line:
    spans: list[Span] = []
    for index, (column, cell, room) in enumerate(zip(columns, cells, widths, strict=True)):
        if index:
            spans.append((" " * gap, ""))
        length = _length(cell)
        if room is None or (length > room and width is None):
            spans += cell
        elif length > room:
            spans += _cut(cell, room)
        elif column.right:
            spans += [(" " * (room - length), ""), *cell]
        else:
            spans += [*cell, (" " * (room - length), "")]
    return spans


def fitted(line: Line, width: int | None) -> Line:
    """Cuts a line to `width` columns; without a width returns it unchanged."""
    return line if width is None or _length(line) <= width else list(_cut(line, width))


def _cut(cell: Line, room: int) -> Iterator[Span]:
    """Yields the part of a cell that fits, and an ellipsis."""
    room -= 1
    for text, style in chain(cell, [("", "")]):
        length = cell_len(text)
        if length > room:
            yield (set_cell_size(text, max(room, 0)) + "…", style)
            return
        yield (text, style)
        room -= length


def to_text(line: Line) -> Text:
    """Converts a line for rich's screen, where a line that does not fit ends in an ellipsis."""
    text = Text(no_wrap=True, overflow="ellipsis")
    for part, style in line:
        text.append(part, style or None)
    return text
