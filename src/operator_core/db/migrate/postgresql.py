"""Changes a PostgreSQL schema: one migration at a time, in one transaction, and without hanging."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Final

from sqlalchemy import Connection, text

from operator_core.actions.errors import InvalidValue, UnmanagedSchema
from operator_core.db.sql.tables import TABLES

__all__ = [
    "LOCK_KEY",
    "TABLE_TIMEOUT",
    "Duty",
    "borrowed",
    "catalogue",
    "grants",
    "lock",
    "lock_script",
    "table_timeout",
]

LOCK_KEY: Final = 7_302_912_684_011_543_919
"""The key of the advisory lock that a migration holds; a number that other programs will not choose."""

TABLE_TIMEOUT: Final = 10.0
"""Seconds that a migration waits for a table in use, unless ``-x lock-timeout=`` sets another time.

The time is short, because other users of the table wait behind the migration.
"""

STATEMENT_TIMEOUT: Final = 600.0
"""Seconds that one statement of a migration may take."""


def table_timeout(options: Mapping[str, str]) -> float:
    """The seconds of Alembic's option ``-x lock-timeout=``, or the default; raises `InvalidValue`."""
    value = options.get("lock-timeout")
    try:
        seconds = TABLE_TIMEOUT if value is None else float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise InvalidValue("lock-timeout", "must be a number of seconds above 0 and at most 3600")
    return seconds


def lock(conn: Connection, *, wait: float, tables: float = TABLE_TIMEOUT) -> None:
    """Makes the current transaction of `conn` the only migration of its database, until it ends.

    Waits up to `wait` seconds for another migration, and lets each later statement wait up to `tables`
    seconds for a lock. After that PostgreSQL raises 55P03 or 57014. The transaction then works in one
    schema, the first of its search_path. Raises `UnmanagedSchema` if there is none.
    """
    schema, encoding = conn.execute(text("SELECT current_schema(), getdatabaseencoding()")).one()
    if schema is None:
        raise UnmanagedSchema(["search_path names no schema that exists: run CREATE SCHEMA first"])
    if encoding != "UTF8":
        raise UnmanagedSchema([f"the database's encoding is {encoding}, and must be UTF8"])
    for statement in lock_script(wait=wait, tables=tables):
        conn.execute(text(statement))


@contextmanager
def borrowed(conn: Connection, *, wait: float, tables: float) -> Generator[None]:
    """Like `lock`, in a caller's transaction; its settings are restored after the block.

    If this fails, the transaction stays as it was before. Raises `InvalidValue` if there is no transaction.
    """
    if conn.dialect.detect_autocommit_setting(conn.connection.dbapi_connection):  # pyright: ignore
        raise InvalidValue(
            "connection", "must not be in autocommit mode: a lock would end with its statement"
        )
    names = ("search_path", "lock_timeout", "statement_timeout")
    settings = ", ".join(f"current_setting('{name}')" for name in names)
    with conn.begin_nested():
        before = conn.execute(text(f"SELECT {settings}")).one()
        lock(conn, wait=wait, tables=tables)
        yield
        for name, value in zip(names, before, strict=True):
            parameters = {"name": name, "value": value}
            conn.execute(text("SELECT set_config(:name, :value, true)"), parameters)


def lock_script(*, wait: float, tables: float = TABLE_TIMEOUT) -> list[str]:
    """The statements of `lock`, for the transaction of a script."""
    return [
        f"SET LOCAL lock_timeout = '{_milliseconds(wait)}'",
        f"SELECT pg_advisory_xact_lock({LOCK_KEY})",
        f"SET LOCAL lock_timeout = '{_milliseconds(tables)}'",
        f"SET LOCAL statement_timeout = '{_milliseconds(STATEMENT_TIMEOUT)}'",
        # Objects that the migration creates find the ledger's tables and no others, whatever session calls them.
        "SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true)",
    ]


_CATALOGUE: Final = """
WITH ours AS (
    SELECT oid, relname FROM pg_class
    WHERE relnamespace = quote_ident(current_schema())::regnamespace AND relkind IN ('r', 'p')
        AND relname = ANY (:tables))
SELECT 'column ' || relname || '.' || attname, concat_ws(' ', format_type(atttypid, atttypmod),
    CASE WHEN attnotnull THEN 'NOT NULL' END, attidentity::text,
    'DEFAULT ' || pg_get_expr(adbin, adrelid))
FROM ours JOIN pg_attribute ON attrelid = ours.oid
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
WHERE attnum > 0 AND NOT attisdropped
UNION ALL
SELECT 'constraint ' || relname || '.' || conname, pg_get_constraintdef(pg_constraint.oid)
FROM ours JOIN pg_constraint ON conrelid = ours.oid WHERE contype != 'n'
UNION ALL
SELECT 'index ' || indexrelid::regclass::text,
    regexp_replace(pg_get_indexdef(indexrelid), ' ON .*USING', ' USING') || CASE WHEN indisvalid THEN '' ELSE ' INVALID' END
FROM ours JOIN pg_index ON indrelid = ours.oid
UNION ALL
SELECT 'trigger ' || relname || '.' || tgname, tgenabled::text || ' '
    || regexp_replace(pg_get_triggerdef(pg_trigger.oid, true), ' ON [^ ]+ ', ' ')
FROM ours JOIN pg_trigger ON tgrelid = ours.oid WHERE NOT tgisinternal
UNION ALL
-- Functions that triggers call, and those that these functions call. Some contain the name of their schema,
-- which differs in a copy.
SELECT 'function ' || proname || '(' || pg_get_function_identity_arguments(oid) || ')',
    concat_ws(' ', replace(prosrc, quote_ident(current_schema()) || '.', ''),
        'LANGUAGE ' || (SELECT lanname FROM pg_language WHERE pg_language.oid = prolang),
        CASE provolatile WHEN 'i' THEN 'IMMUTABLE' WHEN 's' THEN 'STABLE' ELSE 'VOLATILE' END,
        CASE WHEN prosecdef THEN 'SECURITY DEFINER' END, 'SET ' || array_to_string(proconfig, ' SET '))
FROM pg_proc
WHERE pronamespace = quote_ident(current_schema())::regnamespace
    AND (proname ~ '^action_(ledger|proposals|records|events|dependencies|halts|limits)_|^workflows_(touch|guard)$'
        OR oid IN (SELECT tgfoid FROM ours JOIN pg_trigger ON tgrelid = ours.oid WHERE NOT tgisinternal))
"""


def catalogue(conn: Connection) -> dict[str, str]:
    """The definitions of the ledger's tables and all that belongs to them, by kind and name.

    They are read from the first schema of the search_path.
    """
    found = conn.execute(text(_CATALOGUE), {"tables": list(TABLES)}).all()
    return {str(name): str(definition) for name, definition in found}


def _milliseconds(seconds: float) -> str:
    # 0 would mean no limit.
    return f"{max(1, round(seconds * 1000))}ms"


class Duty(StrEnum):
    """What a role of its own is for, where not every service should be able to do everything."""

    PROPOSER = "proposer"
    """Creates proposals and workflows."""
    WORKER = "worker"
    """Validates, claims, ends and cancels proposals."""
    APPROVER = "approver"
    """Approves and rejects proposals, and gives votes in advance."""
    OPERATOR = "operator"
    """Adds rules, halts, resolves unknown outcomes, and cancels."""


def grants(schema: str, role: str, version_table: str, duty: Duty | None = None) -> str:
    """The script that lets `role` use the ledger in `schema`, but not change its schema or its history.

    With a `duty`, the role can write only what that duty takes; it can read everything all the same.
    """
    into, to = _quoted(schema), _quoted(role)
    read = ", ".join(f"{into}.{name}" for name in (_quoted(version_table), *_READ))
    return "\n".join(
        f"{statement};"
        for statement in (
            f"GRANT USAGE ON SCHEMA {into} TO {to}",
            f"GRANT SELECT ON {read} TO {to}",
            *(
                f"GRANT {privileges} ON {into}.{table} TO {to}"
                for privileges, table in _WRITTEN[duty]
            ),
            # The triggers ask them whether there are halts, limits and rules.
            f"GRANT SELECT ON SEQUENCE {', '.join(f'{into}.{name}' for name in _FLAGS)} TO {to}",
            # PUBLIC has this right, unless the database's owner has revoked it.
            f"GRANT EXECUTE ON FUNCTION {', '.join(f'{into}.{name}' for name in _CALLED)} TO {to}",
            # Every role may create in public if the database came from PostgreSQL 14 or older. A role that
            # creates in the ledger's schema can put its own objects beside the ledger's.
            f"-- Nobody creates in the ledger's schema except its owner and roles that are granted CREATE by name:\n"
            f"REVOKE CREATE ON SCHEMA {into} FROM PUBLIC, {to}",
        )
    )


_READ: Final = (
    "action_decisions",
    "action_dependencies",
    "action_events",
    "action_grants",
    "action_halts",
    "action_limits",
    "action_proposals",
    "action_records",
    "action_requirements",
    "action_rules",
    "action_starts",
    "action_votes",
    "outcome_resolutions",
    # A reference to a ticket reads it; another service writes tickets.
    "tickets",
    "workflows",
)
"""The tables and views that every duty reads: also the triggers do, with the rights of the writing role."""

_FLAGS: Final = ("action_governance_flag", "action_halts_flag", "action_rules_flag")

_REVOCATION: Final = "UPDATE (revoked_at, revoked_by, revoke_reason)"

_WRITTEN: Final[Mapping[Duty | None, Sequence[tuple[str, str]]]] = {
    None: [
        ("INSERT, UPDATE", "action_proposals"),
        ("INSERT, UPDATE", "action_records"),
        ("INSERT, UPDATE", "workflows"),
        ("INSERT, UPDATE", "action_halts"),
        ("INSERT, UPDATE", "action_limits"),
        ("INSERT", "action_limits_asked"),
        ("INSERT", "outcome_resolutions"),
        ("INSERT", "action_rules"),
        (_REVOCATION, "action_rules"),
        ("INSERT", "action_requirements"),
        ("INSERT", "action_decisions"),
        ("INSERT", "action_grants"),
        (_REVOCATION, "action_grants"),
    ],
    Duty.PROPOSER: [
        ("INSERT", "action_proposals"),
        ("INSERT", "workflows"),
        # What has begun elsewhere counts under limits.
        ("INSERT", "action_limits_asked"),
        # What the policy of the service adds to the rules.
        ("INSERT", "action_requirements"),
    ],
    Duty.WORKER: [
        ("UPDATE", "action_proposals"),
        ("INSERT, UPDATE", "action_records"),
        ("INSERT", "action_limits_asked"),
    ],
    Duty.APPROVER: [
        ("INSERT", "action_decisions"),
        ("INSERT", "action_grants"),
        (_REVOCATION, "action_grants"),
        # An approval fills them in rows that raw SQL has written: what is bound to it, and who may not give it.
        ("UPDATE (content_digest, identity_keys)", "action_proposals"),
    ],
    Duty.OPERATOR: [
        ("INSERT", "action_rules"),
        (_REVOCATION, "action_rules"),
        (_REVOCATION, "action_grants"),
        ("INSERT, UPDATE", "action_halts"),
        ("INSERT, UPDATE", "action_limits"),
        ("INSERT", "outcome_resolutions"),
        # A halt cancels what is pending.
        ("UPDATE", "action_proposals"),
    ],
}
"""What each duty writes, as privileges and their table; None stands for a service that does everything."""

_CALLED: Final = (
    "action_halts_covers",
    "action_halts_refusal",
    "action_ledger_identity_matches",
    "action_limits_admitted",
    "action_limits_amount",
    "action_limits_covers",
    "action_limits_lock",
    "action_limits_quiet",
    "action_limits_used",
    "action_ledger_is_action_type",
    "action_ledger_is_key",
    "action_ledger_is_list_of_ids",
    "action_ledger_is_list_of_names",
    "action_ledger_is_status",
    "action_ledger_is_text",
    "action_ledger_readable",
    "action_proposals_waits",
    "action_requirements_excludes",
    "action_requirements_lapse",
    "action_requirements_met",
    "outcome_resolutions_done",
)
"""The functions that run with the rights of the writing role."""


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
