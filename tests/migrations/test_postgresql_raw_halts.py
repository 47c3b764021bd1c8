"""Halts by raw SQL on PostgreSQL: what is accepted, what a halt refuses, and what nobody can change."""

from collections.abc import Iterator
from typing import Any, Final, LiteralString, cast

import psycopg
import pytest

from operator_core.cli.findings import Verdict
from operator_core.cli.server_checkup import check_up_server
from operator_core.db import migrate
from operator_core.db.postgresql.connect import parse_url
from tests.databases import Databases, connected, query
from tests.migrations.postgresql_tools import ledger_at, role

HALT: Final = "INSERT INTO action_halts (mode, halted_by, reason) VALUES ('halted', 'x', 'y')"
RESUME: Final = "UPDATE action_halts SET resumed_at = now(), resumed_by = 'x', resume_reason = 'y'"
PROPOSE: Final = """
    INSERT INTO action_proposals (action_name, parameters, reason, proposed_at, status)
    VALUES ('a', '{}', 'r', now(), %s) RETURNING id"""


@pytest.fixture
def db(server_ledger: str) -> Iterator[psycopg.Connection]:
    with connected(server_ledger) as connection:
        connection.autocommit = True
        yield connection


def refused(db: Any, sql: str, why: str, *values: Any) -> None:
    with pytest.raises(psycopg.Error, match=why):
        db.execute(sql, values)


@pytest.mark.parametrize(
    ("column", "value", "constraint"),
    [
        ("mode", "stop", "mode"),
        ("halted_by", " ", "halted_by"),
        ("reason", "", "reason"),
        ("action_name", "", "action_name"),
        ("agent_id", "a" * 256, "agent_id"),
        ("run_id", "\n", "run_id"),
        ("valid_from", "infinity", "times"),
        ("valid_until", "2020-01-01", "times"),
        ("resumed_at", "2020-01-01", "resumed"),
        ("resumed_by", "x", "resumed"),
    ],
)
def test_only_what_the_ledger_takes_is_accepted(
    db: Any, column: str, value: str, constraint: str
) -> None:
    row = {"mode": "halted", "halted_by": "x", "reason": "y", column: value}
    sql = f"INSERT INTO action_halts ({', '.join(row)}) VALUES ({', '.join(['%s'] * len(row))})"
    refused(db, sql, f"ck_action_halts_{constraint}", *row.values())


def test_a_halt_is_resumed_once_and_never_edited(db: Any) -> None:
    db.execute(HALT)
    refused(db, "DELETE FROM action_halts", "never deleted")
    refused(db, "TRUNCATE action_halts", "never deleted")
    for change in ("mode = 'observe'", "reason = 'z'", "agent_id = 'a'", "cancels = true"):
        refused(db, f"UPDATE action_halts SET {change}", "never edited")
        refused(db, f"{RESUME}, {change}", "never edited")
    refused(db, "UPDATE action_halts SET resumed_at = now()", "ck_action_halts_resumed_by")
    db.execute(f"{RESUME}, resumed_at = '2020-01-01'".replace("resumed_at = now(), ", ""))
    assert db.execute("SELECT resumed_at > created_at FROM action_halts").fetchone() == (True,)
    refused(db, RESUME, "never edited")


def test_a_halt_holds_for_raw_sql(db: Any) -> None:
    proposed, validated = (
        db.execute(PROPOSE, [status]).fetchone()[0] for status in ("proposed", "validated")
    )
    db.execute(HALT)
    for status in ("proposed", "validated", "executing", "failed"):
        refused(db, PROPOSE, "action_proposals_halted: halt 1", status)
    db.execute(PROPOSE, ["completed"])
    move = "UPDATE action_proposals SET status = %s WHERE id = %s"
    refused(db, move, "action_proposals_halted: halt 1", "validated", proposed)
    refused(db, move, "action_proposals_halted: halt 1", "executing", validated)
    db.execute(move, ["cancelled", proposed])
    # One statement resumes it and starts the proposal: the trigger sees its own transaction.
    with db.transaction():
        db.execute(RESUME)
        db.execute(move, ["executing", validated])


def test_a_flag_that_is_down_while_a_halt_is_open_is_found(db: Any, server_ledger: str) -> None:
    def halts() -> Any:
        found = check_up_server(parse_url(server_ledger))
        return next(each for each in found if each.subject == "halt flag")

    db.execute(HALT)
    assert halts().verdict is Verdict.OK
    db.execute("SELECT setval('action_halts_flag', -('action_halts'::regclass::oid::bigint))")
    assert halts().verdict is Verdict.BROKEN
    assert "halt 1 is open" in halts().text


def test_roles_that_could_write_before_the_upgrade_still_can(postgres: Databases) -> None:
    url = ledger_at(postgres, "0004")
    query(
        url,
        "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at, status)"
        " VALUES ('a', '{}', 'r', now(), 'validated')",
    )
    columns = "action_name, parameters, reason, proposed_at"
    with role(postgres, url, "mover") as mover, role(postgres, url, "adder") as adder:
        for service, grant in ((mover, "SELECT, UPDATE"), (adder, f"SELECT, INSERT ({columns})")):
            name = parse_url(service).username or ""
            query(url, f'GRANT {grant} ON action_proposals TO "{name}"')
            query(url, f'GRANT SELECT ON action_dependencies TO "{name}"')
        migrate.upgrade(url)
        for service, sql in (
            (mover, "UPDATE action_proposals SET status = 'executing'"),
            (adder, f"INSERT INTO action_proposals ({columns}) VALUES ('b', '{{}}', 'r', now())"),
        ):
            # libpq wants no spaces, and the password has some.
            with psycopg.connect(service.replace(" ", "%20"), autocommit=True) as session:
                session.execute(cast(LiteralString, sql))
    assert query(url, "SELECT status FROM action_proposals ORDER BY id") == [
        ("executing",),
        ("proposed",),
    ]
