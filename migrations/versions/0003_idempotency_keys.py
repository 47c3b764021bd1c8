"""A caller that does not know whether its proposal was written down asks again with the same key.

``idempotency_key`` is the caller's own name for what it proposes, and unique; it is part of what was
proposed and never changes. The index leaves out the proposals without one, which are most.

Revision: 0003, after 0002
"""

import sqlalchemy as sa
from alembic import context, op

from operator_core.actions.errors import WouldLoseData

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

INDEX = "uq_action_proposals_idempotency_key"

COLUMNS = (
    "ticket_id",
    "action_name",
    "action_type",
    "parameters",
    "reason",
    "proposed_at",
    "proposed_by",
    "created_at",
)
KEY = "idempotency_key"

REFUSAL = "what was proposed can not be edited"


def upgrade() -> None:
    op.execute(f"ALTER TABLE action_proposals ADD COLUMN {KEY} TEXT")
    op.execute(f"CREATE UNIQUE INDEX {INDEX} ON action_proposals ({KEY}) WHERE {KEY} IS NOT NULL")
    _keep_immutable((*COLUMNS, KEY))


def downgrade() -> None:
    if not context.is_offline_mode():
        discard = context.get_x_argument(as_dictionary=True).get("discard-keys") == "yes"
        used = f"SELECT 1 FROM action_proposals WHERE {KEY} IS NOT NULL LIMIT 1"
        if not discard and op.get_bind().exec_driver_sql(used).first():
            raise WouldLoseData("action_proposals", "discard-keys")
    _keep_immutable(COLUMNS)
    op.execute(f"DROP INDEX {INDEX}")
    op.execute(f"ALTER TABLE action_proposals DROP COLUMN {KEY}")


def _keep_immutable(columns: tuple[str, ...]) -> None:
    name = "action_proposals_immutable"
    first, last = ", ".join(columns[:7]), ", ".join(columns[7:])
    if op.get_context().dialect.name == "postgresql":
        # json has no equality of its own, and its text is what was proposed.
        each = (f"{column}::text" if column == "parameters" else column for column in columns)
        differs = "\n    OR ".join(f"NEW.{column} IS DISTINCT FROM OLD.{column}" for column in each)
        op.execute(f"DROP TRIGGER {name} ON action_proposals")
        trigger = f"""CREATE TRIGGER {name}
BEFORE UPDATE OF {first},
    {last} ON action_proposals FOR EACH ROW
WHEN ({differs})
EXECUTE FUNCTION action_ledger_refuse('{REFUSAL}')"""
        # A colon is no parameter here.
        op.execute(sa.text(trigger.replace(":", "\\:")))
        return
    differs = "\n    OR ".join(f"NEW.{column} IS NOT OLD.{column}" for column in columns)
    op.execute(f"DROP TRIGGER {name}")
    op.execute(f"""CREATE TRIGGER {name}
BEFORE UPDATE OF {first},
    {last} ON action_proposals
WHEN {differs}
BEGIN
    SELECT RAISE(ABORT, '{name}: {REFUSAL}');
END""")
