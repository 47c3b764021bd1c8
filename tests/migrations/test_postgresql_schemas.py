"""Ledgers in schemas of their own: each finds its tables and no others, whoever calls from where."""

import re

import pytest

from operator_core.actions import ActionRecord, ActionStatus, SchemaOutdated, UnmanagedSchema
from operator_core.db import ActionDB, migrate
from tests.conftest import proposal
from tests.databases import Databases, connected, query
from tests.migrations.postgresql_tools import (
    PLAIN_ROWS,
    alembic,
    alembic_here,
    catalogue,
    columns,
    contents,
    in_schema,
    ledger_at,
    made_by,
    sql,
    variant,
    version,
)
from tests.migrations.tools import VERSION_TABLE, Rows

IN_PUBLIC = "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace"
IN_PUBLIC += " UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"


@pytest.fixture
def fresh(postgres: Databases) -> Rows:
    return made_by(postgres, "head")


def as_in_public(url: str, schema: str) -> Rows:
    """The catalogue of a ledger as it would be in public: some definitions name the schema."""
    # What a trigger does by itself is done by 'ledger', in whichever schema.
    named = re.compile(rf"(?<!_by = ')(?<!, ')\b{schema}\b")
    return [
        (kind, name, named.sub("public", definition)) for kind, name, definition in catalogue(url)
    ]


@pytest.mark.parametrize("driver", ["postgresql", "postgresql+psycopg"])
async def test_a_ledger_lives_in_the_schema_that_the_url_names(
    postgres_url: str, driver: str, fresh: Rows
) -> None:
    query(postgres_url, "CREATE SCHEMA ledger")
    url = in_schema(variant(postgres_url, drivername=driver), "ledger")
    assert "options=-csearch_path%3Dledger" in url
    migrate.upgrade(url)
    alembic_here(url, "check")
    async with ActionDB(url, actor="worker") as db:
        made = await db.create_proposal(proposal())
        await db.update_proposal_status(made.id, ActionStatus.VALIDATED)
        await db.update_proposal_status(made.id, ActionStatus.EXECUTING)
        async with db.transaction() as tx:
            record = await tx.create_record(ActionRecord(proposal_id=made.id or 0))
            await tx.update_record(record.id, success=True)
            await tx.update_proposal_status(made.id, ActionStatus.COMPLETED)
        assert [event.actor for event in await db.history(made.id)] == ["worker"] * 6
    assert query(postgres_url, IN_PUBLIC) == []
    assert query(postgres_url, f"SELECT version_num FROM ledger.{VERSION_TABLE}") == [
        (migrate.HEAD,)
    ]
    assert as_in_public(url, "ledger") == fresh


def test_alembic_goes_up_and_down_in_the_schema_that_the_url_names(
    postgres: Databases, fresh: Rows
) -> None:
    """Beside a ledger in public, which is not touched."""
    public = ledger_at(postgres, "0001", PLAIN_ROWS)
    query(public, "CREATE SCHEMA ledger")
    before = (catalogue(public), contents(public, columns(public)))
    url = in_schema(public, "ledger,public")
    alembic(url, "upgrade", "head")
    assert as_in_public(url, "ledger") == fresh
    alembic_here(url, "downgrade", "base")
    assert [row[1] for row in catalogue(url) if row[0] == "relation"] == [
        VERSION_TABLE,
        f"{VERSION_TABLE}_pkc",
    ]
    assert (catalogue(public), contents(public, columns(public))) == before
    assert version(public) == ["0001"]


INSERT = "INSERT INTO {}.action_proposals (action_name, parameters, reason, proposed_at) VALUES ('a', '{{}}', 'r', now())"


@pytest.fixture
def two(postgres_url: str) -> dict[str, str]:
    """Two ledgers in two schemas of one database, each with a proposal, by the schemas' names."""
    urls = {}
    for name in ("one", "two"):
        query(postgres_url, f"CREATE SCHEMA {name}")
        urls[name] = in_schema(postgres_url, name)
        migrate.upgrade(urls[name])
        query(postgres_url, INSERT.format(name))
    return urls


async def test_two_ledgers_live_side_by_side(two: dict[str, str], fresh: Rows) -> None:
    async with ActionDB(two["one"]) as one, ActionDB(two["two"]) as other:
        made = await one.create_proposals([proposal(), proposal()])
        assert await one.cancel_all_pending() == 3
        assert len(await one.history()) == 6
        assert len(await other.history()) == 1
        assert (await other.create_proposal(proposal())).id == made[0].id
    # One goes back, the other stays.
    alembic_here(
        two["two"], "downgrade", "base", x={"discard-history": "yes", "discard-data": "yes"}
    )
    assert as_in_public(two["one"], "one") == fresh


EVIL = """
CREATE SCHEMA evil;
CREATE TABLE evil.action_events (proposal_id bigint, record_id bigint, event_type text, from_status text,
    to_status text, success boolean, actor text, reason text, occurred_at timestamptz);
CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT '1999-01-01'::timestamptz $$;
CREATE FUNCTION evil.plus(timestamptz, interval) RETURNS timestamptz LANGUAGE sql AS $$ SELECT evil.clock_timestamp() $$;
CREATE OPERATOR evil.+ (leftarg = timestamptz, rightarg = interval, function = evil.plus);
"""


@pytest.mark.parametrize(
    "setting",
    [
        "SET search_path = two",
        "SET search_path = ''",
        "SET search_path = public, two, one",
        "SET search_path = evil, pg_catalog, two",
        "CREATE TEMP TABLE action_events (LIKE evil.action_events)",
    ],
)
def test_a_write_is_told_in_its_own_schema_wherever_the_session_looks(
    two: dict[str, str], setting: str
) -> None:
    query(two["one"], EVIL)
    with connected(two["one"]) as session:
        sql(session, setting)
        sql(session, INSERT.format("one"))
        sql(session, "UPDATE one.action_proposals SET status = 'validated'")
        sql(session, "INSERT INTO one.action_records (proposal_id) VALUES (1)")
        sql(session, "UPDATE one.action_records SET success = true, completed_at = now()")
        events = "SELECT event_type, proposal_id, actor, occurred_at > '2020-01-01' FROM {}.action_events ORDER BY id"
        assert sql(session, events.format("one")) == [
            ("proposal_created", 1, "raw SQL", True),
            ("proposal_created", 2, "raw SQL", True),
            ("status_changed", 1, "raw SQL", True),
            ("status_changed", 2, "raw SQL", True),
            ("record_started", 1, "raw SQL", True),
            ("record_finished", 1, "raw SQL", True),
        ]
        assert len(sql(session, events.format("two"))) == 1
        assert sql(session, "SELECT * FROM evil.action_events") == []


def test_updated_at_moves_forward_whatever_the_session_calls_its_clock(two: dict[str, str]) -> None:
    query(two["one"], EVIL)
    with connected(two["one"]) as session:
        sql(session, "SET search_path = evil, pg_catalog")
        now = "SELECT updated_at, status_changed_at FROM one.action_proposals"
        seen = sql(session, now)
        for change in ("last_error = 'x'", "status = 'validated'", "updated_at = '1999-01-01'"):
            sql(session, f"UPDATE one.action_proposals SET {change}")
            seen += sql(session, now)
    assert [updated for updated, _ in seen] == sorted({updated for updated, _ in seen})
    assert seen[-1][1] > seen[0][1]


def test_a_function_of_a_third_schema_writes_like_anybody(two: dict[str, str]) -> None:
    query(
        two["one"],
        EVIL + "CREATE FUNCTION evil.propose() RETURNS bigint LANGUAGE sql SECURITY DEFINER "
        f"SET search_path = evil, two AS $$ {INSERT.format('one')} RETURNING id $$",
    )
    assert query(two["two"], "SELECT evil.propose()") == [(2,)]
    assert query(two["one"], "SELECT proposal_id FROM action_events ORDER BY id") == [(1,), (2,)]
    assert query(two["two"], "SELECT count(*) FROM action_events") == [(1,)]


@pytest.mark.parametrize("name", ["Mixed Case", 'odd "schema"', "select", "1st.ledger"])
async def test_a_schema_whose_name_needs_quotes(
    postgres: Databases, postgres_url: str, name: str
) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    database = postgres_url.rpartition("/")[2]
    query(postgres_url, f"CREATE SCHEMA {quoted}")
    query(postgres_url, f"ALTER DATABASE {database} SET search_path = {quoted}, public")
    # The tables are adopted, which looks for them by the schema's name.
    migrate.upgrade(postgres_url, "0001")
    query(postgres_url, f"DROP TABLE {VERSION_TABLE}")
    query(postgres_url, PLAIN_ROWS)
    migrate.upgrade(postgres_url)
    alembic_here(postgres_url, "check")
    async with ActionDB(postgres_url) as db:
        assert len(await db.list_proposals()) == 3
        await db.create_proposal(proposal())
        assert len(await db.history()) == 9
    assert query(postgres_url, IN_PUBLIC) == []
    names = [(kind, each) for kind, each, _ in catalogue(postgres_url)]
    assert names == [(kind, each) for kind, each, _ in made_by(postgres, "head")]


@pytest.mark.parametrize("driver", ["postgresql", "postgresql+psycopg"])
async def test_a_schema_that_does_not_exist_is_refused(postgres_url: str, driver: str) -> None:
    url = in_schema(variant(postgres_url, drivername=driver), "absent")
    with pytest.raises(UnmanagedSchema, match="no schema that exists: run CREATE SCHEMA first"):
        migrate.upgrade(url)
    with pytest.raises(SchemaOutdated):
        async with ActionDB(url):
            pass
    assert query(postgres_url, IN_PUBLIC) == []
