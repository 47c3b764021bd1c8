"""Raw INSERTs of extreme values: refused, or the ledger carries on with the row as with any other."""

import json
from collections.abc import Iterator, Mapping
from typing import Final

import pytest
from sqlalchemy import Connection

from operator_core.actions import RequesterType
from operator_core.db.ledger import claims, executions, recovery
from operator_core.db.ledger.stops import Stop, cancel_pending
from operator_core.db.migrate.sqlite import run_script
from operator_core.db.schema import ACTIONS_SCHEMA_SQL, SCHEMA_SQL
from operator_core.db.sql.sqlite_library import dbapi
from operator_core.db.sqlite.handle import MEMORY, connect, over
from tests.actions.traces import NO_TRACES, TRACES
from tests.migrations.raw_tools import (
    PROPOSAL,
    RECORD,
    SETTINGS,
    TIME,
    WORKFLOW,
    empty,
    everything,
    insert,
    propose,
    refused_row,
)

FAR: Final = "2999-01-01 00:00:00.000000"
ROWS: Final[Mapping[str, Mapping[str, object]]] = {
    "action_proposals": PROPOSAL,
    "action_records": RECORD,
    "workflows": WORKFLOW,
}


@pytest.fixture(autouse=True)
def _no_thread_left() -> None:
    """No thread is started here, and looking for one would cost more than the tests."""


@pytest.fixture(params=[SETTINGS[0], SETTINGS[-1]])
def db(request: pytest.FixtureRequest) -> Iterator[dbapi.Connection]:
    """A ledger with one proposal and one workflow."""
    with empty(request.param) as connection:
        propose(connection)
        insert(connection, "workflows", WORKFLOW)
        yield connection


# SQLite makes NULL of NaN, and text of a number in a column of text.
NUMBERS: Final[list[object]] = [
    2**63 - 1,
    -(2**63),
    2**62,
    -1,
    0,
    1.5,
    1e300,
    -1e300,
    float("inf"),
]
TEXTS: Final[list[object]] = [
    "NaN",
    "2020",
    "1",
    "now",
    "12:00",
    "2460000.5",
    "9999-12-31 23:59:59.999999",
    "0001-01-01 00:00:00",
    "2026-13-01",
    "[",
    "[]",
    '{"a":1}',
    "\u3000x",
    "\U0001f600",
    "x" * 255,
]
BLANK: Final[list[object]] = ["", " \t\n", "\u3000\u2003", "x\0y", "\0"]
BLOBS: Final[list[object]] = [b"", b"\xff\x00", b"2026-01-01 00:00:00", b"1"]
EXTREMES: Final = [*NUMBERS, *TEXTS, *BLANK, *BLOBS, "x" * 256, "x" * 65_537, None]
SAID: Final = [*NUMBERS, *TEXTS]
TIMES: Final[list[object]] = [
    TIME,
    FAR,
    "2026-01-01",
    "2026-01-01 10:00",
    "2026-01-01T10:00:00Z",
    "1970-01-01 00:00:00.000000",
    "9998-12-31 23:59:59.999999",
]

# Of each column, what is accepted of the extreme values.
ACCEPTED: Final[Mapping[str, Mapping[str, list[object]]]] = {
    "action_proposals": {
        "id": ["2020", None],
        "ticket_id": [None],
        "workflow_id": ["1", None],
        "action_name": SAID,
        "proposed_by": SAID,
        "reason": [*SAID, "x" * 256],
        "idempotency_key": [*SAID, None],
        "status_changed_by": [*SAID, None],
        "status_reason": [*SAID, "x" * 256, None],
        "action_type": [],
        "status": [],
        "proposed_at": [],
        "created_at": [],
        "updated_at": [],
        "validated_at": [None],
        "cancelled_at": [None],
        "scheduled_at": [None],
        "expires_at": [None],
        "status_changed_at": [None],
        "priority": [-1, 0, "2020", "1"],
        "max_retries": [0, "1"],
        "retry_delay": [0, 1.5, "2020", "1"],
        "max_retry_delay": [0, 1.5, "2020", "1"],
        "retry_count": [0],
        "version": ["1"],
        "next_retry_at": [None],
        "last_error": [None],
        "depends_on": ["[]", None],
        "wait_on_failure": [0, "1"],
        **{
            each: [*SAID, None]
            for each in ("requester_id", "agent_id", "run_id", "call_id", "exclusive_key")
        },
        "requester_type": [None],
        "parent_id": ["1", None],
        "traceparent": [None],
        "end_code": [None],
        "status_cause": [None],
        "content_digest": [None],
        "approval": [None],
        "lapses_at": [None],
        "identity_keys": [None],
        "supersedes_id": ["1", None],
    },
    "action_records": {
        "id": ["2020", "1", None],
        "proposal_id": ["1"],
        "started_at": [None],
        "completed_at": [None],
        "success": [None],
        "error_message": [*SAID, "", " \t\n", "\u3000\u2003", "x" * 256, "x" * 65_537, None],
        "created_at": [],
        "started_by": [*SAID, None],
        "completed_by": [*SAID, None],
        "worker": [*SAID, None],
        "lease_expires_at": [None],
        "outcome_unknown": [0],
    },
    "workflows": {
        "id": ["2020", None],
        "name": SAID,
        "description": [*SAID, "x" * 256, None],
        "ticket_id": [None],
        "created_at": [],
        "updated_at": [],
    },
}
UNCHECKED: Final = {"parameters", "result_data", "halt_seen_at"}
COLUMNS: Final = [(table, column) for table in ACCEPTED for column in ACCEPTED[table]]


@pytest.mark.parametrize("table", ACCEPTED)
def test_no_column_is_forgotten(db: dbapi.Connection, table: str) -> None:
    names = {name for (name,) in db.execute(f"SELECT name FROM pragma_table_info('{table}')")}
    assert names - UNCHECKED == set(ACCEPTED[table])


def same(value: object, other: object) -> bool:
    return type(value) is type(other) and value == other


@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_only_what_a_model_takes_is_accepted(db: dbapi.Connection, table: str, column: str) -> None:
    for value in EXTREMES:
        row = {**ROWS[table], column: value}
        if any(same(value, each) for each in ACCEPTED[table][column]):
            db.execute("SAVEPOINT one")
            insert(db, table, row)
            db.execute("ROLLBACK TO one")
            db.execute("RELEASE one")
        elif column == "depends_on":
            before = everything(db)
            with pytest.raises(dbapi.Error):
                insert(db, table, row)
            assert everything(db) == before
        else:
            refused_row(db, table, row)
            if value is not None:
                # In the place of NULL there would be the default.
                refused_row(db, table, row, verb="REPLACE")


@pytest.mark.parametrize(
    ("column", "table"),
    [
        *((name, "action_proposals") for name in ("proposed_at", "created_at", "scheduled_at")),
        *((name, "action_proposals") for name in ("validated_at", "cancelled_at", "expires_at")),
        *((name, "action_records") for name in ("created_at", "started_at")),
        *((name, "workflows") for name in ("created_at", "updated_at")),
    ],
)
def test_a_time_is_one_of_the_years_that_the_ledger_keeps(
    db: dbapi.Connection, column: str, table: str
) -> None:
    for time in TIMES:
        assert insert(db, table, {**ROWS[table], column: time})
    for time in ("1969-12-31 23:59:59.999999", "9999-01-01 00:00:00", "2026-02-32", "2026", "soon"):
        refused_row(db, table, {**ROWS[table], column: time}, f"{table}_values: {column}")


def test_the_type_of_a_requester_is_one_of_three(db: dbapi.Connection) -> None:
    for kind in RequesterType:
        propose(db, requester_type=kind.value)
    for kind in ("User", "user ", "robot", "user\0"):
        row = {**PROPOSAL, "requester_type": kind}
        refused_row(db, "action_proposals", row, "action_proposals_values: requester_type")


def test_a_trace_is_one_of_w3c_trace_context(db: dbapi.Connection) -> None:
    for trace in TRACES:
        propose(db, traceparent=trace)
    for trace in NO_TRACES:
        row = {**PROPOSAL, "traceparent": trace}
        refused_row(db, "action_proposals", row, "action_proposals_values: traceparent")


def test_a_parent_is_a_proposal_of_the_same_run(db: dbapi.Connection) -> None:
    parent = propose(db, run_id="run")
    propose(db, parent_id=parent, run_id="run")
    for run in (None, "other", "Run"):
        row = {**PROPOSAL, "parent_id": parent, "run_id": run}
        refused_row(db, "action_proposals", row, "action_proposals_parent_run")
    refused_row(db, "action_proposals", {**PROPOSAL, "parent_id": 99}, "parent_exists")
    refused_row(db, "action_proposals", {**PROPOSAL, "id": 50, "parent_id": 50}, "parent_exists")


@pytest.mark.parametrize(
    ("column", "least", "most"),
    [
        ("priority", -32768, 32767),
        ("max_retries", 0, 1000),
        ("retry_delay", 0, 604_800),
        ("max_retry_delay", 0, 604_800),
    ],
)
def test_numbers_have_the_limits_of_the_model(
    db: dbapi.Connection, column: str, least: int, most: int
) -> None:
    for value in (least, most):
        assert propose(db, **{column: value})
    for value in (least - 1, most + 1):
        values = {**PROPOSAL, column: value}
        refused_row(db, "action_proposals", values, f"action_proposals_values: {column}")


@pytest.mark.parametrize("table", ["action_proposals", "action_records", "workflows"])
@pytest.mark.parametrize("id", [2**62, 2**62 + 1, 2**63 - 2, 2**63 - 1, 0, -1, -(2**63)])
def test_nobody_takes_an_id_after_which_there_are_none(
    db: dbapi.Connection, table: str, id: int
) -> None:
    for verb in ("INSERT", "REPLACE", "INSERT OR IGNORE"):
        for name in ("id", "rowid", "oid"):
            refused_row(db, table, {**ROWS[table], name: id}, "an id is", verb)
    assert insert(db, table, ROWS[table])
    assert insert(db, table, {**ROWS[table], "id": 2**62 - 1}) == 2**62 - 1
    # Half of the range is left to those who don't choose.
    assert insert(db, table, ROWS[table]) == 2**62


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"1":1}',
        "1",
        '"1"',
        "null",
        "true",
        "[1,1]",
        "[1,01]",
        "[1.0]",
        "[1e0]",
        '["1"]',
        "[[1]]",
        "[null]",
        "[0]",
        "[-1]",
        "[2]",
        "[3]",
        "[77]",
        "[9223372036854775807]",
        "[9223372036854775808]",
        "[1e400]",
        "[1,]",
        "[1",
        "",
        " ",
        b"[1]",
        str(list(range(1, 1002))),
    ],
)
def test_dependencies_are_a_list_of_other_proposals(
    db: dbapi.Connection, text: str | bytes
) -> None:
    before = everything(db)
    with pytest.raises(
        dbapi.Error, match=r"action_proposals_|malformed JSON|JSON cannot hold BLOB"
    ):
        propose(db, depends_on=text)
    assert everything(db) == before


@pytest.mark.parametrize("text", ["[]", "[1]", "[1,3,2]", "[ 1,\n\t2 ]\r\n", " [3] "])
def test_white_space_between_them_means_nothing(db: dbapi.Connection, text: str) -> None:
    propose(db)
    propose(db)
    id = propose(db, depends_on=text)
    found = db.execute("SELECT depends_on_id FROM action_dependencies WHERE proposal_id = ?", [id])
    assert [each for (each,) in found] == sorted(json.loads(text))


def test_a_thousand_dependencies_are_as_many_as_there_may_be(db: dbapi.Connection) -> None:
    for _ in range(1000):
        propose(db)
    most = list(range(1, 1001))
    propose(db, depends_on=str(most))
    assert db.execute("SELECT count(*) FROM action_dependencies").fetchall() == [(1000,)]
    values = {**PROPOSAL, "depends_on": str([*most, 1001])}
    refused_row(db, "action_proposals", values, "action_proposals_values: depends_on")


def test_a_message_is_at_most_a_mebibyte(db: dbapi.Connection) -> None:
    ended = {**RECORD, "success": 0, "completed_at": TIME}
    assert insert(db, "action_records", {**ended, "error_message": "\u00e9" * (1 << 20)})
    values = {**ended, "error_message": "x" * ((1 << 20) + 1)}
    refused_row(db, "action_records", values, "action_records_values: error_message")


def test_a_lease_is_a_workers(db: dbapi.Connection) -> None:
    leased = {**RECORD, "lease_expires_at": FAR}
    refused_row(db, "action_records", leased, "action_records_values: lease_expires_at")
    assert insert(db, "action_records", {**leased, "worker": "w"})


def test_a_workflow_needs_a_ticket_that_exists(db: dbapi.Connection) -> None:
    refused_row(db, "workflows", {**WORKFLOW, "ticket_id": 77})


@pytest.mark.parametrize(
    "change",
    [
        "id = 7",
        "rowid = 7",
        "name = 'other'",
        "name = NULL",
        "description = 'more'",
        "ticket_id = 1",
        f"created_at = '{TIME}'",
    ],
)
def test_a_workflow_never_changes(db: dbapi.Connection, change: str) -> None:
    db.execute(
        "INSERT INTO tickets VALUES (1,'k','i',NULL,'open',0,NULL,1,'t','t',NULL,'m','warning',NULL,NULL,'t','t')"
    )
    for verb in ("UPDATE", "UPDATE OR REPLACE", "UPDATE OR IGNORE"):
        before = everything(db)
        with pytest.raises(dbapi.IntegrityError, match="workflows_immutable"):
            db.execute(f"{verb} workflows SET {change}")
        assert everything(db) == before


def test_a_workflows_updated_at_moves_forward(db: dbapi.Connection) -> None:
    seen: list[str] = []
    for time in (
        "updated_at",
        f"'{FAR}'",
        "'1999-01-01'",
        "updated_at",
        "'9998-12-31 23:59:59.999'",
    ):
        db.execute(f"UPDATE workflows SET updated_at = {time}")
        seen += db.execute("SELECT updated_at FROM workflows").fetchone()
    assert seen == sorted(set(seen))
    # Where there is nothing later, or nothing to compare, the clock is enough.
    for time in ("'9999-12-31 23:59:59.999'", "'zzz'", "x'ff'"):
        db.execute(f"UPDATE workflows SET updated_at = {time}")
        db.execute("UPDATE workflows SET updated_at = updated_at")
        assert db.execute("SELECT updated_at < '2999' FROM workflows").fetchone() == (1,)


# ------ The ledger's own statements on whatever was accepted


@pytest.fixture
def conn() -> Iterator[Connection]:
    raw = connect(MEMORY, busy_timeout=0)
    conn = over(raw)
    run_script(conn, SCHEMA_SQL + ACTIONS_SCHEMA_SQL)
    yield conn
    conn.close()


def put(conn: Connection, values: Mapping[str, object]) -> None:
    marks = ", ".join("?" * len(values))
    sql = f"INSERT INTO action_proposals ({', '.join(values)}) VALUES ({marks})"
    conn.exec_driver_sql(sql, tuple(values.values()))


@pytest.mark.parametrize(
    "column",
    [
        column
        for column, accepted in ACCEPTED["action_proposals"].items()
        if accepted
        and column
        not in (
            "id",
            "workflow_id",
            "parent_id",
            "supersedes_id",
            "scheduled_at",
            "expires_at",
            "next_retry_at",
            "lapses_at",
        )
    ],
)
def test_the_ledger_carries_on_with_what_was_accepted(conn: Connection, column: str) -> None:
    """Every verb that changes many rows, over rows with each accepted value of the column."""
    said: dict[str, object] = {**PROPOSAL, "status": "validated", "max_retries": 2}
    accepted = [*ACCEPTED["action_proposals"][column], *(TIMES if column.endswith("_at") else [])]
    rows = [{**said, column: value} for value in accepted]
    for row in rows:
        put(conn, row)
    request = claims.ClaimRequest("w", 100, 60.0, None, None)
    taken = claims.claim(request).unit(conn).claims
    failed = [executions.Ending(each.record.id or 0, None, "no") for each in taken]
    assert len(executions.end(failed, executions.Manner(False, "w")).unit(conn)) == len(taken)
    conn.exec_driver_sql(
        f"UPDATE action_proposals SET next_retry_at = '{TIME}' WHERE status = 'failed'"
    )
    recovery.sweep(conn)
    for row in rows:
        if column != "idempotency_key":
            put(conn, row)
    left = "SELECT count(*) FROM action_proposals WHERE status IN ('proposed', 'validated')"
    count = conn.exec_driver_sql(left).scalar()
    assert cancel_pending(conn, Stop(actor="me", reason="stop")) == count
    assert conn.exec_driver_sql(left).scalar() == 0
