-- Revision 0006 on PostgreSQL. Statements end at a semicolon before a blank line. The guard of proposals is changed besides.

CREATE TABLE outcome_resolutions (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    record_id BIGINT NOT NULL,
    proposal_id BIGINT NOT NULL,
    succeeded BOOLEAN NOT NULL,
    resolved_by TEXT NOT NULL,
    evidence TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT statement_timestamp(),
    CONSTRAINT pk_outcome_resolutions PRIMARY KEY (id),
    CONSTRAINT fk_outcome_resolutions_record_id_action_records FOREIGN KEY (record_id) REFERENCES action_records (id),
    CONSTRAINT fk_outcome_resolutions_proposal_id_action_proposals FOREIGN KEY (proposal_id) REFERENCES action_proposals (id)
);

CREATE UNIQUE INDEX uq_outcome_resolutions_record_id ON outcome_resolutions (record_id);

CREATE INDEX idx_action_records_unknown ON action_records (id) WHERE outcome_unknown;

DO $do$
BEGIN
    -- Whether the history of a proposal ends with the event that its last execution was done after all.
    EXECUTE format($function$
CREATE FUNCTION outcome_resolutions_done(of_proposal bigint) RETURNS boolean LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (
        SELECT event_type OPERATOR(pg_catalog.=) 'outcome_resolved' AND success
            AND record_id OPERATOR(pg_catalog.=) (SELECT pg_catalog.max(id) FROM %1$I.action_records WHERE proposal_id OPERATOR(pg_catalog.=) of_proposal)
        FROM %1$I.action_events WHERE proposal_id OPERATOR(pg_catalog.=) of_proposal ORDER BY id DESC LIMIT 1
    ) IS TRUE;
END $$$function$, current_schema());
    EXECUTE format($function$
CREATE FUNCTION outcome_resolutions_guard() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    broken text := CASE
        WHEN NOT (NEW.id OPERATOR(pg_catalog.>) 0 AND NEW.id OPERATOR(pg_catalog.<) 4611686018427387904) THEN 'id'
        WHEN NOT %1$I.action_ledger_is_text(NEW.resolved_by, 255) THEN 'resolved_by'
        WHEN NOT %1$I.action_ledger_is_text(NEW.evidence, 65536) THEN 'evidence'
    END;
BEGIN
    IF broken IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
            CONSTRAINT = 'ck_outcome_resolutions_' OPERATOR(pg_catalog.||) broken,
            MESSAGE = 'new row for relation "outcome_resolutions" violates check constraint "ck_outcome_resolutions_' OPERATOR(pg_catalog.||) broken OPERATOR(pg_catalog.||) '"';
    ELSIF (
        SELECT outcome_unknown AND proposal_id OPERATOR(pg_catalog.=) NEW.proposal_id
        FROM %1$I.action_records WHERE id OPERATOR(pg_catalog.=) NEW.record_id
    ) IS NOT TRUE THEN
        RAISE EXCEPTION USING
            ERRCODE = 'integrity_constraint_violation',
            MESSAGE = 'outcome_resolutions_unknown: only an unknown outcome is resolved';
    END IF;
    NEW.created_at := pg_catalog.statement_timestamp();
    RETURN NEW;
END $$$function$, current_schema());
    -- The proposal is locked first, so that its events come in one order. Only the last execution of a failed proposal decides
    -- about it.
    EXECUTE format($function$
CREATE FUNCTION outcome_resolutions_event() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM 1 FROM %1$I.action_proposals WHERE id OPERATOR(pg_catalog.=) NEW.proposal_id FOR NO KEY UPDATE;
    INSERT INTO %1$I.action_events (proposal_id, record_id, event_type, success, actor, reason, occurred_at, worker)
    SELECT NEW.proposal_id, NEW.record_id, 'outcome_resolved', NEW.succeeded, NEW.resolved_by, NEW.evidence, pg_catalog.clock_timestamp(), worker
    FROM %1$I.action_records WHERE id OPERATOR(pg_catalog.=) NEW.record_id;
    IF pg_catalog.pg_notify('operator_core_events', '') IS NULL THEN END IF;
    IF NEW.succeeded THEN
        UPDATE %1$I.action_proposals
        SET status = 'completed', status_changed_by = NEW.resolved_by, status_reason = NEW.evidence, next_retry_at = NULL,
            status_changed_at = greatest(pg_catalog.clock_timestamp(), CASE WHEN status_changed_at OPERATOR(pg_catalog.<) '9998-01-01 00:00:00+00'
                THEN status_changed_at OPERATOR(pg_catalog.+) interval '1 microsecond' END)
        WHERE id OPERATOR(pg_catalog.=) NEW.proposal_id AND status OPERATOR(pg_catalog.=) 'failed'
            AND NEW.record_id OPERATOR(pg_catalog.=) (SELECT pg_catalog.max(id) FROM %1$I.action_records WHERE proposal_id OPERATOR(pg_catalog.=) NEW.proposal_id);
    END IF;
    RETURN NULL;
END $$$function$, current_schema());
END $do$;

REVOKE EXECUTE ON FUNCTION outcome_resolutions_event FROM PUBLIC;

CREATE TRIGGER outcome_resolutions_guard
BEFORE INSERT ON outcome_resolutions FOR EACH ROW
EXECUTE FUNCTION outcome_resolutions_guard();

CREATE TRIGGER outcome_resolutions_event
AFTER INSERT ON outcome_resolutions FOR EACH ROW
EXECUTE FUNCTION outcome_resolutions_event();

CREATE TRIGGER outcome_resolutions_not_updated
BEFORE UPDATE ON outcome_resolutions FOR EACH STATEMENT
EXECUTE FUNCTION action_ledger_refuse('an outcome is resolved once');

CREATE TRIGGER outcome_resolutions_not_deleted
BEFORE DELETE OR TRUNCATE ON outcome_resolutions FOR EACH STATEMENT
EXECUTE FUNCTION action_ledger_refuse('an outcome is resolved once');
