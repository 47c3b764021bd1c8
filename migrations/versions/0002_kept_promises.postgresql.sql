-- Revision 0002 on PostgreSQL. Statements end at a semicolon before a blank line.
--
-- The functions that tell run with the rights of whoever owns the schema, so that a service needs none
-- of its own to write action_events, and nobody else may make triggers of them, which could tell
-- anything. All look for tables, functions and operators where they stood in the migration and nowhere
-- else: its search_path has only the ledger's schema in it, behind PostgreSQL's own.

ALTER TABLE action_proposals
    ADD COLUMN status_changed_by TEXT,
    ADD COLUMN status_reason TEXT,
    ADD COLUMN status_changed_at TIMESTAMP WITH TIME ZONE,
    ADD CONSTRAINT ck_action_proposals_action_type CHECK (action_type IN ('subject', 'tool', 'workflow')),
    ADD CONSTRAINT ck_action_proposals_status CHECK (status IN ('proposed', 'validated', 'executing', 'completed', 'failed', 'cancelled')),
    ADD CONSTRAINT ck_action_proposals_id CHECK (id > 0),
    ADD CONSTRAINT ck_action_proposals_times CHECK (
        proposed_at >= '1970-01-01 00:00:00+00' AND proposed_at < '9999-01-01 00:00:00+00'
        AND validated_at >= '1970-01-01 00:00:00+00' AND validated_at < '9999-01-01 00:00:00+00'
        AND cancelled_at >= '1970-01-01 00:00:00+00' AND cancelled_at < '9999-01-01 00:00:00+00'
        AND created_at >= '1970-01-01 00:00:00+00' AND created_at < '9999-01-01 00:00:00+00'
        AND updated_at >= '1970-01-01 00:00:00+00' AND updated_at < '9999-01-01 00:00:00+00'
        AND status_changed_at >= '1970-01-01 00:00:00+00' AND status_changed_at < '9999-01-01 00:00:00+00');

ALTER TABLE action_records
    ADD COLUMN started_by TEXT,
    ADD COLUMN completed_by TEXT,
    ADD CONSTRAINT ck_action_records_id CHECK (id > 0),
    ADD CONSTRAINT ck_action_records_times CHECK (
        started_at >= '1970-01-01 00:00:00+00' AND started_at < '9999-01-01 00:00:00+00'
        AND completed_at >= '1970-01-01 00:00:00+00' AND completed_at < '9999-01-01 00:00:00+00'
        AND created_at >= '1970-01-01 00:00:00+00' AND created_at < '9999-01-01 00:00:00+00');

CREATE TABLE action_events (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    proposal_id BIGINT NOT NULL,
    record_id BIGINT,
    event_type TEXT NOT NULL,
    from_status TEXT,
    to_status TEXT,
    success BOOLEAN,
    actor TEXT NOT NULL,
    reason TEXT,
    occurred_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_action_events PRIMARY KEY (id),
    CONSTRAINT fk_action_events_proposal_id_action_proposals FOREIGN KEY (proposal_id) REFERENCES action_proposals (id),
    CONSTRAINT fk_action_events_record_id_action_records FOREIGN KEY (record_id) REFERENCES action_records (id),
    CONSTRAINT ck_action_events_event_type CHECK (event_type IN ('proposal_created', 'status_changed', 'record_started', 'record_finished')),
    CONSTRAINT ck_action_events_id CHECK (id > 0),
    CONSTRAINT ck_action_events_times CHECK (occurred_at >= '1970-01-01 00:00:00+00' AND occurred_at < '9999-01-01 00:00:00+00')
);

-- Adopted rows get the events that say where they came from.
INSERT INTO action_events (proposal_id, event_type, to_status, actor, reason, occurred_at)
SELECT id, 'proposal_created', status, 'migration', 'adopted', clock_timestamp()
FROM action_proposals ORDER BY id;

INSERT INTO action_events (proposal_id, record_id, event_type, actor, reason, occurred_at)
SELECT proposal_id, id, 'record_started', 'migration', 'adopted', clock_timestamp()
FROM action_records ORDER BY id;

INSERT INTO action_events (proposal_id, record_id, event_type, success, actor, reason, occurred_at)
SELECT proposal_id, id, 'record_finished', success, 'migration', 'adopted', clock_timestamp()
FROM action_records WHERE completed_at IS NOT NULL ORDER BY id;

DROP INDEX idx_action_proposals_status;

DROP INDEX idx_action_proposals_ticket;

DROP INDEX idx_action_records_proposal;

CREATE INDEX idx_action_proposals_status ON action_proposals (status, id);

CREATE INDEX idx_action_proposals_ticket ON action_proposals (ticket_id, id);

CREATE INDEX idx_action_proposals_action_name ON action_proposals (action_name, id);

CREATE INDEX idx_action_proposals_proposed_by ON action_proposals (proposed_by, id);

CREATE INDEX idx_action_records_proposal ON action_records (proposal_id, id);

CREATE INDEX idx_action_events_proposal ON action_events (proposal_id, id);

-- Messages begin with the trigger's name, so that a log line says which promise was to be broken.
CREATE FUNCTION action_ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'integrity_constraint_violation',
        MESSAGE = TG_NAME || ': ' || TG_ARGV[0];
END $$;

CREATE FUNCTION tickets_touch() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    NEW.updated_at := to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS');
    RETURN NEW;
END $$;

CREATE TRIGGER tickets_updated_at
BEFORE UPDATE ON tickets FOR EACH ROW
WHEN (NEW.updated_at IS NOT DISTINCT FROM OLD.updated_at)
EXECUTE FUNCTION tickets_touch();

CREATE TRIGGER action_proposals_not_deleted
BEFORE DELETE OR TRUNCATE ON action_proposals FOR EACH STATEMENT
EXECUTE FUNCTION action_ledger_refuse('proposals are never deleted');

-- json has no equality of its own, and its text is what was proposed.
CREATE TRIGGER action_proposals_immutable
BEFORE UPDATE OF ticket_id, action_name, action_type, parameters, reason, proposed_at, proposed_by,
    created_at ON action_proposals FOR EACH ROW
WHEN (NEW.ticket_id IS DISTINCT FROM OLD.ticket_id
    OR NEW.action_name IS DISTINCT FROM OLD.action_name
    OR NEW.action_type IS DISTINCT FROM OLD.action_type
    OR NEW.parameters::text IS DISTINCT FROM OLD.parameters::text
    OR NEW.reason IS DISTINCT FROM OLD.reason
    OR NEW.proposed_at IS DISTINCT FROM OLD.proposed_at
    OR NEW.proposed_by IS DISTINCT FROM OLD.proposed_by
    OR NEW.created_at IS DISTINCT FROM OLD.created_at)
EXECUTE FUNCTION action_ledger_refuse('what was proposed can not be edited');

CREATE TRIGGER action_proposals_not_renumbered
BEFORE UPDATE ON action_proposals FOR EACH ROW
WHEN (NEW.id IS DISTINCT FROM OLD.id)
EXECUTE FUNCTION action_ledger_refuse('an id never changes');

CREATE TRIGGER action_proposals_lifecycle
BEFORE UPDATE OF status ON action_proposals FOR EACH ROW
WHEN (NEW.status IS DISTINCT FROM OLD.status
    AND (OLD.status = 'proposed' AND NEW.status IN ('validated', 'cancelled')
        OR OLD.status = 'validated' AND NEW.status IN ('executing', 'cancelled')
        OR OLD.status = 'executing' AND NEW.status IN ('completed', 'failed', 'cancelled')
        OR OLD.status = 'failed' AND NEW.status = 'validated') IS NOT TRUE)
EXECUTE FUNCTION action_ledger_refuse('the lifecycle has no such step');

-- Whoever writes a row and does not say who acts, or moves the status and does not move
-- status_changed_at, is recorded as what it is.
CREATE FUNCTION action_proposals_mark() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    NEW.status_changed_by := 'raw SQL';
    IF TG_OP = 'INSERT' THEN
        NEW.status_changed_at := clock_timestamp();
    ELSE
        NEW.status_reason := NULL;
        NEW.status_changed_at := greatest(clock_timestamp(),
            CASE WHEN OLD.status_changed_at < '9998-01-01 00:00:00+00' THEN OLD.status_changed_at + interval '1 microsecond' END);
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER action_proposals_unsaid
BEFORE INSERT ON action_proposals FOR EACH ROW
WHEN (NEW.status_changed_by IS NULL)
EXECUTE FUNCTION action_proposals_mark();

CREATE TRIGGER action_proposals_unsaid_change
BEFORE UPDATE OF status ON action_proposals FOR EACH ROW
WHEN (NEW.status IS DISTINCT FROM OLD.status
    AND (NEW.status_changed_at IS NULL
        OR NEW.status_changed_at IS NOT DISTINCT FROM OLD.status_changed_at
        OR NEW.status_changed_by IS NULL))
EXECUTE FUNCTION action_proposals_mark();

-- Of the statement and not of each row: a thousand proposals are one INSERT of a thousand events.
CREATE FUNCTION action_proposals_tell_created() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO action_events (proposal_id, event_type, to_status, actor, reason, occurred_at)
    SELECT id, 'proposal_created', status, status_changed_by, reason, clock_timestamp()
    FROM created ORDER BY id;
    RETURN NULL;
END $$;

CREATE TRIGGER action_proposals_created
AFTER INSERT ON action_proposals REFERENCING NEW TABLE AS created FOR EACH STATEMENT
EXECUTE FUNCTION action_proposals_tell_created();

-- When it happened is never the writer's to say.
CREATE FUNCTION action_proposals_tell_changed() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO action_events (proposal_id, event_type, from_status, to_status, actor, reason, occurred_at)
    VALUES (NEW.id, 'status_changed', OLD.status, NEW.status, NEW.status_changed_by, NEW.status_reason, clock_timestamp());
    RETURN NULL;
END $$;

CREATE TRIGGER action_proposals_status_changed
AFTER UPDATE OF status ON action_proposals FOR EACH ROW
WHEN (NEW.status IS DISTINCT FROM OLD.status)
EXECUTE FUNCTION action_proposals_tell_changed();

-- A time at the end of what there is, which another tool set, gives way to the clock, here and above.
CREATE FUNCTION action_proposals_touch() RETURNS trigger LANGUAGE plpgsql
SET search_path FROM CURRENT AS $$
BEGIN
    NEW.updated_at := greatest(clock_timestamp(),
        CASE WHEN OLD.updated_at < '9998-01-01 00:00:00+00' THEN OLD.updated_at + interval '1 microsecond' END);
    RETURN NEW;
END $$;

CREATE TRIGGER action_proposals_updated_at
BEFORE UPDATE ON action_proposals FOR EACH ROW
WHEN (NOT NEW.updated_at > OLD.updated_at)
EXECUTE FUNCTION action_proposals_touch();

CREATE TRIGGER action_records_not_deleted
BEFORE DELETE OR TRUNCATE ON action_records FOR EACH STATEMENT
EXECUTE FUNCTION action_ledger_refuse('records are never deleted');

CREATE TRIGGER action_records_outcome_dated
BEFORE INSERT ON action_records FOR EACH ROW
WHEN ((NEW.success IS NULL) IS DISTINCT FROM (NEW.completed_at IS NULL))
EXECUTE FUNCTION action_ledger_refuse('an outcome and its completed_at go together');

CREATE TRIGGER action_records_immutable
BEFORE UPDATE ON action_records FOR EACH ROW
WHEN (OLD.completed_at IS NOT NULL
    OR NEW.id IS DISTINCT FROM OLD.id
    OR NEW.proposal_id IS DISTINCT FROM OLD.proposal_id
    OR NEW.started_at IS DISTINCT FROM OLD.started_at
    OR NEW.started_by IS DISTINCT FROM OLD.started_by
    OR NEW.created_at IS DISTINCT FROM OLD.created_at
    OR (NEW.success IS NULL) IS DISTINCT FROM (NEW.completed_at IS NULL))
EXECUTE FUNCTION action_ledger_refuse('an execution is ended once and never edited');

CREATE FUNCTION action_records_tell() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO action_events (proposal_id, record_id, event_type, actor, occurred_at)
        VALUES (NEW.proposal_id, NEW.id, 'record_started', coalesce(NEW.started_by, 'raw SQL'), clock_timestamp());
    END IF;
    IF NEW.completed_at IS NOT NULL THEN
        INSERT INTO action_events (proposal_id, record_id, event_type, success, actor, reason, occurred_at)
        VALUES (NEW.proposal_id, NEW.id, 'record_finished', NEW.success,
            coalesce(NEW.completed_by, 'raw SQL'), NEW.error_message, clock_timestamp());
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER action_records_started
AFTER INSERT ON action_records FOR EACH ROW
EXECUTE FUNCTION action_records_tell();

CREATE TRIGGER action_records_finished
AFTER UPDATE OF completed_at ON action_records FOR EACH ROW
WHEN (OLD.completed_at IS NULL AND NEW.completed_at IS NOT NULL)
EXECUTE FUNCTION action_records_tell();

CREATE TRIGGER action_events_not_updated
BEFORE UPDATE ON action_events FOR EACH STATEMENT
EXECUTE FUNCTION action_ledger_refuse('the history is append-only');

CREATE TRIGGER action_events_not_deleted
BEFORE DELETE OR TRUNCATE ON action_events FOR EACH STATEMENT
EXECUTE FUNCTION action_ledger_refuse('the history is append-only');

REVOKE EXECUTE ON FUNCTION action_proposals_tell_created, action_proposals_tell_changed, action_records_tell
FROM PUBLIC;
