"""Workers take validated proposals from the ledger, and every start has an end in it.

A proposal says when it may start, how urgent it is and whether it may be run again; a record says who
runs it and until when that is believed. ``version`` counts the changes of a proposal, and the index
``idx_action_proposals_due`` has the order in which they are taken. An execution whose worker fell
silent ends with ``outcome_unknown``, which is neither success nor failure. On PostgreSQL the history
knows the transaction of each event, because the order of ids is not that of commits, and each event
wakes who listens.

Revision: 0005, after 0004
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import context, op

from operator_core.actions.errors import WouldLoseData

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

NOW = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"

COLUMNS = {
    "action_proposals": {
        "priority": "INTEGER DEFAULT 0 NOT NULL",
        "scheduled_at": "TEXT",
        "expires_at": "TEXT",
        "max_retries": "INTEGER DEFAULT 0 NOT NULL",
        "retry_delay": "FLOAT DEFAULT 1 NOT NULL",
        "max_retry_delay": "FLOAT DEFAULT 300 NOT NULL",
        "retry_count": "INTEGER DEFAULT 0 NOT NULL",
        "next_retry_at": "TEXT",
        "last_error": "TEXT",
        "version": "INTEGER DEFAULT 1 NOT NULL",
    },
    "action_records": {
        "worker": "TEXT",
        "lease_expires_at": "TEXT",
        "outcome_unknown": "BOOLEAN DEFAULT 0 NOT NULL",
    },
    "action_events": {"transaction_id": "INTEGER DEFAULT 0 NOT NULL"},
}

INDEXES = {
    "idx_action_proposals_due": "action_proposals (status, priority DESC, "
    "coalesce(next_retry_at, scheduled_at, created_at), id) WHERE status = 'validated'",
    "idx_action_proposals_expires": "action_proposals (status, expires_at) "
    "WHERE status IN ('proposed', 'validated') AND expires_at IS NOT NULL",
    "idx_action_proposals_retry": "action_proposals (status, next_retry_at) "
    "WHERE status = 'failed' AND next_retry_at IS NOT NULL",
    "idx_action_records_lease": "action_records (lease_expires_at) "
    "WHERE completed_at IS NULL AND lease_expires_at IS NOT NULL",
}

PROPOSED = (
    "ticket_id",
    "action_name",
    "action_type",
    "parameters",
    "reason",
    "proposed_at",
    "proposed_by",
    "created_at",
    "idempotency_key",
)
ALSO_PROPOSED = (
    "priority",
    "scheduled_at",
    "expires_at",
    "max_retries",
    "retry_delay",
    "max_retry_delay",
)

TOUCHED = f"""coalesce(max({NOW}, strftime('%Y-%m-%d %H:%M:%f000', OLD.updated_at, '+0.001 seconds')), {NOW})"""

OLD_TOUCH = f"""
AFTER UPDATE ON action_proposals
WHEN NOT NEW.updated_at > OLD.updated_at
    AND NOT (NEW.status_changed_by IS 'raw SQL' AND NEW.status IS OLD.status
        AND NEW.status_changed_at IS NOT OLD.status_changed_at)
BEGIN
    UPDATE action_proposals
    SET updated_at = {TOUCHED}
    WHERE id = NEW.id;
END"""

# The change that another trigger makes to say who acts is part of the change that it follows.
TOUCH = f"""
AFTER UPDATE ON action_proposals
WHEN (NOT NEW.updated_at > OLD.updated_at OR NEW.version IS NOT OLD.version + 1)
    AND NOT (NEW.status_changed_by IS 'raw SQL' AND NEW.status IS OLD.status
        AND NEW.status_changed_at IS NOT OLD.status_changed_at AND NEW.version IS OLD.version)
BEGIN
    UPDATE action_proposals
    SET updated_at = iif(NEW.updated_at > OLD.updated_at, NEW.updated_at, {TOUCHED}),
        version = OLD.version + 1
    WHERE id = NEW.id;
END"""


def _dated(unknown: bool) -> str:
    ended = (
        "(NEW.success IS NULL AND NOT NEW.outcome_unknown)" if unknown else "(NEW.success IS NULL)"
    )
    contradiction = " OR NEW.outcome_unknown AND NEW.success IS NOT NULL" if unknown else ""
    return f"""
BEFORE INSERT ON action_records
WHEN {ended} IS NOT (NEW.completed_at IS NULL){contradiction}
BEGIN
    SELECT RAISE(ABORT, 'action_records_outcome_dated: an outcome and its completed_at go together');
END"""


def _immutable_record(unknown: bool) -> str:
    ended = (
        "(NEW.success IS NULL AND NOT NEW.outcome_unknown)" if unknown else "(NEW.success IS NULL)"
    )
    more = "    OR NEW.worker IS NOT OLD.worker\n" if unknown else ""
    contradiction = "\n    OR NEW.outcome_unknown AND NEW.success IS NOT NULL" if unknown else ""
    return f"""
BEFORE UPDATE ON action_records
WHEN OLD.completed_at IS NOT NULL
    OR NEW.id IS NOT OLD.id
    OR NEW.proposal_id IS NOT OLD.proposal_id
    OR NEW.started_at IS NOT OLD.started_at
    OR NEW.started_by IS NOT OLD.started_by
    OR NEW.created_at IS NOT OLD.created_at
{more}    OR {ended} IS NOT (NEW.completed_at IS NULL){contradiction}
BEGIN
    SELECT RAISE(ABORT, 'action_records_immutable: an execution is ended once and never edited');
END"""


def _immutable_proposal(columns: tuple[str, ...]) -> str:
    first, rest = ", ".join(columns[:7]), ", ".join(columns[7:])
    differs = "\n    OR ".join(f"NEW.{column} IS NOT OLD.{column}" for column in columns)
    return f"""
BEFORE UPDATE OF {first},
    {rest} ON action_proposals
WHEN {differs}
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_immutable: what was proposed can not be edited');
END"""


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        _run_postgresql(".postgresql.sql")
        return
    for table, columns in COLUMNS.items():
        for name, kind in columns.items():
            op.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")
    for name, definition in INDEXES.items():
        op.execute(f"CREATE INDEX {name} ON {definition}")
    _replace("action_proposals_updated_at", TOUCH)
    _replace("action_proposals_immutable", _immutable_proposal(PROPOSED + ALSO_PROPOSED))
    _replace("action_records_outcome_dated", _dated(unknown=True))
    _replace("action_records_immutable", _immutable_record(unknown=True))


def downgrade() -> None:
    if not context.is_offline_mode():
        _keep_work()
    if op.get_context().dialect.name == "postgresql":
        _run_postgresql(".postgresql.down.sql")
        return
    _replace("action_proposals_updated_at", OLD_TOUCH)
    _replace("action_proposals_immutable", _immutable_proposal(PROPOSED))
    _replace("action_records_outcome_dated", _dated(unknown=False))
    _replace("action_records_immutable", _immutable_record(unknown=False))
    for name in INDEXES:
        op.execute(f"DROP INDEX {name}")
    for table, columns in COLUMNS.items():
        for name in reversed(columns):
            op.execute(f"ALTER TABLE {table} DROP COLUMN {name}")


def _keep_work() -> None:
    """Refuses to forget what somebody said or did with what this revision brought."""
    if context.get_x_argument(as_dictionary=True).get("discard-work") == "yes":
        return
    said = " OR ".join(
        [
            "priority <> 0 OR max_retries <> 0 OR retry_delay <> 1 OR max_retry_delay <> 300",
            "retry_count <> 0",
            *(f"{name} IS NOT NULL" for name in ("scheduled_at", "expires_at", "next_retry_at")),
            "last_error IS NOT NULL",
        ]
    )
    used = {
        "action_proposals": said,
        "action_records": "worker IS NOT NULL OR lease_expires_at IS NOT NULL OR outcome_unknown",
    }
    for table, condition in used.items():
        found = op.get_bind().exec_driver_sql(f"SELECT 1 FROM {table} WHERE {condition} LIMIT 1")
        if found.first():
            raise WouldLoseData(table, "discard-work")


def _replace(name: str, definition: str) -> None:
    op.execute(f"DROP TRIGGER {name}")
    op.execute(f"CREATE TRIGGER {name}{definition}")


def _run_postgresql(suffix: str) -> None:
    for statement in Path(__file__).with_suffix(suffix).read_text().split(";\n\n"):
        # A colon is no parameter here.
        op.execute(sa.text(statement.strip().rstrip(";").replace(":", "\\:")))
