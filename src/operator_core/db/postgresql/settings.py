"""The settings of a PostgreSQL session that the ledger's statements, its functions and the drivers depend on.

A database, a role or a service may set any of them. On a connection of the ledger's own they are pinned: as options
of its start, which outlast RESET and DISCARD, and through a pooler that takes no options (PgBouncer) as far as
the server reports them, because those PgBouncer keeps for each client. On a service's own engine or session
they are not the ledger's to set: there they are looked at, and what would change an answer, or raise
after a row was written, is refused before anything is written.
"""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection

from operator_core.actions.errors import StorageUnavailable

__all__ = [
    "Session",
    "check_reported",
    "look_at_session",
    "pin_statement",
    "reported_wrong",
    "startup_options",
    "unpinned_settings",
]

_BOTH: Final = ("asyncpg", "psycopg")
_TEXT: Final = ("psycopg",)
_NONE: Final = ()


class _Setting(NamedTuple):
    name: str
    value: str
    why: str
    matters: tuple[str, ...]
    """The drivers whose answers depend on it; for the others it is pinned where it can be."""
    also: tuple[str, ...] = ()
    """Values that do as well."""
    pinned: bool = True

    def holds(self, found: str | None) -> bool:
        """Whether the value that was found, None where the server has no such setting, will do."""
        # Of "ISO, DMY" the order is how dates are read that the ledger never writes.
        first = self.value if found is None else found.partition(",")[0].strip()
        return first.casefold() in (self.value.casefold(), *self.also)


_SETTINGS: Final = (
    _Setting(
        "standard_conforming_strings", "on",
        "a backslash in a string is itself; otherwise the functions misread JSON, and claims fail", _BOTH,
    ),
    _Setting("transform_null_equals", "off", "a comparison with NULL is NULL", _BOTH),
    _Setting("exit_on_error", "off", "a refused change ends the session", _BOTH),
    # It takes a superuser to set, so it can't be pinned for others.
    _Setting(
        "session_replication_role", "origin",
        "no trigger fires: nothing is checked, and nothing gets into the history",
        _BOTH, also=("local",), pinned=False,
    ),
    _Setting(
        "DateStyle", "ISO",
        "psycopg reads times in this style only, and says so when the row is written", _TEXT,
    ),
    # asyncpg asks for it at the start.
    _Setting("client_encoding", "UTF8", "psycopg can't read or write text beyond it", _TEXT),
    _Setting("array_nulls", "on", "psycopg writes NULL in an array as that word", _TEXT),
    _Setting(
        "extra_float_digits", "1", "psycopg reads numbers as text, and digits are missing there",
        _TEXT, also=("2", "3"),
    ),
    # What matters nowhere else: transactions say their level, single statements run at this one.
    _Setting("default_transaction_isolation", "read committed", "single statements run at it", _NONE),
    # How definitions in the catalogue are shown, which upgrades and `db check` compare with what they know.
    _Setting("TimeZone", "UTC", "times in definitions are shown in it", _NONE),
    _Setting("IntervalStyle", "postgres", "intervals in definitions are shown in it", _NONE),
    _Setting("bytea_output", "hex", "bytes are shown as text in it", _NONE),
    _Setting("quote_all_identifiers", "off", "names in definitions are shown by it", _NONE),
)  # fmt: skip

# Not here, because they are the user's to choose: search_path (where the ledger is), role, default_transaction_read_only
# (then writes are StorageReadOnly), the timeouts, synchronous_commit and what else `db check` warns of, and
# all that only makes statements slower.

_REPORTED: Final = (
    "standard_conforming_strings",
    "client_encoding",
    "DateStyle",
    "TimeZone",
    "IntervalStyle",
)
"""What a server tells each client whenever it changes, and PgBouncer keeps for each client."""

_WATCHED: Final = tuple(each for each in _SETTINGS if each.name in _REPORTED)


def startup_options(before: str = "") -> str:
    """The parameter `options` of a connection's start, behind what was asked for `before`: the last one wins."""
    ours = [f"-c {each.name}={_escaped(each.value)}" for each in _SETTINGS if each.pinned]
    return " ".join(filter(None, [before, *ours]))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def pin_statement(names: Iterable[str]) -> str:
    """Sets the settings of these names, or all that can be."""
    wanted = {name.casefold() for name in names}
    pinned = (each for each in _SETTINGS if each.pinned and each.name.casefold() in wanted)
    return "; ".join(f"SET {each.name} = '{each.value}'" for each in pinned)


ALL: Final = tuple(each.name for each in _SETTINGS)


def reported_wrong(driver_connection: Any, driver: str | None = None) -> list[str]:
    """Which of the settings that a server reports are not as they should be; this costs no round trip.

    Of a `driver`, those that matter to it.
    """
    if hasattr(driver_connection, "get_settings"):
        known = driver_connection.get_settings()

        def value(name: str) -> str | None:
            return getattr(known, name, None)
    else:
        status = driver_connection.pgconn.parameter_status

        def value(name: str) -> str | None:
            found: bytes | None = status(name.encode())
            return None if found is None else found.decode()

    return [
        each.name
        for each in _WATCHED
        if (driver is None or driver in each.matters) and not each.holds(value(each.name))
    ]


def check_reported(conn: Connection) -> None:
    """Raises `StorageUnavailable` if a service has changed a setting on its connection that matters here."""
    wrong = reported_wrong(conn.connection.driver_connection, conn.dialect.driver)
    if wrong:
        raise _refusal([(each.name, None, each.why) for each in _SETTINGS if each.name in wrong])


class Session(NamedTuple):
    """What a session's settings mean for the ledger."""

    read_committed: bool
    """Whether a statement on its own runs at READ COMMITTED."""
    lock_timeout: float | None
    statement_timeout: float | None
    """Seconds, None where there is no limit."""


_TIMEOUTS: Final = ("lock_timeout", "statement_timeout")
_LOOK: Final = "SELECT " + ", ".join(  # noqa: S608 - of names that stand above
    [f"current_setting('{each.name}', true)" for each in _SETTINGS]
    + [f"1000 * extract(epoch FROM current_setting('{each}')::interval)" for each in _TIMEOUTS]
)


def look_at_session(conn: Connection) -> Session:
    """One SELECT; raises `StorageUnavailable` if a setting would change what the ledger's statements mean."""
    *values, lock, statement = conn.exec_driver_sql(_LOOK).one()
    found = dict(zip(ALL, values, strict=True))
    wrong = [
        each
        for each in _SETTINGS
        if conn.dialect.driver in each.matters and not each.holds(found[each.name])
    ]
    if wrong:
        raise _refusal([(each.name, found[each.name], each.why) for each in wrong])
    return Session(
        found["default_transaction_isolation"] == "read committed",
        float(lock) / 1000 or None,
        float(statement) / 1000 or None,
    )


def _refusal(wrong: Iterable[tuple[str, str | None, str]]) -> StorageUnavailable:
    wanted = {each.name: each.value for each in _SETTINGS}
    told = "; ".join(
        f"{name} {'is not' if found is None else f'is {found}, not'} {wanted[name]} ({why})"
        for name, found, why in wrong
    )
    return StorageUnavailable(f"the session's settings are not those that the ledger needs: {told}")


_STORED: Final = """
    SELECT rolname, datname, setting
    FROM pg_catalog.pg_db_role_setting
        LEFT JOIN pg_catalog.pg_roles ON pg_roles.oid = setrole
        LEFT JOIN pg_catalog.pg_database ON pg_database.oid = setdatabase
        CROSS JOIN unnest(setconfig) AS setting
    WHERE setdatabase = 0 OR datname = current_database()
    ORDER BY 1, 2, 3"""


def unpinned_settings(conn: Connection) -> list[tuple[str, str, str]]:
    """What the database would do otherwise than the ledger needs: names of settings, values, and why not.

    First what holds on `conn` itself all the same, then what a database or a role has for every
    connection that is not the ledger's own, and on which the ledger refuses to work.
    """
    values = conn.exec_driver_sql(_LOOK).one()
    found = [
        (each.name, str(value), each.why)
        for each, value in zip(_SETTINGS, values, strict=False)
        if each.matters and not each.holds(value)
    ]
    known = {each.name.casefold(): each for each in _SETTINGS if each.matters}
    for role, database, setting in conn.exec_driver_sql(_STORED):
        name, _, value = setting.partition("=")
        each = known.get(name.casefold())
        if each is not None and not each.holds(value):
            whose = " and ".join(
                filter(None, [role and f"role {role}", database and f"database {database}"])
            )
            where = f"set for {whose}, so a service's own {' or '.join(each.matters)} engine or session is refused"
            found.append((each.name, value, f"{where}: {each.why}"))
    return found
