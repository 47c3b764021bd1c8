-- What undoes revision 0002 on PostgreSQL. Statements end at a semicolon before a blank line.

DROP TABLE action_events;

DROP TABLE action_dependencies;

DROP TRIGGER tickets_updated_at ON tickets;

DROP TRIGGER action_proposals_not_deleted ON action_proposals;

DROP TRIGGER action_proposals_guard ON action_proposals;

DROP TRIGGER action_proposals_immutable ON action_proposals;

DROP TRIGGER action_proposals_not_renumbered ON action_proposals;

DROP TRIGGER action_proposals_created ON action_proposals;

DROP TRIGGER action_proposals_status_changed ON action_proposals;

DROP TRIGGER action_proposals_retries ON action_proposals;

DROP TRIGGER action_records_not_deleted ON action_records;

DROP TRIGGER action_records_guard ON action_records;

DROP TRIGGER action_records_immutable ON action_records;

DROP TRIGGER action_records_started ON action_records;

DROP TRIGGER action_records_finished ON action_records;

ALTER TABLE action_proposals
    DROP CONSTRAINT ck_action_proposals_status,
    DROP CONSTRAINT ck_action_proposals_action_type,
    DROP COLUMN wait_on_failure,
    DROP COLUMN depends_on,
    DROP COLUMN workflow_id,
    DROP COLUMN version,
    DROP COLUMN last_error,
    DROP COLUMN next_retry_at,
    DROP COLUMN retry_count,
    DROP COLUMN max_retry_delay,
    DROP COLUMN retry_delay,
    DROP COLUMN max_retries,
    DROP COLUMN expires_at,
    DROP COLUMN scheduled_at,
    DROP COLUMN priority,
    DROP COLUMN idempotency_key,
    DROP COLUMN status_changed_at,
    DROP COLUMN status_reason,
    DROP COLUMN status_changed_by;

ALTER TABLE action_records
    DROP COLUMN outcome_unknown,
    DROP COLUMN lease_expires_at,
    DROP COLUMN worker,
    DROP COLUMN completed_by,
    DROP COLUMN started_by;

DROP TABLE workflows;

DROP FUNCTION action_ledger_refuse, action_ledger_readable, action_ledger_is_text, action_ledger_is_list_of_ids,
    action_ledger_is_action_type, action_ledger_is_status, tickets_touch, workflows_touch, workflows_guard,
    action_proposals_waits, action_proposals_guard, action_proposals_link, action_proposals_cancel_dependants,
    action_proposals_cancel, action_proposals_tell_created, action_proposals_tell_changed, action_records_guard,
    action_records_tell_started, action_records_tell_finished;

DROP INDEX idx_action_proposals_action_name;

DROP INDEX idx_action_proposals_proposed_by;

DROP INDEX idx_action_proposals_status;

DROP INDEX idx_action_proposals_ticket;

DROP INDEX idx_action_records_proposal;

CREATE INDEX idx_action_proposals_status ON action_proposals (status);

CREATE INDEX idx_action_proposals_ticket ON action_proposals (ticket_id);

CREATE INDEX idx_action_records_proposal ON action_records (proposal_id);
