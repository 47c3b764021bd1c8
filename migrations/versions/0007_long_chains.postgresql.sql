-- Revision 0007 on PostgreSQL. Statements end at a semicolon before a blank line.

-- Both functions look up by id what they are given the ids of, one table at a time, and leave the planner no choice:
-- after an ANALYZE that found nothing but dead rows it joined all with all, for each of a thousand links.

-- As in 0006, but that an id is a number and no text of digits.
CREATE OR REPLACE FUNCTION action_proposals_link(ids bigint[]) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    late bigint[];
BEGIN
    INSERT INTO action_dependencies (proposal_id, depends_on_id)
    SELECT DISTINCT id, needed::text::bigint
    FROM action_proposals, json_array_elements(depends_on) AS needed
    WHERE id = ANY (ids) AND depends_on IS NOT NULL;
    PERFORM 1 FROM action_proposals
    WHERE id = ANY (ARRAY(SELECT depends_on_id FROM action_dependencies WHERE proposal_id = ANY (ids)))
    ORDER BY id FOR SHARE;
    late := ARRAY(
        SELECT given.id FROM unnest(ids) AS given (id)
        WHERE (
            SELECT 1 FROM action_dependencies
            WHERE proposal_id = given.id AND (
                SELECT needed.status = 'cancelled' OR needed.status = 'failed' AND needed.next_retry_at IS NULL
                FROM action_proposals needed WHERE needed.id = depends_on_id)
            LIMIT 1) = 1);
    IF cardinality(late) > 0 THEN
        UPDATE action_proposals
        SET status = 'cancelled', status_reason = 'a proposal that it depends on has failed or was cancelled',
            status_changed_by = 'ledger', status_changed_at = clock_timestamp(), cancelled_at = clock_timestamp()
        WHERE id = ANY (late) AND NOT wait_on_failure AND status || '' IN ('proposed', 'validated');
    END IF;
END $$;

-- Called with the ids of proposals that have just ended badly. Cancelling what depends on them comes here again, with
-- what depends on that: a setting that ends with the transaction, and names it, is the queue of the call that is under
-- way, so that a chain is as long as it likes. Level by level and not all at once, as one that somebody is just starting is not
-- cancelled, and what depends on it must not be either.
CREATE OR REPLACE FUNCTION action_proposals_cancel_dependants(ids bigint[]) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    mine text := pg_current_xact_id()::text || ' ';
    queue text := current_setting('operator_core.cascade', true);
    dependants bigint[];
BEGIN
    IF starts_with(queue, mine) THEN
        PERFORM set_config('operator_core.cascade', mine || (substr(queue, length(mine) + 1)::bigint[] || ids)::text, true);
        RETURN;
    END IF;
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'integrity_constraint_violation',
            MESSAGE = 'action_proposals_cascade: a proposal fails for good or is cancelled at READ COMMITTED only, where what depends on it by now is seen';
    END IF;
    LOOP
        dependants := ARRAY(
            SELECT edge.proposal_id FROM unnest(ids) AS ended (id)
            CROSS JOIN LATERAL (SELECT proposal_id FROM action_dependencies WHERE depends_on_id = ended.id OFFSET 0) AS edge);
        EXIT WHEN cardinality(dependants) = 0;
        PERFORM set_config('operator_core.cascade', mine || '{}', true);
        UPDATE action_proposals
        SET status = 'cancelled',
            -- All of a chain name its beginning.
            status_reason = (
                SELECT CASE
                    WHEN cause.status_changed_by = 'ledger' AND cause.status_reason LIKE 'proposal %, which it depends on, %' THEN cause.status_reason
                    ELSE 'proposal ' || cause.id || ', which it depends on, ' || CASE cause.status WHEN 'failed' THEN 'failed' ELSE 'was cancelled' END
                END
                FROM action_proposals cause
                WHERE cause.id = (
                    SELECT min(depends_on_id) FROM action_dependencies
                    WHERE proposal_id = action_proposals.id AND depends_on_id = ANY (ids))),
            status_changed_by = 'ledger', cancelled_at = clock_timestamp(),
            status_changed_at = greatest(clock_timestamp(),
                CASE WHEN status_changed_at < '9998-01-01 00:00:00+00' THEN status_changed_at + interval '1 microsecond' END)
        WHERE id = ANY (dependants) AND NOT wait_on_failure AND status || '' IN ('proposed', 'validated');
        ids := substr(current_setting('operator_core.cascade'), length(mine) + 1)::bigint[];
    END LOOP;
    PERFORM set_config('operator_core.cascade', '', true);
END $$;
