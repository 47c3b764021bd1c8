"""The findings of a check of the database, and the checks that all databases share."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Any, Final, TypeAlias

from sqlalchemy import Column, Connection, func
from sqlalchemy.exc import DBAPIError

from operator_core.actions.errors import CorruptRow, InvalidValue
from operator_core.actions.types import StoredProposal
from operator_core.db import migrate
from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sql.rows import (
    DECISION_COLUMNS,
    EVENT_COLUMNS,
    GRANT_COLUMNS,
    HALT_COLUMNS,
    LIMIT_COLUMNS,
    PROPOSAL_COLUMNS,
    RECORD_COLUMNS,
    REQUIREMENT_COLUMNS,
    RESOLUTION_COLUMNS,
    RULE_COLUMNS,
    WORKFLOW_COLUMNS,
    to_decision,
    to_event,
    to_grant,
    to_halt,
    to_limit,
    to_proposal,
    to_record,
    to_requirement,
    to_resolution,
    to_rule,
    to_workflow,
)
from operator_core.db.sql.sqlite_library import dbapi

__all__ = [
    "SHOWN",
    "Check",
    "Finding",
    "Read",
    "Verdict",
    "ask",
    "check_revision",
    "check_rows",
    "compared",
    "counted",
    "told",
]

Read: TypeAlias = Callable[[str, Sequence[str]], Iterable[Sequence[Any]]]
"""Takes a table and columns, the id among them, and returns the rows."""

SHOWN: Final = 10
"""How many objects a finding names; it counts the rest."""

_ROWS: Final[tuple[tuple[Sequence[Column[Any]], Callable[[Sequence[Any]], object]], ...]] = (
    (WORKFLOW_COLUMNS, to_workflow),
    (PROPOSAL_COLUMNS, to_proposal),
    (RECORD_COLUMNS, to_record),
    (EVENT_COLUMNS, to_event),
    (HALT_COLUMNS, to_halt),
    (LIMIT_COLUMNS, to_limit),
    (RULE_COLUMNS, to_rule),
    (REQUIREMENT_COLUMNS, to_requirement),
    (DECISION_COLUMNS, to_decision),
    (GRANT_COLUMNS, to_grant),
    (RESOLUTION_COLUMNS, to_resolution),
)


class Verdict(StrEnum):
    """The severity of a finding."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"


@dataclass(frozen=True)
class Finding:
    """The result of checking one `subject`."""

    subject: str
    verdict: Verdict
    text: str


@dataclass(frozen=True)
class Check:
    """A SELECT of the problems of one subject, and the format of the line for each of its rows.

    It is one statement, so that it sees a single moment of a ledger in use. The database sorts the rows, in
    bounded memory.
    """

    subject: str
    line: str
    rows: Callable[[Connection], Any]
    sound: str
    verdict: Verdict = Verdict.BROKEN


def check_revision(revision: str | None, without: Callable[[], Finding]) -> Finding:
    """Judges the schema's `revision`; calls `without` if there is none."""
    head = migrate.HEAD
    if revision is None:
        return without()
    if revision == head:
        return Finding("revision", Verdict.OK, f"{head} (head)")
    if revision in migrate.REVISIONS:
        text = f"{revision}, behind {head}; run `operator-core db upgrade`"
        return Finding("revision", Verdict.WARNING, text)
    text = f"{revision}, unknown to this release (its newest is {head}); upgrade operator-core"
    return Finding("revision", Verdict.BROKEN, text)


def check_rows(read: Read) -> Iterator[Finding]:
    """Checks that every row can be read, and that the content of each proposal fits its stored digest."""
    counts: dict[str, int] = {}
    edited: list[str] = []
    digests = 0

    def unreadable() -> Iterator[str]:
        nonlocal digests
        for columns, convert in _ROWS:
            table = columns[0].table.name
            counts[table] = 0
            for row in read(table, [column.name for column in columns]):
                counts[table] += 1
                try:
                    found = convert(row)
                except CorruptRow as error:
                    yield str(error)
                    continue
                if isinstance(found, StoredProposal) and found.content_digest is not None:
                    digests += 1
                    if _digest(found) != found.content_digest:
                        edited.append(f"proposal {found.id}: the digest is not that of its content")

    finding = told("rows", unreadable(), "")
    if finding.verdict is Verdict.OK:
        finding = Finding("rows", Verdict.OK, _counts(counts))
    yield finding
    yield told("digests", edited, f"{digests:,} fit the content of their proposals")


def _digest(proposal: StoredProposal) -> str | None:
    try:
        return proposal.digest
    except InvalidValue:
        return None


def _counts(counts: Mapping[str, int]) -> str:
    each = ", ".join(
        f"{count:,} {name.removeprefix('action_').removeprefix('outcome_')}"
        for name, count in counts.items()
    )
    return f"{each}: all readable"


def compared(
    expected: Mapping[str, object], actual: Mapping[str, object], harmless: Callable[[str], bool]
) -> Iterator[Finding]:
    """Compares the actual objects with those that the revision creates.

    Another tool can drop an object that enforces a rule, or add one that breaks it. An added object is broken,
    or a warning if `harmless` returns true for its name.
    """
    changed = (
        f"{name} is {'changed' if name in actual else 'missing'}"
        for name, definition in expected.items()
        if actual.get(name) != definition
    )
    added = [name for name in actual if name not in expected]
    problems = chain(changed, (f"{name} is added" for name in added if not harmless(name)))
    yield told("schema", problems, "tables, indexes and triggers match the revision")
    if warnings := [f"{name} is added" for name in added if harmless(name)]:
        yield counted("additions", warnings[:SHOWN], len(warnings), "", Verdict.WARNING)


def ask(conn: Connection, checks: Iterable[Check]) -> Iterator[Finding]:
    """Runs `checks` and yields their findings; a database error breaks only the check that it occurs in."""
    for check in checks:
        rows = check.rows(conn)
        query = rows.add_columns(func.count().over()).order_by(*rows.selected_columns).limit(SHOWN)
        try:
            # On a server, a failed statement would end the whole transaction.
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
    # Another tool may have written text of any length.
    text = str(value)
    return text if len(text) <= 100 else text[:100] + "…"


def told(subject: str, problems: Iterable[str], sound: str) -> Finding:
    """A finding with the first of `problems` and the number of the others, or the text `sound` if there are none."""
    some: list[str] = []
    total = 0
    try:
        for problem in problems:
            total += 1
            if total <= SHOWN:
                some.append(problem)
    except (dbapi.DatabaseError, DBAPIError) as error:
        some.append(f"reading stopped with an error: {getattr(error, 'orig', error)}")
        total += 1
    return counted(subject, some, total, sound)


def counted(
    subject: str, lines: Sequence[str], total: int, sound: str, verdict: Verdict = Verdict.BROKEN
) -> Finding:
    """A finding of `total` problems that lists `lines`, or the text `sound` if there are none."""
    if not total:
        return Finding(subject, Verdict.OK, sound)
    more = [f"and {total - len(lines):,} more"] if total > len(lines) else []
    return Finding(subject, verdict, "\n".join([*lines, *more]))
