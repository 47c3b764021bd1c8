"""A service's role can use the ledger, and can neither change its schema nor forge its history.

The schema belongs to a role that is no superuser either, as where a deploy has a role of its own.
"""

from collections.abc import Iterator
from typing import LiteralString, NamedTuple, cast

import psycopg
import pytest

from operator_core.actions import (
    ActionRecord,
    ActionStatus,
    InvalidTransition,
    NotFound,
    PermissionDenied,
    SchemaOutdated,
)
from operator_core.db import ActionDB, migrate
from operator_core.db.migrate import postgresql
from operator_core.db.postgresql.connect import parse_url
from tests.conftest import proposal
from tests.databases import Databases, query
from tests.migrations.postgresql_tools import (
    alembic_here,
    ledger_at,
    psql,
    role,
    snapshot,
    variant,
)
from tests.migrations.tools import VERSION_TABLE, Rows

ROWS: LiteralString = """
INSERT INTO tickets (violation_key, invariant_name, first_seen_at, last_seen_at, message)
    VALUES ('hot', 'i', '2026-01-01', '2026-01-02', 'm');
INSERT INTO action_proposals (ticket_id, action_name, parameters, reason, status, proposed_at)
    VALUES (1, 'move', '{}', 'r', 'completed', '2026-01-01 12:00+00');
INSERT INTO action_records (proposal_id, started_at, completed_at, success)
    VALUES (1, '2026-01-01 12:00+00', '2026-01-01 13:00+00', true);
"""


class Ledger(NamedTuple):
    """The URLs by which three roles use one ledger."""

    admin: str
    owner: str
    service: str


@pytest.fixture(
    scope="module",
    params=[("ledger", "service"), ('Odd "Ledger"', 'odd "rôle" %s:/@')],
    ids=["plain names", "odd names"],
)
def ledger(
    request: pytest.FixtureRequest,
    postgres: Databases,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Ledger]:
    """A ledger at head with a ticket and a finished proposal; who makes more undoes it."""
    schema, name = request.param
    quoted = '"' + schema.replace('"', '""') + '"'
    url = postgres.new()
    database = url.rpartition("/")[2]
    query(url, f"ALTER DATABASE {database} SET search_path = {quoted}")
    with role(postgres, url, "owner") as owner, role(postgres, url, name) as service:
        query(url, f'CREATE SCHEMA {quoted} AUTHORIZATION "{name_of(owner)}"')
        # As it is where functions are nobody's unless they are granted.
        by(owner, "ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC")
        migrate.upgrade(owner)
        by(owner, ROWS)
        script = postgresql.grants(schema, name_of(service), VERSION_TABLE)
        # It can be run again.
        psql(url, script + "\n" + script, tmp_path_factory.mktemp("grants"))
        yield Ledger(url, owner, service)


def name_of(url: str) -> str:
    return parse_url(url).username or ""


def by(url: str, sql: str, *parameters: object) -> Rows:
    """As `query`, which leaves a space in a role's name as it is, and libpq does not want one."""
    with psycopg.connect(url.replace(" ", "%20"), autocommit=True) as connection:
        cursor = connection.execute(cast(LiteralString, sql), parameters or None)
        return cursor.fetchall() if cursor.description else []


async def test_everything_of_the_ledger_works(ledger: Ledger) -> None:
    async with ActionDB(ledger.service, actor="worker") as db:
        made = await db.create_proposal(proposal("granted", ticket_id=1))
        many = await db.create_proposals([proposal("granted") for _ in range(3)])
        with pytest.raises(NotFound):
            await db.create_proposal(proposal(ticket_id=99))
        await db.update_proposal_status(made.id, ActionStatus.VALIDATED, reason="fits")
        with pytest.raises(InvalidTransition):
            await db.update_proposal_status(made.id, ActionStatus.COMPLETED)
        async with db.transaction() as tx:
            await tx.update_proposal_status(made.id, ActionStatus.EXECUTING)
            record = await tx.create_record(ActionRecord(proposal_id=made.id or 0))
        await db.update_record(record.id, success=False, error_message="no leader")
        await db.update_proposal_status(made.id, ActionStatus.FAILED)
        assert [
            each.id for each in await db.list_proposals(action_name="granted", ticket_id=1)
        ] == [made.id]
        assert (await db.count_proposals())[ActionStatus.PROPOSED] == 3
        assert await db.cancel_all_pending() == 3
        assert (await db.get_records_for_proposal(made.id))[0].success is False
        assert [str(event.event_type) for event in await db.history(made.id)] == [
            "proposal_created",
            "status_changed",
            "status_changed",
            "record_started",
            "record_finished",
            "status_changed",
        ]
        assert len(await db.history(many[0].id)) == 2
        await db.create_proposal(proposal("granted", status=ActionStatus.VALIDATED))
        (claim,) = await db.claim("w", action_names=["granted"])
        await db.heartbeat(claim.record.id)
        await db.complete(claim.record.id, {"done": True})
        assert (await db.wait_for(claim.proposal.id or 0)).status is ActionStatus.COMPLETED
        lost = await db.create_proposal(proposal("granted", status=ActionStatus.VALIDATED))
        claim = await db.claim_proposal(lost.id, "w")
        await db.fail(claim.record.id, "lost", outcome_unknown=True)
        (unknown,) = await db.unresolved()
        await db.resolve_outcome(unknown.id, by="mia", succeeded=True, evidence="seen")
        assert (await db.wait_for(lost.id)).status is ActionStatus.COMPLETED


def test_raw_sql_of_the_service_is_told_too(ledger: Ledger) -> None:
    (id_,) = by(
        ledger.service,
        "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at) "
        "VALUES ('a', '{}', 'r', now()) RETURNING id",
    )[0]
    by(ledger.service, "UPDATE action_proposals SET status = 'cancelled' WHERE id = %s", id_)
    told = "SELECT to_status, actor FROM action_events WHERE proposal_id = %s ORDER BY id"
    assert by(ledger.service, told, id_) == [("proposed", "raw SQL"), ("cancelled", "raw SQL")]


EVENT = "(proposal_id, event_type, actor, occurred_at) VALUES (1, 'status_changed', 'alice', now())"


@pytest.mark.parametrize(
    "sql",
    [
        f"INSERT INTO action_events {EVENT}",
        "UPDATE action_events SET actor = 'eve'",
        "DELETE FROM action_events",
        "TRUNCATE action_events",
        "TRUNCATE action_proposals CASCADE",
        "DELETE FROM action_proposals",
        "DELETE FROM action_records",
        "UPDATE tickets SET held = true",
        f"UPDATE {VERSION_TABLE} SET version_num = '0001'",
        "SELECT setval('action_proposals_id_seq', 1)",
        "CREATE TABLE mine (id bigint)",
        "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "DROP TABLE action_events",
        "DROP TRIGGER action_events_not_updated ON action_events",
        "DROP FUNCTION action_ledger_refuse() CASCADE",
        "ALTER FUNCTION action_proposals_guard() RESET ALL",
        "ALTER TABLE action_proposals DISABLE TRIGGER ALL",
        "ALTER TABLE action_proposals DISABLE TRIGGER action_proposals_guard",
        "ALTER TABLE action_proposals DROP CONSTRAINT ck_action_proposals_status",
        "ALTER TABLE action_events ADD mine text",
        "ALTER TABLE action_events ENABLE ROW LEVEL SECURITY",
        "CREATE RULE mine AS ON INSERT TO action_proposals DO INSTEAD NOTHING",
        "CREATE TRIGGER mine BEFORE UPDATE ON action_proposals EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE INDEX mine ON action_proposals (reason)",
        "BEGIN; LOCK TABLE action_events IN ACCESS EXCLUSIVE MODE",
        "SET session_replication_role = replica",
        f"GRANT INSERT ON action_events TO CURRENT_USER; INSERT INTO action_events {EVENT}",
        "DO $$ BEGIN EXECUTE format('ALTER SCHEMA %I RENAME TO mine', current_schema()); END $$",
    ],
    ids=lambda sql: sql[:40],
)
def test_neither_the_schema_nor_the_history_is_the_services_to_change(
    ledger: Ledger, sql: str
) -> None:
    before = snapshot(ledger.admin)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        by(ledger.service, sql)
    assert snapshot(ledger.admin) == before


@pytest.mark.parametrize(
    ("function", "event", "columns", "values"),
    [
        (
            "action_proposals_tell_created",
            "INSERT ON mine REFERENCING NEW TABLE AS created",
            "id bigint, status text, status_changed_by text, reason text",
            "(1, 'completed', 'alice', 'forged')",
        ),
        (
            "action_proposals_tell_changed",
            "UPDATE ON mine REFERENCING OLD TABLE AS before NEW TABLE AS changed",
            "id bigint, status text, status_changed_by text, status_reason text",
            "(1, 'completed', 'alice', 'forged')",
        ),
        *(
            (
                f"action_records_tell_{name}",
                event,
                "id bigint, proposal_id bigint, started_by text, completed_at timestamptz, success bool, "
                "completed_by text, error_message text",
                "(1, 1, 'alice', now(), true, 'alice', 'forged')",
            )
            for name, event in (
                ("started", "INSERT ON mine REFERENCING NEW TABLE AS started"),
                ("finished", "UPDATE ON mine REFERENCING NEW TABLE AS changed"),
            )
        ),
    ],
    ids=lambda text: text[:30],
)
def test_what_tells_the_history_listens_to_no_table_of_the_services(
    ledger: Ledger, function: str, event: str, columns: str, values: str
) -> None:
    """They write with their owner's rights; a trigger on a temporary table would let them tell anything."""
    before = snapshot(ledger.admin)
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match=f"for function {function}"):
        by(
            ledger.service,
            f"CREATE TEMP TABLE mine ({columns});"
            f"CREATE TRIGGER mine AFTER {event} EXECUTE FUNCTION {function}();"
            f"INSERT INTO mine VALUES {values}; UPDATE mine SET id = 1",
        )
    assert snapshot(ledger.admin) == before


@pytest.fixture
def behind(postgres: Databases) -> Iterator[Ledger]:
    """A ledger that went back to 0001 under a service that has its grants."""
    url = ledger_at(postgres, "head")
    with role(postgres, url, "service") as service:
        query(url, postgresql.grants("public", name_of(service), VERSION_TABLE))
        alembic_here(url, "downgrade", "0001")
        yield Ledger(url, url, service)


async def test_what_is_behind_says_so_to_the_service_too(behind: Ledger) -> None:
    with pytest.raises(SchemaOutdated, match="is at 0001, this code needs"):
        async with ActionDB(behind.service):
            pass


def test_a_service_can_not_run_the_deploy(behind: Ledger) -> None:
    before = snapshot(behind.admin)
    with pytest.raises(PermissionDenied, match="permission denied for schema public"):
        migrate.upgrade(behind.service)
    assert snapshot(behind.admin) == before


async def test_without_its_grants_a_service_is_told_what_it_needs(
    postgres: Databases, server_ledger: str
) -> None:
    with role(postgres, server_ledger, "ungranted") as service:
        for url in (service, variant(service, drivername="postgresql+psycopg")):
            with pytest.raises(PermissionDenied, match="`operator-core db grants ROLE` prints"):
                async with ActionDB(url):
                    pass
