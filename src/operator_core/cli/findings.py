"""What a check-up finds, and what it finds alike on every database."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Any, Final

from sqlalchemy import Connection, func
from sqlalchemy.exc import DBAPIError

from operator_core.actions.errors import CorruptRow
from operator_core.actions.types import ActionEvent, ActionProposal, ActionRecord, Workflow
from operator_core.db import migrate
from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sql.rows import to_event, to_proposal, to_record, to_workflow

__all__ = [
    "SHOWN",
    "Check",
    "Finding",
    "Verdict",
    "ask",
    "check_revision",
    "check_rows",
    "compared",
    "counted",
    "told",
]

SHOWN: Final = 10
"""How many of one kind of damage are told one by one."""

_ROWS: Final[tuple[tuple[str, Any, Callable[[Sequence[Any]], object]], ...]] = (
    ("workflows", Workflow, to_workflow),
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


@dataclass(frozen=True)
class Check:
    """A SELECT of all that is wrong with one subject, and the line that each of its rows becomes.

    One statement, so that it sees one moment of a ledger in use; the database sorts, in bounded memory.
    """

    subject: str
    line: str
    rows: Callable[[Connection], Any]
    sound: str
    verdict: Verdict = Verdict.BROKEN


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


def compared(
    wanted: Mapping[str, object], there: Mapping[str, object], harmless: Callable[[str], bool]
) -> Iterator[Finding]:
    """Whether what is there is what the revision makes, no less and no more.

    Promises are kept by what is easily dropped, and undone by what is easily added. What is added
    is a warning only where `harmless` says so of its name.
    """
    changed = (
        f"{name} is {'changed' if name in there else 'missing'}"
        for name, definition in wanted.items()
        if there.get(name) != definition
    )
    added = [name for name in there if name not in wanted]
    problems = chain(changed, (f"{name} is added" for name in added if not harmless(name)))
    yield told("schema", problems, "tables, indexes and triggers are as the revision made them")
    if mere := [f"{name} is added" for name in added if harmless(name)]:
        yield counted("additions", mere[:SHOWN], len(mere), "", Verdict.WARNING)


def ask(conn: Connection, checks: Iterable[Check]) -> Iterator[Finding]:
    """The findings of `checks`; an error of the database is a problem of that one."""
    for check in checks:
        rows = check.rows(conn)
        query = rows.add_columns(func.count().over()).order_by(*rows.selected_columns).limit(SHOWN)
        try:
            # A statement that fails would end a server's transaction.
            with conn.begin_nested() if not is_sqlite(conn) else nullcontext():
                found = conn.execute(query).all()
        except DBAPIError as error:
            yield Finding(check.subject, Verdict.BROKEN, f"can't be checked: {error.orig}")
            continue
        lines = [check.line.format(*(_short(value) for value in row[:-1])) for row in found]
        yield counted(
            check.subject, lines, found[0][-1] if found else 0, check.sound, check.verdict
        )


def _short(value: object) -> str:
    # What another tool wrote can be of any length.
    text = str(value)
    return text if len(text) <= 100 else text[:100] + "…"


def told(subject: str, problems: Iterable[str], sound: str) -> Finding:
    """The first few of `problems` and how many more there are, or that all is `sound`."""
    some: list[str] = []
    total = 0
    try:
        for problem in problems:
            total += 1
            if total <= SHOWN:
                some.append(problem)
    except (sqlite3.DatabaseError, DBAPIError) as error:
        some.append(f"can't be read to the end: {getattr(error, 'orig', error)}")
        total += 1
    return counted(subject, some, total, sound)


def counted(
    subject: str, lines: Sequence[str], total: int, sound: str, verdict: Verdict = Verdict.BROKEN
) -> Finding:
    """A finding of `total` problems, of which `lines` are told; where there is none, it is `sound`."""
    if not total:
        return Finding(subject, Verdict.OK, sound)
    more = [f"and {total - len(lines):,} more"] if total > len(lines) else []
    return Finding(subject, verdict, "\n".join([*lines, *more]))
