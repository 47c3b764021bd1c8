"""Checks the rights on a ledger's tables on PostgreSQL, and objects that break the rules of its schema.

`operator_core.db.migrate.postgresql.catalogue` covers the objects that a revision creates. This module checks what
a revision never creates or leaves to the schema's owner: rules, row level security, owners, privileges, settings.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from operator_core.cli.findings import SHOWN, Finding, Verdict, counted
from operator_core.cli.row_checks import LAST_ID
from operator_core.db import migrate
from operator_core.db.sql.tables import NUMBERED, TABLES

__all__ = ["check_objects", "details"]

# Every query reads these. The names are constants, so the f-string is safe.
_OURS: Final = f"""
WITH ours AS MATERIALIZED (
    SELECT * FROM pg_class
    WHERE relnamespace = quote_ident(current_schema())::regnamespace
        AND relname IN ({", ".join(repr(name) for name in (*TABLES, migrate.VERSION_TABLE))})),
sequences AS MATERIALIZED (
    SELECT c.*, ours.relname AS of_table, attname FROM pg_class c
    JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')
    JOIN ours ON d.refclassid = 'pg_class'::regclass AND d.refobjid = ours.oid
    JOIN pg_attribute ON attrelid = ours.oid AND attnum = d.refobjsubid
    WHERE c.relkind = 'S'),
functions AS MATERIALIZED (
    SELECT * FROM pg_proc
    WHERE pronamespace = quote_ident(current_schema())::regnamespace
        AND (proname ~ '^action_(ledger|proposals|records|events|dependencies|halts|limits)_'
            OR proname IN ('tickets_touch', 'workflows_touch')
            OR oid IN (SELECT tgfoid FROM pg_trigger JOIN ours ON tgrelid = ours.oid)))
"""  # noqa: S608


@dataclass(frozen=True)
class _Check:
    subject: str
    verdict: Verdict
    sound: str
    query: str


def check_objects(conn: Connection) -> Iterable[Finding]:
    """Yields the findings; works with every revision and every role."""
    for check in _CHECKS:
        try:
            with conn.begin_nested():
                rows = conn.execute(text(_OURS + check.query)).scalars().all()
        except DBAPIError as error:
            yield Finding(check.subject, Verdict.WARNING, f"can't be checked: {error.orig}")
            continue
        yield counted(check.subject, rows[:SHOWN], len(rows), check.sound, check.verdict)


def details(conn: Connection) -> dict[str, str]:
    """Returns what a revision creates and `catalogue` lacks, from the first schema of the search_path."""
    rows: Sequence[Any] = conn.execute(text(_OURS + _DETAILS)).all()
    return {str(name): str(definition) for name, definition in rows}


# Without the schema's name, which differs in a copy.
_DETAILS: Final = r"""
SELECT 'collation of ' || relname || '.' || attname, concat_ws(' ', attcollation::regcollation, attgenerated)
FROM ours JOIN pg_attribute ON attrelid = ours.oid WHERE attnum > 0 AND NOT attisdropped AND relname != 'tickets'
UNION ALL
SELECT 'sequence of ' || of_table || '.' || attname, concat_ws(' ', seqtypid::regtype, seqstart, seqincrement,
    seqmin, seqmax, seqcycle)
FROM sequences JOIN pg_sequence ON seqrelid = sequences.oid
"""

# The privileges of `db grants`, and those that the owner of tickets may grant to their writers.
_ALLOWED: Final = """(
    privilege_type = 'SELECT'
    OR relname IN ('action_proposals', 'action_records', 'workflows', 'action_halts', 'action_limits') AND privilege_type IN ('INSERT', 'UPDATE')
    OR relname IN ('outcome_resolutions', 'action_rules', 'action_requirements', 'action_decisions', 'action_grants', 'action_limits_asked') AND privilege_type = 'INSERT'
    OR relname IN ('action_rules', 'action_grants') AND privilege_type = 'UPDATE' AND what LIKE '%.revoke%'
    OR relname = 'tickets' AND privilege_type NOT IN ('TRIGGER', 'TRUNCATE'))"""

_TABLES: Final = """
SELECT 'rule ' || rulename || ' on ' || relname || ' rewrites its statements'
FROM ours JOIN pg_rewrite ON ev_class = ours.oid WHERE rulename != '_RETURN'
UNION ALL
SELECT 'row level security of ' || relname || ' hides rows'
FROM ours WHERE relrowsecurity OR relforcerowsecurity
UNION ALL
SELECT 'policy ' || polname || ' on ' || relname || ' hides rows when row level security is enabled'
FROM ours JOIN pg_policy ON polrelid = ours.oid
UNION ALL
SELECT CASE WHEN inhrelid = ours.oid THEN relname || ' inherits from ' || inhparent::regclass
    ELSE inhrelid::regclass || ' inherits from ' || relname || ', so its rows appear there' END
FROM ours JOIN pg_inherits ON ours.oid IN (inhrelid, inhparent)
UNION ALL
SELECT relname || ' is not a plain table' FROM ours WHERE relkind != 'r'
UNION ALL
SELECT relname || ' is unlogged: a crash of the server empties it' FROM ours WHERE relpersistence = 'u'
UNION ALL
SELECT 'trigger ' || tgname || ' on ' || relname || ' is '
    || CASE tgenabled WHEN 'D' THEN 'disabled' WHEN 'R' THEN 'for replicas only' ELSE 'for replicas too' END
FROM ours JOIN pg_trigger ON tgrelid = ours.oid WHERE NOT tgisinternal AND tgenabled != 'O'
UNION ALL
SELECT 'foreign key ' || conname || ' of ' || relname || ' is not enforced'
FROM ours JOIN pg_constraint k ON conrelid = ours.oid
WHERE contype = 'f' AND (NOT convalidated
    -- Each foreign key has four triggers: two on the referring table, two on the referenced one.
    OR 4 != (SELECT count(*) FROM pg_trigger WHERE tgconstraint = k.oid AND tgenabled = 'O'))
ORDER BY 1
"""

_OWNERS: Final = """
, owned AS (
    SELECT 'table ' || relname AS what, relowner AS owner FROM ours WHERE relname != 'tickets'
    UNION ALL
    SELECT 'sequence ' || relname, relowner FROM sequences WHERE of_table != 'tickets'
    UNION ALL
    SELECT 'function ' || proname, proowner FROM functions)
SELECT what || ' belongs to ' || owner::regrole || ', and action_proposals to ' || relowner::regrole
FROM owned JOIN ours ON relname = 'action_proposals' AND owner != relowner
ORDER BY 1
"""

_PRIVILEGES: Final = f"""
, granted AS (
    SELECT relname, relowner AS owner, 'table ' || relname AS what, coalesce(relacl, acldefault('r', relowner)) AS acl
    FROM ours
    UNION ALL
    SELECT relname, relowner, 'column ' || relname || '.' || attname, attacl
    FROM ours JOIN pg_attribute ON attrelid = ours.oid WHERE attacl IS NOT NULL AND NOT attisdropped)
SELECT privilege_type || ' on ' || what || ' is granted to '
    || CASE grantee WHEN 0 THEN 'everybody' ELSE grantee::regrole::text END
FROM granted CROSS JOIN aclexplode(acl)
WHERE grantee != owner AND NOT {_ALLOWED}
UNION ALL
SELECT privilege_type || ' on sequence ' || relname || ' is granted to '
    || CASE grantee WHEN 0 THEN 'everybody' ELSE grantee::regrole::text END
FROM sequences CROSS JOIN aclexplode(relacl)
WHERE grantee != relowner AND privilege_type = 'UPDATE' AND of_table != 'tickets'
UNION ALL
SELECT 'EXECUTE on function ' || proname || ', which runs with its owner''s rights, is granted to '
    || CASE grantee WHEN 0 THEN 'everybody' ELSE grantee::regrole::text END
FROM functions CROSS JOIN aclexplode(coalesce(proacl, acldefault('f', proowner)))
WHERE prosecdef AND grantee != proowner
ORDER BY 1
"""  # noqa: S608

_CREATE: Final = """
SELECT 'CREATE on schema ' || nspname || ' is granted to '
    || CASE grantee WHEN 0 THEN 'everybody' ELSE grantee::regrole::text END
    || ', who can create functions and tables beside the ledger''s; `db grants` prints how to revoke it'
FROM pg_namespace CROSS JOIN aclexplode(coalesce(nspacl, acldefault('n', nspowner)))
WHERE nspname = current_schema() AND privilege_type = 'CREATE' AND grantee != nspowner
    AND grantee NOT IN (SELECT relowner FROM ours)
ORDER BY 1
"""

# Only a superuser can set it, so a service can't reset it.
_REPLICA: Final = """
SELECT 'session_replication_role is replica for ' || coalesce('the role ' || rolname, 'every role')
    || coalesce(' in the database ' || datname, '') || ': no trigger and no foreign key works'
FROM pg_db_role_setting LEFT JOIN pg_roles ON pg_roles.oid = setrole
    LEFT JOIN pg_database ON pg_database.oid = setdatabase
WHERE 'session_replication_role=replica' = ANY (setconfig)
    AND (setdatabase = 0 OR datname = current_database())
UNION ALL
SELECT 'session_replication_role is replica here: no trigger and no foreign key works'
WHERE current_setting('session_replication_role') = 'replica'
ORDER BY 1
"""

_SUBSCRIPTIONS: Final = """
SELECT 'the subscription ' || subname || ' writes to ' || relname || ' without its triggers'
FROM ours JOIN pg_subscription_rel ON srrelid = ours.oid JOIN pg_subscription s ON s.oid = srsubid
ORDER BY 1
"""

_NEXT_IDS: Final = f"""
, newest (name, id) AS (
    {" UNION ALL ".join(f"SELECT '{name}', max(id) FROM {name}" for name in NUMBERED)})
SELECT 'the next id of ' || name || ' was already used, or is out of range'
FROM newest JOIN sequences ON of_table = name AND attname = 'id'
    JOIN pg_sequences ON schemaname = current_schema() AND sequencename = relname
WHERE has_sequence_privilege(sequences.oid, 'SELECT')
    AND coalesce(last_value, 0) NOT BETWEEN coalesce(id, 0) AND {LAST_ID - 1}
ORDER BY 1
"""  # noqa: S608

_FLAG: Final = """
, flag AS (SELECT sequences.oid FROM sequences WHERE relname = 'action_halts_flag')
SELECT 'the flag that tells the triggers of open halts is down, and halt ' || id || ' is open'
FROM flag CROSS JOIN action_halts
WHERE has_sequence_privilege(flag.oid, 'SELECT')
    AND pg_sequence_last_value(flag.oid::regclass) = -('action_halts'::regclass::oid::bigint)
    AND resumed_at IS NULL AND (valid_until IS NULL OR valid_until > clock_timestamp())
ORDER BY 1
"""

_LIMIT_FLAG: Final = """
, flag AS (SELECT sequences.oid FROM sequences WHERE relname = 'action_governance_flag')
SELECT 'the flag that tells the triggers of limits is down, and limit ' || id || ' is open'
FROM flag CROSS JOIN action_limits
WHERE has_sequence_privilege(flag.oid, 'SELECT')
    AND pg_sequence_last_value(flag.oid::regclass) = -('action_limits'::regclass::oid::bigint)
    AND removed_at IS NULL
ORDER BY 1
"""

_CHECKS: Final = (
    _Check(
        "tables",
        Verdict.BROKEN,
        "no rule, no policy, no inheritance, nothing disabled",
        _TABLES,
    ),
    _Check("privileges", Verdict.BROKEN, "no role has more than `db grants` grants", _PRIVILEGES),
    _Check("owners", Verdict.WARNING, "one role owns all objects", _OWNERS),
    _Check("CREATE", Verdict.WARNING, "granted only to the owner", _CREATE),
    _Check("triggers", Verdict.BROKEN, "they work for every role of the database", _REPLICA),
    _Check("next ids", Verdict.BROKEN, "all are unused", _NEXT_IDS),
    _Check("halt flag", Verdict.BROKEN, "the triggers know whether a halt is open", _FLAG),
    _Check("limit flag", Verdict.BROKEN, "the triggers know whether a limit is open", _LIMIT_FLAG),
    _Check("subscriptions", Verdict.WARNING, "none writes without the triggers", _SUBSCRIPTIONS),
)
