"""The same promises on PostgreSQL, in words that cost half of a statement's time less.

PostgreSQL reads the text of each CHECK and of each trigger's WHEN anew for every statement that may
need it (ExecConstraints and TriggerEnabled call stringToNode), so long ones cost more than the work they
guard. A function in PL/pgSQL is read once in a session: status and type are looked up in one, and one
guard for each table says what eight triggers and constraints said, by the same names. A function with a
search_path of its own sets and resets it at each call; one that names the schema need not. On SQLite
nothing changes.

Revision: 0004, after 0003
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _run_postgresql(".postgresql.sql")


def downgrade() -> None:
    _run_postgresql(".postgresql.down.sql")


def _run_postgresql(suffix: str) -> None:
    if op.get_context().dialect.name != "postgresql":
        return
    for statement in Path(__file__).with_suffix(suffix).read_text().split(";\n\n"):
        # A colon is no parameter here.
        op.execute(sa.text(statement.strip().rstrip(";").replace(":", "\\:")))
