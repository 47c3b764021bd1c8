"""Statements that the driver runs alone do and raise what SQLAlchemy's execution of them does."""

import logging
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, bindparam, event, insert, select, update
from sqlalchemy.exc import DBAPIError, OperationalError

from operator_core.actions import ActionStatus
from operator_core.db import ActionDB
from operator_core.db.ledger import claims, history, queries, recovery
from operator_core.db.ledger.status import Move
from operator_core.db.sql.errors import violates_constraint
from operator_core.db.sql.execution import Statements, execute_text, fetch, insert_rows
from operator_core.db.sql.sqlite_library import dbapi
from operator_core.db.sql.tables import PROPOSALS, TICKETS
from operator_core.db.sqlite.engine import over
from operator_core.db.sqlite.handle import connect
from tests.conftest import proposal

_ROW = PROPOSALS.c
_BY_ID = select(_ROW.id, _ROW.reason).where(_ROW.id == bindparam("id"))
_RENAME = update(PROPOSALS).where(_ROW.id == bindparam("one")).values(reason="another")
_ADD = (
    insert(TICKETS)
    .values(first_seen_at="2026", last_seen_at="2026", message="hot")
    .returning(TICKETS.c.id)
)


@pytest.fixture
async def file(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.db"
    async with ActionDB(path) as db:
        await db.create_proposal(proposal())
    return path


@pytest.fixture(params=["direct", "a listener", "a log"])
def conn(file: Path, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Any:
    if request.param == "a log":
        caplog.set_level(logging.INFO, "sqlalchemy.engine.Engine")
    conn = over(connect(str(file), busy_timeout=1))
    if request.param == "a listener":
        event.listen(conn, "before_cursor_execute", lambda *_: None)
    yield conn
    conn.close()


def test_rows_come_back_in_order_of_the_columns(conn: Connection) -> None:
    assert [tuple(row) for row in fetch(conn, _BY_ID, {"id": 1})] == [(1, "store 2 is hot")]
    assert list(fetch(conn, _BY_ID, {"id": 2})) == []


def test_a_statement_without_rows_has_none(conn: Connection) -> None:
    move = Move(1, ActionStatus.VALIDATED, "a", None)
    rows = fetch(conn, move.statement.returning(), move.parameters)
    assert [tuple(row) for row in rows] == [(1,)]
    assert list(fetch(conn, update(TICKETS).values(message="x"), {})) == []


def test_a_refusal_is_sqlalchemys_error_without_values(conn: Connection) -> None:
    with pytest.raises(DBAPIError, match="action_proposals_immutable") as refused:
        fetch(conn, _RENAME, {"one": 1})
    assert violates_constraint(refused.value)
    assert "another" not in str(refused.value)
    with pytest.raises(OperationalError, match="incomplete input"):
        execute_text(conn, "SAVEPOINT")


@pytest.mark.parametrize("count", [1, 2, 100, 101, 250])
def test_many_rows_are_inserted_in_their_order(conn: Connection, count: int) -> None:
    rows = [
        {"violation_key": f"k{n}", "invariant_name": "VALUES (1) RETURNING"} for n in range(count)
    ]
    ids = sorted(row[0] for row in insert_rows(conn, _ADD, rows))
    found = conn.exec_driver_sql("SELECT id, violation_key FROM tickets ORDER BY id").all()
    assert [tuple(row) for row in found] == [(id_, f"k{n}") for n, id_ in enumerate(ids)]


def test_a_text_runs_without_an_answer(conn: Connection) -> None:
    for text in ("BEGIN", "SAVEPOINT unit", "RELEASE unit", "COMMIT"):
        execute_text(conn, text)


def test_each_statement_is_logged_where_sqlalchemys_are(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sqlalchemy.engine.Engine")
    conn = over(connect(str(file), busy_timeout=1))
    fetch(conn, _BY_ID, {"id": 1})
    conn.close()
    assert "SELECT action_proposals.id" in caplog.text


def test_a_list_in_place_of_a_value_is_no_statement_for_it() -> None:
    conn = over(dbapi.connect(":memory:", isolation_level=None))
    several = select(_ROW.id).where(_ROW.id.in_(bindparam("ids", expanding=True)))
    with pytest.raises(AssertionError):
        Statements(conn.dialect).compiled(several, {"ids": [1, 2]})
    conn.close()


_DUE = {"limit": 1, "offset": 0}


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        (claims._candidates(frozenset(), False, False), _DUE),
        (
            claims._candidates(frozenset({"names", "types"}), True, True),
            {**_DUE, "names": ["a"], "types": ["tool"]},
        ),
        (claims._candidates(frozenset({"proposal"}), False, False), {**_DUE, "proposal": 1}),
        (queries._listed(frozenset({"limit"}), 0, oldest_first=False), {"limit": 1}),
        (queries._listed(frozenset(), 1, oldest_first=False), {"status_0": "validated"}),
        (history._NEXT_ON_SQLITE, {"id": 0, "limit": 1}),
        (recovery._EXPIRED_LEASES, {"seen": 0}),
        (recovery._PAST_EXPIRY, {"seen": 0}),
        (recovery._TO_RETRY, {"seen": 0}),
    ],
    ids=[
        "claim",
        "claim some",
        "claim one",
        "list",
        "list validated",
        "events",
        "leases",
        "expiry",
        "retries",
    ],
)
def test_a_statement_is_compiled_once(file: Path, statement: Any, values: Any) -> None:
    raw = connect(str(file), busy_timeout=1)
    conn = over(raw)
    asked = 0

    def authorize(*_: object) -> int:
        nonlocal asked
        asked += 1
        return dbapi.SQLITE_OK

    # SQLite asks when it compiles a statement.
    raw.set_authorizer(authorize)
    counts: list[int] = []
    for _ in range(3):
        asked = 0
        fetch(conn, statement, values)
        counts.append(asked)
    raw.set_authorizer(None)
    conn.close()
    assert counts[0] > 0
    assert counts[1:] == [0, 0]
