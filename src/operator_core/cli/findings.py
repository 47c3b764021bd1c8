"""What a check-up finds, and what it finds alike on every database."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from operator_core.actions.errors import CorruptRow
from operator_core.actions.types import ActionEvent, ActionProposal, ActionRecord
from operator_core.db import migrate
from operator_core.db.rows import to_event, to_proposal, to_record

__all__ = ["SHOWN", "Finding", "Verdict", "check_revision", "check_rows", "compared", "told"]

SHOWN: Final = 10
"""How many of one kind of damage are told one by one."""

_ROWS: Final[tuple[tuple[str, Any, Callable[[Sequence[Any]], object]], ...]] = (
    ("action_proposals", ActionProposal, to_proposal),
    ("action_records", ActionRecord, to_record),
    ("action_events", ActionEvent, to_event),
)


class Verdict(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"


@dataclass(frozen=True)
class Finding:
    """What was found out about one `subject`."""

    subject: str
    verdict: Verdict
    text: str


def check_revision(revision: str | None, without: Callable[[], Finding]) -> Finding:
    """What it means that the schema is at `revision`; `without` is asked where there is none."""
    head = migrate.HEAD
    if revision is None:
        return without()
    if revision == head:
        return Finding("revision", Verdict.OK, f"{head} (head)")
    if revision in migrate.REVISIONS:
        text = f"{revision}, behind {head}; `operator-core db upgrade` brings it up"
        return Finding("revision", Verdict.WARNING, text)
    text = f"{revision}, unknown to this release, whose newest is {head}; upgrade operator-core"
    return Finding("revision", Verdict.BROKEN, text)


def check_rows(read: Callable[[str, Sequence[str]], Iterable[Sequence[Any]]]) -> Finding:
    """Whether every row can be read; `read` gives a table's rows, with the columns that are named."""
    counts: dict[str, int] = {}

    def unreadable() -> Iterator[str]:
        for table, model, convert in _ROWS:
            counts[table] = 0
            for row in read(table, list(model.model_fields)):
                counts[table] += 1
                try:
                    convert(row)
                except CorruptRow as error:
                    yield str(error)

    finding = told("rows", unreadable(), "")
    if finding.verdict is not Verdict.OK:
        return finding
    each = ", ".join(f"{count:,} {name.removeprefix('action_')}" for name, count in counts.items())
    return Finding("rows", Verdict.OK, f"{each}: all readable")


def compared(wanted: dict[str, str], there: dict[str, str]) -> Finding:
    """Whether all that the revision makes is there: promises are kept by what is easily dropped."""
    problems = (
        f"{name} is {'changed' if name in there else 'missing'}"
        for name, definition in wanted.items()
        if there.get(name) != definition
    )
    return told("schema", problems, "tables, indexes and triggers are as the revision made them")


def told(subject: str, problems: Iterator[str], sound: str) -> Finding:
    """The first few of `problems` and how many more there are, or that all is `sound`."""
    some: list[str] = []
    more = 0
    try:
        for problem in problems:
            if len(some) < SHOWN:
                some.append(problem)
            else:
                more += 1
    except sqlite3.DatabaseError as error:
        some.append(f"can't be read to the end: {error}")
    if more:
        some.append(f"and {more:,} more")
    return Finding(subject, Verdict.BROKEN if some else Verdict.OK, "\n".join(some) or sound)
