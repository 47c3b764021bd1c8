"""Recognises PostgreSQL tables without a revision that are exactly the plain schema of revision 0001."""

from typing import Final

from sqlalchemy import Connection, text

from operator_core.actions.errors import UnmanagedSchema

__all__ = ["check_adoptable"]

_TABLES: Final = ("tickets", "action_proposals", "action_records")

# The output of `_catalogue` after revision 0001.
_PLAIN: Final = (
    "action_proposals fk_action_proposals_ticket_id_tickets FOREIGN KEY (ticket_id) REFERENCES tickets(id)",
    "action_proposals index CREATE INDEX idx_action_proposals_status USING btree (status)",
    "action_proposals index CREATE INDEX idx_action_proposals_ticket USING btree (ticket_id)",
    "action_proposals of kind r",
    "action_proposals pk_action_proposals PRIMARY KEY (id)",
    "action_proposals.action_name text NOT NULL",
    "action_proposals.action_type text NOT NULL DEFAULT 'subject'::text",
    "action_proposals.cancelled_at timestamp with time zone",
    "action_proposals.created_at timestamp with time zone NOT NULL DEFAULT statement_timestamp()",
    "action_proposals.id bigint NOT NULL ALWAYS",
    "action_proposals.parameters json NOT NULL",
    "action_proposals.proposed_at timestamp with time zone NOT NULL",
    "action_proposals.proposed_by text NOT NULL DEFAULT 'agent'::text",
    "action_proposals.reason text NOT NULL",
    "action_proposals.status text NOT NULL DEFAULT 'proposed'::text",
    "action_proposals.ticket_id bigint",
    "action_proposals.updated_at timestamp with time zone NOT NULL DEFAULT statement_timestamp()",
    "action_proposals.validated_at timestamp with time zone",
    "action_records fk_action_records_proposal_id_action_proposals FOREIGN KEY (proposal_id) REFERENCES action_proposals(id)",
    "action_records index CREATE INDEX idx_action_records_proposal USING btree (proposal_id)",
    "action_records of kind r",
    "action_records pk_action_records PRIMARY KEY (id)",
    "action_records.completed_at timestamp with time zone",
    "action_records.created_at timestamp with time zone NOT NULL DEFAULT statement_timestamp()",
    "action_records.error_message text",
    "action_records.id bigint NOT NULL ALWAYS",
    "action_records.proposal_id bigint NOT NULL",
    "action_records.result_data json",
    "action_records.started_at timestamp with time zone",
    "action_records.success boolean",
    "tickets index CREATE INDEX idx_tickets_open_violation USING btree (violation_key) WHERE (status <> 'resolved'::text)",
    "tickets index CREATE INDEX idx_tickets_violation_time USING btree (violation_key, resolved_at)",
    "tickets of kind r",
    "tickets pk_tickets PRIMARY KEY (id)",
    "tickets.batch_key text",
    "tickets.created_at text NOT NULL DEFAULT to_char((clock_timestamp() AT TIME ZONE 'UTC'::text), 'YYYY-MM-DD HH24:MI:SS'::text)",
    "tickets.diagnosis text",
    "tickets.first_seen_at text NOT NULL",
    "tickets.held boolean NOT NULL DEFAULT false",
    "tickets.id bigint NOT NULL BY DEFAULT",
    "tickets.invariant_name text NOT NULL",
    "tickets.last_seen_at text NOT NULL",
    "tickets.message text NOT NULL",
    "tickets.metric_snapshot text",
    "tickets.occurrence_count integer NOT NULL DEFAULT 1",
    "tickets.resolved_at text",
    "tickets.severity text NOT NULL DEFAULT 'warning'::text",
    "tickets.status text NOT NULL DEFAULT 'open'::text",
    "tickets.store_id text",
    "tickets.updated_at text NOT NULL DEFAULT to_char((clock_timestamp() AT TIME ZONE 'UTC'::text), 'YYYY-MM-DD HH24:MI:SS'::text)",
    "tickets.violation_key text NOT NULL",
)


def check_adoptable(conn: Connection) -> None:
    """Raises `UnmanagedSchema` unless all tables are missing, or exactly those of the plain schema."""
    found = _catalogue(conn)
    if not found:
        return
    differences = [f"missing or different: {each}" for each in _PLAIN if each not in found]
    differences += [f"there is {each}" for each in found if each not in _PLAIN]
    if differences:
        raise UnmanagedSchema(differences)


def _catalogue(conn: Connection) -> list[str]:
    """One line for each object in the schema with a name of the ledger's, and for all that belongs to it."""
    names = ", ".join(f"'{name}'" for name in (*_TABLES, "action_events"))
    query = f"""
        WITH ours AS (
            SELECT oid, relname FROM pg_class
            WHERE relnamespace = quote_ident(current_schema())::regnamespace AND relname IN ({names}))
        SELECT relname || ' of kind ' || relkind::text FROM ours JOIN pg_class USING (oid, relname)
        UNION ALL
        SELECT concat_ws(' ', relname || '.' || attname, format_type(atttypid, atttypmod),
            CASE WHEN attnotnull THEN 'NOT NULL' END,
            CASE attidentity WHEN 'a' THEN 'ALWAYS' WHEN 'd' THEN 'BY DEFAULT' END,
            CASE WHEN attgenerated != '' THEN 'GENERATED' END,
            'DEFAULT ' || pg_get_expr(adbin, adrelid))
        FROM ours JOIN pg_attribute ON attrelid = ours.oid
            LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE attnum > 0 AND NOT attisdropped
        UNION ALL
        SELECT concat_ws(' ', relname, conname, pg_get_constraintdef(pg_constraint.oid))
        FROM ours JOIN pg_constraint ON conrelid = ours.oid WHERE contype != 'n'
        UNION ALL
        SELECT relname || ' index ' || regexp_replace(pg_get_indexdef(indexrelid), ' ON .* USING', ' USING')
        FROM ours JOIN pg_index ON indrelid = ours.oid WHERE NOT indisprimary
        UNION ALL
        SELECT relname || ' trigger ' || tgname
        FROM ours JOIN pg_trigger ON tgrelid = ours.oid WHERE NOT tgisinternal
        UNION ALL
        SELECT relname || ' rule ' || rulename
        FROM ours JOIN pg_rewrite ON ev_class = ours.oid WHERE rulename != '_RETURN'
        UNION ALL
        SELECT relname || ' row security' FROM ours JOIN pg_class USING (oid, relname) WHERE relrowsecurity
        """
    return sorted(conn.execute(text(query.replace(":", "\\:"))).scalars())
