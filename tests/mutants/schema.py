"""Faults in what the database itself promises: triggers, on SQLite in the text that makes a new file."""

from typing import Final

from tests.mutants.mutant import Mutant

_END_OF_CASCADE = (
    "next.status IN ('proposed', 'validated'))\n        SELECT id FROM behind);\nEND;\n\n"
    "CREATE TRIGGER IF NOT EXISTS action_proposals_changed"
)


__all__ = ["MUTANTS"]

_TEXT: Final = "src/operator_core/db/schema.py"
_LEDGER: Final = "migrations/versions/0002_ledger.postgresql.sql"
_ENDS: Final = "migrations/versions/0007_ends.postgresql.sql"
"""The revision that wrote the functions of the history of moves last."""
_APPROVALS: Final = "migrations/versions/0009_approvals.postgresql.sql"
"""The revision that wrote the guard of proposals last, and the function of their creation."""
_OUTCOMES: Final = "migrations/versions/0006_outcomes"
_CONTRACT: Final = "tests/contract/"
_RAW: Final = "tests/migrations/test_postgresql_raw_"

MUTANTS: Final = (
    Mutant(
        name="lifecycle-trigger-with-a-step-too-many-on-sqlite",
        file=_TEXT,
        old="ORDER BY id DESC LIMIT 1) END) IS NOT TRUE\n        OR NEW.status = 'executing' AND",
        new="ORDER BY id DESC LIMIT 1) END OR OLD.status = 'completed' AND NEW.status = 'validated') IS NOT TRUE\n        OR NEW.status = 'executing' AND",
        tests=(_CONTRACT + "test_lifecycle.py::test_the_schema_knows_every_step_and_no_other",),
        why="Raw SQL runs a completed proposal again.",
    ),
    Mutant(
        name="lifecycle-trigger-with-a-step-too-many-on-postgresql",
        file=_APPROVALS,
        old="'{proposed>validated,",
        new="'{completed>validated,proposed>validated,",
        tests=(_CONTRACT + "test_lifecycle.py::test_the_schema_knows_every_step_and_no_other",),
        why="Raw SQL runs a completed proposal again.",
    ),
    Mutant(
        name="called-off-retry-does-not-cascade-on-sqlite",
        file=_TEXT,
        old="AFTER UPDATE OF status, next_retry_at ON action_proposals\nWHEN (NEW.status = 'cancelled'",
        new="AFTER UPDATE OF status ON action_proposals\nWHEN (NEW.status = 'cancelled'",
        tests=(
            _CONTRACT
            + "test_order.py::test_a_retry_that_is_called_off_cancels_what_waits_elsewhere",
        ),
        why="What depends on a failure that is not run again waits for ever.",
    ),
    Mutant(
        name="called-off-retry-does-not-cascade-on-postgresql",
        file=_ENDS,
        old="        OR coalesce(changed.next_retry_at, '-infinity') OPERATOR(pg_catalog.<>) coalesce(before.next_retry_at, '-infinity')\n    ORDER",
        new="    ORDER",
        tests=(
            _CONTRACT
            + "test_order.py::test_a_retry_that_is_called_off_cancels_what_waits_elsewhere",
        ),
        why="What depends on a failure that is not run again waits for ever.",
    ),
    Mutant(
        name="cascade-cancels-who-asked-to-wait",
        file=_TEXT,
        old="            WHERE NOT next.wait_on_failure AND " + _END_OF_CASCADE,
        new="            WHERE " + _END_OF_CASCADE,
        tests=(_CONTRACT + "test_order.py::test_who_asked_to_wait_waits_for_a_retry",),
        why="A proposal with wait_on_failure is cancelled by a failure.",
    ),
    Mutant(
        name="cascade-stops-after-one-level",
        file=_TEXT,
        old="                JOIN action_proposals AS next ON next.id = proposal_id\n            WHERE NOT next.wait_on_failure AND "
        + _END_OF_CASCADE,
        new="                JOIN action_proposals AS next ON next.id = proposal_id AND depends_on_id = NEW.id\n            WHERE NOT next.wait_on_failure AND "
        + _END_OF_CASCADE,
        tests=(_CONTRACT + "test_order.py::test_what_depends_on_it_is_cancelled_and_so_on",),
        why="What depends on a cancelled proposal waits for ever.",
    ),
    Mutant(
        name="cascade-off-on-postgresql",
        file=_ENDS,
        old="            PERFORM %1$I.action_proposals_cancel_dependants(ended);\n",
        new="            PERFORM 1;\n",
        tests=(_CONTRACT + "test_order.py::test_what_depends_on_it_is_cancelled_and_so_on",),
        why="What depends on a cancelled proposal waits for ever.",
    ),
    Mutant(
        name="cascade-cancels-who-asked-to-wait-on-postgresql",
        file=_LEDGER,
        old="WHERE depends_on_id OPERATOR(pg_catalog.=) reached.id AND (\n                        SELECT NOT wait_on_failure AND status",
        new="WHERE depends_on_id OPERATOR(pg_catalog.=) reached.id AND (\n                        SELECT status",
        tests=(_CONTRACT + "test_order.py::test_who_asked_to_wait_waits_for_a_retry",),
        why="A proposal with wait_on_failure is cancelled by a failure.",
    ),
    Mutant(
        name="history-can-be-deleted",
        file=_TEXT,
        old="BEFORE DELETE ON action_events\n",
        new="BEFORE DELETE ON action_events\nWHEN OLD.id < 0\n",
        tests=(_CONTRACT + "test_records.py::test_the_history_can_not_be_changed",),
        why="Raw SQL deletes events.",
    ),
    Mutant(
        name="plans-can-be-edited",
        file=_TEXT,
        old="    OR NEW.priority IS NOT OLD.priority\n",
        new="",
        tests=(_CONTRACT + "test_plans.py::test_a_plan_can_not_be_edited",),
        why="Raw SQL changes the priority of a proposal.",
    ),
    Mutant(
        name="keys-can-be-edited",
        file=_TEXT,
        old="    OR NEW.idempotency_key IS NOT OLD.idempotency_key\n",
        new="",
        tests=(_CONTRACT + "test_idempotency.py::test_nobody_changes_a_key_or_takes_one_twice",),
        why="Raw SQL changes an idempotency key, and the same call is made twice.",
    ),
    Mutant(
        name="raw-updates-are-not-counted",
        file=_TEXT,
        old="WHEN NEW.version IS NOT OLD.version + 1 AND NEW.status IS OLD.status AND",
        new="WHEN 0 AND",
        tests=(
            _CONTRACT + "test_versions.py::test_raw_sql_counts_too_and_can_set_it_to_nothing_else",
        ),
        why="A caller with an expected version misses a change by raw SQL.",
    ),
    Mutant(
        name="raw-updates-are-not-counted-on-postgresql",
        file=_APPROVALS,
        old="        NEW.version := OLD.version OPERATOR(pg_catalog.+) 1;\n",
        new="",
        tests=(
            _CONTRACT + "test_versions.py::test_raw_sql_counts_too_and_can_set_it_to_nothing_else",
        ),
        why="A caller with an expected version misses a change by raw SQL.",
    ),
    Mutant(
        name="raw-move-in-anothers-name",
        file=_APPROVALS,
        old="                NEW.status_changed_by := 'raw SQL';\n                NEW.status_reason := NULL;\n",
        new="",
        tests=(_RAW + "history.py::test_a_raw_move_is_told_as_such_whoever_moved_before",),
        why="The history says that the last actor did what raw SQL has done.",
    ),
    Mutant(
        name="raw-insert-in-nobodys-name",
        file=_LEDGER,
        old="coalesce(started_by, 'raw SQL') AS actor",
        new="coalesce(started_by, 'agent') AS actor",
        tests=(_RAW + "history.py::test_raw_inserts_are_told_as_such",),
        why="The history says that an agent did what raw SQL has done.",
    ),
    Mutant(
        name="raw-updated-at-stands-still",
        file=_APPROVALS,
        old="        IF NOT NEW.updated_at OPERATOR(pg_catalog.>) OLD.updated_at THEN\n",
        new="        IF false THEN\n",
        tests=(_RAW + "proposals.py::test_updated_at_moves_on_every_update",),
        why="Who looks for what changed since a time misses a change by raw SQL.",
    ),
    Mutant(
        name="anything-completes-a-failed-proposal-on-sqlite",
        file=_TEXT,
        old="ORDER BY id DESC LIMIT 1) END) IS NOT TRUE\n        OR NEW",
        new="ORDER BY id DESC LIMIT 1) END OR OLD.status = 'failed' AND NEW.status = 'completed') IS NOT TRUE\n        OR NEW",
        tests=(_CONTRACT + "test_outcomes.py::test_no_other_door_leads_from_failed_to_completed",),
        why="Raw SQL says that a failed action was done.",
    ),
    Mutant(
        name="anything-completes-a-failed-proposal-on-postgresql",
        file=_APPROVALS,
        old="THEN %1$I.outcome_resolutions_done(OLD.id) END)",
        new="THEN true END)",
        tests=(_CONTRACT + "test_outcomes.py::test_no_other_door_leads_from_failed_to_completed",),
        why="Raw SQL says that a failed action was done.",
    ),
    Mutant(
        name="what-was-not-done-opens-the-door-on-postgresql",
        file=_OUTCOMES + ".postgresql.sql",
        old="'outcome_resolved' AND success\n",
        new="'outcome_resolved'\n",
        tests=(_CONTRACT + "test_outcomes.py::test_no_other_door_leads_from_failed_to_completed",),
        why="A failed proposal is completed although somebody saw that it was not done.",
    ),
    Mutant(
        name="an-earlier-execution-decides-on-postgresql",
        file=_OUTCOMES + ".postgresql.sql",
        old="\n            AND NEW.record_id OPERATOR(pg_catalog.=) (SELECT pg_catalog.max(id) FROM %1$I.action_records WHERE proposal_id OPERATOR(pg_catalog.=) NEW.proposal_id);",
        new=";",
        tests=(
            _CONTRACT
            + "test_outcomes.py::test_only_the_last_execution_of_a_failed_proposal_decides",
        ),
        why="The resolution of an earlier execution can't be written.",
    ),
    Mutant(
        name="a-known-outcome-is-resolved-on-sqlite",
        file=_TEXT,
        old="WHERE id = NEW.record_id AND proposal_id = NEW.proposal_id AND outcome_unknown = 1)\nBEGIN",
        new="WHERE id = NEW.record_id)\nBEGIN",
        tests=(_CONTRACT + "test_outcomes.py::test_nothing_else_is_resolved",),
        why="Somebody overrules the outcome that a worker has reported.",
    ),
    Mutant(
        name="claim-moves-before-its-records-on-postgresql",
        file="src/operator_core/db/ledger/claims.py",
        old=".where(_P.id == taken.c.id, few(taken.c.id), after_records)",
        new=".where(_P.id == taken.c.id, few(taken.c.id))",
        tests=("tests/db/postgresql/test_plans.py",),
        why="Which comes first in the history depends on the planner's statistics.",
    ),
    Mutant(
        name="child-of-another-run-on-sqlite",
        file=_TEXT,
        old="WHERE id = NEW.parent_id AND run_id IS NEW.run_id)\nBEGIN",
        new="WHERE id = NEW.parent_id)\nBEGIN",
        tests=(_CONTRACT + "test_origin.py::test_a_child_is_of_its_parents_run",),
        why="A sub-agent's proposal escapes a halt of its run.",
    ),
    Mutant(
        name="child-of-another-run-on-postgresql",
        file=_APPROVALS,
        old="ELSIF NOT in_parents_run THEN",
        new="ELSIF false THEN",
        tests=(_CONTRACT + "test_origin.py::test_a_child_is_of_its_parents_run",),
        why="A sub-agent's proposal escapes a halt of its run.",
    ),
    Mutant(
        name="run-can-be-edited-on-sqlite",
        file=_TEXT,
        old="    OR NEW.run_id IS NOT OLD.run_id\n    OR NEW.parent_id",
        new="    OR NEW.parent_id",
        tests=(_CONTRACT + "test_origin.py::test_nothing_of_it_changes",),
        why="Raw SQL moves a proposal into another run.",
    ),
    Mutant(
        name="run-can-be-edited-on-postgresql",
        file=_ENDS,
        old="    OR NEW.run_id IS DISTINCT FROM OLD.run_id\n",
        new="",
        tests=(_CONTRACT + "test_origin.py::test_nothing_of_it_changes",),
        why="Raw SQL moves a proposal into another run.",
    ),
    Mutant(
        name="call-replaces-a-proposal-on-sqlite",
        file=_TEXT,
        old="    OR NEW.call_id IS NOT NULL AND NEW.run_id IS NOT NULL\n        AND EXISTS (SELECT 1 FROM action_proposals WHERE run_id = NEW.run_id AND call_id = NEW.call_id)\n",
        new="",
        tests=(
            "tests/migrations/test_raw_replaced.py::test_no_proposal_takes_the_place_of_another_by_its_call",
        ),
        why="INSERT OR REPLACE deletes the proposal of the same call.",
    ),
    Mutant(
        name="claim-of-one-takes-another",
        file="src/operator_core/db/ledger/claims.py",
        old='return [_ONE] if "proposal" in names else []',
        new="return []",
        tests=(_CONTRACT + "test_claim_proposal.py::test_it_takes_this_one_and_no_other",),
        why="claim_proposal executes what nobody asked for.",
    ),
    Mutant(
        name="end-code-is-kept-by-a-retry-on-sqlite",
        file=_TEXT,
        old="            OR NEW.end_code IS NOT iif((NEW.status = 'cancelled' OR NEW.status = 'failed'), coalesce(NEW.end_code, NEW.status), NULL)\n",
        new="",
        tests=("tests/migrations/test_raw_ends.py::test_only_a_bad_end_has_a_code",),
        why="A proposal that older code retries still looks as if it had failed.",
    ),
    Mutant(
        name="end-code-is-kept-by-a-retry-on-postgresql",
        file=_APPROVALS,
        old="                    NEW.end_code := NULL;\n",
        new="                    NULL;\n",
        tests=(_RAW + "ends.py::test_only_a_bad_end_has_a_code",),
        why="A proposal that older code retries still looks as if it had failed.",
    ),
    Mutant(
        name="cause-is-inherited-on-sqlite",
        file=_TEXT,
        old="            OR NEW.status_cause IS NOT NULL AND NEW.status_cause IS OLD.status_cause)\n",
        new="            )\n",
        tests=("tests/migrations/test_raw_ends.py::test_a_cause_is_not_inherited",),
        why="A move names the decision that caused another one.",
    ),
    Mutant(
        name="cause-is-inherited-on-postgresql",
        file=_APPROVALS,
        old="                IF NEW.status_cause OPERATOR(pg_catalog.=) OLD.status_cause THEN\n",
        new="                IF false THEN\n",
        tests=(_CONTRACT + "test_ends.py::test_raw_sql_may_say_how_and_why",),
        why="A move names the decision that caused another one.",
    ),
    Mutant(
        name="stored-digest-can-be-edited-on-sqlite",
        file=_TEXT,
        old="    OR NEW.content_digest IS NOT OLD.content_digest AND (OLD.content_digest IS NULL AND ",
        new="    OR NEW.content_digest IS NOT OLD.content_digest AND (",
        tests=(
            "tests/migrations/test_raw_ends.py::test_a_digest_has_one_form_and_is_written_once",
        ),
        why="Raw SQL makes an approval fit another content.",
    ),
    Mutant(
        name="stored-digest-can-be-edited-on-postgresql",
        file=_ENDS,
        old="    OR OLD.content_digest IS NOT NULL AND NEW.content_digest IS DISTINCT FROM OLD.content_digest)",
        new="    )",
        tests=(_RAW + "ends.py::test_a_digest_has_one_form_and_is_written_once",),
        why="Raw SQL makes an approval fit another content.",
    ),
)
