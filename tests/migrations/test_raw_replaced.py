"""REPLACE deletes what is in its way, and no trigger hears of it: so nothing of ours may be in its way."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from operator_core.db.sql.sqlite_library import dbapi
from tests.migrations.raw_tools import (
    PROPOSAL,
    RECORD,
    SETTINGS,
    TICKET,
    TIME,
    WORKFLOW,
    empty,
    everything,
    insert,
    propose,
    refused,
    refused_row,
)
from tests.migrations.tools import query

RESOLUTION: Final = {
    "record_id": 3,
    "proposal_id": 1,
    "succeeded": 0,
    "resolved_by": "mia",
    "evidence": "e",
}

LIMIT: Final = {
    "name": "drains",
    "window": 60,
    "max_starts": 1000,
    "set_by": "oncall",
    "reason": "r",
}

RULE: Final = {"name": "r", "action_name": "none such", "added_by": "boss", "reason": "r"}
REQUIREMENT: Final = {"proposal_id": 2, "name": "r"}
GRANT: Final = {
    "action_name": "none such",
    "max_uses": 1,
    "valid_until": "2999-01-01 00:00:00.000000",
    "granted_by": "gus",
    "grantor_key": "gus",
    "reason": "r",
}
# Of a proposal of which nothing is required.
DECISION: Final = {"proposal_id": 1, "kind": "approved", "decided_by": "a", "decider_key": "a"}

ROWS: Final = {
    "tickets": TICKET,
    "action_proposals": PROPOSAL,
    "action_records": RECORD,
    "action_events": {
        "proposal_id": 1,
        "event_type": "status_changed",
        "actor": "eve",
        "occurred_at": TIME,
    },
    "workflows": WORKFLOW,
    "outcome_resolutions": RESOLUTION,
    "action_halts": {"mode": "halted", "halted_by": "oncall", "reason": "r"},
    "action_limits": LIMIT,
    "action_rules": RULE,
    "action_requirements": REQUIREMENT,
    "action_grants": GRANT,
    "action_decisions": DECISION,
}


@pytest.fixture(autouse=True)
def _no_thread_left() -> None:
    """No thread is started here, and looking for one would cost more than the tests."""


@pytest.fixture(scope="module", params=SETTINGS)
def filled(request: pytest.FixtureRequest) -> Iterator[dbapi.Connection]:
    """Two rows of each table, tickets that a proposal or a workflow refers to, and one that none does."""
    with empty(request.param) as connection:
        for _ in range(4):
            insert(connection, "tickets", TICKET)
        insert(connection, "workflows", {**WORKFLOW, "ticket_id": 2})
        insert(connection, "workflows", WORKFLOW)
        propose(connection, ticket_id=1, idempotency_key="one")
        propose(connection, idempotency_key="two", depends_on="[1]")
        for id in (1, 2):
            insert(connection, "action_records", {"proposal_id": id})
        for record in (3, 4):
            unknown = {"proposal_id": 1, "outcome_unknown": 1, "completed_at": TIME}
            insert(connection, "action_records", unknown)
            insert(connection, "outcome_resolutions", {**RESOLUTION, "record_id": record})
        # They cover nothing that is here.
        for _ in range(2):
            insert(connection, "action_halts", {**ROWS["action_halts"], "run_id": "stopped"})
        for name in ("one", "two"):
            insert(connection, "action_limits", {**LIMIT, "name": name})
            insert(connection, "action_rules", RULE)
            insert(connection, "action_requirements", REQUIREMENT)
            insert(connection, "action_grants", GRANT)
            decided = {"decided_by": name, "decider_key": name}
            insert(connection, "action_decisions", {**DECISION, **decided})
        yield connection


@pytest.fixture
def db(filled: dbapi.Connection) -> Iterator[dbapi.Connection]:
    """The rows as they are, for each test: what it changes is rolled back."""
    filled.execute("BEGIN")
    yield filled
    filled.execute("ROLLBACK")


VERBS: Final = ("INSERT", "REPLACE", "INSERT OR REPLACE", "INSERT OR IGNORE", "INSERT OR FAIL")


def unique(path: Path) -> set[tuple[str, ...]]:
    """Each table with the columns of each unique index, and its id if it has one."""
    found: set[tuple[str, ...]] = set()
    for (table,) in query(path, "SELECT name FROM sqlite_master WHERE type = 'table'"):
        if table.startswith(("sqlite_", "operator_core_")):
            continue
        if query(path, f"SELECT 1 FROM pragma_table_info('{table}') WHERE name = 'id'"):
            found.add((table, "id"))
        for (index,) in query(
            path, f"SELECT name FROM pragma_index_list('{table}') WHERE \"unique\""
        ):
            columns = query(path, f"SELECT name FROM pragma_index_info('{index}') ORDER BY seqno")
            found.add((table, *(name for (name,) in columns)))
    return found


def test_these_are_all_the_doors(fresh: Path) -> None:
    assert unique(fresh) == {
        *((table, "id") for table in ROWS),
        ("action_proposals", "idempotency_key"),
        ("action_proposals", "run_id", "call_id"),
        ("action_proposals", "exclusive_key"),
        ("action_limits", "name"),
        ("action_decisions", "withdraws_id"),
        ("action_starts", "limit_id", "place"),
        ("outcome_resolutions", "record_id"),
        ("action_dependencies", "proposal_id", "depends_on_id"),
    }


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", ["id", "rowid", "oid", "_rowid_"])
@pytest.mark.parametrize("table", ROWS)
def test_no_row_takes_the_place_of_another(
    db: dbapi.Connection, table: str, name: str, verb: str
) -> None:
    for id in (1, 2):
        if table != "tickets" or verb.endswith("REPLACE"):
            refused_row(db, table, {**ROWS[table], name: id}, f"{table}_not_replaced", verb)


@pytest.mark.parametrize("verb", VERBS)
def test_no_proposal_takes_the_place_of_another_by_its_key(db: dbapi.Connection, verb: str) -> None:
    for key in ("one", "two"):
        for more in ({}, {"id": 99}, {"id": -1}, {"status": "validated"}):
            values = {**PROPOSAL, "idempotency_key": key, **more}
            refused_row(db, "action_proposals", values, "idempotency key is unique", verb)
    marks = "(action_name, parameters, reason, proposed_at, idempotency_key)"
    upsert = f"INSERT INTO action_proposals {marks} VALUES ('a', '{{}}', 'r', '{TIME}', 'one')"
    for clause in ("NOTHING", "UPDATE SET status = 'cancelled'"):
        for target in ("", "(idempotency_key) WHERE idempotency_key IS NOT NULL"):
            if target or clause == "NOTHING":
                refused(db, f"{upsert} ON CONFLICT {target} DO {clause}", "is unique")
    assert propose(db, idempotency_key="three") == 3


@pytest.mark.parametrize("verb", VERBS)
def test_no_proposal_takes_the_place_of_another_by_its_call(
    db: dbapi.Connection, verb: str
) -> None:
    call = {"run_id": "run", "call_id": "call"}
    propose(db, **call)
    for more in ({}, {"id": 99}, {"id": -1}, {"status": "validated"}, {"idempotency_key": "new"}):
        values = {**PROPOSAL, **call, **more}
        refused_row(db, "action_proposals", values, "a call has one proposal in its run", verb)
    for other in ({"run_id": "other"}, {"call_id": "other"}, {"run_id": None}, {"call_id": None}):
        for _ in range(2 if None in other.values() else 1):
            propose(db, **{**call, **other})


@pytest.mark.parametrize("verb", VERBS)
def test_no_resolution_takes_the_place_of_another(db: dbapi.Connection, verb: str) -> None:
    for record in (3, 4):
        for more in ({}, {"id": 99}, {"id": -1}, {"succeeded": 1}):
            values = {**RESOLUTION, "record_id": record, **more}
            refused_row(db, "outcome_resolutions", values, "an outcome is resolved once", verb)


@pytest.mark.parametrize("verb", VERBS)
def test_no_withdrawal_takes_the_place_of_another(db: dbapi.Connection, verb: str) -> None:
    row = {
        "proposal_id": 1,
        "kind": "withdrawn",
        "decided_by": "one",
        "decider_key": "one",
        "withdraws_id": 1,
        "comment": "hm",
    }
    insert(db, "action_decisions", row)
    for more in ({}, {"id": 99}, {"comment": "again"}):
        refused_row(db, "action_decisions", {**row, **more}, "_not_replaced", verb)


UPDATES: Final = ("UPDATE", "UPDATE OR REPLACE", "UPDATE OR IGNORE")


@pytest.mark.parametrize("table", ROWS)
def test_no_row_moves_to_the_place_of_another(db: dbapi.Connection, table: str) -> None:
    for verb in UPDATES:
        for name in ("id", "rowid", "oid"):
            for id, to in ((1, 2), (2, 1), (1, 99), (1, -1), (1, 2**62), (1, 2**63 - 1)):
                refused(db, f"{verb} {table} SET {name} = {to} WHERE id = {id}")


@pytest.mark.parametrize(
    "change",
    [
        *(f"action_proposals SET idempotency_key = {key}" for key in ("'two'", "'x'", "NULL")),
        "action_dependencies SET proposal_id = 1, depends_on_id = 0",
        "action_dependencies SET rowid = 7",
    ],
)
def test_no_row_takes_the_key_of_another(db: dbapi.Connection, change: str) -> None:
    for verb in UPDATES:
        refused(db, f"{verb} {change}")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("edge", [(2, 1), (1, 2), (2, 2), (1, 1), (77, 1), (2, 77), (3, 1)])
def test_nobody_adds_or_replaces_an_edge(
    db: dbapi.Connection, edge: tuple[int, int], verb: str
) -> None:
    propose(db)
    values = dict(zip(("proposal_id", "depends_on_id"), edge, strict=True))
    refused_row(db, "action_dependencies", values, verb=verb)


@pytest.mark.parametrize("id", [1, 2])
def test_a_ticket_that_something_refers_to_stays(db: dbapi.Connection, id: int) -> None:
    for sql in (
        f"DELETE FROM tickets WHERE id = {id}",
        f"UPDATE tickets SET id = 9 WHERE id = {id}",
        f"UPDATE OR REPLACE tickets SET id = {id} WHERE id = 3",
        f"UPDATE OR REPLACE tickets SET oid = {id} WHERE id = 3",
    ):
        refused(db, sql, "refers to this ticket")
    insert(db, "tickets", {**TICKET, "id": 3, "held": 1}, "REPLACE")
    db.execute("UPDATE OR REPLACE tickets SET id = 4 WHERE id = 3")
    db.execute("DELETE FROM tickets WHERE id = 4")
    before = everything(db)
    upsert = "INSERT INTO tickets (id, violation_key, invariant_name, first_seen_at, last_seen_at, message) "
    for change in ("NOTHING", "UPDATE SET held = held"):
        # A service that writes its tickets so says more than ours can tell from a REPLACE.
        with pytest.raises(dbapi.IntegrityError, match="tickets_not_replaced"):
            db.execute(f"{upsert} VALUES ({id}, 'k', 'i', 't', 't', 'm') ON CONFLICT DO {change}")
    assert everything(db) == before
