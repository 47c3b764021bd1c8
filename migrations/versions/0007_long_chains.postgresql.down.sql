-- What undoes revision 0007 on PostgreSQL. Statements end at a semicolon before a blank line.

CREATE OR REPLACE FUNCTION action_proposals_link(ids bigint[]) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO action_dependencies (proposal_id, depends_on_id)
    SELECT DISTINCT id, needed::bigint
    FROM action_proposals, json_array_elements_text(depends_on) AS needed
    WHERE id = ANY (ids) AND depends_on IS NOT NULL;
    PERFORM 1 FROM action_proposals
    WHERE id IN (SELECT depends_on_id FROM action_dependencies WHERE proposal_id = ANY (ids))
    ORDER BY id FOR SHARE;
    UPDATE action_proposals
    SET status = 'cancelled', status_reason = 'a proposal that it depends on has failed or was cancelled',
        status_changed_by = 'ledger', status_changed_at = clock_timestamp(), cancelled_at = clock_timestamp()
    WHERE id = ANY (ids) AND NOT wait_on_failure AND status IN ('proposed', 'validated')
        AND EXISTS (
            SELECT 1 FROM action_dependencies JOIN action_proposals needed ON needed.id = depends_on_id
            WHERE proposal_id = action_proposals.id
                AND (needed.status = 'cancelled' OR needed.status = 'failed' AND needed.next_retry_at IS NULL));
END $$;

CREATE OR REPLACE FUNCTION action_proposals_cancel_dependants(ids bigint[]) RETURNS void LANGUAGE plpgsql
SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE action_proposals
    SET status = 'cancelled',
        -- All of a chain name its beginning.
        status_reason = CASE
            WHEN cause.status_changed_by = 'ledger' AND cause.status_reason LIKE 'proposal %, which it depends on, %' THEN cause.status_reason
            ELSE 'proposal ' || cause.id || ', which it depends on, ' || CASE cause.status WHEN 'failed' THEN 'failed' ELSE 'was cancelled' END
        END,
        status_changed_by = 'ledger', cancelled_at = clock_timestamp(),
        status_changed_at = greatest(clock_timestamp(),
            CASE WHEN status_changed_at < '9998-01-01 00:00:00+00' THEN status_changed_at + interval '1 microsecond' END)
    FROM (
        SELECT DISTINCT ON (proposal_id) proposal_id, needed.id, needed.status, needed.status_changed_by, needed.status_reason
        FROM action_dependencies JOIN action_proposals needed ON needed.id = depends_on_id
        WHERE depends_on_id = ANY (ids)
        ORDER BY proposal_id, depends_on_id
    ) AS cause
    WHERE action_proposals.id = cause.proposal_id
        AND NOT wait_on_failure AND action_proposals.status IN ('proposed', 'validated');
END $$;
