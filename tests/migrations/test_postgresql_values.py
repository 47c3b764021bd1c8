"""Whatever a service's role inserts is refused, or survives every UPDATE that the ledger makes, and stops nobody."""

from collections.abc import Iterator
from typing import Final

import psycopg
import pytest
from psycopg.errors import CheckViolation

from operator_core.actions import ActionStatus
from operator_core.db import ActionDB
from operator_core.db.migrate import postgresql
from operator_core.db.postgresql.connect import parse_url
from tests.actions.traces import NO_TRACES, TRACES
from tests.conftest import proposal
from tests.databases import Databases, connected, query
from tests.migrations.postgresql_tools import DB, one, role, sql
from tests.migrations.tools import VERSION_TABLE

S = ActionStatus

INSERT: Final = "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at"
SPACES: Final = "E' \\t\\n\\u00a0\\u2003\\u3000\\u0085'"
TIMES: Final = ("'infinity'", "'-infinity'", "'1969-12-31 23:59:59+00'", "'9999-01-01 00:00+00'")

TIMED: Final = (
    *("proposed_at", "validated_at", "cancelled_at", "created_at"),
    *("scheduled_at", "expires_at", "status_changed_at"),
)

PROPOSED: Final = {
    "priority": ("-32769", "32768", "2147483647", "-2147483648"),
    "max_retries": ("-1", "1001", "2147483647", "-2147483648"),
    "retry_delay": ("-1", "-1e300", "604800.1", "1e308", "'NaN'", "'infinity'", "'-infinity'"),
    "max_retry_delay": ("-1e-9", "-1e300", "1e300", "'NaN'", "'infinity'", "'-infinity'"),
    "idempotency_key": ("''", SPACES, "repeat('k', 256)"),
    "proposed_by": ("''", SPACES, "repeat('p', 256)"),
    "depends_on": (
        *("'{}'", "'1'", "'\"1\"'", "'null'", "'[\"1\"]'", "'[1.0]'", "'[1e0]'", "'[0]'", "'[-1]'"),
        *("'[1, 1]'", "'[1, 2, 1]'", "'[null]'", "'[[1]]'", "'[true]'", "'[1, \"2\"]'"),
        *("'[4611686018427387904]'", "'[9223372036854775808]'", "'[99999999999999999999]'"),
        "(SELECT json_agg(n) FROM generate_series(1, 1001) n)",
    ),
    **dict.fromkeys(TIMED, TIMES),
    # Below created_at it is set to that.
    "updated_at": ("'infinity'", "'9999-01-01 00:00+00'"),
    "wait_on_failure": ("NULL",),
    "status": ("'done'", "''", "'Proposed'"),
    **dict.fromkeys(
        ("requester_id", "agent_id", "run_id", "call_id"), ("''", SPACES, "repeat('i', 256)")
    ),
    "requester_type": ("''", "'User'", "'robot'"),
    "traceparent": tuple(f"$${trace}$$" for trace in NO_TRACES),
    "action_type": ("'magic'", "''"),
}
CHECKED: Final = {
    "action_name": ("''", SPACES, "repeat('n', 256)", "NULL"),
    "reason": ("''", SPACES, "repeat('r', 65537)", "NULL"),
    "parameters": ("NULL",),
}
KEPT: Final = {
    "version": ("9223372036854775807", "-9223372036854775808", "0", "2"),
    "retry_count": ("2147483647", "-2147483648", "1"),
    "next_retry_at": ("'2020-01-01'", "'9998-12-31'"),
    "last_error": ("'e'", "repeat('e', 2000000)"),
    "updated_at": ("'1970-01-01'",),
}
TAKEN: Final = {
    "priority": ("-32768", "32767"),
    "max_retries": ("0", "1000"),
    "retry_delay": ("0", "5e-324", "604800"),
    "max_retry_delay": ("0", "604800"),
    "idempotency_key": ("repeat('\u00fc', 255)",),
    "depends_on": ("'[ ]'", "NULL", "E'[\\n1 ,\\t2]'"),
    "updated_at": ("'9998-12-31 23:59:59.999999+00'",),
    "created_at": ("'9998-12-31 23:59:59.999999+00'", "'1970-01-01 00:00+00'"),
    "status_changed_at": ("'9998-12-31 23:59:59.999999+00'", "'1970-01-01 00:00+00'", "NULL"),
    "status_changed_by": ("''", "'ledger'", "repeat('x', 100000)"),
    "status_reason": ("'proposal 1, which it depends on, failed'", "repeat('x', 100000)"),
    **dict.fromkeys(
        ("requester_id", "agent_id", "run_id", "call_id"), ("NULL", "repeat('\u00fc', 255)")
    ),
    "requester_type": ("NULL", "'user'", "'system'", "'agent'"),
    "traceparent": ("NULL", *(f"'{trace}'" for trace in TRACES)),
    "parent_id": ("NULL",),
    "scheduled_at": ("'1970-01-01 00:00+00'",),
    "expires_at": ("'9998-12-31 23:59:59.999999+00'",),
    "parameters_": ("'[]'", "'1'", "'null'", "'{\"n\": 1e400}'"),
}


def each(values: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(column, value) for column, some in values.items() for value in some]


def insert(column: str, value: str, status: str = "proposed") -> str:
    """An INSERT of one proposal in which one column has this value."""
    values = {
        "action_name": "'a'",
        "parameters": "'{}'",
        "reason": "'r'",
        "proposed_at": "'2026-01-01'",
        "status": f"'{status}'",
        "max_retries": "1",
        "retry_delay": "0",
        "status_changed_by": "'x'",
        column.strip("_"): value,
    }
    return f"INSERT INTO action_proposals ({', '.join(values)}) VALUES ({', '.join(values.values())}) RETURNING id"


@pytest.fixture
def service(postgres: Databases, server_ledger: str) -> Iterator[str]:
    """The URL by which a role with the service's grants uses an empty ledger."""
    with role(postgres, server_ledger, "of_pg_values") as url:
        name = parse_url(url).username or ""
        query(server_ledger, postgresql.grants("public", name, VERSION_TABLE))
        yield url


@pytest.fixture
def db(service: str) -> Iterator[DB]:
    # libpq wants no spaces, and the password has some.
    with psycopg.connect(service.replace(" ", "%20"), autocommit=True) as session:
        sql(session, f"{INSERT}) VALUES ('a', '{{}}', 'r', now()), ('a', '{{}}', 'r', now())")
        yield session


@pytest.mark.parametrize(("column", "value"), each(PROPOSED) + each(CHECKED))
def test_what_the_model_refuses_the_database_refuses(db: DB, column: str, value: str) -> None:
    with pytest.raises(psycopg.Error) as caught:
        sql(db, insert(column, value))
    state = caught.value.sqlstate or ""
    assert state.startswith("23"), caught.value
    named = "times" if column.endswith("_at") else column
    if state == "23514":
        assert caught.value.diag.constraint_name == f"ck_action_proposals_{named}"
    assert one(db, "SELECT count(*) FROM action_proposals") == 2


@pytest.mark.parametrize(("column", "value"), each(KEPT))
def test_what_the_ledger_keeps_is_set_whatever_is_said(db: DB, column: str, value: str) -> None:
    sql(db, insert(column, value, "failed"))
    kept = "SELECT version, retry_count, next_retry_at, last_error, updated_at >= created_at FROM action_proposals"
    assert set(sql(db, kept)) == {(1, 0, None, None, True)}


@pytest.mark.parametrize(("column", "value"), [*each(TAKEN), *each(KEPT)])
async def test_what_is_taken_survives_every_update_and_stops_nobody(
    service: str, server_ledger: str, db: DB, column: str, value: str
) -> None:
    sql(db, "UPDATE action_proposals SET status = 'cancelled'")
    odd = one(db, insert(column, value, "validated"))
    async with ActionDB(service) as ledger:
        plain = await ledger.create_proposals(
            [proposal(status=S.VALIDATED, max_retries=1, retry_delay=0.0) for _ in range(2)]
        )
        # Failed, put back, run again, and left by its worker.
        records = {each.proposal.id: each.record.id for each in await ledger.claim("w", limit=9)}
        assert records.keys() >= {each.id for each in plain}
        assert await ledger.fail_many(dict.fromkeys(records.values(), "e")) == []
        again = await ledger.claim("w", limit=9)
        assert len(again) >= 2
        with connected(server_ledger) as admin:
            sql(
                admin,
                "UPDATE action_records SET lease_expires_at = '2026-01-01' WHERE completed_at IS NULL",
            )
        assert len(await ledger.recover_expired()) == len(again)
        made = await ledger.create_proposals([proposal(), proposal()])
        assert await ledger.cancel_all_pending(reason="stop") >= 2
        ended = [S.CANCELLED] * 2 + [S.FAILED] * 2
        found = [await ledger.get_proposal(each.id) for each in (*made, *plain)]
        assert [each and each.status for each in found] == ended
    status = one(db, f"SELECT status FROM action_proposals WHERE id = {odd}")
    assert status in ("cancelled", "failed")


RECORDED: Final = [
    ("worker", {"worker": "''"}),
    ("worker", {"worker": SPACES}),
    ("worker", {"worker": "repeat('w', 256)"}),
    ("lease_expires_at", {"lease_expires_at": "now()"}),
    (
        "error_message",
        {"error_message": "repeat('e', 1048577)", "success": "false", "completed_at": "now()"},
    ),
    *(("times", {name: time}) for name in ("started_at", "created_at") for time in TIMES),
    *(("times", {"worker": "'w'", "lease_expires_at": time}) for time in TIMES),
    *(("times", {"success": "true", "completed_at": time}) for time in TIMES),
]


@pytest.mark.parametrize(("named", "values"), RECORDED)
def test_a_record_that_the_model_refuses_is_refused(
    db: DB, named: str, values: dict[str, str]
) -> None:
    columns, given = ", ".join(values), ", ".join(values.values())
    with pytest.raises(CheckViolation) as caught:
        sql(db, f"INSERT INTO action_records (proposal_id, {columns}) VALUES (1, {given})")
    assert caught.value.diag.constraint_name == f"ck_action_records_{named}"


@pytest.mark.parametrize("table", ["action_proposals", "action_records", "workflows"])
@pytest.mark.parametrize("id_", [0, -1, 2**62, 2**63 - 1])
def test_an_id_at_the_end_of_the_range_is_refused(db: DB, table: str, id_: int) -> None:
    columns, values = {
        "action_proposals": (
            "action_name, parameters, reason, proposed_at",
            "'a', '{}', 'r', now()",
        ),
        "action_records": ("proposal_id", "1"),
        "workflows": ("name", "'w'"),
    }[table]
    with pytest.raises(CheckViolation) as caught:
        sql(
            db,
            f"INSERT INTO {table} (id, {columns}) OVERRIDING SYSTEM VALUE VALUES ({id_}, {values})",
        )
    assert caught.value.diag.constraint_name == f"ck_{table}_id"
    sql(db, f"INSERT INTO {table} ({columns}) VALUES ({values})")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("name", value) for value in ("''", SPACES, "repeat('n', 256)", "NULL")),
        *(("description", value) for value in ("''", SPACES, "repeat('d', 65537)")),
        *(("created_at", value) for value in TIMES),
        *(("updated_at", value) for value in TIMES),
    ],
)
def test_a_workflow_that_the_model_refuses_is_refused(db: DB, column: str, value: str) -> None:
    values = {"name": "'w'", column: value}
    with pytest.raises(psycopg.errors.IntegrityError):
        sql(
            db, f"INSERT INTO workflows ({', '.join(values)}) VALUES ({', '.join(values.values())})"
        )


@pytest.mark.parametrize(
    "change",
    [
        "name = 'x'",
        "description = 'x'",
        "ticket_id = NULL",
        "created_at = '2020-01-01'",
        "id = DEFAULT",
    ],
)
def test_a_workflow_never_changes(server_ledger: str, change: str) -> None:
    with connected(server_ledger) as db:
        sql(
            db,
            "INSERT INTO tickets (violation_key, invariant_name, first_seen_at, last_seen_at, message) "
            "VALUES ('v', 'i', 't', 't', 'm')",
        )
        sql(db, "INSERT INTO workflows (name, ticket_id) VALUES ('w', 1)")
        with pytest.raises(psycopg.errors.IntegrityError, match=r"^workflows_immutable: "):
            sql(db, f"UPDATE workflows SET {change}")
        sql(db, "UPDATE workflows SET name = name, updated_at = '2999-01-01'")


def test_what_depends_on_what_is_only_said_with_the_proposal(server_ledger: str) -> None:
    with connected(server_ledger) as db:
        sql(db, f"{INSERT}) VALUES ('a', '{{}}', 'r', now()), ('a', '{{}}', 'r', now())")
        with pytest.raises(psycopg.errors.IntegrityError, match=r"^action_dependencies_linked: "):
            sql(db, "INSERT INTO action_dependencies VALUES (2, 1)")
