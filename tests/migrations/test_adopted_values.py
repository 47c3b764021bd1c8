"""Odd values in adopted rows: DST's lost and doubled hours, other forms of time, what can't be read."""

import logging
from pathlib import Path

import pytest

from operator_core.actions import CorruptRow, InvalidValue, UnmanagedSchema
from operator_core.db import ActionDB, migrate
from tests.migrations.tools import (
    alembic,
    contents,
    fingerprint,
    opened,
    python,
    query,
    rows_of,
)


def put(path: Path, column: str, value: object, table: str = "action_proposals") -> None:
    with opened(path) as connection:
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE id = 4", [value])
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE id = 4", [value])


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        # 2025-11-02: from 01:00 to 02:00 twice; the first of the two is meant, as Python has it.
        ("2025-11-02T01:30:00.000001", "2025-11-02 05:30:00.000001"),
        ("2025-11-02T02:30:00", "2025-11-02 07:30:00.000000"),
        # 2025-03-09: 02:00 to 03:00 is left out; read with the offset from before.
        ("2025-03-09T02:30:00", "2025-03-09 07:30:00.000000"),
        ("2025-07-01T12:00:00.5", "2025-07-01 16:00:00.500000"),
        # What says its offset is believed, and a space is SQLite's own form, in UTC.
        ("2025-07-01T12:00:00+02:00", "2025-07-01 10:00:00.000000"),
        ("2025-07-01T12:00:00Z", "2025-07-01 12:00:00.000000"),
        ("2025-07-01 12:00:00", "2025-07-01 12:00:00.000000"),
        ("2025-07-01 12:00:00.123456", "2025-07-01 12:00:00.123456"),
    ],
)
def test_times_are_read_in_the_named_zone(legacy: Path, written: str, kept: str) -> None:
    put(legacy, "proposed_at", written)
    migrate.upgrade(f"sqlite:///{legacy}", options={"legacy-timezone": "America/New_York"})
    assert query(legacy, "SELECT proposed_at FROM action_proposals WHERE id = 4") == [(kept,)]


def test_the_machines_zone_folds_and_leaves_out_hours_the_same_way(legacy: Path) -> None:
    with opened(legacy) as connection:
        connection.executescript(
            "UPDATE action_proposals SET proposed_at = '2025-11-02T01:30:00' WHERE id = 4;"
            "UPDATE action_proposals SET proposed_at = '2025-03-09T02:30:00' WHERE id = 5;"
        )
    code = "import sys; from operator_core.db import migrate; migrate.upgrade(sys.argv[1])"
    python(code, f"sqlite:///{legacy}", env={"TZ": "America/New_York"})
    found = query(legacy, "SELECT proposed_at FROM action_proposals WHERE id IN (4, 5) ORDER BY id")
    assert found == [("2025-11-02 05:30:00.000000",), ("2025-03-09 07:30:00.000000",)]


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../../etc/passwd", "\0"])
def test_a_zone_that_is_none_is_refused_and_nothing_changes(legacy: Path, zone: str) -> None:
    before = fingerprint(legacy)
    with pytest.raises(InvalidValue) as caught:
        migrate.upgrade(f"sqlite:///{legacy}", options={"legacy-timezone": zone})
    assert caught.value.path == "legacy-timezone"
    assert fingerprint(legacy) == before


BAD_TIMES = ["yesterday", "", "2025-13-01T00:00:00", "0001-01-01T00:00:00", "9999-12-31T23:59:59"]
BAD_JSON = [
    "{",
    "",
    "[1, 2]",
    "null",
    '{"a": NaN}',
    '{"a": 1e400}',
    '{"a": "\\ud800"}',
    "[" * 100_000,
]


@pytest.mark.parametrize("time", BAD_TIMES[:3])
async def test_a_time_that_can_not_be_read_stays_and_its_row_is_corrupt(
    legacy: Path, time: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(legacy, "proposed_at", time)
    with caplog.at_level(logging.WARNING, "operator_core"):
        migrate.upgrade(f"sqlite:///{legacy}")
    assert "action_proposals row 4: proposed_at is no time and stays as it is" in caplog.text
    assert query(legacy, "SELECT proposed_at FROM action_proposals WHERE id = 4") == [(time,)]
    async with ActionDB(legacy) as db:
        with pytest.raises(CorruptRow) as caught:
            await db.get_proposal(4)
        assert (caught.value.table, caught.value.id, caught.value.column) == (
            "action_proposals",
            4,
            "proposed_at",
        )
        listing = await db.list_proposals()
        assert len(listing) == 299
        assert [row.id for row in listing.corrupt] == [4]


@pytest.mark.parametrize("time", BAD_TIMES[3:])
def test_a_time_beyond_the_calendar_in_utc_stays_as_it_is(legacy: Path, time: str) -> None:
    put(legacy, "proposed_at", time)
    zone = "Asia/Tokyo" if time.startswith("0001") else "America/New_York"
    migrate.upgrade(f"sqlite:///{legacy}", options={"legacy-timezone": zone})
    assert query(legacy, "SELECT proposed_at FROM action_proposals WHERE id = 4") == [(time,)]


@pytest.mark.parametrize("text", BAD_JSON, ids=lambda text: text[:12] or "empty")
async def test_json_that_can_not_be_read_stays_and_its_row_is_corrupt(
    legacy: Path, text: str
) -> None:
    put(legacy, "parameters", text)
    put(legacy, "result_data", text, "action_records")
    migrate.upgrade(f"sqlite:///{legacy}")
    assert query(legacy, "SELECT parameters FROM action_proposals WHERE id = 4") == [(text,)]
    assert query(legacy, "SELECT result_data FROM action_records WHERE id = 4") == [(text,)]
    async with ActionDB(legacy) as db:
        with pytest.raises(CorruptRow, match="parameters is not a JSON object"):
            await db.get_proposal(4)
        with pytest.raises(CorruptRow, match="result_data is not a JSON object"):
            await db.get_record(4)


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ('{ "a": 1.0, "b": -0.0, "c": 1 }', '{"a":1.0,"b":-0.0,"c":1}'),
        ('{"\\u00e9": "\\ud83d\\ude00"}', '{"é":"😀"}'),
        ('{"n": 123456789012345678901234567890}', '{"n":123456789012345678901234567890}'),
        # Of two values for one key it can't be known which was meant: both stay.
        ('{"a": 1, "a": 2}', '{"a": 1, "a": 2}'),
        ("{}", "{}"),
    ],
)
def test_json_keeps_its_meaning_to_the_type(legacy: Path, written: str, kept: str) -> None:
    put(legacy, "parameters", written)
    migrate.upgrade(f"sqlite:///{legacy}")
    assert query(legacy, "SELECT parameters FROM action_proposals WHERE id = 4") == [(kept,)]


@pytest.mark.parametrize("time", ["never", "zzz", ""])
async def test_a_row_with_an_unreadable_updated_at_does_not_block_the_kill_switch(
    legacy: Path, time: str
) -> None:
    with opened(legacy) as connection:
        connection.execute("DROP TRIGGER action_proposals_updated_at")
        connection.execute("UPDATE action_proposals SET updated_at = ?", [time])
    async with ActionDB(legacy) as db:
        counts = await db.count_proposals()
        assert await db.cancel_all_pending() == counts["proposed"] + counts["validated"]


@pytest.mark.parametrize(
    ("damage", "difference"),
    [
        (
            "UPDATE action_proposals SET status = 'approved' WHERE id = 9",
            "action_proposals row 9 has an unknown status",
        ),
        (
            "UPDATE action_proposals SET action_type = 'magic' WHERE id = 9",
            "action_proposals row 9 has an unknown action_type",
        ),
        (
            "UPDATE action_records SET success = 2 WHERE id = 9",
            "action_records row 9 has an unknown success",
        ),
        (
            "UPDATE action_records SET id = -1 WHERE id = 9",
            "action_records row -1 has no positive id",
        ),
        (
            "UPDATE action_proposals SET ticket_id = 77 WHERE id = 9",
            "action_proposals row 9 refers to a row of tickets that isn't there",
        ),
        (
            "UPDATE action_records SET proposal_id = 7777 WHERE id = 9",
            "action_records row 9 refers to a row of action_proposals that isn't there",
        ),
    ],
    ids=lambda text: text[-30:],
)
async def test_rows_that_no_ledger_could_hold_are_named_and_nothing_changes(
    legacy: Path, damage: str, difference: str
) -> None:
    with opened(legacy) as connection:
        connection.execute(damage)
    before = fingerprint(legacy)
    with pytest.raises(UnmanagedSchema) as caught:
        async with ActionDB(legacy):
            pass
    assert caught.value.differences == (difference,)
    assert fingerprint(legacy) == before


def test_alembic_names_dangling_rows_and_changes_nothing(legacy: Path) -> None:
    with opened(legacy) as connection:
        connection.execute("DELETE FROM tickets WHERE id = 2")
    before = fingerprint(legacy)
    complaint = alembic(legacy, "upgrade", "head", fails=True).stderr
    assert "UnmanagedSchema" in complaint
    assert "refers to a row of tickets that isn't there" in complaint
    assert fingerprint(legacy) == before


def test_other_bytes_in_a_text_column_are_kept(legacy: Path) -> None:
    put(legacy, "reason", b"\xff\x00")
    before = contents(legacy, ["tickets"])
    migrate.upgrade(f"sqlite:///{legacy}")
    assert query(legacy, "SELECT reason FROM action_proposals WHERE id = 4") == [(b"\xff\x00",)]
    assert contents(legacy, ["tickets"]) == before
    assert len(rows_of(legacy, "action_proposals")) == 300
