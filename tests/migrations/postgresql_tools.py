"""What the migration tests do with real databases on a server: run alembic, read catalogues, copy."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, LiteralString, TypeAlias, cast

import psycopg
import pytest
from psycopg.errors import IntegrityError

from operator_core.db import migrate
from operator_core.db.postgresql.connect import parse_url
from tests import servers
from tests.databases import Databases, connected, query
from tests.migrations.tools import NUMBERED, VERSION_TABLE, Rows, run, warm_alembic

DB: TypeAlias = psycopg.Connection[Any]
"""A plain connection as another tool has it, in autocommit mode."""

PLAIN_TABLES = ("tickets", "action_proposals", "action_records")

UNGUARDED: LiteralString = "SET session_replication_role = replica; "
"""What the triggers would refuse can be written after it."""

PLAIN_ROWS = """
INSERT INTO tickets (violation_key, invariant_name, first_seen_at, last_seen_at, message) VALUES
    ('hot', 'i', '2026-01-01', '2026-01-02', 'm'), ('cold', 'i', '2026-01-01', '2026-01-02', 'n');
INSERT INTO action_proposals (ticket_id, action_name, action_type, parameters, reason, status, proposed_at,
    proposed_by, validated_at, updated_at) VALUES
    (1, 'move', 'tool', '{ "b":-0.0, "a": 1e2, "text": "\\u00fc: 100 %"}', 'r', 'completed',
        '2026-01-01 12:00:00.123456+02', 'bob', '2026-01-01 11:00+00', '2026-01-02 00:00+00'),
    (NULL, 'drain', 'subject', '{}', '', 'proposed', '2026-01-03 00:00+00', 'agent', NULL, now()),
    (2, 'drain', 'workflow', '{"n":12345678901234567890123456789}', 'r', 'failed', '1970-01-01 00:00+00',
        'agent', NULL, now()),
    (2, 'gone', 'subject', '{}', 'r', 'cancelled', now(), 'agent', NULL, now());
INSERT INTO action_records (proposal_id, started_at, completed_at, success, error_message, result_data) VALUES
    (1, '2026-01-01 12:00+00', '2026-01-01 13:00+00', true, NULL, '{"ok" : true}'),
    (3, '2026-01-01 12:00+00', '2026-01-01 13:00+00', false, 'no leader', NULL),
    (3, '2026-01-01 14:00+00', NULL, NULL, NULL, NULL);
DELETE FROM action_proposals WHERE id = 4;
"""
"""For the tables of revision 0001: two tickets, three proposals (a fourth is gone), three records."""


# ------ databases


def ledger_at(postgres: Databases, revision: str, rows: str = "") -> str:
    """A database of the test's own at `revision`, with what the script `rows` adds."""
    return postgres.new(template=_template(postgres, revision, rows))


@cache
def _template(postgres: Databases, revision: str, rows: str) -> str:
    url = postgres.new()
    migrate.upgrade(url, revision)
    if rows:
        query(url, rows)
    return parse_url(url).database or ""


def unversioned(postgres: Databases) -> str:
    """The tables of revision 0001, with rows, as someone made them without Alembic."""
    url = ledger_at(postgres, "0001", PLAIN_ROWS)
    query(url, f"DROP TABLE {VERSION_TABLE}")
    return url


def variant(url: str, **changes: Any) -> str:
    """The URL with another user, password or driver (`drivername`)."""
    return parse_url(url).set(**changes).render_as_string(hide_password=False)


def in_schema(url: str, schema: str) -> str:
    """The URL of the ledger in one schema of the database."""
    options = {"options": f"-csearch_path={schema}"}
    return parse_url(url).update_query_dict(options).render_as_string(hide_password=False)


@contextmanager
def role(postgres: Databases, url: str, name: str) -> Iterator[str]:
    """The URL by which a new role without any rights uses the database; at the end it is gone."""
    name = f"{name}_{os.getpid()}"
    quoted = '"' + name.replace('"', '""') + '"'
    postgres.execute(f"CREATE ROLE {quoted} LOGIN PASSWORD 'of no use'")
    try:
        yield variant(url, username=name, password="of no use")
    finally:
        query(url, f"DROP OWNED BY {quoted}")
        postgres.execute(f"DROP ROLE {quoted}")


# ------ programs


def alembic(
    url: str, *args: str, x: Sequence[str] = (), **options: Any
) -> subprocess.CompletedProcess[str]:
    """Runs the ``alembic`` command at the root, on the database at `url`, in a process that starts warm."""
    flags = [word for each in (*x, f"url={url}") for word in ("-x", each)]
    return warm_alembic(*flags, *args, **options)


def real_alembic(
    url: str, *args: str, x: Sequence[str] = (), **options: Any
) -> subprocess.CompletedProcess[str]:
    """The same as users run it, by an interpreter of its own: for the tests of the commands themselves."""
    flags = [word for each in (*x, f"url={url}") for word in ("-x", each)]
    return run(sys.executable, "-m", "alembic", *flags, *args, **options)


def alembic_here(url: str, command: str, *args: str, x: Mapping[str, str] = {}) -> None:
    """The same inside this process, where what counts is the outcome and not the command line."""
    from alembic import command as commands

    def work(conn: Any) -> None:
        config = migrate.alembic_config(x)
        config.attributes["connection"] = conn
        config.attributes["locked"] = True
        getattr(commands, command)(config, *args)

    migrate.run_locked(url, work, x)


def script(command: str, revision: str, x: Mapping[str, str] = {}) -> str:
    """What ``alembic ... --sql`` prints for PostgreSQL."""
    from alembic import command as commands

    config = migrate.alembic_config({**x, "url": "postgresql://"})
    config.output_buffer = io.StringIO()
    getattr(commands, command)(config, revision, sql=True)
    return config.output_buffer.getvalue()


def psql(url: str, text: str, folder: Path, *, fails: bool = False) -> str:
    """Runs a script as an administrator does; gives back psql's complaints."""
    path = folder / "script.sql"
    path.write_text(text)
    program = shutil.which("psql") or str(servers._bindir() / "psql")
    return run(
        program, "-Xq", "-v", "ON_ERROR_STOP=1", "-d", url, "-f", str(path), fails=fails
    ).stderr


# ------ what there is

_CATALOGUE = """
WITH here AS (SELECT oid FROM pg_namespace WHERE nspname = current_schema()),
    relations AS (SELECT c.* FROM pg_class c JOIN here ON relnamespace = here.oid)
SELECT 'relation', relname, concat_ws(' ', relkind, relpersistence, relrowsecurity, relacl)
FROM relations
UNION ALL
SELECT 'column', relname || '.' || attname, concat_ws(' ',
    row_number() OVER (PARTITION BY relname ORDER BY attnum), format_type(atttypid, atttypmod),
    CASE WHEN attnotnull THEN 'not null' END, 'identity ' || nullif(attidentity::text, ''),
    'generated ' || nullif(attgenerated::text, ''), 'default ' || pg_get_expr(adbin, adrelid), attacl)
FROM relations JOIN pg_attribute ON attrelid = relations.oid
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE relkind IN ('r', 'v') AND attnum > 0 AND NOT attisdropped
UNION ALL
SELECT 'constraint', relname || '.' || conname, pg_get_constraintdef(c.oid)
FROM relations JOIN pg_constraint c ON conrelid = relations.oid
UNION ALL
SELECT 'index', relname, concat_ws(' ', pg_get_indexdef(indexrelid), indisvalid, indisprimary)
FROM relations JOIN pg_index ON indexrelid = relations.oid
UNION ALL
SELECT 'trigger', relname || '.' || tgname, concat_ws(' ', tgenabled, pg_get_triggerdef(t.oid))
FROM relations JOIN pg_trigger t ON tgrelid = relations.oid WHERE NOT tgisinternal
UNION ALL
SELECT 'rule', tablename || '.' || rulename, definition
FROM pg_rules WHERE schemaname = current_schema()
UNION ALL
SELECT 'function', proname, concat_ws(' ', pg_get_functiondef(p.oid), proacl)
FROM pg_proc p JOIN here ON pronamespace = here.oid
UNION ALL
SELECT 'sequence', sequencename, concat_ws(' ', data_type, start_value, min_value, max_value,
    increment_by, cycle, cache_size) FROM pg_sequences WHERE schemaname = current_schema()
ORDER BY 1, 2, 3
"""


def catalogue(url: str) -> Rows:
    """All that stands in the ledger's schema: kind, name, and the definition to the letter."""
    with connected(url) as db:
        return _catalogue(db)


def _catalogue(db: DB) -> Rows:
    # So that no definition names the schema.
    sql(db, "SELECT set_config('search_path', quote_ident(current_schema()), false)")
    return sql(db, _CATALOGUE)


@cache
def made_by(postgres: Databases, revision: str) -> Rows:
    """The catalogue that one upgrade of an empty database to `revision` makes."""
    return catalogue(ledger_at(postgres, revision))


def snapshot(where: str | DB) -> list[Any]:
    """The catalogue, every row with the transaction that wrote it, and the last id of each sequence."""
    if isinstance(where, str):
        with connected(where) as db:
            return snapshot(db)
    found: list[Any] = _catalogue(where)
    for kind, name, definition in list(found):
        if kind == "relation" and definition[0] == "r":
            found += sql(where, f"SELECT xmin::text, t::text FROM {name} t ORDER BY 2")
    return found + sql(where, "SELECT sequencename, last_value FROM pg_sequences ORDER BY 1")


def columns(url: str) -> dict[str, str]:
    """The columns of each of revision 0001's tables, as a SELECT names them."""
    found = "SELECT string_agg(column_name, ', ' ORDER BY ordinal_position) FROM information_schema.columns "
    return {
        table: query(
            url, f"{found} WHERE table_schema = current_schema() AND table_name = %s", table
        )[0][0]
        for table in PLAIN_TABLES
    }


def contents(url: str, of: Mapping[str, str]) -> dict[str, Rows]:
    """Every row of the given tables and columns, as text, which keeps JSON as it was written."""
    return {
        table: query(url, f"SELECT ROW({names})::text FROM {table} ORDER BY id")
        for table, names in of.items()
    }


def version(url: str) -> list[str]:
    return [row[0] for row in query(url, f"SELECT version_num FROM {VERSION_TABLE}")]


# ------ raw SQL on a connection that is kept


def sql(db: DB, statement: str, *parameters: object) -> Rows:
    """Runs a statement and gives back its rows, if it has any."""
    cursor = db.execute(cast(LiteralString, statement), parameters or None)
    return cursor.fetchall() if cursor.description else []


def one(db: DB, statement: str, *parameters: object) -> Any:
    """The only row, or the only value of it."""
    (row,) = sql(db, statement, *parameters)
    return row[0] if len(row) == 1 else row


def refused(
    db: DB, statement: str, by: str | None = None, error: type[psycopg.Error] = IntegrityError
) -> None:
    """The statement fails, and not a row of any table was written."""

    def everything() -> list[Rows]:
        return [
            sql(db, f"SELECT xmin::text, t::text FROM {name} t ORDER BY id") for name in NUMBERED
        ]

    before = everything()
    with pytest.raises(error, match=by):
        sql(db, statement)
    assert everything() == before
