"""A rejection holds for a failed proposal of which nothing was required: nobody retries it any more.

Such a proposal stays failed, and the rejection called off the retry that was planned. But a retry by hand was still accepted,
because only proposals with requirements had an ``approval`` to look at. From now on the rejection writes one: ``needed``. Those that
were rejected before get it in the upgrade, and lose it in the downgrade. If such a one was retried by hand, failed again and waits for
its next retry, the upgrade calls that off. One that is validated or executing keeps going: who retried it has overridden the rejection.

On SQLite, what the requirements and decisions come to is now worked out by one program instead of several: see the SQL file.

Revision: 0010, after 0009
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from alembic import context, op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

HERE = Path(__file__)
PROPOSALS = "action_proposals"
ACTED = "action_decisions_acted"

REJECTED = (
    "SELECT id FROM action_proposals WHERE status = 'failed' AND approval IS NULL AND EXISTS ("
    "SELECT 1 FROM action_decisions WHERE proposal_id = action_proposals.id AND kind = 'rejected')"
)
# The guard of updates takes care of the rest.
CALL_OFF = (
    "UPDATE action_proposals SET next_retry_at = NULL, status_changed_by = 'migration', status_changed_at = {now}, "
    f"status_reason = 'it was rejected' WHERE next_retry_at IS NOT NULL AND id IN ({REJECTED})"
)
FORGOTTEN = (
    "approval IS NOT NULL AND NOT EXISTS ("
    "SELECT 1 FROM action_requirements WHERE proposal_id = action_proposals.id)"
)

ASKED = (
    "INSERT INTO action_approvals_asked SELECT NEW.proposal_id WHERE EXISTS (SELECT 1 FROM action_requirements WHERE proposal_id = NEW.proposal_id);",
    "INSERT INTO action_approvals_asked SELECT NEW.proposal_id WHERE EXISTS (SELECT 1 FROM action_requirements WHERE proposal_id = NEW.proposal_id)\n"
    "        OR NEW.kind = 'rejected' AND EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id AND status = 'failed');",
)

ACT = (
    """    IF required THEN
""",
    """    IF required OR NEW.kind OPERATOR(pg_catalog.=) 'rejected' AND EXISTS (
        SELECT 1 FROM %1$I.action_proposals WHERE id OPERATOR(pg_catalog.=) NEW.proposal_id AND status OPERATOR(pg_catalog.=) 'failed') THEN
""",
)
GUARD = (
    """                IF NOT EXISTS (SELECT 1 FROM %1$I.action_requirements WHERE proposal_id OPERATOR(pg_catalog.=) OLD.id) THEN
""",
    """                IF NOT EXISTS (SELECT 1 FROM %1$I.action_requirements WHERE proposal_id OPERATOR(pg_catalog.=) OLD.id)
                    AND NOT EXISTS (SELECT 1 FROM %1$I.action_decisions WHERE proposal_id OPERATOR(pg_catalog.=) OLD.id AND kind OPERATOR(pg_catalog.=) 'rejected') THEN
""",
)


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        act, guard = _on_server("action_decisions_act"), _on_server("action_proposals_guard")
        _replace_on_server(_changed(act, ACT), _changed(guard, GUARD))
        op.execute(CALL_OFF.format(now="clock_timestamp()"))
        op.execute(f"UPDATE {PROPOSALS} SET approval = 'asked' WHERE id IN ({REJECTED})")
        return
    approvals, before = _approvals(), _before()
    new = approvals._objects(HERE.with_suffix(".sqlite.sql"))
    acted = before[ACTED]
    new[ACTED] = acted._replace(sql=_changed(acted.sql, ASKED))
    _replace(before, before | new, new.values())
    op.execute(CALL_OFF.format(now="strftime('%Y-%m-%d %H:%M:%f000', 'now')"))
    op.execute(f"INSERT INTO action_approvals_asked {REJECTED}")


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        _replace_on_server(_on_server("action_decisions_act"), _on_server("action_proposals_guard"))
        op.execute(f"UPDATE {PROPOSALS} SET approval = 'asked' WHERE {FORGOTTEN}")
        return
    before = _before()
    new = _approvals()._objects(HERE.with_suffix(".sqlite.sql"))
    views = [each for each in new.values() if each.kind == "VIEW"]
    replaced = [before[name] for name in (*new, ACTED) if name in before]
    _replace(before | new, before, replaced, dropped=views)


def _replace(
    old: dict[str, Any], new: dict[str, Any], changed: Iterable[Any], dropped: Sequence[Any] = ()
) -> None:
    """Replaces triggers on SQLite; those of proposals are all created again, in their order."""
    approvals = _approvals()
    changed = list(changed)
    others = approvals._drop_triggers(old)
    # Those of other programs stay behind ours, which is created again.
    behind = _others_on_decisions()
    approvals._run(f'DROP TRIGGER "{name}"' for name in behind)
    for each in changed:
        if each.name in old and each.table != PROPOSALS:
            op.execute(f"DROP TRIGGER {each.name}")
    # Also drops the triggers on them.
    for view in dropped:
        op.execute(f"DROP VIEW {view.name}")
    if dropped:
        op.execute(f"UPDATE {PROPOSALS} SET approval = NULL WHERE {FORGOTTEN}")
    approvals._run(each.sql for each in changed if each.table != PROPOSALS)
    approvals._run(behind.values())
    approvals._run(each.sql for each in approvals._triggers(new))
    approvals._run(others)


def _others_on_decisions() -> dict[str, str]:
    """The statements of the triggers on decisions that no revision created, by quoted name."""
    if context.is_offline_mode():
        return {}
    own = _before()
    found = op.get_bind().exec_driver_sql(
        "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY rowid"
    )
    return {
        name.replace('"', '""'): sql
        for name, table, sql in found
        if table.lower() == "action_decisions" and name not in own
    }


def _approvals() -> Any:
    """The module of the revision before this one."""
    return context.script.get_revision(down_revision).module


def _before() -> dict[str, Any]:
    """The triggers of proposals on SQLite, and what the revision before this one created, in their order."""
    approvals = _approvals()
    return approvals._before() | approvals._objects(approvals.HERE.with_suffix(".sqlite.sql"))


def _on_server(name: str) -> str:
    """A function as the revision before this one created it."""
    script = _approvals().HERE.with_suffix(".postgresql.sql").read_text()
    found = re.search(
        rf"^CREATE (?:OR REPLACE )?(FUNCTION {name}\(.*?\$\$)\$function\$",
        script,
        re.DOTALL | re.MULTILINE,
    )
    assert found is not None
    return found[1]


def _changed(text: str, change: tuple[str, str]) -> str:
    old, new = change
    assert text.count(old) == 1, old
    return text.replace(old, new)


def _replace_on_server(act: str, guard: str) -> None:
    approvals = _approvals()
    approvals._run(
        [
            f"DO $do$ BEGIN EXECUTE format($function$CREATE OR REPLACE {act}$function$, current_schema()); END $do$"
        ]
    )
    # It is formatted with the same names as in the revision of limits.
    approvals._limits()._replace_guard(guard)
