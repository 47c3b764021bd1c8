"""Actions that wait for one another, and workflows, which are actions that belong together.

A proposal says in ``depends_on`` which others must be completed before it may start; the edges stand in
``action_dependencies`` too, where an index finds them from either end. A trigger writes them, with the
proposal, so that both are or neither is; and as an edge leads to a smaller id there are no cycles. When
one fails for good or is cancelled, what depends on it is cancelled, and so on, except for what asked to
wait. On PostgreSQL the proposal is written while what it depends on can't end, so that none is forgotten.

Revision: 0006, after 0005
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import context, op

from operator_core.actions.errors import WouldLoseData

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

NOW = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"

COLUMNS = {
    "workflow_id": "INTEGER",
    "depends_on": "TEXT",
    "wait_on_failure": "BOOLEAN DEFAULT 0 NOT NULL",
}

PROPOSED = (
    "ticket_id",
    "action_name",
    "action_type",
    "parameters",
    "reason",
    "proposed_at",
    "proposed_by",
    "created_at",
    "idempotency_key",
    "priority",
    "scheduled_at",
    "expires_at",
    "max_retries",
    "retry_delay",
    "max_retry_delay",
)

CREATED = f"""
AFTER INSERT ON action_proposals
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_created: an id is positive') WHERE NEW.id < 1;
    INSERT INTO action_events (proposal_id, event_type, to_status, actor, reason, occurred_at)
    VALUES (NEW.id, 'proposal_created', NEW.status, coalesce(NEW.status_changed_by, 'raw SQL'),
        NEW.reason, {NOW});
    UPDATE action_proposals SET status_changed_by = 'raw SQL', status_changed_at = {NOW}
    WHERE NEW.status_changed_by IS NULL AND id = NEW.id;
"""

MOVED = f"""status_changed_by = 'ledger',
        cancelled_at = {NOW},
        status_changed_at = coalesce(max({NOW}, strftime('%Y-%m-%d %H:%M:%f000', status_changed_at, '+0.001 seconds')), {NOW}),
        updated_at = coalesce(max({NOW}, strftime('%Y-%m-%d %H:%M:%f000', updated_at, '+0.001 seconds')), {NOW}),
        version = version + 1"""

# Edges, and the end of what depends on something that has ended badly already.
LINKED = f"""    SELECT RAISE(ABORT, 'action_proposals_created: no such proposal to depend on')
    FROM json_each(NEW.depends_on)
    WHERE type IS NOT 'integer' OR value >= NEW.id OR value NOT IN (SELECT id FROM action_proposals);
    INSERT INTO action_dependencies (proposal_id, depends_on_id)
    SELECT DISTINCT NEW.id, value FROM json_each(NEW.depends_on);
    UPDATE action_proposals
    SET status = 'cancelled', status_reason = 'a proposal that it depends on has failed or was cancelled',
        {MOVED}
    WHERE id = NEW.id AND NEW.depends_on IS NOT NULL AND NOT wait_on_failure
        AND status IN ('proposed', 'validated')
        AND EXISTS (
            SELECT 1 FROM action_dependencies JOIN action_proposals AS needed ON needed.id = depends_on_id
            WHERE proposal_id = NEW.id
                AND (needed.status = 'cancelled' OR needed.status = 'failed' AND needed.next_retry_at IS NULL));
"""

CASCADE = f"""
AFTER UPDATE OF status, next_retry_at ON action_proposals
WHEN (NEW.status = 'cancelled' OR NEW.status = 'failed' AND NEW.next_retry_at IS NULL)
    AND NOT (OLD.status = 'cancelled' OR OLD.status = 'failed' AND OLD.next_retry_at IS NULL)
BEGIN
    UPDATE action_proposals
    SET status = 'cancelled',
        status_reason = 'proposal ' || NEW.id || ', which it depends on, ' || iif(NEW.status = 'failed', 'failed', 'was cancelled'),
        {MOVED}
    WHERE id IN (
        WITH RECURSIVE behind (id) AS (
            SELECT proposal_id FROM action_dependencies JOIN action_proposals AS next ON next.id = proposal_id
            WHERE depends_on_id = NEW.id AND NOT next.wait_on_failure AND next.status IN ('proposed', 'validated')
            UNION
            SELECT proposal_id FROM behind JOIN action_dependencies ON depends_on_id = behind.id
                JOIN action_proposals AS next ON next.id = proposal_id
            WHERE NOT next.wait_on_failure AND next.status IN ('proposed', 'validated'))
        SELECT id FROM behind);
END"""

UNSAID = (
    "(NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at "
    "OR NEW.status_changed_by IS NULL)"
)

# As it was. SQLite runs the trigger that was made last first, and the history has the end of a proposal before that
# of what depends on it.
CHANGED = f"""
AFTER UPDATE OF status ON action_proposals
WHEN NEW.status IS NOT OLD.status
BEGIN
    INSERT INTO action_events (proposal_id, event_type, from_status, to_status, actor, reason, occurred_at)
    VALUES (NEW.id, 'status_changed', OLD.status, NEW.status,
        iif({UNSAID}, 'raw SQL', NEW.status_changed_by),
        iif({UNSAID}, NULL, NEW.status_reason),
        {NOW});
    UPDATE action_proposals
    SET status_changed_by = 'raw SQL', status_reason = NULL,
        status_changed_at = coalesce(max({NOW}, strftime('%Y-%m-%d %H:%M:%f000', OLD.status_changed_at, '+0.001 seconds')), {NOW})
    WHERE {UNSAID} AND id = NEW.id;
END"""

TRIGGERS = {
    "action_proposals_workflow_exists": """
BEFORE INSERT ON action_proposals
WHEN NEW.workflow_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM workflows WHERE id = NEW.workflow_id)
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_workflow_exists: no such workflow');
END""",
    "action_proposals_cascade": CASCADE,
    "action_dependencies_not_updated": """
BEFORE UPDATE ON action_dependencies
BEGIN
    SELECT RAISE(ABORT, 'action_dependencies_not_updated: what was proposed can not be edited');
END""",
    "action_dependencies_not_deleted": """
BEFORE DELETE ON action_dependencies
BEGIN
    SELECT RAISE(ABORT, 'action_dependencies_not_deleted: what was proposed can not be edited');
END""",
    "workflows_not_replaced": """
BEFORE INSERT ON workflows
WHEN EXISTS (SELECT 1 FROM workflows WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'workflows_not_replaced: this id is taken');
END""",
    "workflows_not_deleted": """
BEFORE DELETE ON workflows
BEGIN
    SELECT RAISE(ABORT, 'workflows_not_deleted: workflows are never deleted');
END""",
    "workflows_updated_at": f"""
AFTER UPDATE ON workflows
WHEN NOT NEW.updated_at > OLD.updated_at
BEGIN
    UPDATE workflows
    SET updated_at = coalesce(max({NOW}, strftime('%Y-%m-%d %H:%M:%f000', OLD.updated_at, '+0.001 seconds')), {NOW})
    WHERE id = NEW.id;
END""",
}


def _immutable(columns: tuple[str, ...]) -> str:
    first, rest = ", ".join(columns[:7]), ", ".join(columns[7:])
    differs = "\n    OR ".join(f"NEW.{column} IS NOT OLD.{column}" for column in columns)
    return f"""
BEFORE UPDATE OF {first},
    {rest} ON action_proposals
WHEN {differs}
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_immutable: what was proposed can not be edited');
END"""


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        _run_postgresql(".postgresql.sql")
        return
    op.create_table(
        "workflows",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text),
        sa.Column("ticket_id", sa.Integer),
        sa.Column("created_at", sa.Text, nullable=False, server_default=sa.text(f"({NOW})")),
        sa.Column("updated_at", sa.Text, nullable=False, server_default=sa.text(f"({NOW})")),
        sa.PrimaryKeyConstraint("id", name="pk_workflows"),
        sa.ForeignKeyConstraint(
            ["ticket_id"], ["tickets.id"], name="fk_workflows_ticket_id_tickets"
        ),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "action_dependencies",
        sa.Column("proposal_id", sa.Integer, nullable=False),
        sa.Column("depends_on_id", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("proposal_id", "depends_on_id", name="pk_action_dependencies"),
        sa.ForeignKeyConstraint(
            ["proposal_id"],
            ["action_proposals.id"],
            name="fk_action_dependencies_proposal_id_action_proposals",
        ),
        sa.ForeignKeyConstraint(
            ["depends_on_id"],
            ["action_proposals.id"],
            name="fk_action_dependencies_depends_on_id_action_proposals",
        ),
        sa.CheckConstraint(
            "depends_on_id < proposal_id", name=op.f("ck_action_dependencies_order")
        ),
    )
    op.execute(
        "CREATE INDEX idx_action_dependencies_needed "
        "ON action_dependencies (depends_on_id, proposal_id)"
    )
    for name, kind in COLUMNS.items():
        op.execute(f"ALTER TABLE action_proposals ADD COLUMN {name} {kind}")
    op.execute(
        "CREATE INDEX idx_action_proposals_workflow ON action_proposals (workflow_id, id) "
        "WHERE workflow_id IS NOT NULL"
    )
    for name, definition in TRIGGERS.items():
        op.execute(f"CREATE TRIGGER {name}{definition}")
    _replace("action_proposals_created", f"{CREATED}{LINKED}END")
    _replace("action_proposals_immutable", _immutable(PROPOSED + tuple(COLUMNS)))
    _replace("action_proposals_status_changed", CHANGED)


def downgrade() -> None:
    if not context.is_offline_mode():
        _keep_order()
    if op.get_context().dialect.name == "postgresql":
        _run_postgresql(".postgresql.down.sql")
        return
    _replace("action_proposals_created", f"{CREATED}END")
    _replace("action_proposals_immutable", _immutable(PROPOSED))
    for name in TRIGGERS:
        op.execute(f"DROP TRIGGER {name}")
    op.execute("DROP INDEX idx_action_proposals_workflow")
    for name in reversed(COLUMNS):
        op.execute(f"ALTER TABLE action_proposals DROP COLUMN {name}")
    op.drop_table("action_dependencies")
    op.drop_table("workflows")


def _keep_order() -> None:
    """Refuses to forget what belongs together, and what waits for what."""
    if context.get_x_argument(as_dictionary=True).get("discard-order") == "yes":
        return
    for table in ("workflows", "action_dependencies"):
        if op.get_bind().exec_driver_sql(f"SELECT 1 FROM {table} LIMIT 1").first():
            raise WouldLoseData(table, "discard-order")


def _replace(name: str, definition: str) -> None:
    op.execute(f"DROP TRIGGER {name}")
    op.execute(f"CREATE TRIGGER {name}{definition}")


def _run_postgresql(suffix: str) -> None:
    for statement in Path(__file__).with_suffix(suffix).read_text().split(";\n\n"):
        # A colon is no parameter here.
        op.execute(sa.text(statement.strip().rstrip(";").replace(":", "\\:")))
