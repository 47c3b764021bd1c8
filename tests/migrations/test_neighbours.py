"""A service's own tables and its own Alembic history live beside the ledger's."""

from pathlib import Path

import pytest

from operator_core.db import ActionDB, migrate
from operator_core.db.migrate import HEAD
from operator_core.db.schema import SCHEMA_SQL
from tests.conftest import proposal
from tests.migrations.conftest import Copy
from tests.migrations.tools import (
    Rows,
    alembic,
    alembic_here,
    catalogue,
    copy_of_tree,
    opened,
    query,
    rows_of,
    version,
)

SERVICE_ENV = """
from alembic import context
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, event, pool

metadata = MetaData()
Table("orders", metadata, Column("id", Integer, primary_key=True))
engine = create_engine(context.get_x_argument(as_dictionary=True)["url"], poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=metadata)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
"""
SERVICE_REVISION = """
from alembic import op
from sqlalchemy import Column, Integer

revision = "aaaa"
down_revision = None

def upgrade():
    op.create_table("orders", Column("id", Integer, primary_key=True))

def downgrade():
    op.drop_table("orders")
"""


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """A service's own checkout, with a history of one revision in the table of Alembic's own name."""
    home = tmp_path / "service"
    (home / "history" / "versions").mkdir(parents=True)
    (home / "alembic.ini").write_text(
        "[alembic]\nscript_location = %(here)s/history\npath_separator = os\n"
    )
    (home / "history" / "env.py").write_text(SERVICE_ENV)
    (home / "history" / "versions" / "aaaa_orders.py").write_text(SERVICE_REVISION)
    return home


def test_the_ledgers_history_first_and_then_a_services(
    copy: Copy, service: Path, fresh: Path
) -> None:
    path = copy("ledger_first.db")
    alembic(path, "upgrade", "head", cwd=service)
    assert query(path, "SELECT version_num FROM alembic_version") == [("aaaa",)]
    assert version(path) == [HEAD]
    assert ours(path) == catalogue(fresh)


async def test_a_services_history_first_and_then_the_ledgers(
    tmp_path: Path, service: Path, fresh: Path
) -> None:
    path = tmp_path / "service_first.db"
    alembic(path, "upgrade", "head", cwd=service)
    alembic(path, "upgrade", "head")
    assert query(path, "SELECT version_num FROM alembic_version") == [("aaaa",)]
    assert version(path) == [HEAD]
    assert ours(path) == catalogue(fresh)
    # Each goes down alone.
    alembic(path, "downgrade", "base", cwd=service)
    assert ours(path) == catalogue(fresh)
    alembic(path, "upgrade", "head", cwd=service)
    alembic_here(path, "downgrade", "base")
    assert query(path, "SELECT version_num FROM alembic_version") == [("aaaa",)]
    assert query(path, "SELECT count(*) FROM orders") == [(0,)]
    # And what was asked for once is there to be opened.
    migrate.upgrade(f"sqlite:///{path}")
    async with ActionDB(path) as db:
        made = await db.create_proposal(proposal())
        assert await db.get_proposal(made.id or 0) == made


def ours(path: Path) -> Rows:
    """The catalogue without the service's part."""
    return [row for row in catalogue(path) if row[2] not in ("orders", "alembic_version")]


def test_neither_check_nor_autogenerate_sees_a_strangers_tables(tmp_path: Path, copy: Copy) -> None:
    path = copy("shared.db")
    tree = copy_of_tree(tmp_path / "tree")
    with opened(path) as connection:
        connection.executescript(
            "CREATE TABLE alembic_version (version_num TEXT);"
            "CREATE TABLE lines (id INTEGER PRIMARY KEY, proposal INTEGER REFERENCES action_proposals(id));"
            "CREATE INDEX lines_of ON lines (proposal); CREATE VIEW seen AS SELECT id FROM tickets"
        )
    assert "No new upgrade operations detected" in alembic(path, "check").stdout
    alembic(path, "revision", "--autogenerate", "-m", "nothing", cwd=tree)
    (made,) = set((tree / "migrations" / "versions").glob("*_nothing.py"))
    assert "drop" not in made.read_text()


def test_a_strangers_rows_views_and_triggers_survive_adoption(legacy: Path) -> None:
    with opened(legacy) as connection:
        connection.executescript(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY,"
            "  proposal INTEGER REFERENCES action_proposals(id) ON DELETE CASCADE, gone INTEGER REFERENCES lost(id));"
            "INSERT INTO orders VALUES (1, 7, 3), (2, 99999, NULL);"
            "CREATE VIEW pending AS SELECT id FROM action_proposals WHERE status = 'proposed';"
            "CREATE TRIGGER order_ticket AFTER INSERT ON orders BEGIN"
            "  UPDATE tickets SET occurrence_count = occurrence_count + 1 WHERE id = 1; END"
        )
    strangers = [row for row in catalogue(legacy) if row[2] in ("orders", "pending")]
    look = "SELECT id FROM pending ORDER BY id"
    orders, pending = rows_of(legacy, "orders"), query(legacy, look)
    migrate.upgrade(f"sqlite:///{legacy}")
    assert [row for row in catalogue(legacy) if row[2] in ("orders", "pending")] == strangers
    assert rows_of(legacy, "orders") == orders
    assert query(legacy, look) == pending
    with opened(legacy) as connection:
        connection.execute("INSERT INTO orders VALUES (3, 7, NULL)")
    assert query(legacy, "SELECT occurrence_count FROM tickets WHERE id = 1") == [(2,)]


def test_the_neighbour_still_makes_its_table_if_it_is_not_there(
    fresh: Path, tmp_path: Path
) -> None:
    """Another service runs CREATE TABLE IF NOT EXISTS tickets, before or after."""
    path = tmp_path / "ledger.db"
    with opened(path) as connection:
        connection.executescript(SCHEMA_SQL)
        connection.execute(
            "INSERT INTO tickets (violation_key, invariant_name, first_seen_at, last_seen_at, message) "
            "VALUES ('k', 'i', '2026-01-01T00:00:00', '2026-01-01T00:00:00', 'm')"
        )
    tickets = rows_of(path, "tickets")
    migrate.upgrade(f"sqlite:///{path}")
    with opened(path) as connection:
        connection.executescript(SCHEMA_SQL)
    assert rows_of(path, "tickets") == tickets
    assert catalogue(path) == catalogue(fresh)
