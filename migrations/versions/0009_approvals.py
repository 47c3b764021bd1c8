"""Approvals: rules, what they require of a proposal, the decisions of people, and votes that were given in advance.

- ``action_rules`` says which proposals need whose approval, and which are denied. A rule is revoked once and never edited.
- ``action_requirements`` has what the rules that matched require of a proposal: a snapshot. The trigger of its INSERT writes it.
- ``action_decisions`` is append-only. ``action_grants`` has the votes that were given in advance.
- The guard of proposals refuses a move to ``validated`` or ``executing`` while a requirement is not met.

The SQL files beside this one say how it works. On SQLite the order of the triggers depends on when they were created, so all triggers
of proposals are created again in their order. Those of other programs follow, except by the
script of ``--sql``, which can't see them.

A downgrade with ``-x discard-history=yes`` deletes the rules, requirements, decisions and grants with their events.

Revision: 0009, after 0008
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from alembic import context, op

from operator_core.actions.errors import WouldLoseData

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

HERE = Path(__file__)
CONDITIONS = HERE.with_name("conditions.postgresql.sql")
ON_SERVER_BEFORE = HERE.with_name("0007_ends.postgresql.sql")

PROPOSALS = "action_proposals"
GENUINE = "action_events_genuine"

NEW_TABLES = ("action_decisions", "action_grants", "action_requirements", "action_rules")
NEW_COLUMNS = {
    "approval": "TEXT",
    "lapses_at": "TEXT",
    "identity_keys": "TEXT",
    "supersedes_id": "INTEGER",
}
NEW_INDEXES = (
    "idx_action_proposals_approval",
    "idx_action_proposals_lapses",
    "idx_action_proposals_supersedes",
)
NEW_EVENTS = (
    "rule_added", "rule_revoked", "grant_added", "grant_revoked",
    "approval_required", "approved", "rejected", "approval_withdrawn",
)  # fmt: skip

CREATE = re.compile(
    r"^CREATE (?:UNIQUE )?(TABLE|INDEX|TRIGGER|VIEW) (\w+)(?:.*? ON (\w+))?",
    re.DOTALL | re.MULTILINE,
)
FUNCTION = re.compile(r"^CREATE FUNCTION (\w+)\(", re.MULTILINE)


class Object(NamedTuple):
    kind: str
    name: str
    table: str
    sql: str


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        _run(_statements(CONDITIONS))
        _run(_statements(HERE.with_suffix(".postgresql.sql")))
        return
    before, new = _before(), _objects(HERE.with_suffix(".sqlite.sql"))
    others = _drop_triggers(before)
    op.execute(f"DROP TRIGGER {GENUINE}")
    for name, kind in NEW_COLUMNS.items():
        op.execute(f"ALTER TABLE {PROPOSALS} ADD COLUMN {name} {kind}")
    of_proposals = _triggers(new)
    _run(each.sql for each in new.values() if each not in of_proposals)
    # A replaced trigger keeps its place.
    _run(each.sql for each in _triggers(before | new))
    _run(others)


def downgrade() -> None:
    if not context.is_offline_mode():
        _keep_approvals()
    told = ", ".join(f"'{name}'" for name in NEW_EVENTS)
    if op.get_context().dialect.name == "postgresql":
        _downgrade_server(told)
        return
    before, new = _before(), _objects(HERE.with_suffix(".sqlite.sql"))
    others = _drop_triggers(before | new)
    _run(f"DROP TRIGGER {name}" for name in (GENUINE, "action_events_not_deleted"))
    _run(f"DROP VIEW {each.name}" for each in new.values() if each.kind == "VIEW")
    _run(f"DROP TABLE {name}" for name in NEW_TABLES)
    _run(f"DROP INDEX {name}" for name in NEW_INDEXES)
    _run(f"ALTER TABLE {PROPOSALS} DROP COLUMN {name}" for name in NEW_COLUMNS)
    op.execute(f"DELETE FROM action_events WHERE event_type IN ({told})")
    events = _limits()._events_before() | dict(_limits()._with_limits(_limits()._events_before()))
    _run(events[name].sql for name in ("action_events_not_deleted", GENUINE))
    _run(each.sql for each in _triggers(before))
    _run(others)


def _downgrade_server(told: str) -> None:
    limits = _limits()
    limits._replace_guard(limits._guard_with_limits())
    created = re.search(
        r"CREATE (?:OR REPLACE )?(FUNCTION action_proposals_tell_created\(.*?\$\$)\$function\$",
        ON_SERVER_BEFORE.read_text(),
        re.DOTALL,
    )
    assert created is not None
    scripts = CONDITIONS.read_text() + HERE.with_suffix(".postgresql.sql").read_text()
    _run(
        [
            f"DO $do$ BEGIN EXECUTE format($function$CREATE OR REPLACE {created[1]}$function$, "
            "current_schema()); END $do$",
            *(
                f"DROP TRIGGER {name} ON {PROPOSALS}"
                for name in ("action_proposals_linked_once", "action_proposals_ruled")
            ),
            "DROP VIEW action_votes",
            f"DROP TABLE {', '.join(NEW_TABLES)}",
            *(f"DROP FUNCTION {name}" for name in FUNCTION.findall(scripts)),
            f"ALTER TABLE {PROPOSALS} {', '.join(f'DROP COLUMN {name}' for name in NEW_COLUMNS)}",
            "ALTER TABLE action_events DISABLE TRIGGER action_events_not_deleted",
            f"DELETE FROM action_events WHERE event_type IN ({told})",
            "ALTER TABLE action_events ENABLE TRIGGER action_events_not_deleted",
        ]
    )


def _keep_approvals() -> None:
    """Raises `WouldLoseData` if there has ever been a rule, a decision or a grant, or a proposal that superseded another."""
    if context.get_x_argument(as_dictionary=True).get("discard-history") == "yes":
        return
    for table, which in (
        *((name, "true") for name in NEW_TABLES),
        (PROPOSALS, "supersedes_id IS NOT NULL"),
    ):
        if op.get_bind().exec_driver_sql(f"SELECT 1 FROM {table} WHERE {which} LIMIT 1").first():
            raise WouldLoseData(table, "discard-history")


def _limits() -> Any:
    """The module of the revision before this one."""
    return context.script.get_revision(down_revision).module


def _before() -> dict[str, Object]:
    """The triggers of proposals on SQLite as the revision before this one left them, in their order."""
    limits = _limits()
    ends = context.script.get_revision(limits.down_revision).module
    replaced = _objects(ends.HERE.with_suffix(".sqlite.sql"))
    ended = (
        _object(replaced[name].sql if name in replaced else sql)
        for name, sql in ends._triggers().items()
    )
    limited = _objects(limits.HERE.with_suffix(".sqlite.sql"))
    return {each.name: each for each in _triggers({each.name: each for each in ended} | limited)}


def _statements(script: Path) -> Iterator[str]:
    for statement in script.read_text().split(";\n\n"):
        yield statement.strip().removesuffix(";")


def _object(statement: str) -> Object:
    made = CREATE.search(statement)
    assert made is not None
    kind, name, on = made.groups()
    return Object(kind, name, on or name, statement)


def _objects(script: Path) -> dict[str, Object]:
    """The objects that a script for SQLite creates, by name."""
    return {each.name: each for each in map(_object, _statements(script))}


def _triggers(objects: dict[str, Object]) -> list[Object]:
    return [each for each in objects.values() if each.kind == "TRIGGER" and each.table == PROPOSALS]


def _drop_triggers(objects: dict[str, Object]) -> list[str]:
    """Drops all triggers of proposals; returns the statements of those that no revision created."""
    own = [each.name for each in _triggers(objects)]
    others: dict[str, str] = {}
    if not context.is_offline_mode():
        found = op.get_bind().exec_driver_sql(
            "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY rowid"
        )
        others = {
            name: sql
            for name, table, sql in found
            if table.lower() == PROPOSALS and name not in own
        }
    for name in (*own, *others):
        quoted = name.replace('"', '""')
        _run([f'DROP TRIGGER IF EXISTS "{quoted}"'])
    return list(others.values())


def _run(statements: Iterable[str]) -> None:
    for statement in statements:
        # A colon does not begin a parameter here.
        op.execute(sa.text(statement.replace(":", "\\:")))
