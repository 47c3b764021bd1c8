"""What is declared in Python, what the revisions make, and what the text says are one schema."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from operator_core.db import migrate, schema
from operator_core.db.sql.base import Base
from operator_core.db.sql.tables import ActionProposalRow
from operator_core.db.sqlite.handle import connect, over
from tests.migrations.conftest import Copy
from tests.migrations.tools import NUMBERED, ROOT, TABLES, Rows, opened, python, query


@pytest.fixture(scope="module")
def declared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What SQLAlchemy makes of the declared classes alone."""
    assert ActionProposalRow.metadata is Base.metadata
    path = tmp_path_factory.mktemp("declared") / "declared.db"
    engine = create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    engine.dispose()
    return path


def test_the_constants_are_what_alembic_finds() -> None:
    script = ScriptDirectory.from_config(migrate.alembic_config())
    found = [each.revision for each in script.walk_revisions()][::-1]
    assert tuple(found) == migrate.REVISIONS
    assert script.get_heads() == [migrate.HEAD]
    assert script.get_bases() == [migrate.REVISIONS[0]]


def test_exactly_the_declared_tables_are_made(fresh: Path) -> None:
    assert set(Base.metadata.tables) == set(TABLES)


@pytest.mark.parametrize("table", TABLES)
def test_columns_are_as_declared(fresh: Path, declared: Path, table: str) -> None:
    """Names, order, types, nullability, defaults and keys."""
    for pragma in ("table_xinfo", "foreign_key_list"):
        assert query(fresh, f"PRAGMA {pragma}({table})") == query(
            declared, f"PRAGMA {pragma}({table})"
        )


def constraints(path: Path, table: str) -> list[str]:
    """The named constraints of a table, CHECK texts included, in one form."""
    (sql,) = query(path, "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", table)[
        0
    ]
    flat = " ".join(sql.split())
    return sorted(re.findall(r"CONSTRAINT .*?(?=, CONSTRAINT|\s*\)$)", flat))


@pytest.mark.parametrize("table", TABLES)
def test_checks_and_foreign_keys_have_the_declared_names_and_texts(
    fresh: Path, declared: Path, table: str
) -> None:
    assert constraints(fresh, table) == constraints(declared, table)


def test_the_comparison_of_constraints_has_something_to_compare(fresh: Path) -> None:
    found = constraints(fresh, "action_proposals")
    assert [each.split()[1] for each in found] == [
        "ck_action_proposals_action_type",
        "ck_action_proposals_status",
        "fk_action_proposals_ticket_id_tickets",
    ]
    assert "action_type = 'subject' OR action_type = 'tool'" in found[0]


def indexes(path: Path) -> Rows:
    found = query(
        path, "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql > '' ORDER BY name"
    )
    return [(name, " ".join(sql.split())) for name, sql in found]


def test_indexes_are_as_declared_partial_ones_too(fresh: Path, declared: Path) -> None:
    assert indexes(fresh) == indexes(declared)


@pytest.mark.parametrize("table", NUMBERED)
def test_ids_are_not_given_twice(fresh: Path, table: str) -> None:
    (sql,) = query(fresh, "SELECT sql FROM sqlite_master WHERE name = ?", table)[0]
    assert "id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT" in sql


def test_the_schema_as_text_has_not_drifted(fresh: Path) -> None:
    """If this fails, run `make schema`."""
    dump = runpy.run_path(str(ROOT / "migrations" / "dump_schema.py"))
    written = (ROOT / "src" / "operator_core" / "db" / "schema.py").read_text()
    assert dump["render"](fresh) == written


def test_the_drift_test_has_teeth(copy: Copy) -> None:
    dump = runpy.run_path(str(ROOT / "migrations" / "dump_schema.py"))
    path = copy("drifted.db")
    with opened(path) as connection:
        connection.execute("DROP TRIGGER action_events_not_deleted")
    assert dump["render"](path) != (ROOT / "src" / "operator_core" / "db" / "schema.py").read_text()


def test_the_neighbours_text_says_nothing_of_the_ledger() -> None:
    assert "action_" not in schema.SCHEMA_SQL
    assert "CREATE TABLE IF NOT EXISTS tickets (" in schema.SCHEMA_SQL
    for table in set(TABLES) - {"tickets"}:
        assert f"CREATE TABLE IF NOT EXISTS {table} (" in schema.ACTIONS_SCHEMA_SQL
    creations = re.findall(r"^CREATE .*", schema.SCHEMA_SQL + schema.ACTIONS_SCHEMA_SQL, re.M)
    assert len(creations) > 20
    assert all(" IF NOT EXISTS " in line for line in creations)


def test_every_revision_can_be_understood_without_todays_models() -> None:
    for path in sorted((ROOT / "migrations" / "versions").glob("*.py")):
        text = path.read_text()
        imported = re.findall(r"^(?:from|import) (operator_core\S*)", text, re.M)
        # A digest of version oc1 stays the same for ever.
        assert set(imported) <= {"operator_core.actions.errors", "operator_core.actions.digest"}


def statements_of(path: Path, what: Any) -> list[str]:
    raw = connect(str(path), busy_timeout=1)
    seen: list[str] = []
    conn = over(raw)
    raw.set_trace_callback(seen.append)
    what(conn)
    conn.close()
    return [each for each in seen if not each.startswith("--")]


def test_making_current_what_is_current_is_two_selects(copy: Copy) -> None:
    path = copy("ledger.db")
    seen = statements_of(path, lambda conn: migrate.make_current(conn, busy_timeout=1))
    # Before it is asked for its revision: whether that is a table and no view, which might never answer.
    assert [each.split(" FROM")[0] for each in seen] == ["SELECT name, type", "SELECT version_num"]
    assert len(statements_of(path, migrate.check_current)) == 1


OPENING = """
import asyncio, sys
from operator_core.db import ActionDB

async def main():
    async with ActionDB(sys.argv[1]) as db:
        await db.count_proposals()
    print(*(name for name in sys.modules if name.split(".")[0] in ("alembic", "mako")))

asyncio.run(main())
"""


def test_opening_a_current_file_or_a_new_one_imports_no_alembic(copy: Copy, tmp_path: Path) -> None:
    assert python(OPENING, copy("ledger.db")).stdout.split() == []
    assert python(OPENING, tmp_path / "new.db").stdout.split() == []


def test_the_import_test_has_teeth(legacy: Path) -> None:
    assert "alembic" in python(OPENING, legacy).stdout.split()
