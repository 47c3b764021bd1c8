"""Chosen columns of proposals: as a table, as CSV, or as the keys of JSON."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import typer

from operator_core.actions.types import StoredProposal
from operator_core.cli.formatting import json_text, one_line, plain, when
from operator_core.cli.table import Column, Line, laid_out
from operator_core.cli.views import framed

__all__ = ["COLUMNS", "column_table", "csv_rows", "to_columns"]

COLUMNS: Final = tuple(StoredProposal.model_fields)
"""The names of all columns: the fields of a proposal."""

_NUMBERS: Final = ("int", "float", "<class 'int'>", "<class 'float'>")

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def to_columns(text: str) -> list[str]:
    """Parses the names of columns, separated by commas."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in COLUMNS:
            raise typer.BadParameter(f"{name!r} must be one of {', '.join(COLUMNS)}")
    return names


def csv_rows(proposals: Iterable[StoredProposal], columns: Sequence[str]) -> Iterator[str]:
    """Yields lines of CSV (RFC 4180), the names of the columns first; times are ISO 8601 in UTC.

    Text of agents that a spreadsheet would take for a formula begins with an apostrophe.
    """
    yield _csv(columns)
    for proposal in proposals:
        row = proposal.model_dump(mode="json", include=set(columns))
        yield _csv([_cell(row[name]) for name in columns])


def _csv(cells: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, dict | list | bool):
        return json_text(json.dumps(value, ensure_ascii=False))
    if isinstance(value, str):
        return f"'{plain(value)}" if value.startswith(_FORMULA) else plain(value)
    return value


def column_table(
    proposals: Iterable[StoredProposal], columns: Sequence[str], width: int | None
) -> Iterator[Line]:
    """Yields a table with these columns, the last of which takes what the others leave."""
    *first, last = columns
    heads = [Column(name, right=_is_number(name), most=40) for name in first]
    rows = [[[(_shown(getattr(each, name)), "")] for name in columns] for each in proposals]
    room = None if width is None else width - 2
    return framed(laid_out([*heads, Column(last, share=1)], rows, room))


def _is_number(name: str) -> bool:
    return str(StoredProposal.model_fields[name].annotation).removesuffix(" | None") in _NUMBERS


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return when(value)
    if isinstance(value, dict | list | tuple | bool):
        return one_line(json.dumps(value, ensure_ascii=False))
    return one_line(str(value))
