"""The step before the revisions: recognises or refuses a database without a revision before it writes anything."""

from sqlalchemy import Connection

from operator_core.db.migrate import postgresql_adoption, sqlite, sqlite_adoption
from operator_core.db.migrate.revisions import current_revision, stamp
from operator_core.db.schema import ACTIONS_SCHEMA_SQL, SCHEMA_SQL
from operator_core.db.sql.dialect import is_sqlite
from operator_core.db.sqlite.handle import MEMORY, connect, over

__all__ = ["adopt"]


def adopt(conn: Connection) -> None:
    """Prepares a database without a revision for the revisions; does nothing if it has one.

    A SQLite database that was made from the schema's text is at `HEAD`, and gets that revision. The tables of a
    predecessor stay for revision 0001, which keeps them. Raises `UnmanagedSchema` if one of them differs from every
    known shape, because the difference may be needed data.
    """
    if current_revision(conn) is not None:
        return
    if not is_sqlite(conn):
        postgresql_adoption.check_adoptable(conn)
    elif _is_at_head(conn):
        stamp(conn)
    else:
        sqlite_adoption.check_adoptable(conn)


def _is_at_head(conn: Connection) -> bool:
    if "action_events" not in sqlite.tables(conn):
        return False
    reference = over(connect(MEMORY, busy_timeout=0))
    try:
        sqlite.run_script(reference, SCHEMA_SQL + ACTIONS_SCHEMA_SQL)
        return sqlite.catalogue(reference) <= sqlite.catalogue(conn)
    finally:
        reference.close()
