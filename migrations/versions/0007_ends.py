"""How a proposal has ended badly, what caused its last move, and the digest of what was proposed.

- ``end_code`` is set with each move to `cancelled` or `failed`, and has no value in any other status. ``status_cause`` names
  the rule, decision, grant, halt, limit or proposal that caused the last move. The events of moves have both in their details.
- ``content_digest`` is the digest of what was proposed (``docs/digest.md``), and is in the event of the creation. It is
  written once.

The upgrade gives existing rows their end codes and digests, without events. A row that can't be read has no digest, and the script
of ``--sql`` computes none. Old events stay as they are. After a downgrade, events still tell end codes and causes, and the next
upgrade takes them from there.

Revision: 0007, after 0006
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import context, op
from sqlalchemy.exc import DBAPIError

from operator_core.actions.digest import proposal_digest
from operator_core.actions.errors import WouldLoseData

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

HERE = Path(__file__)
ON_SERVER_FIRST = HERE.with_name("0002_ledger.postgresql.sql")
ON_SERVER_ORIGIN = HERE.with_name("0004_origin.postgresql.sql")

TABLE = "action_proposals"
COLUMNS = ("end_code", "status_cause", "content_digest")

# The functions on a server that this revision replaces, besides the guard.
FUNCTIONS = ("link", "cancel", "tell_created", "tell_changed")

# The triggers on a server that would count the upgrade of a row as a change.
COUNTING = ("action_proposals_guard", "action_proposals_status_changed")

BATCH = 1000

CONTENT = (
    "id, action_name, action_type, ticket_id, requester_id, requester_type, agent_id, run_id, parent_id, scheduled_at, "
    "expires_at, max_retries, retry_delay, max_retry_delay, wait_on_failure"
)
JSON = {
    "sqlite": "parameters, depends_on",
    "postgresql": "CAST(parameters AS TEXT) AS parameters, CAST(depends_on AS TEXT) AS depends_on",
}

END_CODES = f"""
UPDATE {TABLE} SET end_code = CASE WHEN status = 'failed' AND (
    SELECT outcome_unknown FROM action_records WHERE proposal_id = {TABLE}.id ORDER BY id DESC LIMIT 1
) THEN 'outcome_unknown' ELSE status END
WHERE status IN ('cancelled', 'failed')"""

# `end_code` and `cause` are expressions of the details of the event.
FROM_EVENTS = f"""
UPDATE {TABLE} SET end_code = told.end_code, status_cause = told.cause
FROM (
    SELECT proposal_id, {{end_code}} AS end_code, {{cause}} AS cause FROM (
        SELECT proposal_id, CAST(details AS TEXT) AS details FROM action_events WHERE details IS NOT NULL AND id IN (
            SELECT max(id) FROM action_events WHERE event_type = 'status_changed' GROUP BY proposal_id)) AS event
) AS told
WHERE {TABLE}.id = told.proposal_id"""
OF_DETAILS = {
    "sqlite": {
        "end_code": "CASE WHEN details LIKE '{\"end_code\":%' THEN substr(details, 14, instr(substr(details, 14), '\"') - 1) END",
        "cause": "CASE WHEN details NOT LIKE '{\"end_code\":%' THEN details "
        "WHEN instr(details, ',') > 0 THEN '{' || substr(details, instr(details, ',') + 1) END",
    },
    "postgresql": {
        "end_code": "details::json ->> 'end_code'",
        "cause": "CASE WHEN details::json ->> 'end_code' IS NULL THEN details "
        "WHEN strpos(details, ',') > 0 THEN '{' || substr(details, strpos(details, ',') + 1) END",
    },
}


def upgrade() -> None:
    dialect = op.get_context().dialect.name
    if dialect == "postgresql":
        _run(_statements(HERE.with_suffix(".postgresql.sql")))
        _switch("DISABLE", *COUNTING)
        _fill(dialect)
        _switch("ENABLE", *COUNTING)
        return
    before = _before()
    triggers = _triggers()
    others = before._drop_triggers(before._objects(*before.BEFORE))
    for name in COLUMNS:
        op.execute(f"ALTER TABLE {TABLE} ADD COLUMN {name} TEXT")
    _fill(dialect)
    new = before._objects(HERE.with_suffix(".sqlite.sql"))
    _run(each.sql for each in new.values() if each.kind == "INDEX")
    # A replaced trigger keeps its place.
    _run(new[name].sql if name in new else sql for name, sql in triggers.items())
    _run(others)


def downgrade() -> None:
    if not context.is_offline_mode():
        _keep_ends()
    if op.get_context().dialect.name == "postgresql":
        _downgrade_server()
        return
    before = _before()
    triggers = _triggers()
    others = before._drop_triggers(before._objects(*before.BEFORE))
    op.execute("DROP INDEX idx_action_proposals_end_code")
    for name in COLUMNS:
        op.execute(f"ALTER TABLE {TABLE} DROP COLUMN {name}")
    _run(triggers.values())
    _run(others)


def _downgrade_server() -> None:
    first, before = ON_SERVER_FIRST.read_text(), _before()
    op.execute(f"DROP TRIGGER IF EXISTS action_proposals_immutable ON {TABLE}")
    for name in FUNCTIONS:
        found = re.search(
            rf"CREATE (FUNCTION action_proposals_{name}\(.*?\$\$)\$function\$", first, re.DOTALL
        )
        assert found is not None
        _run(
            [
                f"DO $do$ BEGIN EXECUTE format($function$CREATE OR REPLACE {found[1]}$function$, "
                "current_schema()); END $do$"
            ]
        )
    before._replace_guard(before._guard().replace(before.STEP, before.STEP_ON_SERVER))
    op.execute(f"ALTER TABLE {TABLE} {', '.join(f'DROP COLUMN {name}' for name in COLUMNS)}")
    immutable = re.search(
        r"CREATE TRIGGER action_proposals_immutable\n.*?;", ON_SERVER_ORIGIN.read_text(), re.DOTALL
    )
    assert immutable is not None
    _run([immutable[0]])


def _keep_ends() -> None:
    """Raises `WouldLoseData` if a proposal says more about its end than the next upgrade could know without its events."""
    if context.get_x_argument(as_dictionary=True).get("discard-history") == "yes":
        return
    told = "status_cause IS NOT NULL OR end_code NOT IN ('cancelled', 'failed', 'outcome_unknown')"
    if op.get_bind().exec_driver_sql(f"SELECT 1 FROM {TABLE} WHERE {told} LIMIT 1").first():
        raise WouldLoseData(TABLE, "discard-history")


def _fill(dialect: str) -> None:
    """Writes the new columns of existing rows."""
    op.execute(END_CODES)
    _run([FROM_EVENTS.format(**OF_DETAILS[dialect])])
    if not context.is_offline_mode():
        _fill_digests(op.get_bind())


def _fill_digests(bind: sa.Connection) -> None:
    some = sa.text(f"SELECT id FROM {TABLE} WHERE id > :after ORDER BY id LIMIT {BATCH}")
    write = sa.text(f"UPDATE {TABLE} SET content_digest = :digest WHERE id = :id")
    ids: Sequence[int] = [-1]
    while ids := bind.scalars(some, {"after": ids[-1]}).all():
        found = ((row["id"], _digest(row)) for row in _read(bind, ids))
        digests = [{"id": id_, "digest": digest} for id_, digest in found if digest is not None]
        if digests:
            bind.execute(write, digests)


def _read(bind: sa.Connection, ids: Sequence[int]) -> Sequence[sa.RowMapping]:
    """The rows with these consecutive ids, without those in which SQLite's driver finds text that is not UTF-8."""
    these = f"FROM {TABLE} WHERE id >= :first AND id <= :last ORDER BY id"
    read = sa.text(f"SELECT {CONTENT}, {JSON[bind.dialect.name]} {these}")
    try:
        return bind.execute(read, {"first": ids[0], "last": ids[-1]}).mappings().all()
    except DBAPIError:
        if bind.dialect.name != "sqlite":
            raise
        if len(ids) == 1:
            return []
        half = len(ids) // 2
        return [*_read(bind, ids[:half]), *_read(bind, ids[half:])]


def _digest(row: sa.RowMapping) -> str | None:
    if type(row["parameters"]) is not str:
        return None
    try:
        return proposal_digest(
            {
                **row,
                "parameters": json.loads(row["parameters"]),
                "scheduled_at": _time(row["scheduled_at"]),
                "expires_at": _time(row["expires_at"]),
                "depends_on": () if row["depends_on"] is None else json.loads(row["depends_on"]),
                "wait_on_failure": bool(row["wait_on_failure"]),
            }
        )
    except (ValueError, TypeError, RecursionError):
        return None


def _time(value: Any) -> datetime | None:
    if value is None or isinstance(value, datetime):
        return value
    time = datetime.fromisoformat(value)
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


def _before() -> Any:
    """The module of the revision before this one."""
    return context.script.get_revision(down_revision).module


def _triggers() -> dict[str, str]:
    """The triggers on SQLite that the revisions before this one create again on an upgrade, in their order."""
    before = _before()
    objects = before._objects(*before.BEFORE)
    names = [each.name for each in before._triggers(objects)]
    return dict(zip(names, before._with_steps(objects), strict=True))


def _switch(how: str, *triggers: str) -> None:
    op.execute(f"ALTER TABLE {TABLE} {', '.join(f'{how} TRIGGER {name}' for name in triggers)}")


def _statements(script: Path) -> Iterator[str]:
    for statement in script.read_text().split(";\n\n"):
        yield statement.strip().removesuffix(";")


def _run(statements: Iterable[str]) -> None:
    for statement in statements:
        # A colon does not begin a parameter here.
        op.execute(sa.text(statement.replace(":", "\\:")))
