-- Revision 0004 on SQLite: the new indexes and triggers, and each other trigger in the place of the one of that name.

CREATE INDEX idx_action_proposals_run ON action_proposals (run_id, id) WHERE run_id IS NOT NULL;

CREATE UNIQUE INDEX uq_action_proposals_call ON action_proposals (run_id, call_id) WHERE run_id IS NOT NULL AND call_id IS NOT NULL;

CREATE INDEX idx_action_proposals_parent ON action_proposals (parent_id, id) WHERE parent_id IS NOT NULL;

CREATE INDEX idx_action_proposals_agent ON action_proposals (agent_id, id) WHERE agent_id IS NOT NULL;

CREATE INDEX idx_action_proposals_requester ON action_proposals (requester_id, id) WHERE requester_id IS NOT NULL;

CREATE TRIGGER action_proposals_not_replaced
BEFORE INSERT ON action_proposals
WHEN NEW.id >= 4611686018427387904 OR EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.id)
    OR NEW.idempotency_key IS NOT NULL
        AND EXISTS (SELECT 1 FROM action_proposals WHERE idempotency_key = NEW.idempotency_key)
    OR NEW.call_id IS NOT NULL AND NEW.run_id IS NOT NULL
        AND EXISTS (SELECT 1 FROM action_proposals WHERE run_id = NEW.run_id AND call_id = NEW.call_id)
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_created: an id is below 2^62') WHERE NEW.id >= 4611686018427387904;
    SELECT RAISE(ABORT, 'action_proposals_not_replaced: this id is taken')
    WHERE EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.id);
    SELECT RAISE(ABORT, 'action_proposals_not_replaced: an idempotency key is unique, and this one is taken')
    WHERE EXISTS (SELECT 1 FROM action_proposals WHERE idempotency_key = NEW.idempotency_key);
    SELECT RAISE(ABORT, 'action_proposals_not_replaced: a call has one proposal in its run, and there is one')
    WHERE EXISTS (SELECT 1 FROM action_proposals WHERE run_id = NEW.run_id AND call_id = NEW.call_id);
END;

CREATE TRIGGER action_proposals_guarded
BEFORE UPDATE ON action_proposals
WHEN NEW.id IS NOT OLD.id
    OR NEW.status IS OLD.status
        AND (NEW.version <> OLD.version AND (NEW.version <> OLD.version + 1 OR (NEW.updated_at IS OLD.updated_at OR (NEW.updated_at > OLD.updated_at) IS NOT TRUE
            AND coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', OLD.updated_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')) > OLD.updated_at))
            OR NEW.version IS OLD.version AND NEW.updated_at > OLD.updated_at
            OR NEW.next_retry_at IS NOT OLD.next_retry_at AND (NEW.version IS OLD.version OR (NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL))
            OR NEW.next_retry_at IS OLD.next_retry_at AND (NEW.status_changed_by IS NOT OLD.status_changed_by OR NEW.status_reason IS NOT OLD.status_reason OR NEW.status_changed_at IS NOT OLD.status_changed_at))
        AND OLD.status IS (
        SELECT to_status FROM action_events WHERE proposal_id = OLD.id AND to_status IS NOT NULL
        ORDER BY id DESC LIMIT 1)
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_not_renumbered: an id never changes') WHERE NEW.id IS NOT OLD.id;
    SELECT RAISE(ABORT, 'action_proposals_attributed: who acts and why is said with what is done')
    WHERE NEW.next_retry_at IS OLD.next_retry_at AND (NEW.status_changed_by IS NOT OLD.status_changed_by OR NEW.status_reason IS NOT OLD.status_reason OR NEW.status_changed_at IS NOT OLD.status_changed_at);
    UPDATE action_proposals
    SET id = NEW.id, ticket_id = NEW.ticket_id, action_name = NEW.action_name, action_type = NEW.action_type, parameters = NEW.parameters, reason = NEW.reason, status = NEW.status, proposed_at = NEW.proposed_at, proposed_by = NEW.proposed_by, validated_at = NEW.validated_at, cancelled_at = NEW.cancelled_at, created_at = NEW.created_at, idempotency_key = NEW.idempotency_key, priority = NEW.priority, scheduled_at = NEW.scheduled_at, expires_at = NEW.expires_at, max_retries = NEW.max_retries, retry_delay = NEW.retry_delay, max_retry_delay = NEW.max_retry_delay, retry_count = NEW.retry_count, next_retry_at = NEW.next_retry_at, last_error = NEW.last_error, workflow_id = NEW.workflow_id, depends_on = NEW.depends_on, wait_on_failure = NEW.wait_on_failure, requester_id = NEW.requester_id, requester_type = NEW.requester_type, agent_id = NEW.agent_id, run_id = NEW.run_id, parent_id = NEW.parent_id, call_id = NEW.call_id, traceparent = NEW.traceparent,
        status_changed_by = iif(NEW.next_retry_at IS NOT OLD.next_retry_at AND (NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL), 'raw SQL', NEW.status_changed_by),
        status_reason = iif(NEW.next_retry_at IS NOT OLD.next_retry_at AND (NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL), NULL, NEW.status_reason),
        status_changed_at = iif(NEW.next_retry_at IS NOT OLD.next_retry_at AND (NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL), coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', OLD.status_changed_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')), NEW.status_changed_at),
        updated_at = iif(NEW.updated_at > OLD.updated_at, NEW.updated_at, coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', OLD.updated_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now'))),
        version = OLD.version + 1
    WHERE id = OLD.id;
    SELECT RAISE(IGNORE);
END;

CREATE TRIGGER action_proposals_immutable
BEFORE UPDATE OF ticket_id, action_name, action_type, parameters, reason, proposed_at, proposed_by,
    created_at, idempotency_key, priority, scheduled_at, expires_at, max_retries, retry_delay, max_retry_delay, workflow_id, depends_on, wait_on_failure,
    requester_id, requester_type, agent_id, run_id, parent_id, call_id, traceparent ON action_proposals
WHEN NEW.ticket_id IS NOT OLD.ticket_id
    OR NEW.action_name IS NOT OLD.action_name
    OR NEW.action_type IS NOT OLD.action_type
    OR NEW.parameters IS NOT OLD.parameters
    OR NEW.reason IS NOT OLD.reason
    OR NEW.proposed_at IS NOT OLD.proposed_at
    OR NEW.proposed_by IS NOT OLD.proposed_by
    OR NEW.created_at IS NOT OLD.created_at
    OR NEW.idempotency_key IS NOT OLD.idempotency_key
    OR NEW.priority IS NOT OLD.priority
    OR NEW.scheduled_at IS NOT OLD.scheduled_at
    OR NEW.expires_at IS NOT OLD.expires_at
    OR NEW.max_retries IS NOT OLD.max_retries
    OR NEW.retry_delay IS NOT OLD.retry_delay
    OR NEW.max_retry_delay IS NOT OLD.max_retry_delay
    OR NEW.workflow_id IS NOT OLD.workflow_id
    OR NEW.depends_on IS NOT OLD.depends_on
    OR NEW.wait_on_failure IS NOT OLD.wait_on_failure
    OR NEW.requester_id IS NOT OLD.requester_id
    OR NEW.requester_type IS NOT OLD.requester_type
    OR NEW.agent_id IS NOT OLD.agent_id
    OR NEW.run_id IS NOT OLD.run_id
    OR NEW.parent_id IS NOT OLD.parent_id
    OR NEW.call_id IS NOT OLD.call_id
    OR NEW.traceparent IS NOT OLD.traceparent
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_immutable: what was proposed can not be edited');
END;

-- A proposal is never deleted, so nothing but this replaces a foreign key, which an added column could not have.
CREATE TRIGGER action_proposals_parent_exists
BEFORE INSERT ON action_proposals
WHEN NEW.parent_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.parent_id AND run_id IS NEW.run_id)
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_parent_exists: no such proposal') WHERE NOT EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.parent_id);
    SELECT RAISE(ABORT, 'action_proposals_parent_run: a proposal belongs to the run of its parent');
END;

-- Most proposals of a ledger without agents have none of these.
CREATE TRIGGER action_proposals_origin
AFTER INSERT ON action_proposals
WHEN coalesce(NEW.run_id, NEW.agent_id, NEW.requester_id, NEW.requester_type, NEW.call_id, NEW.traceparent, NEW.parent_id) IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_values: requester_id, agent_id, run_id or call_id is not what the ledger takes')
    FROM (SELECT NEW.requester_id AS value UNION ALL SELECT NEW.agent_id UNION ALL SELECT NEW.run_id UNION ALL SELECT NEW.call_id)
    WHERE value IS NOT NULL AND (value < x'' AND substr(value, 1, 255) = value AND (unicode(value) BETWEEN 33 AND 126 OR trim(value, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: requester_type is not what the ledger takes')
    WHERE (NEW.requester_type IS NULL OR NEW.requester_type = 'user' OR NEW.requester_type = 'system' OR NEW.requester_type = 'agent') IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: parent_id is not what the ledger takes')
    WHERE (NEW.parent_id IS NULL OR NEW.parent_id BETWEEN 1 AND 4611686018427387903 AND CAST(NEW.parent_id AS INTEGER) = NEW.parent_id) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: traceparent is not what the ledger takes')
    WHERE (NEW.traceparent IS NULL OR NEW.traceparent < x'' AND length(CAST(NEW.traceparent AS BLOB)) = 55 AND NEW.traceparent NOT GLOB '*[^0-9a-f-]*' AND NEW.traceparent GLOB '??-*-????????????????-??' AND substr(NEW.traceparent, 36, 1) = '-' AND length(replace(NEW.traceparent, '-', '')) = 52 AND NEW.traceparent NOT GLOB 'ff*' AND NEW.traceparent NOT GLOB '???00000000000000000000000000000000*' AND NEW.traceparent NOT GLOB '*-0000000000000000-*') IS NOT TRUE;
END;
