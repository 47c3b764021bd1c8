"""On PostgreSQL, the end of a chain of any length, which cancelled itself a trigger deeper for each link.

What depends on a proposal that has ended badly is cancelled level by level in a loop, as it is on SQLite
in one statement: some 300 links were the end of the server's stack, and of whoever wanted to end the
first. At REPEATABLE READ and above a proposal can't end badly any more: such a transaction does not see
what was made to depend on it since it began, and would forget it. And the ids in ``depends_on`` are
numbers, as they were on SQLite already, where nothing changes.

Revision: 0007, after 0006
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
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
