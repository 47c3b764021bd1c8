-- Revision 0006 on SQLite: the new objects. Two triggers of others are changed besides.

CREATE TABLE outcome_resolutions (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    record_id INTEGER NOT NULL,
    proposal_id INTEGER NOT NULL,
    succeeded BOOLEAN NOT NULL,
    resolved_by TEXT NOT NULL,
    evidence TEXT NOT NULL,
    created_at TEXT DEFAULT (strftime('%Y-%m-%d %H:%M:%f000', 'now')) NOT NULL,
    CONSTRAINT fk_outcome_resolutions_record_id_action_records FOREIGN KEY(record_id) REFERENCES action_records (id),
    CONSTRAINT fk_outcome_resolutions_proposal_id_action_proposals FOREIGN KEY(proposal_id) REFERENCES action_proposals (id),
    CONSTRAINT ck_outcome_resolutions_succeeded CHECK (succeeded IN (0, 1))
);

CREATE UNIQUE INDEX uq_outcome_resolutions_record_id ON outcome_resolutions (record_id);

CREATE INDEX idx_action_records_unknown ON action_records (id) WHERE outcome_unknown = 1;

CREATE TRIGGER outcome_resolutions_not_updated
BEFORE UPDATE ON outcome_resolutions
BEGIN
    SELECT RAISE(ABORT, 'outcome_resolutions_not_updated: an outcome is resolved once');
END;

CREATE TRIGGER outcome_resolutions_not_deleted
BEFORE DELETE ON outcome_resolutions
BEGIN
    SELECT RAISE(ABORT, 'outcome_resolutions_not_deleted: an outcome is resolved once');
END;

CREATE TRIGGER outcome_resolutions_not_replaced
BEFORE INSERT ON outcome_resolutions
WHEN NEW.id >= 4611686018427387904 OR EXISTS (SELECT 1 FROM outcome_resolutions WHERE id = NEW.id OR record_id = NEW.record_id)
BEGIN
    SELECT RAISE(ABORT, 'outcome_resolutions_values: an id is below 2^62') WHERE NEW.id >= 4611686018427387904;
    SELECT RAISE(ABORT, 'outcome_resolutions_not_replaced: an outcome is resolved once');
END;

CREATE TRIGGER outcome_resolutions_unknown
BEFORE INSERT ON outcome_resolutions
WHEN NOT EXISTS (SELECT 1 FROM action_records WHERE id = NEW.record_id AND proposal_id = NEW.proposal_id AND outcome_unknown = 1)
BEGIN
    SELECT RAISE(ABORT, 'outcome_resolutions_unknown: only an unknown outcome is resolved');
END;

-- The event of the resolution comes before that of the move. Only the last execution of a failed proposal decides about it.
CREATE TRIGGER outcome_resolutions_event
AFTER INSERT ON outcome_resolutions
BEGIN
    SELECT RAISE(ABORT, 'outcome_resolutions_values: an id is positive') WHERE NEW.id >= 1 IS NOT TRUE;
    SELECT RAISE(ABORT, 'outcome_resolutions_values: resolved_by is not what the ledger takes') WHERE (NEW.resolved_by < x'' AND substr(NEW.resolved_by, 1, 255) = NEW.resolved_by AND (unicode(NEW.resolved_by) BETWEEN 33 AND 126 OR trim(NEW.resolved_by, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'outcome_resolutions_values: evidence is not what the ledger takes') WHERE (NEW.evidence < x'' AND substr(NEW.evidence, 1, 65536) = NEW.evidence AND (unicode(NEW.evidence) BETWEEN 33 AND 126 OR trim(NEW.evidence, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'outcome_resolutions_values: created_at is not what the ledger takes') WHERE (NEW.created_at = strftime('%Y-%m-%d %H:%M:%f000', 'now')) IS NOT TRUE;
    INSERT INTO action_events (proposal_id, record_id, event_type, success, actor, reason, occurred_at, worker)
    SELECT NEW.proposal_id, NEW.record_id, 'outcome_resolved', NEW.succeeded, NEW.resolved_by, NEW.evidence, strftime('%Y-%m-%d %H:%M:%f000', 'now'), worker
    FROM action_records WHERE id = NEW.record_id;
    UPDATE action_proposals
    SET status = 'completed', status_changed_by = NEW.resolved_by, status_reason = NEW.evidence, next_retry_at = NULL,
        status_changed_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', status_changed_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        updated_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', updated_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        version = version + 1
    WHERE NEW.succeeded AND id = NEW.proposal_id AND status = 'failed'
        AND NEW.record_id = (SELECT max(id) FROM action_records WHERE proposal_id = NEW.proposal_id);
END;
