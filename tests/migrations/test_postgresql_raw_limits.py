"""Limits and exclusive keys by raw SQL on PostgreSQL: what is accepted, what they refuse, and what nobody can change."""

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

LIMIT: Final = {
    "name": "drains",
    "action_name": "drain*",
    "window": 60.0,
    "max_starts": 2,
    "set_by": "x",
    "reason": "y",
}
REMOVE: Final = "UPDATE action_limits SET removed_at = now(), removed_by = 'x', remove_reason = 'y'"
PROPOSE: Final = """
    INSERT INTO action_proposals (action_name, parameters, reason, proposed_at, status, exclusive_key)
    VALUES (%s, %s, 'r', now(), %s, %s) RETURNING id"""
MOVE: Final = "UPDATE action_proposals SET status = %s WHERE id = %s"


@pytest.fixture
def db(server_ledger: str) -> Iterator[psycopg.Connection]:
    with connected(server_ledger) as connection:
        connection.autocommit = True
        yield connection


def refused(db: Any, sql: str, why: str, *values: Any) -> None:
    with pytest.raises(psycopg.Error, match=why):
        db.execute(sql, values)


def limit(db: Any, **values: Any) -> None:
    row = {**LIMIT, **values}
    columns = ", ".join(f'"{name}"' for name in row)
    marks = ", ".join(["%s"] * len(row))
    db.execute(f"INSERT INTO action_limits ({columns}) VALUES ({marks})", [*row.values()])


def drain(db: Any, status: str = "validated", parameters: str = "{}", key: Any = None) -> int:
    return db.execute(PROPOSE, ["drain", parameters, status, key]).fetchone()[0]


@pytest.mark.parametrize(
    ("wrong", "constraint"),
    [
        ({"name": " "}, "name"),
        ({"set_by": ""}, "set_by"),
        ({"reason": "\n"}, "reason"),
        ({"action_name": ""}, "action_name"),
        ({"agent_id": "a" * 256}, "agent_id"),
        ({"window": 0}, "window"),
        ({"window": "NaN"}, "window"),
        ({"window": "infinity"}, "window"),
        ({"max_starts": 0}, "max_starts"),
        ({"max_starts": None}, "max_sum"),
        ({"max_sum": 5}, "max_sum"),
        ({"sum_of": '["a"]'}, "max_sum"),
        ({"sum_of": "[]", "max_sum": 5}, "sum_of"),
        ({"sum_of": "[-1]", "max_sum": 5}, "sum_of"),
        ({"sum_of": "[1.5]", "max_sum": 5}, "sum_of"),
        ({"sum_of": '{"a":1}', "max_sum": 5}, "sum_of"),
        ({"sum_of": '["a"]', "max_sum": 0}, "max_sum"),
        ({"removed_at": "2020-01-01"}, "removed"),
        ({"removed_by": "x"}, "removed"),
    ],
    ids=str,
)
def test_only_what_the_ledger_takes_is_accepted(
    db: Any, wrong: dict[str, Any], constraint: str
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match=f"ck_action_limits_{constraint}"):
        limit(db, **wrong)


def test_a_limit_is_removed_once_and_never_edited(db: Any) -> None:
    limit(db)
    refused(db, "DELETE FROM action_limits", "never deleted")
    refused(db, "TRUNCATE action_limits", "never deleted")
    for change in ("name = 'z'", '"window" = 7', "max_starts = 9", "agent_id = 'a'"):
        refused(db, f"UPDATE action_limits SET {change}", "never edited")
        refused(db, f"{REMOVE}, {change}", "never edited")
    refused(db, "UPDATE action_limits SET removed_at = now()", "ck_action_limits_removed_by")
    with pytest.raises(psycopg.errors.UniqueViolation):
        limit(db)
    db.execute(REMOVE)
    refused(db, REMOVE, "never edited")
    limit(db)


def test_a_limit_holds_for_raw_sql(db: Any) -> None:
    first, second, _ = drain(db), drain(db), drain(db)
    limit(db)
    refused(db, "UPDATE action_proposals SET status = 'executing'", "limit_reached: limit 1 is")
    db.execute(MOVE, ["executing", first])
    drain(db, "executing")
    refused(db, MOVE, "action_proposals_limit_reached: limit 1 is reached", "executing", second)
    refused(db, PROPOSE, "action_proposals_limit_reached", "drain", "{}", "executing", None)
    other = db.execute(PROPOSE, ["other", "{}", "validated", None]).fetchone()[0]
    db.execute(MOVE, ["executing", other])
    db.execute(MOVE, ["failed", first])
    refused(db, MOVE, "action_proposals_limit_reached", "executing", second)
    with db.transaction():
        db.execute(REMOVE)
        db.execute(MOVE, ["executing", second])


def test_starts_are_neither_edited_nor_deleted_nor_invented(db: Any) -> None:
    limit(db)
    db.execute(MOVE, ["executing", drain(db)])
    for sql in ("DELETE FROM action_starts", "TRUNCATE action_starts"):
        refused(db, sql, "starts are never deleted")
    for sql in (
        "UPDATE action_starts SET given_back_at = now()",
        "UPDATE action_starts SET amount = 0",
        "INSERT INTO action_starts SELECT limit_id, 2, started_at, proposal_id, 0, 0 FROM action_starts",
    ):
        refused(db, sql, "only the triggers count starts")
    for back in ("true", "false"):
        refused(
            db,
            f"INSERT INTO action_limits_asked VALUES (1, 'drain', NULL, '{{}}', NULL, {back})",
            "only the triggers count starts",
        )


def test_an_exclusive_key_holds_for_raw_sql(db: Any) -> None:
    one, two = drain(db, key="store 5"), drain(db, key="store 5")
    refused(db, "UPDATE action_proposals SET status = 'executing'", "exclusive_busy")
    db.execute(MOVE, ["executing", one])
    refused(db, MOVE, "action_proposals_exclusive_busy", "executing", two)
    refused(db, PROPOSE, "action_proposals_exclusive_busy", "a", "{}", "executing", "store 5")
    refused(db, PROPOSE, "ck_action_proposals_exclusive_key", "a", "{}", "proposed", " ")
    refused(db, "UPDATE action_proposals SET exclusive_key = NULL", "can not be edited")
    db.execute(MOVE, ["completed", one])
    db.execute(MOVE, ["executing", two])


def test_a_snapshot_that_is_older_than_a_limit_or_a_start_starts_nothing(
    db: Any, server_ledger: str
) -> None:
    first, second = drain(db), drain(db)
    with connected(server_ledger) as old:
        for level in ("REPEATABLE READ", "SERIALIZABLE"):
            old.execute(cast(LiteralString, f"BEGIN ISOLATION LEVEL {level}"))
            old.execute("SELECT 1 FROM action_limits")
            limit(db, name=level)
            with pytest.raises(psycopg.errors.SerializationFailure, match="action_limits"):
                old.execute(MOVE, ["executing", first])
            old.rollback()
        old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT 1 FROM action_limits")
        db.execute(MOVE, ["executing", first])
        with pytest.raises(psycopg.errors.SerializationFailure, match="action_limits"):
            old.execute(MOVE, ["executing", second])
        old.rollback()
        old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        old.execute(MOVE, ["executing", second])
        old.rollback()


def test_a_start_waits_for_another_one_and_for_a_limit_that_is_replaced(
    db: Any, server_ledger: str
) -> None:
    first, second = drain(db), drain(db)
    limit(db, max_starts=1)
    with connected(server_ledger) as other, connected(server_ledger) as third:
        with other.transaction():
            other.execute(REMOVE)
            row = {**LIMIT, "max_starts": 0 + 1, "name": "new"}
            columns = ", ".join(f'"{name}"' for name in row)
            other.execute(
                cast(
                    LiteralString,
                    f"INSERT INTO action_limits ({columns}) VALUES ({', '.join(['%s'] * len(row))})",
                ),
                [*row.values()],
            )
            other.execute(MOVE, ["executing", first])
            third.execute("SET lock_timeout = 200")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                third.execute(MOVE, ["executing", second])
            third.rollback()
        with pytest.raises(psycopg.errors.IntegrityConstraintViolation, match="limit 2 is reached"):
            third.execute(MOVE, ["executing", second])


def test_a_flag_that_is_down_while_a_limit_is_open_is_found(db: Any, server_ledger: str) -> None:
    def flag() -> Any:
        found = check_up_server(parse_url(server_ledger))
        return next(each for each in found if each.subject == "limit flag")

    limit(db)
    assert flag().verdict is Verdict.OK
    db.execute("SELECT setval('action_governance_flag', -('action_limits'::regclass::oid::bigint))")
    assert flag().verdict is Verdict.BROKEN
    assert "limit 1 is open" in flag().text


def test_roles_that_could_write_before_the_upgrade_still_can(postgres: Databases) -> None:
    url = ledger_at(postgres, "0006")
    columns = "action_name, parameters, reason, proposed_at"
    query(
        url,
        f"INSERT INTO action_proposals ({columns}, status) VALUES ('a', '{{}}', 'r', now(), 'validated')",
    )
    with role(postgres, url, "mover") as mover:
        name = parse_url(mover).username or ""
        query(
            url,
            f'GRANT SELECT, UPDATE ON action_proposals TO "{name}"',
        )
        query(
            url,
            f'GRANT SELECT ON action_dependencies, action_halts, action_halts_flag TO "{name}"',
        )
        migrate.upgrade(url)
        query(
            url,
            "INSERT INTO action_limits (name, \"window\", max_starts, set_by, reason) VALUES ('a', 60, 1, 'x', 'y')",
        )
        # libpq wants no spaces, and the password has some.
        with psycopg.connect(mover.replace(" ", "%20"), autocommit=True) as session:
            session.execute("UPDATE action_proposals SET status = 'executing'")
            session.execute("UPDATE action_proposals SET status = 'failed'")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute("UPDATE action_starts SET given_back_at = now()")
    assert query(url, "SELECT count(*) FROM action_starts") == [(1,)]
