"""What any writer may write, the ledger can carry on with; and what it did stays in the history.

- An event says which version of the proposal it made and whose execution it is about, and a retry that is
  scheduled or called off has an event of its own. So each version has at most one event.
- A row that a writer inserts has the values that the models take, and begins as the ledger begins one:
  otherwise one row with the largest integer as its version would stop every statement that meets it. Rows
  that are there already are brought within these limits.
- A proposal that is not due, has expired or waits for another does not start, and nothing is executed for
  one that has ended, whoever writes.

On PostgreSQL all of it stands in the SQL beside this file. On SQLite:

- A trigger that mends a row does so by an UPDATE, for which triggers run again. With recursive_triggers a
  trigger runs again for its own UPDATE, too. So none may take a mended row for another change: `KNOWN` tells
  them apart. Between a change of status and its event, the history does not know the row's status; at all
  other times it does, and nobody else can bring that about.
- A change without a change of status has no such mark. If it says half of what the ledger keeps, a trigger
  writes the whole of it in its place (`GUARDED`), for which SQLite counts no row; if it says nothing, the mended
  row is one that needs no mending.
- INSERT OR REPLACE and UPDATE OR REPLACE delete the row that is in the way, and no trigger hears of it. So
  triggers refuse what would be in the way of a row, by each unique index of each table.
- An event that no trigger wrote does not fit the rows: a proposal's events and a record's are there already
  when a writer's statement ends.

SQLite runs the trigger that was made last first: the history has the end of a proposal before that of what
depends on it, and the edges of a proposal are written before its first event.

Revision: 0008, after 0007
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import context, op

from operator_core.actions.errors import WouldLoseData

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

FORM = "'%Y-%m-%d %H:%M:%f000'"
NOW = f"strftime({FORM}, 'now')"
AFTER = f"coalesce(max({NOW}, strftime({FORM}, {{0}}, '+0.001 seconds')), {NOW})"
RETRIES = "'retry_scheduled', 'retry_cancelled'"
EVENT_TYPES = (
    f"'proposal_created', 'status_changed', {RETRIES}, 'record_started', 'record_finished'"
)
OLD_EVENT_TYPES = "'proposal_created', 'status_changed', 'record_started', 'record_finished'"

# Below 2^62, so that no writer can use up the range of ids by taking the last one.
END_OF_IDS = 1 << 62

UNSAID = (
    "(NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at "
    "OR NEW.status_changed_by IS NULL)"
)

# Whether the history knows the status that the row has.
KNOWN = """OLD.status IS (
        SELECT to_status FROM action_events WHERE proposal_id = OLD.id AND to_status IS NOT NULL
        ORDER BY id DESC LIMIT 1)"""

# A time that no later one can be told from is never in the way.
STALE = f"""(NEW.updated_at IS OLD.updated_at OR (NEW.updated_at > OLD.updated_at) IS NOT TRUE
            AND {AFTER.format("OLD.updated_at")} > OLD.updated_at)"""

ATTRIBUTED = (
    "(NEW.status_changed_by IS NOT OLD.status_changed_by OR NEW.status_reason IS NOT OLD.status_reason "
    "OR NEW.status_changed_at IS NOT OLD.status_changed_at)"
)

TOUCHED = f"iif(NEW.updated_at > OLD.updated_at, NEW.updated_at, {AFTER.format('OLD.updated_at')})"

ENDED_BADLY = "({0}.status = 'cancelled' OR {0}.status = 'failed' AND {0}.next_retry_at IS NULL)"

NEEDS_ENDED = f"""EXISTS (
        SELECT 1 FROM action_dependencies JOIN action_proposals AS needed ON needed.id = depends_on_id
        WHERE proposal_id = NEW.id AND {ENDED_BADLY.format("needed")})"""

# A proposal and what is cancelled with it, in the order of the ids: causes come before effects.
BEHIND = """
        WITH RECURSIVE behind (id) AS (
            SELECT NEW.id
            UNION
            SELECT proposal_id FROM behind JOIN action_dependencies ON depends_on_id = behind.id
                JOIN action_proposals AS next ON next.id = proposal_id
            WHERE NOT next.wait_on_failure AND next.status IN ('proposed', 'validated'))
        SELECT id FROM behind"""

CANCELLED = f"""status_changed_by = 'ledger',
        cancelled_at = {NOW},
        status_changed_at = {AFTER.format("status_changed_at")},
        updated_at = {AFTER.format("updated_at")},
        version = version + 1"""

# Every column of a proposal but those that triggers mend.
OTHER_COLUMNS = (
    "id",
    "ticket_id",
    "action_name",
    "action_type",
    "parameters",
    "reason",
    "status",
    "proposed_at",
    "proposed_by",
    "validated_at",
    "cancelled_at",
    "created_at",
    "idempotency_key",
    "priority",
    "scheduled_at",
    "expires_at",
    "max_retries",
    "retry_delay",
    "max_retry_delay",
    "retry_count",
    "next_retry_at",
    "last_error",
    "workflow_id",
    "depends_on",
    "wait_on_failure",
)


# ------ What may be inserted


SPACES = f"char({', '.join(map(str, (*range(9, 14), 32, 133, 160, 5760, *range(8192, 8203), 8232, 8233, 8239, 8287, 12288)))})"


def _text(column: str, most: int, *, null: bool = False) -> str:
    """Text of at most `most` characters of which one is no white space and none is NUL.

    A blob is greater than all text. `substr` stops at a NUL, and white space begins few texts.
    """
    new = f"NEW.{column}"
    said = (
        f"{new} < x'' AND substr({new}, 1, {most}) = {new} "
        f"AND (unicode({new}) BETWEEN 33 AND 126 OR trim({new}, {SPACES}) <> '')"
    )
    return f"({new} IS NULL OR {said})" if null else f"({said})"


def _time(column: str, *, null: bool = False) -> str:
    """A date and a time of the years that the ledger can keep; most often that of `created_at`."""
    new = f"NEW.{column}"
    said = f"{new} < '9999' AND {new} >= '1970-01-01' AND {new} GLOB '????-*' AND julianday({new}) IS NOT NULL"
    if column != "created_at":
        said = f"{new} = NEW.created_at OR {said}"
    return f"({new} IS NULL OR {said})" if null else f"({said})"


def _integer(column: str, least: int, most: int) -> str:
    return f"(NEW.{column} BETWEEN {least} AND {most} AND CAST(NEW.{column} AS INTEGER) = NEW.{column})"


def _seconds(column: str) -> str:
    return f"(NEW.{column} BETWEEN 0 AND 604800)"


def _flag(column: str) -> str:
    return f"(NEW.{column} = 0 OR NEW.{column} = 1)"


def _reference(column: str) -> str:
    return f"(NEW.{column} IS NULL OR {_integer(column, 1, END_OF_IDS - 1)})"


# JSON without white space.
BARE = "NEW.depends_on"
for code in (9, 10, 13, 32):
    BARE = f"replace({BARE}, char({code}), '')"

VALUES = {
    "action_proposals": {
        "ticket_id": _reference("ticket_id"),
        "workflow_id": _reference("workflow_id"),
        "action_name": _text("action_name", 255),
        "reason": _text("reason", 1 << 16),
        "proposed_by": _text("proposed_by", 255),
        "idempotency_key": _text("idempotency_key", 255, null=True),
        "status_changed_by": _text("status_changed_by", 255, null=True),
        "status_reason": _text("status_reason", 1 << 16, null=True),
        "priority": _integer("priority", -32768, 32767),
        "max_retries": _integer("max_retries", 0, 1000),
        "retry_delay": _seconds("retry_delay"),
        "max_retry_delay": _seconds("max_retry_delay"),
        "wait_on_failure": _flag("wait_on_failure"),
        "proposed_at": _time("proposed_at"),
        "created_at": _time("created_at"),
        "updated_at": _time("updated_at"),
        "status_changed_at": _time("status_changed_at", null=True),
        "validated_at": _time("validated_at", null=True),
        "cancelled_at": _time("cancelled_at", null=True),
        "scheduled_at": _time("scheduled_at", null=True),
        "expires_at": _time("expires_at", null=True),
    },
    "action_records": {
        "worker": _text("worker", 255, null=True),
        "lease_expires_at": "(NEW.lease_expires_at IS NULL OR NEW.worker IS NOT NULL "
        f"AND {_time('lease_expires_at')})",
        "error_message": "(NEW.error_message IS NULL OR NEW.error_message < x'' "
        f"AND substr(NEW.error_message, 1, {1 << 20}) = NEW.error_message)",
        "started_by": _text("started_by", 255, null=True),
        "completed_by": _text("completed_by", 255, null=True),
        "outcome_unknown": _flag("outcome_unknown"),
        "created_at": _time("created_at"),
        "started_at": _time("started_at", null=True),
        "completed_at": _time("completed_at", null=True),
    },
    "workflows": {
        "ticket_id": _reference("ticket_id"),
        "name": _text("name", 255),
        "description": _text("description", 1 << 16, null=True),
        "created_at": _time("created_at"),
        "updated_at": _time("updated_at"),
    },
}


def _values(table: str, id_message: str) -> str:
    """Refuses a row with values that no model takes; after all constraints, which have names of their own."""
    rules = {
        f"{id_message}: an id is positive": "NEW.id >= 1",
        **{
            f"{table}_values: {column} is not what the ledger takes": rule
            for column, rule in VALUES[table].items()
        },
    }
    if table == "action_proposals":
        rules[
            "action_proposals_kept: the ledger keeps version, retry_count, next_retry_at and last_error"
        ] = "(NEW.version = 1 AND NEW.retry_count = 0 AND NEW.next_retry_at IS NULL AND NEW.last_error IS NULL)"
    every = "\n    AND ".join(rules.values())
    refusals = "\n".join(
        f"    SELECT RAISE(ABORT, '{message}') WHERE {rule} IS NOT TRUE;"
        for message, rule in rules.items()
    )
    return f"\nAFTER INSERT ON {table}\nWHEN ({every}) IS NOT TRUE\nBEGIN\n{refusals}\nEND"


def _not_replaced(
    table: str,
    id_message: str,
    refusal: str = "",
    condition: str = "",
) -> str:
    """Refuses a row that would take the place of another, and an id near the end of the range.

    Of ids that SQLite chooses, which are -1 before the INSERT, nothing is said: where somebody has used up
    half of the range before, the other half is still of use.
    """
    return f"""
BEFORE INSERT ON {table}
WHEN NEW.id >= {END_OF_IDS} OR EXISTS (SELECT 1 FROM {table} WHERE id = NEW.id){condition}
BEGIN
    SELECT RAISE(ABORT, '{id_message}: an id is below 2^62') WHERE NEW.id >= {END_OF_IDS};
    SELECT RAISE(ABORT, '{table}_not_replaced: this id is taken')
    WHERE EXISTS (SELECT 1 FROM {table} WHERE id = NEW.id);{refusal}
END"""


# ------ Triggers, in the order in which they are made; the last one runs first


ROW_OF_PROPOSAL = "SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id AND status = NEW.to_status AND version = NEW.version"
ROW_OF_RECORD = (
    "SELECT 1 FROM action_records WHERE id = NEW.record_id AND proposal_id = NEW.proposal_id "
    "AND worker IS NEW.worker"
)
TOLD_OF_RECORD = (
    "SELECT 1 FROM action_events WHERE record_id = NEW.record_id AND event_type = NEW.event_type"
)


def _told_last(column: str) -> str:
    return (
        f"(SELECT {column} FROM action_events WHERE proposal_id = NEW.proposal_id "
        "AND to_status IS NOT NULL ORDER BY id DESC LIMIT 1)"
    )


# No writer of events chooses an id; one that SQLite is to choose is -1 before the INSERT.
GENUINE = f"""
BEFORE INSERT ON action_events
WHEN (NEW.id = -1 AND NEW.transaction_id = 0 AND CASE
    WHEN NEW.record_id IS NOT NULL
    THEN NEW.to_status IS NULL AND NEW.from_status IS NULL AND NEW.version IS NULL
        AND (NEW.event_type = 'record_started' AND NEW.success IS NULL AND EXISTS ({ROW_OF_RECORD})
            OR NEW.event_type = 'record_finished' AND EXISTS (
                {ROW_OF_RECORD} AND completed_at IS NOT NULL AND success IS NEW.success))
        AND NOT EXISTS ({TOLD_OF_RECORD})
    WHEN NEW.success IS NOT NULL OR NEW.worker IS NOT NULL
    THEN 0
    WHEN NEW.event_type = 'status_changed'
    THEN NEW.from_status <> NEW.to_status AND EXISTS ({ROW_OF_PROPOSAL})
        AND {_told_last("to_status")} IS NOT NEW.to_status
    WHEN NEW.event_type = 'proposal_created'
    THEN NEW.from_status IS NULL AND NEW.version = 1 AND EXISTS ({ROW_OF_PROPOSAL})
        AND NOT EXISTS (SELECT 1 FROM action_events WHERE proposal_id = NEW.proposal_id)
    ELSE NEW.event_type IN ({RETRIES}) AND NEW.from_status = NEW.to_status
        AND EXISTS ({ROW_OF_PROPOSAL} AND (next_retry_at IS NULL) = (NEW.event_type = 'retry_cancelled')
            AND status_changed_by IS NEW.actor AND status_reason IS NEW.reason)
        AND coalesce({_told_last("version")}, 0) < NEW.version AND NEW.occurred_at = {NOW}
    END) IS NOT TRUE
BEGIN
    SELECT RAISE(ABORT, 'action_events_not_replaced: the history is append-only') WHERE NEW.id <> -1;
    SELECT RAISE(ABORT, 'action_events_genuine: only what has just happened becomes an event');
END"""

EVENT_TRIGGERS = {
    "action_events_not_updated": """
BEFORE UPDATE ON action_events
BEGIN
    SELECT RAISE(ABORT, 'action_events_not_updated: the history is append-only');
END""",
    "action_events_not_deleted": """
BEFORE DELETE ON action_events
BEGIN
    SELECT RAISE(ABORT, 'action_events_not_deleted: the history is append-only');
END""",
    "action_events_genuine": GENUINE,
}

# A change of status says who acts, or `changed` says that nobody did. Any other change of that says nothing.
# Of a change that says half of what the ledger keeps, the whole is written in its place. An id can be set
# by its other names, rowid and oid, so this is for no column in particular.
GUARDED = f"""
BEFORE UPDATE ON action_proposals
WHEN NEW.id IS NOT OLD.id
    OR NEW.status IS OLD.status
        AND (NEW.version <> OLD.version AND (NEW.version <> OLD.version + 1 OR {STALE})
            OR NEW.version IS OLD.version AND NEW.updated_at > OLD.updated_at
            OR NEW.next_retry_at IS NOT OLD.next_retry_at AND (NEW.version IS OLD.version OR {UNSAID})
            OR NEW.next_retry_at IS OLD.next_retry_at AND {ATTRIBUTED})
        AND {KNOWN}
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_not_renumbered: an id never changes') WHERE NEW.id IS NOT OLD.id;
    SELECT RAISE(ABORT, 'action_proposals_attributed: who acts and why is said with what is done')
    WHERE NEW.next_retry_at IS OLD.next_retry_at AND {ATTRIBUTED};
    UPDATE action_proposals
    SET {", ".join(f"{name} = NEW.{name}" for name in OTHER_COLUMNS)},
        status_changed_by = iif(NEW.next_retry_at IS NOT OLD.next_retry_at AND {UNSAID}, 'raw SQL', NEW.status_changed_by),
        status_reason = iif(NEW.next_retry_at IS NOT OLD.next_retry_at AND {UNSAID}, NULL, NEW.status_reason),
        status_changed_at = iif(NEW.next_retry_at IS NOT OLD.next_retry_at AND {UNSAID}, {AFTER.format("OLD.status_changed_at")}, NEW.status_changed_at),
        updated_at = {TOUCHED},
        version = OLD.version + 1
    WHERE id = OLD.id;
    SELECT RAISE(IGNORE);
END"""

STEP = """(OLD.status = 'proposed' AND (NEW.status = 'validated' OR NEW.status = 'cancelled')
        OR OLD.status = 'validated' AND (NEW.status = 'executing' OR NEW.status = 'cancelled')
        OR OLD.status = 'executing'
            AND (NEW.status = 'completed' OR NEW.status = 'failed' OR NEW.status = 'cancelled')
        OR OLD.status = 'failed' AND NEW.status = 'validated')"""

PROPOSAL_TRIGGERS = {
    "action_proposals_not_replaced": _not_replaced(
        "action_proposals",
        "action_proposals_created",
        """
    SELECT RAISE(ABORT, 'action_proposals_not_replaced: an idempotency key is unique, and this one is taken')
    WHERE EXISTS (SELECT 1 FROM action_proposals WHERE idempotency_key = NEW.idempotency_key);""",
        """
    OR NEW.idempotency_key IS NOT NULL
        AND EXISTS (SELECT 1 FROM action_proposals WHERE idempotency_key = NEW.idempotency_key)""",
    ),
    # What is put back among the pending while what it needs has ended badly ends as it would have then.
    "action_proposals_put_back": f"""
AFTER UPDATE OF status ON action_proposals
WHEN OLD.status = 'failed' AND NEW.status = 'validated' AND NEW.depends_on IS NOT NULL
    AND NOT NEW.wait_on_failure AND {NEEDS_ENDED}
BEGIN
    UPDATE action_proposals
    SET status = 'cancelled',
        status_reason = iif(id = NEW.id, 'a proposal that it depends on has failed or was cancelled',
            'proposal ' || NEW.id || ', which it depends on, was cancelled'),
        {CANCELLED}
    WHERE id IN ({BEHIND});
END""",
    # Of one that is cancelled after what it depends on, the chain that it is part of is being cancelled.
    "action_proposals_cascade": f"""
AFTER UPDATE OF status, next_retry_at ON action_proposals
WHEN {ENDED_BADLY.format("NEW")}
    AND NOT {ENDED_BADLY.format("OLD")}
    AND EXISTS (SELECT 1 FROM action_dependencies WHERE depends_on_id = NEW.id)
    AND NOT (NEW.status = 'cancelled' AND NEW.depends_on IS NOT NULL AND NOT NEW.wait_on_failure
        AND (OLD.status = 'proposed' OR OLD.status = 'validated') AND {NEEDS_ENDED})
BEGIN
    UPDATE action_proposals
    SET status = 'cancelled',
        status_reason = 'proposal ' || NEW.id || ', which it depends on, ' || iif(NEW.status = 'failed', 'failed', 'was cancelled'),
        {CANCELLED}
    WHERE id <> NEW.id AND id IN ({BEHIND});
END""",
    # Whoever moves the status and does not move status_changed_at has not said who acts. When it
    # happened is never the writer's to say.
    "action_proposals_changed": f"""
AFTER UPDATE OF status, next_retry_at ON action_proposals
WHEN NEW.status IS NOT OLD.status OR NEW.next_retry_at IS NOT OLD.next_retry_at
BEGIN
    UPDATE action_proposals
    SET status_changed_by = iif({UNSAID}, 'raw SQL', NEW.status_changed_by),
        status_reason = iif({UNSAID}, NULL, NEW.status_reason),
        status_changed_at = iif({UNSAID}, {AFTER.format("OLD.status_changed_at")}, NEW.status_changed_at),
        updated_at = {TOUCHED},
        version = OLD.version + 1
    WHERE NEW.status IS NOT OLD.status
        AND (NEW.version IS NOT OLD.version + 1 OR (NEW.updated_at > OLD.updated_at) IS NOT TRUE OR {UNSAID})
        AND id = NEW.id;
    INSERT INTO action_events (proposal_id, event_type, from_status, to_status, actor, reason, occurred_at, version)
    VALUES (NEW.id,
        CASE WHEN NEW.status IS NOT OLD.status THEN 'status_changed'
            WHEN NEW.next_retry_at IS NULL THEN 'retry_cancelled' ELSE 'retry_scheduled' END,
        OLD.status, NEW.status,
        iif({UNSAID}, 'raw SQL', NEW.status_changed_by),
        iif({UNSAID}, NULL, NEW.status_reason),
        {NOW}, OLD.version + 1);
END""",
    # The change that the others make before an event is part of what the event is about.
    "action_proposals_updated_at": f"""
AFTER UPDATE ON action_proposals
WHEN NEW.version IS NOT OLD.version + 1 AND NEW.status IS OLD.status AND {KNOWN}
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_updated_at: the ledger counts the versions')
    WHERE NEW.version IS NOT OLD.version;
    UPDATE action_proposals
    SET updated_at = {TOUCHED}, version = OLD.version + 1
    WHERE id = NEW.id;
END""",
    "action_proposals_guarded": GUARDED,
    "action_proposals_retries": """
BEFORE UPDATE OF retry_count ON action_proposals
WHEN NEW.retry_count IS NOT OLD.retry_count
    AND (NEW.retry_count = OLD.retry_count + 1 AND OLD.status = 'failed' AND NEW.status = 'validated') IS NOT TRUE
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_retries: retry_count goes up by one, with a retry');
END""",
    # IS NOT TRUE, not NOT: under UPDATE OR REPLACE a NULL would become the column's default.
    "action_proposals_lifecycle": f"""
BEFORE UPDATE OF status ON action_proposals
WHEN NEW.status IS NOT OLD.status
    AND ({STEP} IS NOT TRUE
        OR NEW.status = 'executing' AND (NEW.scheduled_at IS NOT NULL OR NEW.expires_at IS NOT NULL OR NEW.depends_on IS NOT NULL))
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_lifecycle: the lifecycle has no such step') WHERE {STEP} IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_not_due: it is scheduled for later') WHERE NEW.scheduled_at > {NOW};
    SELECT RAISE(ABORT, 'action_proposals_expired: it was not started in time') WHERE NEW.expires_at <= {NOW};
    SELECT RAISE(ABORT, 'action_proposals_dependency_pending: what it depends on is not completed')
    FROM action_dependencies JOIN action_proposals AS needed ON needed.id = depends_on_id
    WHERE proposal_id = NEW.id AND needed.status <> 'completed';
END""",
    "action_proposals_created": f"""
AFTER INSERT ON action_proposals
BEGIN
    UPDATE action_proposals SET status_changed_by = 'raw SQL', status_changed_at = {NOW}
    WHERE NEW.status_changed_by IS NULL AND id = NEW.id;
    INSERT INTO action_events (proposal_id, event_type, to_status, actor, reason, occurred_at, version)
    VALUES (NEW.id, 'proposal_created', NEW.status, coalesce(NEW.status_changed_by, 'raw SQL'),
        NEW.reason, {NOW}, 1);
    UPDATE action_proposals
    SET status = 'cancelled', status_reason = 'a proposal that it depends on has failed or was cancelled',
        {CANCELLED}
    WHERE id = NEW.id AND NEW.depends_on IS NOT NULL AND NOT NEW.wait_on_failure
        AND NEW.status IN ('proposed', 'validated') AND {NEEDS_ENDED};
END""",
    # Of SQLite's functions for JSON, json_each alone works where trusted_schema is off.
    "action_proposals_linked": f"""
AFTER INSERT ON action_proposals
WHEN NEW.depends_on IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_values: depends_on is not what the ledger takes')
    WHERE NOT NEW.depends_on < x'';
    SELECT RAISE(ABORT, 'action_proposals_values: depends_on is not what the ledger takes')
    FROM (SELECT count(*) AS given, count(DISTINCT value) AS known, group_concat(value) AS ids FROM json_each(NEW.depends_on))
    WHERE given > 1000 OR given <> known OR '[' || coalesce(ids, '') || ']' <> {BARE};
    SELECT RAISE(ABORT, 'action_proposals_created: no such proposal to depend on')
    FROM json_each(NEW.depends_on)
    WHERE type IS NOT 'integer' OR value >= NEW.id OR value NOT IN (SELECT id FROM action_proposals);
    INSERT INTO action_dependencies (proposal_id, depends_on_id)
    SELECT NEW.id, value FROM json_each(NEW.depends_on);
END""",
    "action_proposals_values": _values("action_proposals", "action_proposals_created"),
}

OTHER_TRIGGERS = {
    "action_dependencies_with_proposal": """
BEFORE INSERT ON action_dependencies
WHEN NOT EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id)
    OR EXISTS (SELECT 1 FROM action_events WHERE proposal_id = NEW.proposal_id)
BEGIN
    SELECT RAISE(ABORT, 'action_dependencies_with_proposal: what was proposed can not be edited');
END""",
    "action_records_proposal_exists": """
BEFORE INSERT ON action_records
WHEN (SELECT NEW.completed_at IS NOT NULL OR status = 'executing' OR status = 'validated' OR status = 'proposed'
    FROM action_proposals WHERE id = NEW.proposal_id) IS NOT TRUE
BEGIN
    SELECT RAISE(ABORT, 'action_records_proposal_exists: no such proposal')
    WHERE NOT EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id);
    SELECT RAISE(ABORT, 'action_records_proposal_ended: nothing is executed for a proposal that has ended');
END""",
    "action_records_not_replaced": _not_replaced("action_records", "action_records_started"),
    "action_records_started": f"""
AFTER INSERT ON action_records
BEGIN
    INSERT INTO action_events (proposal_id, record_id, event_type, actor, occurred_at, worker)
    VALUES (NEW.proposal_id, NEW.id, 'record_started', coalesce(NEW.started_by, 'raw SQL'), {NOW}, NEW.worker);
    INSERT INTO action_events (proposal_id, record_id, event_type, success, actor, reason, occurred_at, worker)
    SELECT NEW.proposal_id, NEW.id, 'record_finished', NEW.success,
        coalesce(NEW.completed_by, 'raw SQL'), NEW.error_message, {NOW}, NEW.worker
    WHERE NEW.completed_at IS NOT NULL;
END""",
    "action_records_finished": f"""
AFTER UPDATE OF completed_at ON action_records
WHEN OLD.completed_at IS NULL AND NEW.completed_at IS NOT NULL
BEGIN
    INSERT INTO action_events (proposal_id, record_id, event_type, success, actor, reason, occurred_at, worker)
    VALUES (NEW.proposal_id, NEW.id, 'record_finished', NEW.success,
        coalesce(NEW.completed_by, 'raw SQL'), NEW.error_message, {NOW}, NEW.worker);
END""",
    "action_records_values": _values("action_records", "action_records_started"),
    "workflows_not_replaced": _not_replaced("workflows", "workflows_values"),
    "workflows_ticket_exists": """
BEFORE INSERT ON workflows
WHEN NEW.ticket_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM tickets WHERE id = NEW.ticket_id)
BEGIN
    SELECT RAISE(ABORT, 'workflows_ticket_exists: no such ticket');
END""",
    "workflows_immutable": """
BEFORE UPDATE ON workflows
WHEN NEW.id IS NOT OLD.id
    OR NEW.name IS NOT OLD.name
    OR NEW.description IS NOT OLD.description
    OR NEW.ticket_id IS NOT OLD.ticket_id
    OR NEW.created_at IS NOT OLD.created_at
BEGIN
    SELECT RAISE(ABORT, 'workflows_immutable: what was proposed can not be edited');
END""",
    # Not again for a time that no later one can be told from.
    "workflows_updated_at": f"""
AFTER UPDATE ON workflows
WHEN {STALE}
BEGIN
    UPDATE workflows SET updated_at = {AFTER.format("OLD.updated_at")} WHERE id = NEW.id;
END""",
    "workflows_values": _values("workflows", "workflows_values"),
    # Foreign keys are off in SQLite unless each connection asks for them; these triggers are not.
    "tickets_referenced": """
BEFORE DELETE ON tickets
WHEN EXISTS (SELECT 1 FROM action_proposals WHERE ticket_id = OLD.id)
    OR EXISTS (SELECT 1 FROM workflows WHERE ticket_id = OLD.id)
BEGIN
    SELECT RAISE(ABORT, 'tickets_referenced: a proposal or a workflow refers to this ticket');
END""",
    "tickets_renumbered": """
BEFORE UPDATE ON tickets
WHEN NEW.id IS NOT OLD.id
    AND (EXISTS (SELECT 1 FROM action_proposals WHERE ticket_id IN (OLD.id, NEW.id))
        OR EXISTS (SELECT 1 FROM workflows WHERE ticket_id IN (OLD.id, NEW.id)))
BEGIN
    SELECT RAISE(ABORT, 'tickets_renumbered: a proposal or a workflow refers to this ticket');
END""",
    "tickets_not_replaced": """
BEFORE INSERT ON tickets
WHEN EXISTS (SELECT 1 FROM tickets WHERE id = NEW.id)
    AND (EXISTS (SELECT 1 FROM action_proposals WHERE ticket_id = NEW.id)
        OR EXISTS (SELECT 1 FROM workflows WHERE ticket_id = NEW.id))
BEGIN
    SELECT RAISE(ABORT, 'tickets_not_replaced: a proposal or a workflow refers to this ticket');
END""",
}

IMMUTABLE = (
    "ticket_id, action_name, action_type, parameters, reason, proposed_at, proposed_by",
    "created_at, idempotency_key, priority, scheduled_at, expires_at, max_retries, retry_delay, "
    "max_retry_delay, workflow_id, depends_on, wait_on_failure",
)


def _immutable() -> str:
    """As it was: it is made anew after rows were mended."""
    differs = "\n    OR ".join(
        f"NEW.{column} IS NOT OLD.{column}" for column in ", ".join(IMMUTABLE).split(", ")
    )
    return f"""
BEFORE UPDATE OF {IMMUTABLE[0]},
    {IMMUTABLE[1]} ON action_proposals
WHEN {differs}
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_immutable: what was proposed can not be edited');
END"""


# ------ As it was at 0007

OLD_EVENT_TRIGGERS = {
    "action_events_not_updated": EVENT_TRIGGERS["action_events_not_updated"],
    "action_events_not_deleted": EVENT_TRIGGERS["action_events_not_deleted"],
    "action_events_not_replaced": """
BEFORE INSERT ON action_events
WHEN EXISTS (SELECT 1 FROM action_events WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'action_events_not_replaced: the history is append-only');
END""",
    "action_events_rows_exist": """
AFTER INSERT ON action_events
WHEN NEW.id < 1
    OR NOT EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id)
    OR NEW.record_id IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM action_records WHERE id = NEW.record_id)
BEGIN
    SELECT RAISE(ABORT, 'action_events_rows_exist: no such proposal or record, or no positive id');
END""",
}


def _old_not_replaced(table: str) -> str:
    return f"""
BEFORE INSERT ON {table}
WHEN EXISTS (SELECT 1 FROM {table} WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, '{table}_not_replaced: this id is taken');
END"""


OLD_TRIGGERS = {
    "action_proposals_not_replaced": _old_not_replaced("action_proposals"),
    "action_proposals_not_renumbered": """
BEFORE UPDATE ON action_proposals
WHEN NEW.id IS NOT OLD.id
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_not_renumbered: an id never changes');
END""",
    "action_proposals_lifecycle": """
BEFORE UPDATE OF status ON action_proposals
WHEN NEW.status IS NOT OLD.status
    AND (OLD.status = 'proposed' AND NEW.status IN ('validated', 'cancelled')
        OR OLD.status = 'validated' AND NEW.status IN ('executing', 'cancelled')
        OR OLD.status = 'executing' AND NEW.status IN ('completed', 'failed', 'cancelled')
        OR OLD.status = 'failed' AND NEW.status = 'validated') IS NOT TRUE
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_lifecycle: the lifecycle has no such step');
END""",
    "action_proposals_cascade": f"""
AFTER UPDATE OF status, next_retry_at ON action_proposals
WHEN (NEW.status = 'cancelled' OR NEW.status = 'failed' AND NEW.next_retry_at IS NULL)
    AND NOT (OLD.status = 'cancelled' OR OLD.status = 'failed' AND OLD.next_retry_at IS NULL)
BEGIN
    UPDATE action_proposals
    SET status = 'cancelled',
        status_reason = 'proposal ' || NEW.id || ', which it depends on, ' || iif(NEW.status = 'failed', 'failed', 'was cancelled'),
        {CANCELLED}
    WHERE id IN (
        WITH RECURSIVE behind (id) AS (
            SELECT proposal_id FROM action_dependencies JOIN action_proposals AS next ON next.id = proposal_id
            WHERE depends_on_id = NEW.id AND NOT next.wait_on_failure AND next.status IN ('proposed', 'validated')
            UNION
            SELECT proposal_id FROM behind JOIN action_dependencies ON depends_on_id = behind.id
                JOIN action_proposals AS next ON next.id = proposal_id
            WHERE NOT next.wait_on_failure AND next.status IN ('proposed', 'validated'))
        SELECT id FROM behind);
END""",
    "action_proposals_updated_at": f"""
AFTER UPDATE ON action_proposals
WHEN (NOT NEW.updated_at > OLD.updated_at OR NEW.version IS NOT OLD.version + 1)
    AND NOT (NEW.status_changed_by IS 'raw SQL' AND NEW.status IS OLD.status
        AND NEW.status_changed_at IS NOT OLD.status_changed_at AND NEW.version IS OLD.version)
BEGIN
    UPDATE action_proposals
    SET updated_at = {TOUCHED},
        version = OLD.version + 1
    WHERE id = NEW.id;
END""",
    "action_proposals_created": f"""
AFTER INSERT ON action_proposals
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_created: an id is positive') WHERE NEW.id < 1;
    INSERT INTO action_events (proposal_id, event_type, to_status, actor, reason, occurred_at)
    VALUES (NEW.id, 'proposal_created', NEW.status, coalesce(NEW.status_changed_by, 'raw SQL'),
        NEW.reason, {NOW});
    UPDATE action_proposals SET status_changed_by = 'raw SQL', status_changed_at = {NOW}
    WHERE NEW.status_changed_by IS NULL AND id = NEW.id;
    SELECT RAISE(ABORT, 'action_proposals_created: no such proposal to depend on')
    FROM json_each(NEW.depends_on)
    WHERE type IS NOT 'integer' OR value >= NEW.id OR value NOT IN (SELECT id FROM action_proposals);
    INSERT INTO action_dependencies (proposal_id, depends_on_id)
    SELECT DISTINCT NEW.id, value FROM json_each(NEW.depends_on);
    UPDATE action_proposals
    SET status = 'cancelled', status_reason = 'a proposal that it depends on has failed or was cancelled',
        {CANCELLED}
    WHERE id = NEW.id AND NEW.depends_on IS NOT NULL AND NOT wait_on_failure
        AND status IN ('proposed', 'validated')
        AND EXISTS (
            SELECT 1 FROM action_dependencies JOIN action_proposals AS needed ON needed.id = depends_on_id
            WHERE proposal_id = NEW.id
                AND (needed.status = 'cancelled' OR needed.status = 'failed' AND needed.next_retry_at IS NULL));
END""",
    "action_proposals_immutable": _immutable(),
    "action_proposals_status_changed": f"""
AFTER UPDATE OF status ON action_proposals
WHEN NEW.status IS NOT OLD.status
BEGIN
    INSERT INTO action_events (proposal_id, event_type, from_status, to_status, actor, reason, occurred_at)
    VALUES (NEW.id, 'status_changed', OLD.status, NEW.status,
        iif({UNSAID}, 'raw SQL', NEW.status_changed_by),
        iif({UNSAID}, NULL, NEW.status_reason),
        {NOW});
    UPDATE action_proposals
    SET status_changed_by = 'raw SQL', status_reason = NULL,
        status_changed_at = {AFTER.format("OLD.status_changed_at")}
    WHERE {UNSAID} AND id = NEW.id;
END""",
    "action_records_proposal_exists": """
BEFORE INSERT ON action_records
WHEN NOT EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id)
BEGIN
    SELECT RAISE(ABORT, 'action_records_proposal_exists: no such proposal');
END""",
    "action_records_not_replaced": _old_not_replaced("action_records"),
    "action_records_started": f"""
AFTER INSERT ON action_records
BEGIN
    SELECT RAISE(ABORT, 'action_records_started: an id is positive') WHERE NEW.id < 1;
    INSERT INTO action_events (proposal_id, record_id, event_type, actor, occurred_at)
    VALUES (NEW.proposal_id, NEW.id, 'record_started', coalesce(NEW.started_by, 'raw SQL'), {NOW});
    INSERT INTO action_events (proposal_id, record_id, event_type, success, actor, reason, occurred_at)
    SELECT NEW.proposal_id, NEW.id, 'record_finished', NEW.success,
        coalesce(NEW.completed_by, 'raw SQL'), NEW.error_message, {NOW}
    WHERE NEW.completed_at IS NOT NULL;
END""",
    "action_records_finished": f"""
AFTER UPDATE OF completed_at ON action_records
WHEN OLD.completed_at IS NULL AND NEW.completed_at IS NOT NULL
BEGIN
    INSERT INTO action_events (proposal_id, record_id, event_type, success, actor, reason, occurred_at)
    VALUES (NEW.proposal_id, NEW.id, 'record_finished', NEW.success,
        coalesce(NEW.completed_by, 'raw SQL'), NEW.error_message, {NOW});
END""",
    "workflows_not_replaced": _old_not_replaced("workflows"),
    "workflows_updated_at": f"""
AFTER UPDATE ON workflows
WHEN NOT NEW.updated_at > OLD.updated_at
BEGIN
    UPDATE workflows
    SET updated_at = {AFTER.format("OLD.updated_at")}
    WHERE id = NEW.id;
END""",
    "tickets_referenced": """
BEFORE DELETE ON tickets
WHEN EXISTS (SELECT 1 FROM action_proposals WHERE ticket_id = OLD.id)
BEGIN
    SELECT RAISE(ABORT, 'tickets_referenced: a proposal refers to this ticket');
END""",
    "tickets_renumbered": """
BEFORE UPDATE ON tickets
WHEN NEW.id IS NOT OLD.id AND EXISTS (SELECT 1 FROM action_proposals WHERE ticket_id = OLD.id)
BEGIN
    SELECT RAISE(ABORT, 'tickets_renumbered: a proposal refers to this ticket');
END""",
}

NEW_TRIGGERS = {**PROPOSAL_TRIGGERS, "action_proposals_immutable": _immutable(), **OTHER_TRIGGERS}

COLUMNS = (
    "id, proposal_id, record_id, event_type, from_status, to_status, success, actor, reason, "
    "occurred_at, transaction_id"
)

# What arithmetic on a row must be able to carry on with; another type is no number at all.
LIMITS = {
    "version": ("integer", 1, END_OF_IDS, 1),
    "retry_count": ("integer", 0, 1_000_000, 0),
    "priority": ("integer", -32768, 32767, 0),
    "max_retries": ("integer", 0, 1000, 0),
    "retry_delay": ("real", 0.0, 604800.0, 1.0),
    "max_retry_delay": ("real", 0.0, 604800.0, 300.0),
}


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        _run_postgresql(".postgresql.sql")
        return
    for name in (*OLD_EVENT_TRIGGERS, *OLD_TRIGGERS):
        op.execute(f"DROP TRIGGER {name}")
    _rebuild_events(with_details=True)
    for column, (kind, least, most, default) in LIMITS.items():
        op.execute(
            f"UPDATE action_proposals SET {column} = CASE WHEN typeof({column}) <> '{kind}' THEN {default} "
            f"ELSE max({least}, min({column}, {most})) END "
            f"WHERE typeof({column}) <> '{kind}' OR {column} NOT BETWEEN {least} AND {most}"
        )
    _tell_the_unknown()
    for name, definition in {**EVENT_TRIGGERS, **NEW_TRIGGERS}.items():
        op.execute(f"CREATE TRIGGER {name}{definition}")


def _rebuild_events(*, with_details: bool) -> None:
    """`action_events` with another CHECK, and the same rows and ids."""
    for index in (
        "idx_action_events_proposal",
        *([] if with_details else ["idx_action_events_record"]),
    ):
        op.execute(f"DROP INDEX {index}")
    op.execute("ALTER TABLE action_events RENAME TO _old_action_events")
    details = [sa.Column("version", sa.Integer), sa.Column("worker", sa.Text)]
    kinds = EVENT_TYPES if with_details else OLD_EVENT_TYPES
    transaction = sa.Column(
        "transaction_id", sa.Integer, nullable=False, server_default=sa.text("0")
    )
    op.create_table(
        "action_events",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("proposal_id", sa.Integer, nullable=False),
        sa.Column("record_id", sa.Integer),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("from_status", sa.Text),
        sa.Column("to_status", sa.Text),
        sa.Column("success", sa.Boolean),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("occurred_at", sa.Text, nullable=False),
        *([transaction, *details] if with_details else []),
        sa.PrimaryKeyConstraint("id", name="pk_action_events"),
        sa.ForeignKeyConstraint(
            ["proposal_id"],
            ["action_proposals.id"],
            name="fk_action_events_proposal_id_action_proposals",
        ),
        sa.ForeignKeyConstraint(
            ["record_id"], ["action_records.id"], name="fk_action_events_record_id_action_records"
        ),
        sa.CheckConstraint(f"event_type IN ({kinds})", name=op.f("ck_action_events_event_type")),
        sa.CheckConstraint("success IN (0, 1)", name=op.f("ck_action_events_success")),
        sqlite_autoincrement=True,
    )
    if not with_details:
        # As revision 0005 adds it.
        op.execute("ALTER TABLE action_events ADD COLUMN transaction_id INTEGER DEFAULT 0 NOT NULL")
    kept = "" if with_details else f"WHERE event_type NOT IN ({RETRIES}) "
    op.execute(
        f"INSERT INTO action_events ({COLUMNS}) SELECT {COLUMNS} FROM _old_action_events {kept}ORDER BY id"
    )
    # The highest id that the table ever gave, which may be of a row that is gone.
    op.execute("DELETE FROM sqlite_sequence WHERE name = 'action_events'")
    op.execute(
        "INSERT INTO sqlite_sequence (name, seq) "
        "SELECT 'action_events', seq FROM sqlite_sequence WHERE name = '_old_action_events'"
    )
    op.execute("DROP TABLE _old_action_events")
    op.execute("CREATE INDEX idx_action_events_proposal ON action_events (proposal_id, id)")
    if with_details:
        op.execute(
            "CREATE INDEX idx_action_events_record ON action_events (record_id) "
            "WHERE record_id IS NOT NULL"
        )


def _tell_the_unknown() -> None:
    """Where somebody changed a status while no trigger was there, the history says so from here on."""
    told = (
        "(SELECT to_status FROM action_events WHERE proposal_id = p.id AND to_status IS NOT NULL "
        "ORDER BY id DESC LIMIT 1)"
    )
    op.execute(
        "INSERT INTO action_events "
        "(proposal_id, event_type, from_status, to_status, actor, reason, occurred_at) "
        f"SELECT id, iif({told} IS NULL, 'proposal_created', 'status_changed'), {told}, status, "
        f"'migration', 'the history did not know of this status', {NOW} "
        f"FROM action_proposals AS p WHERE status IS NOT {told} ORDER BY id"
    )


def downgrade() -> None:
    if not context.is_offline_mode():
        _keep_details()
    if op.get_context().dialect.name == "postgresql":
        _run_postgresql(".postgresql.down.sql")
        return
    for name in (*EVENT_TRIGGERS, *NEW_TRIGGERS):
        op.execute(f"DROP TRIGGER {name}")
    _rebuild_events(with_details=False)
    for name, definition in {**OLD_EVENT_TRIGGERS, **OLD_TRIGGERS}.items():
        op.execute(f"CREATE TRIGGER {name}{definition}")


def _keep_details() -> None:
    """Refuses to forget that a retry was scheduled or called off; revision 0007 has no word for it."""
    if context.get_x_argument(as_dictionary=True).get("discard-details") == "yes":
        return
    told = f"SELECT 1 FROM action_events WHERE event_type IN ({RETRIES}) LIMIT 1"
    if op.get_bind().exec_driver_sql(told).first():
        raise WouldLoseData("action_events", "discard-details")


def _run_postgresql(suffix: str) -> None:
    for statement in Path(__file__).with_suffix(suffix).read_text().split(";\n\n"):
        # A colon is no parameter here.
        op.execute(sa.text(statement.strip().rstrip(";").replace(":", "\\:")))
