"""``operator-core db check`` finds what was done to the tables of a ledger on a server, and who may do what."""

from collections.abc import Iterator

import pytest

from operator_core.cli.findings import Verdict
from operator_core.db import migrate
from operator_core.db.migrate import postgresql
from operator_core.db.postgresql.connect import parse_url
from tests.cli.conftest import Invoke
from tests.cli.tampering import Server, made_on_server, server
from tests.databases import Databases, query
from tests.migrations.postgresql_tools import in_schema, role

__all__ = ["made_on_server", "server"]

REFUSE = "EXECUTE FUNCTION suppress_redundant_updates_trigger()"

SERVERS: dict[str, tuple[str, str, str]] = {
    "an added trigger": (
        "schema",
        f"CREATE TRIGGER mine BEFORE UPDATE ON action_records FOR EACH ROW {REFUSE}",
        "trigger action_records.mine is added",
    ),
    "a lost trigger": (
        "schema",
        "DROP TRIGGER action_events_not_deleted ON action_events",
        "trigger action_events.action_events_not_deleted is missing",
    ),
    "an added unique index": (
        "schema",
        "CREATE UNIQUE INDEX mine ON action_records (id, worker)",
        "index mine is added",
    ),
    "an added constraint": (
        "schema",
        "ALTER TABLE action_records ADD CONSTRAINT mine CHECK (worker != 'w') NOT VALID",
        "constraint action_records.mine is added",
    ),
    "an added column": (
        "schema",
        "ALTER TABLE action_records ADD mine text",
        "column action_records.mine is added",
    ),
    "a column that may be empty": (
        "schema",
        "ALTER TABLE action_events ALTER actor DROP NOT NULL",
        "column action_events.actor is changed",
    ),
    "a column of another collation": (
        "schema",
        'ALTER TABLE action_events ALTER actor TYPE text COLLATE "C"',
        "collation of action_events.actor is changed",
    ),
    "a sequence that goes round": (
        "schema",
        "ALTER TABLE action_events ALTER id SET CYCLE",
        "sequence of action_events.id is changed",
    ),
    "a disabled trigger": (
        "tables",
        "ALTER TABLE action_events DISABLE TRIGGER action_events_not_updated",
        "trigger action_events_not_updated on action_events is disabled",
    ),
    "a trigger for replicas": (
        "tables",
        "ALTER TABLE action_events ENABLE REPLICA TRIGGER action_events_not_updated",
        "trigger action_events_not_updated on action_events is for replicas only",
    ),
    "disabled foreign keys": (
        "tables",
        "ALTER TABLE action_records DISABLE TRIGGER ALL",
        "foreign key fk_action_records_proposal_id_action_proposals of action_records is not enforced",
    ),
    "foreign keys that their parents do not keep": (
        "tables",
        "ALTER TABLE tickets DISABLE TRIGGER ALL",
        "foreign key fk_workflows_ticket_id_tickets of workflows is not enforced",
    ),
    "a foreign key that nobody validated": (
        "tables",
        "ALTER TABLE workflows DROP CONSTRAINT fk_workflows_ticket_id_tickets, "
        "ADD CONSTRAINT fk_workflows_ticket_id_tickets FOREIGN KEY (ticket_id) REFERENCES tickets (id) NOT VALID",
        "foreign key fk_workflows_ticket_id_tickets of workflows is not enforced",
    ),
    "a rule": (
        "tables",
        "CREATE RULE mine AS ON INSERT TO action_records DO INSTEAD NOTHING",
        "rule mine on action_records rewrites its statements",
    ),
    "row level security": (
        "tables",
        "ALTER TABLE action_events ENABLE ROW LEVEL SECURITY",
        "row level security of action_events hides rows",
    ),
    "a policy that sleeps": (
        "tables",
        "CREATE POLICY mine ON action_proposals USING (id != 1)",
        "policy mine on action_proposals",
    ),
    "a child": (
        "tables",
        "CREATE TABLE mine () INHERITS (action_events)",
        "mine inherits from action_events",
    ),
    "a parent": (
        "tables",
        "CREATE TABLE mine (actor text NOT NULL); ALTER TABLE action_events INHERIT mine",
        "action_events inherits from mine",
    ),
    "a table that a crash empties": (
        "tables",
        "ALTER TABLE action_dependencies SET UNLOGGED",
        "action_dependencies is unlogged",
    ),
    "a changed helper": (
        "schema",
        "CREATE OR REPLACE FUNCTION action_ledger_is_status(value text) RETURNS boolean LANGUAGE plpgsql "
        "IMMUTABLE PARALLEL SAFE AS 'BEGIN RETURN true; END'",
        "function action_ledger_is_status(value text) is changed",
    ),
    "a helper with other settings": (
        "schema",
        "ALTER FUNCTION action_proposals_link(bigint[]) SET search_path = pg_temp, public",
        "function action_proposals_link(ids bigint[]) is changed",
    ),
    "a helper that runs with other rights": (
        "schema",
        "ALTER FUNCTION action_proposals_guard() SECURITY DEFINER",
        "function action_proposals_guard() is changed",
    ),
    "a helper by the same name": (
        "schema",
        "CREATE FUNCTION action_ledger_is_status(value varchar) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        "function action_ledger_is_status(value character varying) is added",
    ),
    "a next id that is taken": (
        "next ids",
        "SELECT setval(pg_get_serial_sequence('action_events', 'id'), 1)",
        "the next id of action_events was already used, or is out of range",
    ),
    "a next id that is the last": (
        "next ids",
        "SELECT setval(pg_get_serial_sequence('workflows', 'id'), 9223372036854775806)",
        "the next id of workflows was already used, or is out of range",
    ),
}


@pytest.mark.parametrize("what", SERVERS)
def test_what_the_tables_on_a_server_are_made_of_is_compared(server: Server, what: str) -> None:
    subject, script, said = SERVERS[what]
    server.run(script)
    found = server.bad()[subject]
    assert found.verdict is Verdict.BROKEN
    assert said in found.text


def test_what_refuses_nothing_on_a_server_is_a_warning(server: Server, invoke: Invoke) -> None:
    server.run(
        "CREATE INDEX mine ON action_proposals (reason);"
        "CREATE UNIQUE INDEX of_tickets ON tickets (status, id);"
        f"CREATE TRIGGER on_tickets BEFORE UPDATE ON tickets FOR EACH ROW {REFUSE};"
        "CREATE VIEW open_ones AS SELECT id FROM action_proposals;"
        "CREATE TABLE orders (id int PRIMARY KEY, proposal bigint REFERENCES action_proposals (id));"
        "CREATE FUNCTION action_proposals_mine() RETURNS int LANGUAGE sql AS 'SELECT 1';"
        "CREATE FUNCTION touch() RETURNS int LANGUAGE sql AS 'SELECT 1'"
    )
    bad = server.bad()
    assert set(bad) == {"additions"}
    for name in ("index mine", "index of_tickets", "trigger tickets.on_tickets"):
        assert f"{name} is added" in bad["additions"].text
    assert invoke("db", "check", *server.place).exit_code == 0


# ------ who may do what


@pytest.fixture
def eve(postgres: Databases, server: Server) -> Iterator[Server]:
    """The ledger as a service's role uses it, which has what `db grants` gives."""
    with role(postgres, server.url, "check_eve") as url:
        for duty in (None, *postgresql.Duty):
            server.run(postgresql.grants("public", name_of(url), migrate.VERSION_TABLE, duty))
        yield Server(url)


def name_of(url: str) -> str:
    return parse_url(url).username or ""


def test_what_db_grants_gives_is_clean(server: Server, eve: Server) -> None:
    server.run(f"GRANT INSERT, UPDATE, DELETE, REFERENCES ON tickets TO {name_of(eve.url)}")
    assert server.bad() == {}
    # Who may create no schema can't compare; all else it can.
    bad = eve.bad()
    assert set(bad) == {"schema"}
    assert bad["schema"].verdict is Verdict.WARNING
    assert "not compared" in bad["schema"].text


PRIVILEGES = {
    "DELETE on table action_proposals": "GRANT DELETE ON action_proposals TO {}",
    "TRUNCATE on table action_events": "GRANT TRUNCATE ON action_events TO {}",
    "TRUNCATE on table tickets": "GRANT TRUNCATE ON tickets TO {}",
    "TRIGGER on table action_records": "GRANT TRIGGER ON action_records TO {}",
    "TRIGGER on table tickets": "GRANT TRIGGER ON tickets TO {}",
    "REFERENCES on table action_proposals": "GRANT REFERENCES ON action_proposals TO {}",
    "INSERT on table action_events": "GRANT INSERT ON action_events TO {}",
    "INSERT on table action_dependencies": "GRANT INSERT ON action_dependencies TO {}",
    "UPDATE on column action_events.actor": "GRANT UPDATE (actor) ON action_events TO {}",
    "UPDATE on table action_decisions": "GRANT UPDATE ON action_decisions TO {}",
    "UPDATE on column action_rules.approvals": "GRANT UPDATE (approvals) ON action_rules TO {}",
    "UPDATE on table operator_core_alembic_version": "GRANT UPDATE ON operator_core_alembic_version TO {}",
    "DELETE on table action_records": "GRANT ALL ON ALL TABLES IN SCHEMA public TO {}",
    "UPDATE on sequence action_events_id_seq": "GRANT UPDATE ON SEQUENCE action_events_id_seq TO {}",
    "EXECUTE on function action_proposals_link": "GRANT EXECUTE ON FUNCTION action_proposals_link TO {}",
    "EXECUTE on function action_records_tell_started": "GRANT EXECUTE ON FUNCTION action_records_tell_started TO {}",
}


@pytest.mark.parametrize("said", PRIVILEGES)
@pytest.mark.parametrize("whom", ["eve", "everybody"])
def test_privileges_that_undo_a_promise_are_found(
    server: Server, eve: Server, said: str, whom: str
) -> None:
    name = name_of(eve.url)
    server.run(PRIVILEGES[said].format("PUBLIC" if whom == "everybody" else name))
    bad = server.bad()
    assert set(bad) == {"privileges"}
    assert bad["privileges"].verdict is Verdict.BROKEN
    grantee = whom if whom == "everybody" else name
    line = next(line for line in bad["privileges"].text.splitlines() if line.startswith(said))
    assert line.endswith(f"is granted to {grantee}")
    # And by who has them, too.
    assert eve.bad()["privileges"].verdict is Verdict.BROKEN


@pytest.mark.parametrize(
    "what",
    ["TABLE action_events", "FUNCTION action_proposals_tell_created()", "TABLE workflows"],
)
def test_what_belongs_to_another_role_is_a_warning(server: Server, eve: Server, what: str) -> None:
    name = name_of(eve.url)
    server.run(f"ALTER {what} OWNER TO {name}")
    owners = server.bad()["owners"]
    assert owners.verdict is Verdict.WARNING
    assert f"{what.lower().removesuffix('()')} belongs to {name}" in owners.text
    server.run(f"REASSIGN OWNED BY {name} TO CURRENT_USER")


@pytest.mark.parametrize("whom", ["eve", "PUBLIC"])
def test_who_may_create_in_the_schema_is_a_warning(
    server: Server, eve: Server, invoke: Invoke, whom: str
) -> None:
    server.run(f"GRANT CREATE ON SCHEMA public TO {name_of(eve.url) if whom == 'eve' else whom}")
    bad = server.bad()
    assert set(bad) == {"CREATE"}
    assert bad["CREATE"].verdict is Verdict.WARNING
    assert "CREATE on schema public is granted to" in bad["CREATE"].text
    assert invoke("db", "check", *server.place).exit_code == 0


def test_a_role_or_database_whose_triggers_sleep_is_found(
    postgres: Databases, server: Server, eve: Server
) -> None:
    here = parse_url(server.url).database
    elsewhere = parse_url(postgres.new()).database
    name = name_of(eve.url)
    server.run(f"ALTER ROLE {name} IN DATABASE {elsewhere} SET session_replication_role = replica")
    assert server.bad() == {}
    server.run(f"ALTER ROLE {name} IN DATABASE {here} SET session_replication_role = replica")
    assert f"for the role {name} in the database {here}" in server.bad()["triggers"].text
    server.run(f"ALTER DATABASE {here} SET session_replication_role = replica")
    triggers = server.bad()["triggers"]
    assert triggers.verdict is Verdict.BROKEN
    assert f"for every role in the database {here}" in triggers.text
    assert "is replica here" in triggers.text


def test_settings_that_the_ledger_can_not_pin_are_a_warning(server: Server, invoke: Invoke) -> None:
    """On its own connections it pins them; a service's own have what the database says."""
    server.run(
        f"ALTER DATABASE {parse_url(server.url).database} SET standard_conforming_strings = off"
    )
    bad = server.bad()
    assert set(bad) == {"settings"}
    assert bad["settings"].verdict is Verdict.WARNING
    assert "standard_conforming_strings is off: " in bad["settings"].text
    assert invoke("db", "check", *server.place).exit_code == 0


def test_rows_that_a_policy_hides_are_no_clean_ledger(server: Server, eve: Server) -> None:
    server.run(
        "ALTER TABLE action_events ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY mine ON action_events USING (proposal_id != 1)"
    )
    bad = eve.bad()
    assert bad["tables"].verdict is Verdict.BROKEN
    assert bad["history"].verdict is Verdict.BROKEN
    assert "row-level security" in bad["history"].text


@pytest.mark.parametrize("schema", ["ledger", 'Odd "Ledger"'])
def test_a_ledger_of_a_plain_role_in_a_schema_of_its_own_is_clean(
    postgres: Databases, schema: str
) -> None:
    url = postgres.new()
    quoted = '"' + schema.replace('"', '""') + '"'
    database = parse_url(url).database
    query(url, f"ALTER DATABASE {database} SET search_path = {quoted}")
    with role(postgres, url, "check_owner") as owner:
        query(url, f"CREATE SCHEMA {quoted} AUTHORIZATION {name_of(owner)}")
        query(url, f"GRANT CREATE ON DATABASE {database} TO {name_of(owner)}")
        migrate.upgrade(owner)
        assert Server(owner).bad() == {}
        assert Server(url).bad() == {}


def test_objects_of_another_schema_answer_for_none_of_the_ledgers(
    postgres: Databases, server: Server
) -> None:
    """A schema further behind in the search_path, with a function where the ledger's own was."""
    server.run(
        "CREATE SCHEMA evil;"
        "CREATE FUNCTION evil.action_ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "DROP TRIGGER action_events_not_deleted ON action_events;"
        "CREATE TRIGGER action_events_not_deleted BEFORE DELETE OR TRUNCATE ON action_events FOR EACH STATEMENT "
        "EXECUTE FUNCTION evil.action_ledger_refuse('the history is append-only');"
        "CREATE TABLE evil.operator_core_check (id int)"
    )
    bad = Server(in_schema(server.url, "public,evil")).bad()
    assert "trigger action_events.action_events_not_deleted is changed" in bad["schema"].text
