"""The settings of a PostgreSQL session that the ledger's statements, its functions and the drivers depend on.

A database, a role or a service may set any of them. The ledger pins them on its own connections by startup options,
which outlast RESET and DISCARD. Through a pooler that refuses options (PgBouncer), it pins the settings that the
server reports, because PgBouncer keeps those for each client. On a service's own engine or session it only checks
them. A value that would change a result, or raise after a row was written, is refused before anything is written.
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
    """What another value breaks, or what the setting affects."""
    matters: tuple[str, ...]
    """The drivers whose results depend on it; for the others it is pinned where possible."""
    also: tuple[str, ...] = ()
    """Other values that the ledger accepts."""
    pinned: bool = True

    def holds(self, found: str | None) -> bool:
        """Whether the ledger accepts the value `found`, which is None if the server has no such setting."""
        # In "ISO, DMY" the order affects only the reading of dates in a form that the ledger never writes.
        first = self.value if found is None else found.partition(",")[0].strip()
        return first.casefold() in (self.value.casefold(), *self.also)


_SETTINGS: Final = (
    _Setting(
        "standard_conforming_strings", "on",
        "a backslash in a string is an escape: the functions misread JSON, and claims fail",
        _BOTH,
    ),
    _Setting("transform_null_equals", "off", "a comparison with NULL is not NULL", _BOTH),
    _Setting("exit_on_error", "off", "a refused change ends the session", _BOTH),
    # Only a superuser can set it, so it can't be pinned for other roles.
    _Setting(
        "session_replication_role", "origin",
        "no trigger fires: changes are not checked, and the history does not contain them",
        _BOTH, also=("local",), pinned=False,
    ),
    _Setting(
        "DateStyle", "ISO",
        "psycopg can't read times in another style, and raises after the row is written", _TEXT,
    ),
    # asyncpg sets it at startup.
    _Setting("client_encoding", "UTF8", "psycopg can't read or write text outside the session's encoding", _TEXT),
    _Setting("array_nulls", "on", "psycopg writes NULL in an array as a word", _TEXT),
    _Setting(
        "extra_float_digits", "1", "psycopg reads numbers as text, and digits are missing in it",
        _TEXT, also=("2", "3"),
    ),
    # Transactions set their own level; only single statements run at this one.
    _Setting("default_transaction_isolation", "read committed", "single statements run at this level", _NONE),
    # They affect how the catalogue shows definitions. Upgrades and `db check` compare these with expected ones.
    _Setting("TimeZone", "UTC", "definitions show times in it", _NONE),
    _Setting("IntervalStyle", "postgres", "definitions show intervals in it", _NONE),
    _Setting("bytea_output", "hex", "it is the text form of bytes", _NONE),
    _Setting("quote_all_identifiers", "off", "definitions show names by it", _NONE),
)  # fmt: skip

# Not listed, because the user chooses them: search_path (where the ledger is), role, default_transaction_read_only
# (then writes raise StorageReadOnly), the timeouts, synchronous_commit and the other settings that `db check` warns
# about, and settings that only make statements slower.

_REPORTED: Final = (
    "standard_conforming_strings",
    "client_encoding",
    "DateStyle",
    "TimeZone",
    "IntervalStyle",
)
"""The settings whose changes a server reports to each client, and that PgBouncer keeps for each client."""

_WATCHED: Final = tuple(each for each in _SETTINGS if each.name in _REPORTED)


def startup_options(before: str = "") -> str:
    """The startup parameter `options`; the ledger's settings follow the options `before`, because the last one wins."""
    ours = [f"-c {each.name}={_escaped(each.value)}" for each in _SETTINGS if each.pinned]
    return " ".join(filter(None, [before, *ours]))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def pin_statement(names: Iterable[str]) -> str:
    """The SQL that sets those of the named settings that can be pinned."""
    folded = {name.casefold() for name in names}
    pinned = (each for each in _SETTINGS if each.pinned and each.name.casefold() in folded)
    return "; ".join(f"SET {each.name} = '{each.value}'" for each in pinned)


ALL: Final = tuple(each.name for each in _SETTINGS)


def reported_wrong(driver_connection: Any, driver: str | None = None) -> list[str]:
    """The names of the settings with a wrong value, among those that a server reports; costs no round trip.

    With `driver`, only the settings that matter to this driver.
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
    """Raises `StorageUnavailable` if a service has set a wrong value on its connection for a reported setting."""
    wrong = reported_wrong(conn.connection.driver_connection, conn.dialect.driver)
    if wrong:
        raise _refusal([(each.name, None, each.why) for each in _SETTINGS if each.name in wrong])


class Session(NamedTuple):
    """The settings of a session that change how the ledger runs units."""

    read_committed: bool
    """Whether a single statement runs at READ COMMITTED."""
    lock_timeout: float | None
    statement_timeout: float | None
    """In seconds, as for `lock_timeout`; None means no limit."""


_TIMEOUTS: Final = ("lock_timeout", "statement_timeout")
_LOOK: Final = "SELECT " + ", ".join(  # noqa: S608 - of the names above
    [f"current_setting('{each.name}', true)" for each in _SETTINGS]
    + [f"1000 * extract(epoch FROM current_setting('{each}')::interval)" for each in _TIMEOUTS]
)


def look_at_session(conn: Connection) -> Session:
    """Reads the settings by one SELECT; raises `StorageUnavailable` if one changes the meaning of statements."""
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
    needed = {each.name: each.value for each in _SETTINGS}
    problems = "; ".join(
        f"{name} {'is not' if found is None else f'is {found}, not'} {needed[name]} ({why})"
        for name, found, why in wrong
    )
    return StorageUnavailable(f"the session has settings that the ledger refuses: {problems}")


_STORED: Final = """
    SELECT rolname, datname, setting
    FROM pg_catalog.pg_db_role_setting
        LEFT JOIN pg_catalog.pg_roles ON pg_roles.oid = setrole
        LEFT JOIN pg_catalog.pg_database ON pg_database.oid = setdatabase
        CROSS JOIN unnest(setconfig) AS setting
    WHERE setdatabase = 0 OR datname = current_database()
    ORDER BY 1, 2, 3"""


def unpinned_settings(conn: Connection) -> list[tuple[str, str, str]]:
    """The settings with a value that the ledger does not accept: their names, values, and the reasons.

    First the settings that pinning did not change on `conn` itself. Then the settings that a database or a role has
    for every connection that is not the ledger's own; the ledger refuses to work on such a connection.
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
            owners = " and ".join(
                filter(None, [role and f"role {role}", database and f"database {database}"])
            )
            where = f"set for {owners}, so a service's own {' or '.join(each.matters)} engine or session is refused"
            found.append((each.name, value, f"{where}: {each.why}"))
    return found
