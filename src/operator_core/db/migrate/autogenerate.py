"""Filters for a service's own Alembic, whose metadata does not contain the ledger's tables."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Table, inspect
from sqlalchemy.schema import SchemaItem

from operator_core.db.migrate.revisions import VERSION_TABLE
from operator_core.db.sql.tables import TABLES

__all__ = ["include_name", "include_object"]


def include_name(name: str | None, type_: str, parent_names: Mapping[Any, str | None]) -> bool:
    """For a service's ``env.py``: whether a name that Alembic found is not the ledger's.

    Pass both this and `include_object` to Alembic. Without them ``revision --autogenerate`` drops
    every table of the ledger, because none of them is in the service's metadata.
    """
    return type_ != "table" or not _is_ours(name, parent_names.get("schema_name"))


def include_object(
    item: SchemaItem,
    name: str | None,
    type_: str,
    reflected: bool,
    compare_to: SchemaItem | None,
) -> bool:
    """For a service's ``env.py``: whether an object that Alembic would compare is not the ledger's.

    This includes tables that the service's metadata declares too, for example for its foreign keys.
    """
    return not (type_ == "table" and isinstance(item, Table) and _is_ours(name, item.schema))


def _is_ours(name: str | None, schema: str | None) -> bool:
    if name == VERSION_TABLE:
        return True
    return name in TABLES and _holds_ledger(schema)


def _holds_ledger(schema: str | None) -> bool:
    """Whether the ledger is in `schema` of the database that Alembic reads.

    Another schema may have tables of the same names, such as workflows. True if it is unknown.
    """
    from alembic import context

    try:
        conn = context.get_context().connection
    except (NameError, AttributeError):
        # Alembic raises them before the first env.py has run, and after the last.
        return True
    if conn is None:
        return True
    return inspect(conn).has_table(
        "action_proposals", schema=schema or conn.dialect.default_schema_name
    )
