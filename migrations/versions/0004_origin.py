"""Who asks for an action, and where the call comes from.

A proposal names its requester and that person's or program's type, the agent that acts, the run (conversation or thread),
the proposal in whose execution it was proposed, the provider's id of the tool call, and the trace. All are optional and
never change. A call has at most one proposal in its run, and a proposal belongs to the run of its parent.

New columns are added to the table in place, so the upgrade takes no longer for more rows. On SQLite the order of the
triggers depends on when they were created, so all triggers of the table are created again in their order. Those of other programs
follow, except by the script of ``--sql``, which can't see them.

Revision: 0004, after 0003
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from alembic import context, op

from operator_core.actions.errors import WouldLoseData

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

HERE = Path(__file__)
BEFORE = tuple(
    HERE.with_name(name) for name in ("0002_ledger.sqlite.sql", "0003_cheaper_checks.sqlite.sql")
)
ON_SERVER_BEFORE = HERE.with_name("0002_ledger.postgresql.sql")

TABLE = "action_proposals"
COLUMNS = {
    "requester_id": "TEXT",
    "requester_type": "TEXT",
    "agent_id": "TEXT",
    "run_id": "TEXT",
    "parent_id": "INTEGER",
    "call_id": "TEXT",
    "traceparent": "TEXT",
}

CREATE = re.compile(
    r"^CREATE (?:UNIQUE )?(TABLE|INDEX|TRIGGER) (\w+)(?:.*? ON (\w+))?", re.DOTALL | re.MULTILINE
)


class Object(NamedTuple):
    kind: str
    name: str
    sql: str


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        _run(_statements(HERE.with_suffix(".postgresql.sql")))
        return
    before, new = _objects(*BEFORE), _objects(HERE.with_suffix(".sqlite.sql"))
    others = _drop_triggers(before)
    for name, kind in COLUMNS.items():
        op.execute(f"ALTER TABLE {TABLE} ADD COLUMN {name} {kind}")
    _run(each.sql for each in new.values() if each.kind == "INDEX")
    # A replaced trigger keeps its place.
    _run(each.sql for each in (before | new).values() if each.kind == "TRIGGER")
    _run(others)


def downgrade() -> None:
    if not context.is_offline_mode():
        _keep_origins()
    if op.get_context().dialect.name == "postgresql":
        _downgrade_server()
        return
    before, new = _objects(*BEFORE), _objects(HERE.with_suffix(".sqlite.sql"))
    others = _drop_triggers(before | new)
    _run(f"DROP INDEX {each.name}" for each in new.values() if each.kind == "INDEX")
    for name in COLUMNS:
        op.execute(f"ALTER TABLE {TABLE} DROP COLUMN {name}")
    _run(each.sql for each in before.values() if each.kind == "TRIGGER")
    _run(others)


def _downgrade_server() -> None:
    script = ON_SERVER_BEFORE.read_text()
    guard = re.search(
        r"CREATE (FUNCTION action_proposals_guard\(\).*?\$\$)\$function\$", script, re.DOTALL
    )
    immutable = re.search(r"CREATE TRIGGER action_proposals_immutable\n.*?;", script, re.DOTALL)
    assert guard is not None
    assert immutable is not None
    replace = f"CREATE OR REPLACE {guard[1]}"
    op.execute("DROP TRIGGER IF EXISTS action_proposals_immutable ON action_proposals")
    _run(
        [f"DO $do$ BEGIN EXECUTE format($function${replace}$function$, current_schema()); END $do$"]
    )
    op.execute(f"ALTER TABLE {TABLE} {', '.join(f'DROP COLUMN {name}' for name in COLUMNS)}")
    _run([immutable[0]])


def _keep_origins() -> None:
    """Raises `WouldLoseData` if a proposal says where it comes from: the next upgrade could not know."""
    if context.get_x_argument(as_dictionary=True).get("discard-history") == "yes":
        return
    told = " OR ".join(f"{name} IS NOT NULL" for name in COLUMNS)
    if op.get_bind().exec_driver_sql(f"SELECT 1 FROM {TABLE} WHERE {told} LIMIT 1").first():
        raise WouldLoseData(TABLE, "discard-history")


def _statements(script: Path) -> Iterator[str]:
    for statement in script.read_text().split(";\n\n"):
        yield statement.strip().removesuffix(";")


def _objects(*scripts: Path) -> dict[str, Object]:
    """The objects of the table that scripts for SQLite create, by name; a later script replaces those of an earlier one."""
    found: dict[str, Object] = {}
    for script in scripts:
        for statement in _statements(script):
            made = CREATE.search(statement)
            assert made is not None
            kind, name, on = made.groups()
            if on == TABLE:
                found[name] = Object(kind, name, statement)
    return found


def _drop_triggers(objects: dict[str, Object]) -> list[str]:
    """Drops all triggers of the table; returns the statements of those that no revision created."""
    own = [each.name for each in objects.values() if each.kind == "TRIGGER"]
    others: dict[str, str] = {}
    if not context.is_offline_mode():
        found = op.get_bind().exec_driver_sql(
            "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY rowid"
        )
        others = {
            name: sql for name, table, sql in found if table.lower() == TABLE and name not in own
        }
    for name in (*own, *others):
        quoted = name.replace('"', '""')
        _run([f'DROP TRIGGER IF EXISTS "{quoted}"'])
    return list(others.values())


def _run(statements: Iterable[str]) -> None:
    for statement in statements:
        # A colon does not begin a parameter here.
        op.execute(sa.text(statement.replace(":", "\\:")))
