-- Revision 0007 on SQLite: the new index, and each trigger in the place of the one of that name.
--
-- A move to cancelled or failed has an end code, every other move has none. A cause that is the one of the move before was not said
-- by the writer. The details of the event of a move are its end code and its cause, in one JSON object.

CREATE INDEX idx_action_proposals_end_code ON action_proposals (end_code, id) WHERE end_code IS NOT NULL;

-- Only a trigger writes an event: no writer chooses its id, which is -1 before the INSERT where SQLite is to choose it,
-- and an event fits the rows that it is about as they are at that moment. Not a CASE: SQLite evaluates both sides of an AND
-- or OR in the value of an expression, and skips the second where it can in a condition.
CREATE TRIGGER action_events_genuine
BEFORE INSERT ON action_events
WHEN (NEW.id = -1 AND NEW.transaction_id = 0 AND (
    NEW.record_id IS NULL AND NEW.success IS NULL AND NEW.worker IS NULL AND (
        NEW.event_type = 'status_changed' AND NEW.from_status <> NEW.to_status
            AND EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id AND status = NEW.to_status AND version = NEW.version
                AND NEW.details IS iif(end_code IS NULL, status_cause, '{"end_code":"' || end_code || '"' || coalesce(',' || substr(status_cause, 2), '}')))
            AND (SELECT to_status FROM action_events WHERE proposal_id = NEW.proposal_id AND to_status IS NOT NULL ORDER BY id DESC LIMIT 1) IS NOT NEW.to_status
        OR NEW.event_type = 'proposal_created' AND NEW.from_status IS NULL AND NEW.version = 1
            AND EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id AND status = NEW.to_status AND version = NEW.version
                AND NEW.details IS '{"digest":"' || content_digest || '"}')
            AND NOT EXISTS (SELECT 1 FROM action_events WHERE proposal_id = NEW.proposal_id)
        OR (NEW.event_type = 'retry_scheduled' OR NEW.event_type = 'retry_cancelled') AND NEW.details IS NULL AND NEW.from_status = NEW.to_status
            AND EXISTS (SELECT 1 FROM action_proposals WHERE id = NEW.proposal_id AND status = NEW.to_status AND version = NEW.version AND (next_retry_at IS NULL) = (NEW.event_type = 'retry_cancelled')
                AND status_changed_by IS NEW.actor AND status_reason IS NEW.reason)
            AND coalesce((SELECT version FROM action_events WHERE proposal_id = NEW.proposal_id AND to_status IS NOT NULL ORDER BY id DESC LIMIT 1), 0) < NEW.version
            AND NEW.occurred_at = strftime('%Y-%m-%d %H:%M:%f000', 'now')
        OR NEW.proposal_id IS NULL AND NEW.from_status IS NULL AND NEW.to_status IS NULL AND NEW.version IS NULL
            AND EXISTS (SELECT 1 FROM action_halts_told WHERE id = CAST(substr(NEW.details, 9) AS INTEGER) AND details = NEW.details AND event_type = NEW.event_type AND actor = NEW.actor AND reason = NEW.reason AND occurred_at = NEW.occurred_at)
            AND NOT EXISTS (SELECT 1 FROM action_events WHERE proposal_id IS NULL AND details = NEW.details AND event_type = NEW.event_type))
    OR NEW.record_id IS NOT NULL AND NEW.details IS NULL AND NEW.to_status IS NULL AND NEW.from_status IS NULL AND NEW.version IS NULL
        AND (NEW.event_type = 'record_started' AND NEW.success IS NULL
                AND EXISTS (SELECT 1 FROM action_records WHERE id = NEW.record_id AND proposal_id = NEW.proposal_id AND worker IS NEW.worker)
            OR NEW.event_type = 'outcome_resolved'
                AND EXISTS (SELECT 1 FROM action_records WHERE id = NEW.record_id AND worker IS NEW.worker)
                AND EXISTS (SELECT 1 FROM outcome_resolutions WHERE record_id = NEW.record_id AND proposal_id = NEW.proposal_id AND succeeded = NEW.success AND resolved_by = NEW.actor AND evidence = NEW.reason)
            OR NEW.event_type = 'record_finished'
                AND EXISTS (SELECT 1 FROM action_records WHERE id = NEW.record_id AND proposal_id = NEW.proposal_id AND worker IS NEW.worker AND completed_at IS NOT NULL AND success IS NEW.success))
        AND NOT EXISTS (SELECT 1 FROM action_events WHERE record_id = NEW.record_id AND event_type = NEW.event_type))) IS NOT TRUE
BEGIN
    SELECT RAISE(ABORT, 'action_events_not_replaced: the history is append-only') WHERE NEW.id <> -1;
    SELECT RAISE(ABORT, 'action_events_genuine: only what has just happened becomes an event');
END;

-- A proposal that is put back among the pending while something that it needs has ended badly ends as it would have then.
CREATE TRIGGER action_proposals_put_back
AFTER UPDATE OF status ON action_proposals
WHEN OLD.status = 'failed' AND NEW.status = 'validated' AND NEW.depends_on IS NOT NULL
    AND NOT NEW.wait_on_failure AND EXISTS (
        SELECT 1 FROM action_dependencies JOIN action_proposals AS needed ON needed.id = depends_on_id
        WHERE proposal_id = NEW.id AND (needed.status = 'cancelled' OR needed.status = 'failed' AND needed.next_retry_at IS NULL))
BEGIN
    UPDATE action_proposals
    SET status = 'cancelled',
        status_reason = iif(id = NEW.id, 'a proposal that it depends on has failed or was cancelled',
            'proposal ' || NEW.id || ', which it depends on, was cancelled'),
        end_code = 'dependency',
        status_cause = '{"proposal":' || iif(id <> NEW.id, NEW.id, (
            SELECT min(depends_on_id) FROM action_dependencies JOIN action_proposals AS needed ON needed.id = depends_on_id
            WHERE proposal_id = NEW.id AND (needed.status = 'cancelled' OR needed.status = 'failed' AND needed.next_retry_at IS NULL))) || '}',
        status_changed_by = 'ledger',
        cancelled_at = strftime('%Y-%m-%d %H:%M:%f000', 'now'),
        status_changed_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', status_changed_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        updated_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', updated_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        version = version + 1
    WHERE id IN (
        WITH RECURSIVE behind (id) AS (
            SELECT NEW.id
            UNION
            SELECT proposal_id FROM behind JOIN action_dependencies ON depends_on_id = behind.id
                JOIN action_proposals AS next ON next.id = proposal_id
            WHERE NOT next.wait_on_failure AND next.status IN ('proposed', 'validated'))
        SELECT id FROM behind);
END;

-- A proposal that is cancelled after one that it depends on is part of a chain that is being cancelled already.
CREATE TRIGGER action_proposals_cascade
AFTER UPDATE OF status, next_retry_at ON action_proposals
WHEN (NEW.status = 'cancelled' OR NEW.status = 'failed' AND NEW.next_retry_at IS NULL)
    AND NOT (OLD.status = 'cancelled' OR OLD.status = 'failed' AND OLD.next_retry_at IS NULL)
    AND EXISTS (SELECT 1 FROM action_dependencies WHERE depends_on_id = NEW.id)
    AND NOT (NEW.status = 'cancelled' AND NEW.depends_on IS NOT NULL AND NOT NEW.wait_on_failure
        AND (OLD.status = 'proposed' OR OLD.status = 'validated') AND EXISTS (
        SELECT 1 FROM action_dependencies JOIN action_proposals AS needed ON needed.id = depends_on_id
        WHERE proposal_id = NEW.id AND (needed.status = 'cancelled' OR needed.status = 'failed' AND needed.next_retry_at IS NULL)))
BEGIN
    UPDATE action_proposals
    SET status = 'cancelled',
        status_reason = 'proposal ' || NEW.id || ', which it depends on, ' || iif(NEW.status = 'failed', 'failed', 'was cancelled'),
        end_code = 'dependency',
        status_cause = '{"proposal":' || NEW.id || '}',
        status_changed_by = 'ledger',
        cancelled_at = strftime('%Y-%m-%d %H:%M:%f000', 'now'),
        status_changed_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', status_changed_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        updated_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', updated_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        version = version + 1
    WHERE id <> NEW.id AND id IN (
        WITH RECURSIVE behind (id) AS (
            SELECT NEW.id
            UNION
            SELECT proposal_id FROM behind JOIN action_dependencies ON depends_on_id = behind.id
                JOIN action_proposals AS next ON next.id = proposal_id
            WHERE NOT next.wait_on_failure AND next.status IN ('proposed', 'validated'))
        SELECT id FROM behind);
END;

-- A writer that moves the status and does not move status_changed_at has not said who acts, and is recorded as raw SQL.
-- The time of an event is the database's.
CREATE TRIGGER action_proposals_changed
AFTER UPDATE OF status, next_retry_at ON action_proposals
WHEN NEW.status IS NOT OLD.status OR NEW.next_retry_at IS NOT OLD.next_retry_at
BEGIN
    UPDATE action_proposals
    SET status_changed_by = iif((NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL), 'raw SQL', NEW.status_changed_by),
        status_reason = iif((NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL), NULL, NEW.status_reason),
        status_changed_at = iif((NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL), coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', OLD.status_changed_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')), NEW.status_changed_at),
        updated_at = iif(NEW.updated_at > OLD.updated_at, NEW.updated_at, coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', OLD.updated_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now'))),
        version = OLD.version + 1,
        end_code = iif((NEW.status = 'cancelled' OR NEW.status = 'failed'), coalesce(NEW.end_code, NEW.status), NULL),
        status_cause = iif((NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL) OR NEW.status_cause IS OLD.status_cause, NULL, NEW.status_cause)
    WHERE NEW.status IS NOT OLD.status
        AND (NEW.version IS NOT OLD.version + 1 OR (NEW.updated_at > OLD.updated_at) IS NOT TRUE OR (NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL)
            OR NEW.end_code IS NOT iif((NEW.status = 'cancelled' OR NEW.status = 'failed'), coalesce(NEW.end_code, NEW.status), NULL)
            OR NEW.status_cause IS NOT NULL AND NEW.status_cause IS OLD.status_cause)
        AND id = NEW.id;
    INSERT INTO action_events (proposal_id, event_type, from_status, to_status, actor, reason, occurred_at, version, details)
    VALUES (NEW.id,
        CASE WHEN NEW.status IS NOT OLD.status THEN 'status_changed'
            WHEN NEW.next_retry_at IS NULL THEN 'retry_cancelled' ELSE 'retry_scheduled' END,
        OLD.status, NEW.status,
        iif((NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL), 'raw SQL', NEW.status_changed_by),
        iif((NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL), NULL, NEW.status_reason),
        strftime('%Y-%m-%d %H:%M:%f000', 'now'), OLD.version + 1,
        CASE WHEN NEW.status IS NOT OLD.status THEN
            iif((NEW.status = 'cancelled' OR NEW.status = 'failed'), '{"end_code":"' || coalesce(NEW.end_code, NEW.status) || '"' || coalesce(',' || substr(iif((NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL) OR NEW.status_cause IS OLD.status_cause, NULL, NEW.status_cause), 2), '}'),
                iif((NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL) OR NEW.status_cause IS OLD.status_cause, NULL, NEW.status_cause)) END);
END;

CREATE TRIGGER action_proposals_guarded
BEFORE UPDATE ON action_proposals
WHEN NEW.id IS NOT OLD.id
    OR NEW.status IS OLD.status
        AND (NEW.end_code IS NOT OLD.end_code OR NEW.status_cause IS NOT OLD.status_cause OR NEW.version <> OLD.version AND (NEW.version <> OLD.version + 1 OR (NEW.updated_at IS OLD.updated_at OR (NEW.updated_at > OLD.updated_at) IS NOT TRUE
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
    WHERE NEW.end_code IS NOT OLD.end_code OR NEW.status_cause IS NOT OLD.status_cause
        OR NEW.next_retry_at IS OLD.next_retry_at AND (NEW.status_changed_by IS NOT OLD.status_changed_by OR NEW.status_reason IS NOT OLD.status_reason OR NEW.status_changed_at IS NOT OLD.status_changed_at);
    UPDATE action_proposals
    SET id = NEW.id, ticket_id = NEW.ticket_id, action_name = NEW.action_name, action_type = NEW.action_type, parameters = NEW.parameters, reason = NEW.reason, status = NEW.status, proposed_at = NEW.proposed_at, proposed_by = NEW.proposed_by, validated_at = NEW.validated_at, cancelled_at = NEW.cancelled_at, created_at = NEW.created_at, idempotency_key = NEW.idempotency_key, priority = NEW.priority, scheduled_at = NEW.scheduled_at, expires_at = NEW.expires_at, max_retries = NEW.max_retries, retry_delay = NEW.retry_delay, max_retry_delay = NEW.max_retry_delay, retry_count = NEW.retry_count, next_retry_at = NEW.next_retry_at, last_error = NEW.last_error, workflow_id = NEW.workflow_id, depends_on = NEW.depends_on, wait_on_failure = NEW.wait_on_failure, requester_id = NEW.requester_id, requester_type = NEW.requester_type, agent_id = NEW.agent_id, run_id = NEW.run_id, parent_id = NEW.parent_id, call_id = NEW.call_id, traceparent = NEW.traceparent, content_digest = NEW.content_digest,
        status_changed_by = iif(NEW.next_retry_at IS NOT OLD.next_retry_at AND (NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL), 'raw SQL', NEW.status_changed_by),
        status_reason = iif(NEW.next_retry_at IS NOT OLD.next_retry_at AND (NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL), NULL, NEW.status_reason),
        status_changed_at = iif(NEW.next_retry_at IS NOT OLD.next_retry_at AND (NEW.status_changed_at IS NULL OR NEW.status_changed_at IS OLD.status_changed_at OR NEW.status_changed_by IS NULL), coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', OLD.status_changed_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')), NEW.status_changed_at),
        updated_at = iif(NEW.updated_at > OLD.updated_at, NEW.updated_at, coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', OLD.updated_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now'))),
        version = OLD.version + 1
    WHERE id = OLD.id;
    SELECT RAISE(IGNORE);
END;

-- IS NOT TRUE, not NOT: under UPDATE OR REPLACE a NULL would become the column's default.
CREATE TRIGGER action_proposals_lifecycle
BEFORE UPDATE OF status ON action_proposals
WHEN NEW.status IS NOT OLD.status
    AND ((OLD.status = 'proposed' AND (NEW.status = 'validated' OR NEW.status = 'cancelled')
        OR OLD.status = 'validated' AND (NEW.status = 'executing' OR NEW.status = 'cancelled')
        OR OLD.status = 'executing'
            AND (NEW.status = 'completed' OR NEW.status = 'failed' OR NEW.status = 'cancelled')
        OR OLD.status = 'failed' AND NEW.status = 'validated'
        OR CASE WHEN OLD.status = 'failed' AND NEW.status = 'completed' THEN (
            SELECT event_type = 'outcome_resolved' AND success AND record_id = (SELECT max(id) FROM action_records WHERE proposal_id = OLD.id)
            FROM action_events WHERE proposal_id = OLD.id ORDER BY id DESC LIMIT 1) END) IS NOT TRUE
        OR NEW.status = 'executing' AND (NEW.scheduled_at IS NOT NULL OR NEW.expires_at IS NOT NULL OR NEW.depends_on IS NOT NULL)
        OR NEW.end_code IS NOT NULL AND ((NEW.status = 'cancelled' OR NEW.status = 'failed') IS NOT TRUE AND NEW.end_code IS NOT OLD.end_code OR (NEW.end_code = 'failed' OR NEW.end_code = 'cancelled' OR NEW.end_code = 'denied' OR NEW.end_code = 'rejected' OR NEW.end_code = 'withdrawn' OR NEW.end_code = 'undecided' OR NEW.end_code = 'expired' OR NEW.end_code = 'approval_expired' OR NEW.end_code = 'halted' OR NEW.end_code = 'superseded' OR NEW.end_code = 'dependency' OR NEW.end_code = 'outcome_unknown' OR NEW.end_code = 'limit' OR NEW.end_code = 'not_begun' OR NEW.end_code = 'tampered') IS NOT TRUE)
        OR NEW.status_cause IS NOT NULL AND (NEW.status_cause < x'' AND (NEW.status_cause GLOB '{"rule":*' OR NEW.status_cause GLOB '{"decision":*' OR NEW.status_cause GLOB '{"grant":*' OR NEW.status_cause GLOB '{"halt":*' OR NEW.status_cause GLOB '{"limit":*' OR NEW.status_cause GLOB '{"proposal":*') AND CAST(substr(NEW.status_cause, instr(NEW.status_cause, ':') + 1) AS INTEGER) BETWEEN 1 AND 4611686018427387903 AND NEW.status_cause = substr(NEW.status_cause, 1, instr(NEW.status_cause, ':')) || CAST(substr(NEW.status_cause, instr(NEW.status_cause, ':') + 1) AS INTEGER) || '}') IS NOT TRUE)
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_lifecycle: the lifecycle has no such step') WHERE (OLD.status = 'proposed' AND (NEW.status = 'validated' OR NEW.status = 'cancelled')
        OR OLD.status = 'validated' AND (NEW.status = 'executing' OR NEW.status = 'cancelled')
        OR OLD.status = 'executing'
            AND (NEW.status = 'completed' OR NEW.status = 'failed' OR NEW.status = 'cancelled')
        OR OLD.status = 'failed' AND NEW.status = 'validated'
        OR CASE WHEN OLD.status = 'failed' AND NEW.status = 'completed' THEN (
            SELECT event_type = 'outcome_resolved' AND success AND record_id = (SELECT max(id) FROM action_records WHERE proposal_id = OLD.id)
            FROM action_events WHERE proposal_id = OLD.id ORDER BY id DESC LIMIT 1) END) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_attributed: an end code belongs to a move to cancelled or failed')
    WHERE NEW.end_code IS NOT NULL AND (NEW.status = 'cancelled' OR NEW.status = 'failed') IS NOT TRUE AND NEW.end_code IS NOT OLD.end_code;
    SELECT RAISE(ABORT, 'action_proposals_values: end_code is not what the ledger takes')
    WHERE NEW.end_code IS NOT NULL AND (NEW.end_code = 'failed' OR NEW.end_code = 'cancelled' OR NEW.end_code = 'denied' OR NEW.end_code = 'rejected' OR NEW.end_code = 'withdrawn' OR NEW.end_code = 'undecided' OR NEW.end_code = 'expired' OR NEW.end_code = 'approval_expired' OR NEW.end_code = 'halted' OR NEW.end_code = 'superseded' OR NEW.end_code = 'dependency' OR NEW.end_code = 'outcome_unknown' OR NEW.end_code = 'limit' OR NEW.end_code = 'not_begun' OR NEW.end_code = 'tampered') IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: status_cause is not what the ledger takes')
    WHERE NEW.status_cause IS NOT NULL AND (NEW.status_cause < x'' AND (NEW.status_cause GLOB '{"rule":*' OR NEW.status_cause GLOB '{"decision":*' OR NEW.status_cause GLOB '{"grant":*' OR NEW.status_cause GLOB '{"halt":*' OR NEW.status_cause GLOB '{"limit":*' OR NEW.status_cause GLOB '{"proposal":*') AND CAST(substr(NEW.status_cause, instr(NEW.status_cause, ':') + 1) AS INTEGER) BETWEEN 1 AND 4611686018427387903 AND NEW.status_cause = substr(NEW.status_cause, 1, instr(NEW.status_cause, ':')) || CAST(substr(NEW.status_cause, instr(NEW.status_cause, ':') + 1) AS INTEGER) || '}') IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_not_due: it is scheduled for later') WHERE NEW.scheduled_at > strftime('%Y-%m-%d %H:%M:%f000', 'now');
    SELECT RAISE(ABORT, 'action_proposals_expired: it was not started in time') WHERE NEW.expires_at <= strftime('%Y-%m-%d %H:%M:%f000', 'now');
    SELECT RAISE(ABORT, 'action_proposals_dependency_pending: what it depends on is not completed')
    FROM action_dependencies JOIN action_proposals AS needed ON needed.id = depends_on_id
    WHERE proposal_id = NEW.id AND needed.status <> 'completed';
END;

CREATE TRIGGER action_proposals_created
AFTER INSERT ON action_proposals
BEGIN
    UPDATE action_proposals
    SET status_changed_by = coalesce(NEW.status_changed_by, 'raw SQL'),
        status_changed_at = iif(NEW.status_changed_by IS NULL, strftime('%Y-%m-%d %H:%M:%f000', 'now'), NEW.status_changed_at),
        end_code = iif((NEW.status = 'cancelled' OR NEW.status = 'failed'), NEW.status, NULL)
    WHERE (NEW.status_changed_by IS NULL OR (NEW.status = 'cancelled' OR NEW.status = 'failed') AND NEW.end_code IS NULL) AND id = NEW.id;
    INSERT INTO action_events (proposal_id, event_type, to_status, actor, reason, occurred_at, version, details)
    VALUES (NEW.id, 'proposal_created', NEW.status, coalesce(NEW.status_changed_by, 'raw SQL'),
        NEW.reason, strftime('%Y-%m-%d %H:%M:%f000', 'now'), 1, '{"digest":"' || NEW.content_digest || '"}');
    UPDATE action_proposals
    SET status = 'cancelled', status_reason = 'a proposal that it depends on has failed or was cancelled',
        end_code = 'dependency',
        status_cause = '{"proposal":' || (
            SELECT min(depends_on_id) FROM action_dependencies JOIN action_proposals AS needed ON needed.id = depends_on_id
            WHERE proposal_id = NEW.id AND (needed.status = 'cancelled' OR needed.status = 'failed' AND needed.next_retry_at IS NULL)) || '}',
        status_changed_by = 'ledger',
        cancelled_at = strftime('%Y-%m-%d %H:%M:%f000', 'now'),
        status_changed_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', status_changed_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        updated_at = coalesce(max(strftime('%Y-%m-%d %H:%M:%f000', 'now'), strftime('%Y-%m-%d %H:%M:%f000', updated_at, '+0.001 seconds')), strftime('%Y-%m-%d %H:%M:%f000', 'now')),
        version = version + 1
    WHERE id = NEW.id AND NEW.depends_on IS NOT NULL AND NOT NEW.wait_on_failure
        AND NEW.status IN ('proposed', 'validated') AND EXISTS (
        SELECT 1 FROM action_dependencies JOIN action_proposals AS needed ON needed.id = depends_on_id
        WHERE proposal_id = NEW.id AND (needed.status = 'cancelled' OR needed.status = 'failed' AND needed.next_retry_at IS NULL));
END;

-- The values that the models take, after all constraints, which have names of their own. A blob is greater than all text;
-- substr stops at a NUL; and few texts begin with white space, so that trim is seldom needed.
CREATE TRIGGER action_proposals_values
AFTER INSERT ON action_proposals
WHEN (NEW.id >= 1
    AND (NEW.ticket_id IS NULL OR (NEW.ticket_id BETWEEN 1 AND 4611686018427387903 AND CAST(NEW.ticket_id AS INTEGER) = NEW.ticket_id))
    AND (NEW.workflow_id IS NULL OR (NEW.workflow_id BETWEEN 1 AND 4611686018427387903 AND CAST(NEW.workflow_id AS INTEGER) = NEW.workflow_id))
    AND (NEW.action_name < x'' AND substr(NEW.action_name, 1, 255) = NEW.action_name AND (unicode(NEW.action_name) BETWEEN 33 AND 126 OR trim(NEW.action_name, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))
    AND (NEW.reason < x'' AND substr(NEW.reason, 1, 65536) = NEW.reason AND (unicode(NEW.reason) BETWEEN 33 AND 126 OR trim(NEW.reason, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))
    AND (NEW.proposed_by < x'' AND substr(NEW.proposed_by, 1, 255) = NEW.proposed_by AND (unicode(NEW.proposed_by) BETWEEN 33 AND 126 OR trim(NEW.proposed_by, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))
    AND (NEW.idempotency_key IS NULL OR NEW.idempotency_key < x'' AND substr(NEW.idempotency_key, 1, 255) = NEW.idempotency_key AND (unicode(NEW.idempotency_key) BETWEEN 33 AND 126 OR trim(NEW.idempotency_key, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))
    AND (NEW.status_changed_by IS NULL OR NEW.status_changed_by < x'' AND substr(NEW.status_changed_by, 1, 255) = NEW.status_changed_by AND (unicode(NEW.status_changed_by) BETWEEN 33 AND 126 OR trim(NEW.status_changed_by, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))
    AND (NEW.status_reason IS NULL OR NEW.status_reason < x'' AND substr(NEW.status_reason, 1, 65536) = NEW.status_reason AND (unicode(NEW.status_reason) BETWEEN 33 AND 126 OR trim(NEW.status_reason, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> ''))
    AND (NEW.priority BETWEEN -32768 AND 32767 AND CAST(NEW.priority AS INTEGER) = NEW.priority)
    AND (NEW.max_retries BETWEEN 0 AND 1000 AND CAST(NEW.max_retries AS INTEGER) = NEW.max_retries)
    AND (NEW.retry_delay BETWEEN 0 AND 604800)
    AND (NEW.max_retry_delay BETWEEN 0 AND 604800)
    AND (NEW.wait_on_failure = 0 OR NEW.wait_on_failure = 1)
    AND (NEW.proposed_at = NEW.created_at OR NEW.proposed_at < '9999' AND NEW.proposed_at >= '1970-01-01' AND NEW.proposed_at GLOB '????-*' AND julianday(NEW.proposed_at) IS NOT NULL)
    AND (NEW.created_at < '9999' AND NEW.created_at >= '1970-01-01' AND NEW.created_at GLOB '????-*' AND julianday(NEW.created_at) IS NOT NULL)
    AND (NEW.updated_at = NEW.created_at OR NEW.updated_at < '9999' AND NEW.updated_at >= '1970-01-01' AND NEW.updated_at GLOB '????-*' AND julianday(NEW.updated_at) IS NOT NULL)
    AND (NEW.status_changed_at IS NULL OR NEW.status_changed_at = NEW.created_at OR NEW.status_changed_at < '9999' AND NEW.status_changed_at >= '1970-01-01' AND NEW.status_changed_at GLOB '????-*' AND julianday(NEW.status_changed_at) IS NOT NULL)
    AND (NEW.validated_at IS NULL OR NEW.validated_at = NEW.created_at OR NEW.validated_at < '9999' AND NEW.validated_at >= '1970-01-01' AND NEW.validated_at GLOB '????-*' AND julianday(NEW.validated_at) IS NOT NULL)
    AND (NEW.cancelled_at IS NULL OR NEW.cancelled_at = NEW.created_at OR NEW.cancelled_at < '9999' AND NEW.cancelled_at >= '1970-01-01' AND NEW.cancelled_at GLOB '????-*' AND julianday(NEW.cancelled_at) IS NOT NULL)
    AND (NEW.scheduled_at IS NULL OR NEW.scheduled_at = NEW.created_at OR NEW.scheduled_at < '9999' AND NEW.scheduled_at >= '1970-01-01' AND NEW.scheduled_at GLOB '????-*' AND julianday(NEW.scheduled_at) IS NOT NULL)
    AND (NEW.expires_at IS NULL OR NEW.expires_at = NEW.created_at OR NEW.expires_at < '9999' AND NEW.expires_at >= '1970-01-01' AND NEW.expires_at GLOB '????-*' AND julianday(NEW.expires_at) IS NOT NULL)
    AND (NEW.content_digest IS NULL OR NEW.content_digest < x'' AND length(CAST(NEW.content_digest AS BLOB)) = 68 AND NEW.content_digest GLOB 'oc1:[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]')
    AND NEW.status_cause IS NULL AND (NEW.end_code IS NULL OR NEW.end_code = NEW.status AND (NEW.status = 'cancelled' OR NEW.status = 'failed'))
    AND (NEW.version = 1 AND NEW.retry_count = 0 AND NEW.next_retry_at IS NULL AND NEW.last_error IS NULL)) IS NOT TRUE
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_created: an id is positive') WHERE NEW.id >= 1 IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: ticket_id is not what the ledger takes') WHERE (NEW.ticket_id IS NULL OR (NEW.ticket_id BETWEEN 1 AND 4611686018427387903 AND CAST(NEW.ticket_id AS INTEGER) = NEW.ticket_id)) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: workflow_id is not what the ledger takes') WHERE (NEW.workflow_id IS NULL OR (NEW.workflow_id BETWEEN 1 AND 4611686018427387903 AND CAST(NEW.workflow_id AS INTEGER) = NEW.workflow_id)) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: action_name is not what the ledger takes') WHERE (NEW.action_name < x'' AND substr(NEW.action_name, 1, 255) = NEW.action_name AND (unicode(NEW.action_name) BETWEEN 33 AND 126 OR trim(NEW.action_name, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: reason is not what the ledger takes') WHERE (NEW.reason < x'' AND substr(NEW.reason, 1, 65536) = NEW.reason AND (unicode(NEW.reason) BETWEEN 33 AND 126 OR trim(NEW.reason, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: proposed_by is not what the ledger takes') WHERE (NEW.proposed_by < x'' AND substr(NEW.proposed_by, 1, 255) = NEW.proposed_by AND (unicode(NEW.proposed_by) BETWEEN 33 AND 126 OR trim(NEW.proposed_by, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: idempotency_key is not what the ledger takes') WHERE (NEW.idempotency_key IS NULL OR NEW.idempotency_key < x'' AND substr(NEW.idempotency_key, 1, 255) = NEW.idempotency_key AND (unicode(NEW.idempotency_key) BETWEEN 33 AND 126 OR trim(NEW.idempotency_key, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: status_changed_by is not what the ledger takes') WHERE (NEW.status_changed_by IS NULL OR NEW.status_changed_by < x'' AND substr(NEW.status_changed_by, 1, 255) = NEW.status_changed_by AND (unicode(NEW.status_changed_by) BETWEEN 33 AND 126 OR trim(NEW.status_changed_by, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: status_reason is not what the ledger takes') WHERE (NEW.status_reason IS NULL OR NEW.status_reason < x'' AND substr(NEW.status_reason, 1, 65536) = NEW.status_reason AND (unicode(NEW.status_reason) BETWEEN 33 AND 126 OR trim(NEW.status_reason, char(9, 10, 11, 12, 13, 32, 133, 160, 5760, 8192, 8193, 8194, 8195, 8196, 8197, 8198, 8199, 8200, 8201, 8202, 8232, 8233, 8239, 8287, 12288)) <> '')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: priority is not what the ledger takes') WHERE (NEW.priority BETWEEN -32768 AND 32767 AND CAST(NEW.priority AS INTEGER) = NEW.priority) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: max_retries is not what the ledger takes') WHERE (NEW.max_retries BETWEEN 0 AND 1000 AND CAST(NEW.max_retries AS INTEGER) = NEW.max_retries) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: retry_delay is not what the ledger takes') WHERE (NEW.retry_delay BETWEEN 0 AND 604800) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: max_retry_delay is not what the ledger takes') WHERE (NEW.max_retry_delay BETWEEN 0 AND 604800) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: wait_on_failure is not what the ledger takes') WHERE (NEW.wait_on_failure = 0 OR NEW.wait_on_failure = 1) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: proposed_at is not what the ledger takes') WHERE (NEW.proposed_at = NEW.created_at OR NEW.proposed_at < '9999' AND NEW.proposed_at >= '1970-01-01' AND NEW.proposed_at GLOB '????-*' AND julianday(NEW.proposed_at) IS NOT NULL) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: created_at is not what the ledger takes') WHERE (NEW.created_at < '9999' AND NEW.created_at >= '1970-01-01' AND NEW.created_at GLOB '????-*' AND julianday(NEW.created_at) IS NOT NULL) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: updated_at is not what the ledger takes') WHERE (NEW.updated_at = NEW.created_at OR NEW.updated_at < '9999' AND NEW.updated_at >= '1970-01-01' AND NEW.updated_at GLOB '????-*' AND julianday(NEW.updated_at) IS NOT NULL) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: status_changed_at is not what the ledger takes') WHERE (NEW.status_changed_at IS NULL OR NEW.status_changed_at = NEW.created_at OR NEW.status_changed_at < '9999' AND NEW.status_changed_at >= '1970-01-01' AND NEW.status_changed_at GLOB '????-*' AND julianday(NEW.status_changed_at) IS NOT NULL) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: validated_at is not what the ledger takes') WHERE (NEW.validated_at IS NULL OR NEW.validated_at = NEW.created_at OR NEW.validated_at < '9999' AND NEW.validated_at >= '1970-01-01' AND NEW.validated_at GLOB '????-*' AND julianday(NEW.validated_at) IS NOT NULL) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: cancelled_at is not what the ledger takes') WHERE (NEW.cancelled_at IS NULL OR NEW.cancelled_at = NEW.created_at OR NEW.cancelled_at < '9999' AND NEW.cancelled_at >= '1970-01-01' AND NEW.cancelled_at GLOB '????-*' AND julianday(NEW.cancelled_at) IS NOT NULL) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: scheduled_at is not what the ledger takes') WHERE (NEW.scheduled_at IS NULL OR NEW.scheduled_at = NEW.created_at OR NEW.scheduled_at < '9999' AND NEW.scheduled_at >= '1970-01-01' AND NEW.scheduled_at GLOB '????-*' AND julianday(NEW.scheduled_at) IS NOT NULL) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: expires_at is not what the ledger takes') WHERE (NEW.expires_at IS NULL OR NEW.expires_at = NEW.created_at OR NEW.expires_at < '9999' AND NEW.expires_at >= '1970-01-01' AND NEW.expires_at GLOB '????-*' AND julianday(NEW.expires_at) IS NOT NULL) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_values: content_digest is not what the ledger takes') WHERE (NEW.content_digest IS NULL OR NEW.content_digest < x'' AND length(CAST(NEW.content_digest AS BLOB)) = 68 AND NEW.content_digest GLOB 'oc1:[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]') IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_attributed: an end code or a cause belongs to a move') WHERE NEW.status_cause IS NOT NULL OR (NEW.end_code IS NULL OR NEW.end_code = NEW.status AND (NEW.status = 'cancelled' OR NEW.status = 'failed')) IS NOT TRUE;
    SELECT RAISE(ABORT, 'action_proposals_kept: the ledger keeps version, retry_count, next_retry_at and last_error') WHERE (NEW.version = 1 AND NEW.retry_count = 0 AND NEW.next_retry_at IS NULL AND NEW.last_error IS NULL) IS NOT TRUE;
END;

CREATE TRIGGER action_proposals_immutable
BEFORE UPDATE OF ticket_id, action_name, action_type, parameters, reason, proposed_at, proposed_by,
    created_at, idempotency_key, priority, scheduled_at, expires_at, max_retries, retry_delay, max_retry_delay, workflow_id, depends_on, wait_on_failure,
    requester_id, requester_type, agent_id, run_id, parent_id, call_id, traceparent, content_digest ON action_proposals
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
    OR NEW.content_digest IS NOT OLD.content_digest AND (OLD.content_digest IS NULL AND NEW.content_digest < x'' AND length(CAST(NEW.content_digest AS BLOB)) = 68 AND NEW.content_digest GLOB 'oc1:[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]') IS NOT TRUE
BEGIN
    SELECT RAISE(ABORT, 'action_proposals_values: content_digest is not what the ledger takes')
    WHERE OLD.content_digest IS NULL AND (NEW.content_digest < x'' AND length(CAST(NEW.content_digest AS BLOB)) = 68 AND NEW.content_digest GLOB 'oc1:[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]') IS FALSE;
    SELECT RAISE(ABORT, 'action_proposals_immutable: what was proposed can not be edited');
END;
