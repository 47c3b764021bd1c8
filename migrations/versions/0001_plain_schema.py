"""The plain schema: tickets, proposals and records, as the first services had them.

Existing tables are kept with every row, and missing ones are created. `operator_core.db.migrate.adopt` checks a
database without a revision before any revision runs, and refuses one whose tables differ. The SQL files beside
this one contain the statements.

Revision: 0001, the first
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import context, op

from operator_core.actions.errors import WouldLoseData

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    script = Path(__file__).with_suffix(f".{op.get_context().dialect.name}.sql").read_text()
    for statement in script.split(";\n\n"):
        # A colon does not begin a parameter here.
        op.execute(sa.text(statement.strip().removesuffix(";").replace(":", "\\:")))


def downgrade() -> None:
    tables = ("action_records", "action_proposals", "tickets")
    if not context.is_offline_mode():
        discard = context.get_x_argument(as_dictionary=True).get("discard-data") == "yes"
        for table in reversed(tables):
            if not discard and op.get_bind().exec_driver_sql(f"SELECT 1 FROM {table}").first():
                raise WouldLoseData(table, "discard-data")
    for table in tables:
        op.drop_table(table)
