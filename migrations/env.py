"""Where Alembic meets the ledger: on a connection that it is handed, or on one of its own, locked."""

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
assert ActionProposalRow.metadata is Base.metadata  # the import is what fills the metadata

options = {
    "target_metadata": Base.metadata,
    "version_table": migrate.VERSION_TABLE,
    "render_as_batch": True,
    # `migrate.run_locked` sees to it on SQLite, where Alembic would assume otherwise.
    "transactional_ddl": True,
    "process_revision_directives": lambda _context, _revision, found: number(found),
    # A service's own tables may live in the same database: autogenerate must not drop them.
    "include_object": lambda item, _name, _kind, _reflected, _other: is_here(item),
    "include_name": lambda name, kind, _parents: kind != "table" or name in Base.metadata.tables,
}


def is_here(item: Any) -> bool:
    """Whether something declared is of this database's dialect."""
    only = getattr(item, "info", {}).get("only on")
    return only is None or only == context.get_context().dialect.name


def number(found: list[Any]) -> None:
    """A new revision gets the next number."""
    for each in found:
        each.rev_id = f"{len(migrate.REVISIONS) + 1:04}"


def url() -> URL:
    """The ledger that the command is about; a bare word is refused, as by ``operator-core``."""
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
    """Whether the command is an upgrade or a downgrade, and not one that only looks."""
    try:
        context.get_revision_argument()
    except KeyError:
        return False
    return True


def run(connection: Connection) -> None:
    if connection.dialect.name != "postgresql" or "locked" in config.attributes:
        run_locked(connection)
        return
    # Somebody's own connection, in a transaction of theirs.
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
    """Alembic's scripts (``--sql``) have spaces for tabs; so has the catalogue, whoever makes it."""
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
        # Both are ignored inside a transaction.
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
elif (given := config.attributes.get("connection")) is not None:
    run(given)
else:
    run_own()
