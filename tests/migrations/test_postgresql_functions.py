"""The schema's functions call what PostgreSQL ships and nothing else, whatever a session puts before it."""

import re
from collections.abc import Iterator
from typing import Any, Final

import psycopg
import pytest

from operator_core.db.migrate import postgresql
from operator_core.db.postgresql.connect import parse_url
from tests.databases import Databases, connected, query
from tests.migrations.postgresql_tools import DB, ledger_at, one, role, sql
from tests.migrations.tools import VERSION_TABLE

WITHOUT_A_PATH: Final = {
    "action_ledger_is_action_type",
    "action_ledger_is_status",
    "action_proposals_guard",
    "action_records_guard",
}
"""They run for each row, with the writer's rights; the test with a hostile schema is about them."""

OURS: Final = """
    SELECT DISTINCT proname, prosecdef, coalesce(proconfig, '{}'), prosrc, proacl::text
    FROM pg_proc LEFT JOIN pg_depend ON objid = pg_proc.oid AND deptype = 'e'
    WHERE pronamespace = 'public'::regnamespace AND objid IS NULL ORDER BY 1"""

OPERATOR: Final = re.compile(r"(?<![:>])(<=|>=|<>|!=|\|\||!~|=|<|>|\+|~)(?![=>])")
KEYWORDS: Final = re.compile(
    r"\b(IN|LIKE|ILIKE|SIMILAR|BETWEEN|USING|NULLIF|AT TIME ZONE|IS (NOT )?DISTINCT)\b"
)


def code(source: str) -> str:
    """A function's text without comments and literals, and without what is qualified."""
    source = re.sub(r"--.*", "", source)
    source = re.sub(r"'(?:[^']|'')*'", "''", source)
    source = re.sub(r"OPERATOR\(pg_catalog\.[^)]*\)", "", source)
    # Where these are no operators: assignments, options, loops.
    source = re.sub(r"(\bSET|,)\s+\w+ =(?= )", "", source.replace(":=", ""))
    source = re.sub(r"\b(ERRCODE|MESSAGE|SCHEMA|TABLE|CONSTRAINT) =", "", source)
    return re.sub(r"\bUSING\n|\bFOR \w+ IN\b|\bIN ARRAY\b|<<\w+>>", "", source)


@pytest.fixture(scope="module")
def functions(postgres: Databases) -> dict[str, tuple[bool, list[str], str, str]]:
    """All of the ledger's, by name: definer's rights, settings, text, privileges."""
    found = query(ledger_at(postgres, "head"), OURS)
    assert len({name for name, *_ in found}) == len(found) > 15
    return {name: (definer, config, text, acl) for name, definer, config, text, acl in found}


def test_every_function_has_a_path_of_its_own(functions: dict[str, Any]) -> None:
    path = "search_path=pg_catalog, pg_temp"
    without = {name for name, (_, config, *_) in functions.items() if path not in config}
    assert without == WITHOUT_A_PATH
    definers = {name for name, (definer, *_) in functions.items() if definer}
    assert not definers & WITHOUT_A_PATH
    assert definers >= {"action_proposals_link", "action_records_tell_started"}


def test_every_name_and_operator_says_its_schema(functions: dict[str, Any]) -> None:
    for name, (_, _, text, _) in functions.items():
        said = code(text)
        assert not OPERATOR.findall(said), name
        assert not KEYWORDS.findall(said), name
        called = set(re.findall(r"(?<![\w.%])([a-z_]\w*)\(", said))
        assert called <= {"coalesce", "greatest", "least"}, name
        types = set(re.findall(r"::(?!pg_catalog\.)(\w+)", said))
        # Words of the grammar.
        assert types <= {"bigint"}, name
        tables = set(
            re.findall(
                r"\b(?:FROM|JOIN|INSERT INTO|UPDATE)\s+(?:ONLY\s+)?([a-z_]\w*)\b(?![.(])", said
            )
        )
        assert tables <= {"created", "changed", "before", "started", "reached", "added"}, name


def test_what_runs_with_the_owners_rights_is_nobodys_to_call(functions: dict[str, Any]) -> None:
    for name, (definer, _, _, acl) in functions.items():
        if definer:
            assert "=X" not in (acl or "=X").replace("postgres=X", ""), name


def test_no_setting_of_a_session_is_read(functions: dict[str, Any]) -> None:
    read = {
        (name, setting)
        for name, (_, _, text, _) in functions.items()
        for setting in re.findall(r"current_setting\('([^']*)'", text)
    }
    # What a transaction is, and can't be any other after its first statement.
    assert read == {
        (name, "transaction_isolation")
        for name in (
            "action_halts_refusal",
            "action_halts_settle",
            "action_limits_start",
            "action_proposals_cancel_dependants",
            "action_rules_ask",
        )
    }
    assert not [name for name, (_, _, text, _) in functions.items() if "set_config" in text]


def as_role(url: str) -> DB:
    # libpq wants no spaces, and the passwords have some.
    return psycopg.connect(url.replace(" ", "%20"), autocommit=True)


# ------ a schema full of other things by the same names, before PostgreSQL's own

HOSTILE: Final = """
DO $do$
DECLARE
    each record;
    number int := 0;
BEGIN
    EXECUTE 'CREATE SCHEMA evil';
    EXECUTE 'CREATE FUNCTION evil.called() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION ''captured''; END $$';
    FOR each IN
        SELECT proname, pg_get_function_identity_arguments(p.oid) AS args, format_type(prorettype, NULL) AS result, proretset
        FROM pg_proc p WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND proname = ANY (%s)
            AND prorettype <> 'trigger'::regtype AND proargmodes IS NULL AND NOT (proargtypes::oid[] && ARRAY['internal'::regtype::oid, 'cstring'::regtype::oid])
    LOOP
        BEGIN
            EXECUTE format('CREATE FUNCTION evil.%%I(%%s) RETURNS %%s %%s LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.called(); END $$',
                each.proname, each.args, CASE WHEN each.proretset THEN 'SETOF' END, each.result);
        EXCEPTION WHEN others THEN NULL;
        END;
    END LOOP;
    FOR each IN
        SELECT oprname, format_type(oprleft, NULL) AS l, format_type(oprright, NULL) AS r, format_type(oprresult, NULL) AS result
        FROM pg_operator WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprkind = 'b'
            AND oprname = ANY ('{=,<>,<,>,<=,>=,||,+,-,~,!~,~~,!~~}')
            AND oprleft = ANY (%s::regtype[]) AND oprright = ANY (%s::regtype[])
    LOOP
        number := number + 1;
        EXECUTE format('CREATE FUNCTION evil.op%%s(a %%s, b %%s) RETURNS %%s LANGUAGE plpgsql AS $$ BEGIN PERFORM evil.called(); END $$', number, each.l, each.r, each.result);
        EXECUTE format('CREATE OPERATOR evil.%%s (leftarg = %%s, rightarg = %%s, function = evil.op%%s)', each.oprname, each.l, each.r, number);
    END LOOP;
    FOREACH each.oprname IN ARRAY '{text,bool,int8,int4,numeric,xid,jsonb,json,timestamptz,"interval"}'::text[] LOOP
        EXECUTE format('CREATE DOMAIN evil.%%I AS pg_catalog.%%I CHECK (evil.called())', each.oprname, each.oprname);
    END LOOP;
    FOREACH each.oprname IN ARRAY '{action_proposals,action_records,action_events,action_dependencies,created,changed,before,started}'::text[] LOOP
        EXECUTE format('CREATE TABLE evil.%%I (id bigint, CHECK (evil.called()))', each.oprname);
    END LOOP;
    EXECUTE 'GRANT USAGE ON SCHEMA evil TO PUBLIC';
END $do$
"""
TYPES: Final = [
    *("text", "bool", "bigint", "int", "timestamptz", "interval", "float8", "numeric", "xid"),
    *("anynonarray", "text[]", "bigint[]", "anycompatiblearray", "anyarray"),
]
FUNCTIONS: Final = [
    *(
        "clock_timestamp",
        "statement_timestamp",
        "length",
        "ascii",
        "ltrim",
        "btrim",
        "strpos",
        "translate",
    ),
    *(
        "unnest",
        "json_array_elements",
        "json_typeof",
        "jsonb_path_exists",
        "cardinality",
        "array_fill",
    ),
    *(
        "pg_notify",
        "pg_current_xact_id",
        "pg_current_snapshot",
        "current_setting",
        "set_config",
        "count",
        "max",
    ),
    *(
        "to_char",
        "timezone",
        "concat",
        "now",
        "json_array_elements_text",
        "pg_trigger_depth",
        "least",
    ),
]
IDS: Final = "id OPERATOR(pg_catalog.=) "


@pytest.fixture
def hostile(postgres: Databases) -> Iterator[DB]:
    """A session of a service's role that finds another's objects before PostgreSQL's."""
    url = ledger_at(postgres, "head")
    with role(postgres, url, "of_pg_hostile") as service:
        name = parse_url(service).username or ""
        query(url, postgresql.grants("public", name, VERSION_TABLE))
        with connected(url) as admin:
            with psycopg.ClientCursor(admin) as cursor:
                cursor.execute(HOSTILE, (FUNCTIONS, TYPES, TYPES))
            made = "SELECT count(*) FROM pg_operator WHERE oprnamespace = 'evil'::regnamespace"
            assert one(admin, made) > 50
        with as_role(service) as session:
            yield session


def test_nothing_of_a_schema_before_postgresqls_own_is_called(hostile: DB) -> None:
    db = hostile
    sql(db, "SET search_path = evil, pg_catalog, public, pg_temp")
    with pytest.raises(psycopg.errors.RaiseException, match="captured"):
        sql(db, "SELECT 'a'::pg_catalog.text = 'b'::pg_catalog.text")
    sql(db, "INSERT INTO public.workflows (name) VALUES ('w')")
    insert = "INSERT INTO public.action_proposals (action_name, parameters, reason, proposed_at, status, depends_on, expires_at) VALUES "
    sql(db, insert + "('a', '{\"n\": 1e400}', 'r', '2026-01-01', 'validated', NULL, '2999-01-01')")
    for name, needed in (("b", "[1]"), ("\u00fc", "[1]"), ("d", "[3, 2]")):
        row = f"('{name}', '{{}}', 'r', '2026-01-01', 'validated', '{needed}', NULL)"
        sql(db, insert + row)
    move = "UPDATE public.action_proposals SET status = '{}' WHERE " + IDS + "{}"
    with pytest.raises(psycopg.errors.IntegrityError, match="dependency_pending"):
        sql(db, move.format("executing", 2))
    with pytest.raises(psycopg.errors.IntegrityError, match="lifecycle"):
        sql(db, move.format("completed", 1))
    sql(db, move.format("executing", 1))
    record = "INSERT INTO public.action_records (proposal_id, worker, lease_expires_at) VALUES ({}, 'w', '2026-01-01')"
    sql(db, record.format(1))
    sql(
        db,
        "UPDATE public.action_records SET completed_at = '2026-01-02', success = false, error_message = 'e'",
    )
    sql(db, move.format("failed", 1))
    with pytest.raises(psycopg.errors.IntegrityError, match="proposal_ended"):
        sql(db, record.format(1))
    sql(db, insert + "('late', '{}', 'r', '2026-01-01', 'validated', '[2]', NULL)")
    sql(db, "SELECT public.action_ledger_readable(parameters) FROM public.action_proposals")
    sql(db, "RESET search_path")
    told = "SELECT proposal_id, event_type, to_status FROM public.action_events ORDER BY id"
    assert sql(db, told)[4:] == [
        (1, "status_changed", "executing"),
        (1, "record_started", None),
        (1, "record_finished", None),
        (1, "status_changed", "failed"),
        (2, "status_changed", "cancelled"),
        (3, "status_changed", "cancelled"),
        (4, "status_changed", "cancelled"),
        (5, "proposal_created", "validated"),
        (5, "status_changed", "cancelled"),
    ]


# ------ who may create in the ledger's schema

CAPTURE: Final = """
CREATE FUNCTION public.{}({}) RETURNS {} LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE 'ALTER ROLE ' || quote_ident(session_user) || ' SUPERUSER';
    RETURN {};
END $$"""
CAPTURES: Final = [
    ("cardinality", "bigint[]", "int", "1"),
    ("clock_timestamp", "", "timestamptz", "pg_catalog.now()"),
    ("unnest", "bigint[]", "SETOF bigint", ""),
    ("json_array_elements", "json", "SETOF json", ""),
    ("pg_notify", "text, text", "void", ""),
    ("length", "text", "int", "1"),
]


def test_who_may_create_in_the_schema_becomes_nobody_else(postgres: Databases) -> None:
    url = ledger_at(postgres, "head")
    with role(postgres, url, "of_pg_creator") as service:
        name = parse_url(service).username or ""
        query(url, postgresql.grants("public", name, VERSION_TABLE))
        query(url, f'GRANT CREATE ON SCHEMA public TO "{name}"')
        with as_role(service) as db:
            for capture in CAPTURES:
                sql(db, CAPTURE.format(*capture))
            sql(db, "CREATE FUNCTION public.evil(text, text) RETURNS text LANGUAGE sql RETURN 'x'")
            sql(
                db,
                "CREATE OPERATOR public.|| (leftarg = text, rightarg = text, function = public.evil)",
            )
            insert = "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at, depends_on) VALUES "
            sql(db, insert + "('a', '{}', 'r', now(), NULL), ('a', '{}', 'r', now(), '[1]')")
            sql(db, "UPDATE action_proposals SET status = 'cancelled' WHERE id = 1")
            assert one(db, "SELECT status FROM action_proposals WHERE id = 2") == "cancelled"
            assert one(db, "SELECT usesuper FROM pg_user WHERE usename = current_user") is False


def test_the_grants_take_create_from_everybody(postgres: Databases) -> None:
    url = ledger_at(postgres, "head")
    with (
        role(postgres, url, "of_pg_granted") as service,
        role(postgres, url, "of_pg_other") as other,
    ):
        name = parse_url(service).username or ""
        query(
            url,
            f'GRANT CREATE ON SCHEMA public TO PUBLIC; GRANT CREATE ON SCHEMA public TO "{name}"',
        )
        script = postgresql.grants("public", name, VERSION_TABLE)
        assert "\n-- Nobody creates in the ledger's schema" in script
        query(url, script)
        for each in (service, other):
            with as_role(each) as db, pytest.raises(psycopg.errors.InsufficientPrivilege):
                sql(db, "CREATE FUNCTION public.cardinality(bigint[]) RETURNS int RETURN 1")


CHANGES: Final = [
    "ALTER FUNCTION {} RESET search_path",
    "ALTER FUNCTION {} SECURITY INVOKER",
    "ALTER FUNCTION {} STABLE",
    "ALTER FUNCTION {} SET work_mem = '64kB'",
]


@pytest.mark.parametrize("change", CHANGES)
def test_the_catalogue_tells_a_changed_function(postgres: Databases, change: str) -> None:
    from sqlalchemy import create_engine

    url = ledger_at(postgres, "head")
    engine = create_engine(url.replace("://", "+psycopg://", 1))
    with engine.connect() as conn:
        before = postgresql.catalogue(conn)
        names = [name for name in before if name.startswith("function ")]
        assert {"function action_ledger_readable(document json)"} < set(names)
        conn.exec_driver_sql(change.format("action_proposals_link(bigint[])"))
        after = postgresql.catalogue(conn)
        assert {name for name in before if before[name] != after[name]} == {
            "function action_proposals_link(ids bigint[])"
        }
        conn.exec_driver_sql("DROP FUNCTION action_ledger_readable(json)")
        assert "function action_ledger_readable(document json)" not in postgresql.catalogue(conn)
    engine.dispose()
