"""What became of executions whose outcome is unknown, as somebody found out.

``outcome_resolutions`` has at most one row for a record with an unknown outcome. It says whether the action was done,
who looked, and the evidence. It is append-only, and the record stays as it is. Its trigger makes the only move from
`failed` to `completed`: that of a proposal whose last execution was done after all.

A downgrade with ``-x discard-history=yes`` deletes the resolutions and their events, but not the moves, which
``db check`` then reports.

Revision: 0006, after 0005
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from alembic import context, op

from operator_core.actions.errors import WouldLoseData

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

HERE = Path(__file__)
BEFORE = tuple(
    HERE.with_name(f"{name}.sqlite.sql")
    for name in ("0002_ledger", "0003_cheaper_checks", "0004_origin", "0005_stop")
)
ON_SERVER_BEFORE = HERE.with_name("0005_stop.postgresql.sql")

# The tables whose triggers this revision replaces on SQLite.
TABLES = ("action_proposals", "action_events")

CREATE = re.compile(
    r"^CREATE (?:UNIQUE )?(TABLE|INDEX|TRIGGER|VIEW) (\w+)(?:.*? ON (\w+))?",
    re.DOTALL | re.MULTILINE,
)

# What becomes of the texts of the revision before. The move is allowed only right after the event that says that the last
# execution was done. A CASE evaluates the search for it only where it matters.
STEP = "failed>validated}'::pg_catalog.text[])) IS NOT TRUE THEN"
STEP_ON_SERVER = """failed>validated}'::pg_catalog.text[])) IS NOT TRUE
                AND (CASE WHEN OLD.status OPERATOR(pg_catalog.=) 'failed' AND NEW.status OPERATOR(pg_catalog.=) 'completed'
                    THEN %1$I.outcome_resolutions_done(OLD.id) END) IS NOT TRUE THEN"""
STEPS = {
    "action_proposals_lifecycle": (
        "OR OLD.status = 'failed' AND NEW.status = 'validated') IS NOT TRUE",
        """OR OLD.status = 'failed' AND NEW.status = 'validated'
        OR CASE WHEN OLD.status = 'failed' AND NEW.status = 'completed' THEN (
            SELECT event_type = 'outcome_resolved' AND success AND record_id = (SELECT max(id) FROM action_records WHERE proposal_id = OLD.id)
            FROM action_events WHERE proposal_id = OLD.id ORDER BY id DESC LIMIT 1) END) IS NOT TRUE""",
    ),
    "action_events_genuine": (
        "            OR NEW.event_type = 'record_finished'\n",
        """            OR NEW.event_type = 'outcome_resolved'
                AND EXISTS (SELECT 1 FROM action_records WHERE id = NEW.record_id AND worker IS NEW.worker)
                AND EXISTS (SELECT 1 FROM outcome_resolutions WHERE record_id = NEW.record_id AND proposal_id = NEW.proposal_id AND succeeded = NEW.success AND resolved_by = NEW.actor AND evidence = NEW.reason)
            OR NEW.event_type = 'record_finished'
""",
    ),
}


class Object(NamedTuple):
    kind: str
    name: str
    table: str
    sql: str


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        _run(_statements(HERE.with_suffix(".postgresql.sql")))
        guard = _guard()
        assert guard.count(STEP) == 1
        _replace_guard(guard.replace(STEP, STEP_ON_SERVER))
        return
    before = _objects(*BEFORE)
    others = _drop_triggers(before)
    _run(_statements(HERE.with_suffix(".sqlite.sql")))
    # A replaced trigger keeps its place.
    _run(_with_steps(before))
    _run(others)


def _with_steps(objects: dict[str, Object]) -> Iterator[str]:
    for each in _triggers(objects):
        if each.name not in STEPS:
            yield each.sql
            continue
        old, new = STEPS[each.name]
        assert old in each.sql
        yield each.sql.replace(old, new)


def downgrade() -> None:
    if not context.is_offline_mode():
        _keep_resolutions()
    if op.get_context().dialect.name == "postgresql":
        _replace_guard(_guard())
        op.drop_table("outcome_resolutions")
        for function in ("done(bigint)", "guard()", "event()"):
            op.execute(f"DROP FUNCTION outcome_resolutions_{function}")
        op.execute("DROP INDEX idx_action_records_unknown")
        # With `discard-history`, their events go with them.
        op.execute("ALTER TABLE action_events DISABLE TRIGGER action_events_not_deleted")
        op.execute("DELETE FROM action_events WHERE event_type = 'outcome_resolved'")
        op.execute("ALTER TABLE action_events ENABLE TRIGGER action_events_not_deleted")
        return
    before = _objects(*BEFORE)
    others = _drop_triggers(before)
    op.drop_table("outcome_resolutions")
    op.execute("DROP INDEX idx_action_records_unknown")
    op.execute("DELETE FROM action_events WHERE event_type = 'outcome_resolved'")
    _run(each.sql for each in _triggers(before))
    _run(others)


def _keep_resolutions() -> None:
    """Raises `WouldLoseData` if an outcome was resolved: the next upgrade could not know."""
    if context.get_x_argument(as_dictionary=True).get("discard-history") == "yes":
        return
    if op.get_bind().exec_driver_sql("SELECT 1 FROM outcome_resolutions LIMIT 1").first():
        raise WouldLoseData("outcome_resolutions", "discard-history")


def _guard() -> str:
    """The guard of proposals on a server as the revision before this one wrote it."""
    found = re.search(
        r"CREATE OR REPLACE (FUNCTION action_proposals_guard\(\).*?\$\$)\$function\$, (.*?)\);",
        ON_SERVER_BEFORE.read_text(),
        re.DOTALL,
    )
    assert found is not None
    return found[1]


def _replace_guard(function: str) -> None:
    schema = "quote_ident(current_schema())"
    _run(
        [
            f"DO $do$ BEGIN EXECUTE format($function$CREATE OR REPLACE {function}$function$, current_schema(), "
            f"{schema} || '.action_halts', {schema} || '.action_halts_flag'); END $do$"
        ]
    )


def _statements(script: Path) -> Iterator[str]:
    for statement in script.read_text().split(";\n\n"):
        yield statement.strip().removesuffix(";")


def _objects(*scripts: Path) -> dict[str, Object]:
    """The objects that scripts for SQLite create, by name; a later script replaces those of an earlier one."""
    found: dict[str, Object] = {}
    for script in scripts:
        for statement in _statements(script):
            made = CREATE.search(statement)
            assert made is not None
            kind, name, on = made.groups()
            found[name] = Object(kind, name, on or name, statement)
    return found


def _triggers(objects: dict[str, Object]) -> list[Object]:
    return [each for each in objects.values() if each.kind == "TRIGGER" and each.table in TABLES]


def _drop_triggers(objects: dict[str, Object]) -> list[str]:
    """Drops all triggers of `TABLES`; returns the statements of those that no revision created."""
    own = [each.name for each in _triggers(objects)]
    others: dict[str, str] = {}
    if not context.is_offline_mode():
        found = op.get_bind().exec_driver_sql(
            "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY rowid"
        )
        others = {
            name: sql for name, table, sql in found if table.lower() in TABLES and name not in own
        }
    for name in (*own, *others):
        quoted = name.replace('"', '""')
        _run([f'DROP TRIGGER IF EXISTS "{quoted}"'])
    return list(others.values())


def _run(statements: Iterable[str]) -> None:
    for statement in statements:
        # A colon does not begin a parameter here.
        op.execute(sa.text(statement.replace(":", "\\:")))
