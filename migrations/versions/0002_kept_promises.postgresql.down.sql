-- What undoes revision 0002 on PostgreSQL. Statements end at a semicolon before a blank line.

DROP TABLE action_events;

DROP TRIGGER tickets_updated_at ON tickets;

DROP TRIGGER action_proposals_not_deleted ON action_proposals;

DROP TRIGGER action_proposals_immutable ON action_proposals;

DROP TRIGGER action_proposals_not_renumbered ON action_proposals;

DROP TRIGGER action_proposals_lifecycle ON action_proposals;

DROP TRIGGER action_proposals_unsaid ON action_proposals;

DROP TRIGGER action_proposals_unsaid_change ON action_proposals;

DROP TRIGGER action_proposals_created ON action_proposals;

DROP TRIGGER action_proposals_status_changed ON action_proposals;

DROP TRIGGER action_proposals_updated_at ON action_proposals;

DROP TRIGGER action_records_not_deleted ON action_records;

DROP TRIGGER action_records_outcome_dated ON action_records;

DROP TRIGGER action_records_immutable ON action_records;

DROP TRIGGER action_records_started ON action_records;

DROP TRIGGER action_records_finished ON action_records;

DROP FUNCTION action_ledger_refuse, tickets_touch, action_proposals_mark, action_proposals_tell_created,
    action_proposals_tell_changed, action_proposals_touch, action_records_tell;

ALTER TABLE action_proposals
    DROP CONSTRAINT ck_action_proposals_times,
    DROP CONSTRAINT ck_action_proposals_id,
    DROP CONSTRAINT ck_action_proposals_status,
    DROP CONSTRAINT ck_action_proposals_action_type,
    DROP COLUMN status_changed_at,
    DROP COLUMN status_reason,
    DROP COLUMN status_changed_by;

ALTER TABLE action_records
    DROP CONSTRAINT ck_action_records_times,
    DROP CONSTRAINT ck_action_records_id,
    DROP COLUMN completed_by,
    DROP COLUMN started_by;

DROP INDEX idx_action_proposals_action_name;

DROP INDEX idx_action_proposals_proposed_by;

DROP INDEX idx_action_proposals_status;

DROP INDEX idx_action_proposals_ticket;

DROP INDEX idx_action_records_proposal;

CREATE INDEX idx_action_proposals_status ON action_proposals (status);

CREATE INDEX idx_action_proposals_ticket ON action_proposals (ticket_id);

CREATE INDEX idx_action_records_proposal ON action_records (proposal_id);
