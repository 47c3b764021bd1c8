"""Alembic's environment for the ledger: on a connection that it gets, or on its own, under a lock."""

import logging.config
import os
from typing import Any

from alembic import context
from sqlalchemy import URL, Connection, event

from operator_core.db import migrate
from operator_core.db.migrate import postgresql
from operator_core.db.sql.base import Base
from operator_core.db.sql.tables import ActionProposalRow
from operator_core.db.sql.urls import parse_url, target_from_text

config = context.config
assert ActionProposalRow.metadata is Base.metadata  # the import fills the metadata

options = {
    "target_metadata": Base.metadata,
    "version_table": migrate.VERSION_TABLE,
    "render_as_batch": True,
    # On SQLite `migrate.run_locked` ensures it; Alembic would assume False there.
    "transactional_ddl": True,
    "process_revision_directives": lambda _context, _revision, found: number(found),
    # A service's own tables may be in the same database: autogenerate must not drop them.
    "include_object": lambda item, _name, _kind, _reflected, _other: is_here(item),
    "include_name": lambda name, kind, _parents: kind != "table" or name in Base.metadata.tables,
}


def is_here(item: Any) -> bool:
    """Whether a declared object belongs to the dialect of this database."""
    only = getattr(item, "info", {}).get("only on")
    return only is None or only == context.get_context().dialect.name


def number(found: list[Any]) -> None:
    """Gives a new revision the next number."""
    for each in found:
        each.rev_id = f"{len(migrate.REVISIONS) + 1:04}"


def url() -> URL:
    """The URL of the command's ledger; a bare word is refused, as by ``operator-core``."""
    options = context.get_x_argument(as_dictionary=True)
    for name, text in (
        ("-x url", options.get("url")),
        (migrate.URL_VARIABLE, os.environ.get(migrate.URL_VARIABLE)),
    ):
        if text:
            target = target_from_text(text, name)
            return URL.create("sqlite", database=target) if isinstance(target, str) else target
    return parse_url(config.get_main_option("sqlalchemy.url", migrate.DEFAULT_URL))


def moves_schema() -> bool:
    """Whether the command is an upgrade or a downgrade, and does not only read."""
    try:
        context.get_revision_argument()
    except KeyError:
        return False
    return True


def run(connection: Connection) -> None:
    if connection.dialect.name != "postgresql" or "locked" in config.attributes:
        run_locked(connection)
        return
    # A caller's connection, in the caller's transaction.
    tables = postgresql.table_timeout(context.get_x_argument(as_dictionary=True))
    with postgresql.borrowed(connection, wait=migrate.LOCK_TIMEOUT, tables=tables):
        run_locked(connection)


def run_locked(connection: Connection) -> None:
    migrate.check_known(connection)
    if moves_schema():
        migrate.adopt(connection)
    context.configure(connection=connection, **options)
    event.listen(connection, "before_cursor_execute", without_tabs, retval=True)
    try:
        context.run_migrations()
    finally:
        event.remove(connection, "before_cursor_execute", without_tabs)


def without_tabs(
    _conn: object, _cursor: object, statement: str, parameters: Any, *_: object
) -> tuple[str, Any]:
    """Replaces tabs by spaces, as Alembic's scripts (``--sql``) do, so that both make the same catalogue."""
    if statement.lstrip().startswith("CREATE TABLE"):
        statement = statement.replace("\t", "    ")
    return statement, parameters


def run_offline() -> None:
    backend = url().get_backend_name()
    context.configure(
        dialect_name=backend,
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
        **options,
    )
    if backend == "sqlite":
        # SQLite ignores both inside a transaction.
        context.execute("PRAGMA foreign_keys = OFF")
        context.execute("PRAGMA legacy_alter_table = ON")
    with context.begin_transaction():
        if backend == "postgresql":
            tables = postgresql.table_timeout(context.get_x_argument(as_dictionary=True))
            for statement in postgresql.lock_script(wait=migrate.LOCK_TIMEOUT, tables=tables):
                context.execute(statement)
        context.run_migrations()


def run_own() -> None:
    if config.config_file_name is not None:
        logging.config.fileConfig(config.config_file_name, disable_existing_loggers=False)
    config.attributes["locked"] = True
    migrate.run_locked(url(), run, context.get_x_argument(as_dictionary=True))


if context.is_offline_mode():
    run_offline()
elif (connection := config.attributes.get("connection")) is not None:
    run(connection)
else:
    run_own()
