"""Revision 0001: the plain schema, and what it finds of it already."""

from pathlib import Path

import pytest

from operator_core.db import migrate
from tests.migrations.tools import (
    TABLES,
    alembic,
    catalogue,
    contents,
    is_sound,
    opened,
    query,
    rows_of,
    version,
)

NOW = "CURRENT_TIMESTAMP"

# As the project's users know it: column, declared type, NOT NULL, default.
PLAIN = {
    "action_proposals": [
        ("id", "INTEGER", 1, None),
        ("ticket_id", "INTEGER", 0, None),
        ("action_name", "TEXT", 1, None),
        ("action_type", "TEXT", 1, "'subject'"),
        ("parameters", "TEXT", 1, None),
        ("reason", "TEXT", 1, None),
        ("status", "TEXT", 1, "'proposed'"),
        ("proposed_at", "TEXT", 1, None),
        ("proposed_by", "TEXT", 1, "'agent'"),
        ("validated_at", "TEXT", 0, None),
        ("cancelled_at", "TEXT", 0, None),
        ("created_at", "TEXT", 1, NOW),
        ("updated_at", "TEXT", 1, NOW),
    ],
    "action_records": [
        ("id", "INTEGER", 1, None),
        ("proposal_id", "INTEGER", 1, None),
        ("started_at", "TEXT", 0, None),
        ("completed_at", "TEXT", 0, None),
        ("success", "BOOLEAN", 0, None),
        ("error_message", "TEXT", 0, None),
        ("result_data", "TEXT", 0, None),
        ("created_at", "TEXT", 1, NOW),
    ],
    "tickets": [
        ("id", "INTEGER", 1, None),
        ("violation_key", "TEXT", 1, None),
        ("invariant_name", "TEXT", 1, None),
        ("store_id", "TEXT", 0, None),
        ("status", "TEXT", 1, "'open'"),
        ("held", "BOOLEAN", 1, "0"),
        ("batch_key", "TEXT", 0, None),
        ("occurrence_count", "INTEGER", 1, "1"),
        ("first_seen_at", "TEXT", 1, None),
        ("last_seen_at", "TEXT", 1, None),
        ("resolved_at", "TEXT", 0, None),
        ("message", "TEXT", 1, None),
        ("severity", "TEXT", 1, "'warning'"),
        ("diagnosis", "TEXT", 0, None),
        ("metric_snapshot", "TEXT", 0, None),
        ("created_at", "TEXT", 1, NOW),
        ("updated_at", "TEXT", 1, NOW),
    ],
}
REFERENCES = {
    "action_proposals": [("tickets", "ticket_id", "id")],
    "action_records": [("action_proposals", "proposal_id", "id")],
    "tickets": [],
}
ALL_INDEXES = {
    "idx_action_proposals_status",
    "idx_action_proposals_ticket",
    "idx_action_records_proposal",
    "idx_tickets_open_violation",
    "idx_tickets_violation_time",
}
ALL_TRIGGERS = {"action_proposals_updated_at", "tickets_updated_at"}


@pytest.mark.parametrize("table", PLAIN)
def test_the_plain_tables_are_as_given(plain: Path, table: str) -> None:
    shape = query(
        plain, f"SELECT name, type, \"notnull\", dflt_value FROM pragma_table_info('{table}')"
    )
    assert shape == PLAIN[table]
    keys = f'SELECT "table", "from", "to" FROM pragma_foreign_key_list(\'{table}\')'
    assert query(plain, keys) == REFERENCES[table]
    (sql,) = query(plain, "SELECT sql FROM sqlite_master WHERE name = ?", table)[0]
    assert "id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT" in sql


def test_the_plain_schema_has_its_indexes_and_triggers_and_nothing_else(plain: Path) -> None:
    names = {(kind, name) for kind, name, _, _ in catalogue(plain, version_table=False)}
    assert {name for kind, name in names if kind == "index"} == ALL_INDEXES
    assert {name for kind, name in names if kind == "trigger"} == ALL_TRIGGERS
    assert {name for kind, name in names if kind == "table"} == {*PLAIN, "sqlite_sequence"}
    (open_violation,) = query(
        plain, "SELECT sql FROM sqlite_master WHERE name = 'idx_tickets_open_violation'"
    )[0]
    assert open_violation.endswith("ON tickets (violation_key) WHERE status != 'resolved'")
    assert version(plain) == ["0001"]


def test_the_plain_triggers_stamp_updates(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy.db"
    path.write_bytes(plain.read_bytes())
    with opened(path) as connection:
        connection.execute(
            "INSERT INTO tickets (violation_key, invariant_name, first_seen_at, last_seen_at, message, "
            "updated_at) VALUES ('k', 'i', 't', 't', 'm', '2000-01-01 00:00:00')"
        )
        connection.execute("UPDATE tickets SET held = 1")
    assert rows_of(path, "tickets", "held, updated_at > '2020'") == [(1, 1)]


def test_the_plain_schema_adopts_what_is_there(legacy: Path) -> None:
    before, definitions = contents(legacy, TABLES[:3]), catalogue(legacy)
    alembic(legacy, "upgrade", "0001")
    assert contents(legacy, TABLES[:3]) == before
    # Not a letter of the tables themselves is changed by this revision.
    assert catalogue(legacy, version_table=False) == definitions
    assert version(legacy) == ["0001"]


@pytest.mark.parametrize(
    "missing",
    [
        ["action_records", "action_proposals"],
        ["action_records"],
        ["tickets", "action_records"],
    ],
    ids=["only tickets", "tickets and proposals", "only proposals"],
)
def test_what_is_missing_is_made_beside_what_is_there(
    legacy: Path, fresh: Path, missing: list[str]
) -> None:
    with opened(legacy) as connection:
        if "tickets" in missing:
            connection.execute("UPDATE action_proposals SET ticket_id = NULL")
        for table in missing:
            connection.execute(f"DROP TABLE {table}")
    kept = [table for table in PLAIN if table not in missing]
    before = contents(legacy, kept)
    migrate.upgrade(f"sqlite:///{legacy}", "0001")
    assert contents(legacy, kept) == before
    names = {name for _, name, _, _ in catalogue(legacy)}
    assert names >= {*PLAIN, *ALL_INDEXES, *ALL_TRIGGERS}
    migrate.upgrade(f"sqlite:///{legacy}")
    assert catalogue(legacy) == catalogue(fresh)
    ids = {table: [row[0] for row in rows] for table, rows in before.items()}
    assert {table: [id for (id,) in rows_of(legacy, table, "id")] for table in kept} == ids
    assert is_sound(legacy)


@pytest.mark.parametrize(
    "lost", ["INDEX idx_action_proposals_ticket", "TRIGGER tickets_updated_at"]
)
def test_an_index_or_trigger_that_is_missing_is_made(legacy: Path, fresh: Path, lost: str) -> None:
    with opened(legacy) as connection:
        connection.execute(f"DROP {lost}")
    migrate.upgrade(f"sqlite:///{legacy}")
    assert catalogue(legacy) == catalogue(fresh)
