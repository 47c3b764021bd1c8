"""Revisions 0003 to 0005 on SQLite: tables or triggers are made again, and nothing else is changed or lost."""

import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest
from alembic import command
from sqlalchemy import create_engine, event

from operator_core.actions import SchemaError, UnmanagedSchema
from operator_core.db import ActionDB, migrate
from operator_core.db.migrate.scripts import alembic_config
from operator_core.db.schema import ACTIONS_SCHEMA_SQL, SCHEMA_SQL
from operator_core.db.sql.sqlite_library import dbapi
from tests.migrations.raw_tools import TICKET, TIME, WORKFLOW, insert, propose
from tests.migrations.tools import (
    alembic_here,
    catalogue,
    contents,
    is_sound,
    opened,
    query,
    rows_of,
    sequences,
    version,
)

Contents = dict[str, list[Sequence[object]]]

BESIDE: Final = """
CREATE TABLE orders (id INTEGER PRIMARY KEY,
    proposal INTEGER REFERENCES action_proposals(id) ON DELETE CASCADE,
    event INTEGER REFERENCES action_events(id) ON DELETE CASCADE);
INSERT INTO orders VALUES (1, 1, 1), (2, 40, 3);
CREATE VIEW pending AS SELECT id FROM action_proposals WHERE status = 'proposed';
CREATE INDEX by_reason ON action_proposals (reason);
CREATE TRIGGER "Ordered" AFTER INSERT ON ACTION_PROPOSALS
BEGIN
    INSERT INTO orders (proposal, event) SELECT NEW.id, max(id) FROM action_events;
END;
"""


@pytest.fixture(scope="module")
def before_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger at 0002 with rows in all tables, beside a service's objects."""
    path = tmp_path_factory.mktemp("before") / "ledger.db"
    migrate.upgrade(f"sqlite:///{path}", "0002")
    with opened(path) as db:
        insert(db, "tickets", TICKET)
        insert(db, "workflows", WORKFLOW)
        propose(db, ticket_id=1, workflow_id=1, action_type="tool", status="validated")
        propose(db, depends_on="[1]", idempotency_key="key", reason="it's: ${} %s :here")
        propose(db, id=40, status="failed")
        insert(db, "action_records", {"proposal_id": 1, "worker": "w"})
        db.execute("UPDATE action_proposals SET status = 'executing' WHERE id = 1")
        db.execute(f"UPDATE action_records SET success = 1, completed_at = '{TIME}'")
        # As if rows of later ids had been rolled back.
        db.execute("UPDATE sqlite_sequence SET seq = seq + 100")
        db.executescript(BESIDE)
    return path


@pytest.fixture
def before(before_path: Path, tmp_path: Path) -> Path:
    path = tmp_path / "ledger.db"
    path.write_bytes(before_path.read_bytes())
    return path


def old_columns(now: Contents, before: Contents) -> Contents:
    """The rows without the columns that were added, which are the last and empty but for end codes and digests."""
    found: Contents = {}
    for table, rows in now.items():
        if table not in before:
            assert not rows
            continue
        width = len(before[table][0]) if before[table] else 0
        for row in rows:
            added = list(row[width:])
            if table == "action_proposals":
                *added, end_code, status_cause, digest = added[:-5]
                added += row[-5:]
                assert end_code == (row[6] if row[6] in ("failed", "cancelled") else None)
                assert digest.startswith("oc1:")
                added.append(status_cause)
            assert not any(value is not None for value in added)
        found[table] = [row[:width] for row in rows]
    return found


def theirs(path: Path) -> list[tuple[str, ...]]:
    return [
        row for row in catalogue(path) if row[1] in ("orders", "pending", "by_reason", "Ordered")
    ]


@pytest.mark.parametrize("how", ["upgrade", "ActionDB"])
async def test_rows_ids_and_what_belongs_to_others_stay(
    before: Path, fresh: Path, how: str
) -> None:
    rows, ids, beside = contents(before), sequences(before), theirs(before)
    orders = rows_of(before, "orders")
    assert len(beside) == 4
    if how == "upgrade":
        migrate.upgrade(f"sqlite:///{before}")
    else:
        async with ActionDB(before) as db:
            assert not (await db.list_proposals()).corrupt
    assert version(before) == [migrate.HEAD]
    assert old_columns(contents(before), rows) == rows
    assert sequences(before) == ids
    assert theirs(before) == beside
    assert rows_of(before, "orders") == orders
    assert [row for row in catalogue(before) if row not in beside] == catalogue(fresh)
    assert is_sound(before)
    with opened(before) as db:
        assert propose(db) == ids["action_proposals"] + 1
    assert rows_of(before, "orders")[-1][1] == ids["action_proposals"] + 1


def test_down_and_up_again_gives_the_same(before: Path) -> None:
    states = [(contents(before), sequences(before), catalogue(before))]
    for revision in ("0003", "0004", "0005", "0006"):
        migrate.upgrade(f"sqlite:///{before}", revision)
        states.append((contents(before), sequences(before), catalogue(before)))
        assert states[-1][2] != states[-2][2]
    for revision, state in zip(("0005", "0004", "0003", "0002"), states[3::-1], strict=True):
        alembic_here(before, "downgrade", revision)
        assert (contents(before), sequences(before), catalogue(before)) == state
        assert is_sound(before)
    migrate.upgrade(f"sqlite:///{before}", "0006")
    assert (contents(before), sequences(before), catalogue(before)) == states[-1]


def test_the_events_are_made_again_for_limits_and_back(before: Path) -> None:
    migrate.upgrade(f"sqlite:///{before}", "0007")
    old = contents(before), sequences(before), catalogue(before)
    migrate.upgrade(f"sqlite:///{before}", "0008")
    new = contents(before), sequences(before), catalogue(before)
    assert new[0]["action_events"] == old[0]["action_events"]
    alembic_here(before, "downgrade", "0007")
    assert (contents(before), sequences(before), catalogue(before)) == old
    assert is_sound(before)
    migrate.upgrade(f"sqlite:///{before}", "0008")
    assert (contents(before), sequences(before), catalogue(before)) == new


def order(db: sqlite3.Connection) -> dict[str, list[str]]:
    """The triggers of each table, in the order in which they were made, which is SQLite's order backwards."""
    found: dict[str, list[str]] = {}
    for table, name in db.execute(
        "SELECT tbl_name, name FROM sqlite_master WHERE type = 'trigger' ORDER BY rowid"
    ):
        found.setdefault(table, []).append(name)
    return found


def test_the_order_of_the_triggers_is_one_in_every_ledger(fresh: Path, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    orders: list[dict[str, list[str]]] = []
    for how, revision in (
        *(("upgrade", each) for each in ("0002", "0003", "0004", "0005", "0006", "0007", "0008")),
        *(("downgrade", each) for each in ("0007", "0006", "0005", "0004", "0003", "0002")),
        ("upgrade", "head"),
    ):
        alembic_here(path, how, revision)
        with opened(path) as db:
            orders.append(order(db))
    with opened(tmp_path / "text.db") as db:
        db.executescript(SCHEMA_SQL + ACTIONS_SCHEMA_SQL)
        orders.append(order(db))
    with opened(fresh) as db:
        head = order(db)
    for found in orders:
        # A revision adds triggers behind the others, and tables.
        assert found == {table: head[table][: len(names)] for table, names in found.items()}
    assert orders[-2:] == [head] * 2


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("ALTER TABLE action_proposals ADD COLUMN extra TEXT", r"action_proposals .*\(extra\)"),
        ("ALTER TABLE action_events ADD COLUMN extra TEXT", r"action_events .*\(extra\)"),
        (
            "PRAGMA ignore_check_constraints = ON; DROP TRIGGER action_proposals_lifecycle;"
            "UPDATE action_proposals SET status = 'done', version = version + 1,"
            " updated_at = '2998-01-01 00:00:00.000000' WHERE id = 2",
            "action_proposals has a row .*ck_action_proposals_status",
        ),
    ],
    ids=["column of a proposal", "column of an event", "unknown status"],
)
@pytest.mark.parametrize("how", ["upgrade", "ActionDB"])
async def test_what_no_ledger_has_is_refused_and_kept(
    before: Path, change: str, complaint: str, how: str
) -> None:
    with opened(before) as db:
        # The event of such a status is no event either.
        db.execute("DROP TRIGGER action_events_genuine")
        db.executescript(change)
    state = (contents(before), catalogue(before))
    with pytest.raises(UnmanagedSchema, match=complaint):
        if how == "upgrade":
            migrate.upgrade(f"sqlite:///{before}")
        else:
            async with ActionDB(before):
                pass
    assert (contents(before), catalogue(before)) == state
    assert version(before) == ["0002"]


def test_no_list_of_constants_costs_a_temporary_table(fresh: Path) -> None:
    """SQLite compares with each of two constants, and makes a temporary table of three and more."""
    long = re.compile(r"IN \((?:[^(),]+,){2,}[^()]*\)")
    found = [
        (name, each)
        for name, sql in query(fresh, "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        for each in long.findall(sql)
    ]
    assert found == []
    assert long.search("CHECK (status IN ('proposed', 'validated', 'failed'))")


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM tickets WHERE id = 1",
        "UPDATE tickets SET id = 2 WHERE id = 1",
        "UPDATE OR REPLACE tickets SET id = 2 WHERE id = 1",
        "SELECT * FROM action_proposals WHERE ticket_id = ? ORDER BY id DESC LIMIT 5",
        "SELECT * FROM action_proposals WHERE ticket_id IN (?, ?)",
    ],
)
def test_whoever_looks_for_a_ticket_uses_the_index_of_those_that_have_one(
    fresh: Path, statement: str
) -> None:
    with opened(fresh) as db:
        db.execute("PRAGMA foreign_keys = ON")
        marks = ["1"] * statement.count("?")
        plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}", marks)]
    assert any("INDEX idx_action_proposals_ticket (ticket_id=?)" in line for line in plan)
    assert not any("SCAN action_proposals" in line for line in plan)


def test_what_analyze_has_found_stays(before: Path) -> None:
    with opened(before) as db:
        db.execute("ANALYZE")
    found = sorted(query(before, "SELECT tbl, idx FROM sqlite_stat1"), key=str)
    assert {row[0] for row in found} >= {"action_proposals", "action_events"}
    migrate.upgrade(f"sqlite:///{before}")
    assert sorted(query(before, "SELECT tbl, idx FROM sqlite_stat1"), key=str) == found


def test_a_connection_with_foreign_keys_is_refused(before: Path) -> None:
    rows = rows_of(before, "orders")
    engine = create_engine(f"sqlite:///{before}", module=dbapi)
    event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA foreign_keys = ON"))
    with engine.connect() as conn:
        config = alembic_config()
        config.attributes["connection"] = conn
        with pytest.raises(SchemaError, match="foreign_keys must be OFF"):
            command.upgrade(config, "head")
    engine.dispose()
    assert rows_of(before, "orders") == rows
    assert version(before) == ["0002"]


def test_two_rows_with_one_key_are_refused_and_kept(before: Path) -> None:
    with opened(before) as db:
        db.executescript(
            "DROP INDEX uq_action_proposals_idempotency_key;"
            "DROP TRIGGER action_proposals_not_replaced; DROP TRIGGER action_proposals_immutable;"
            "UPDATE action_proposals SET idempotency_key = 'key', version = version + 1"
        )
    rows = contents(before)
    with pytest.raises(UnmanagedSchema, match="breaks a rule: UNIQUE"):
        migrate.upgrade(f"sqlite:///{before}")
    assert contents(before) == rows
