"""Faults in what is the same on every backend: the units of work, the vocabulary, and the blocks that hold claims."""

from typing import Final

from tests.mutants.mutant import Mutant

__all__ = ["MUTANTS"]

_DB: Final = "src/operator_core/db/"
_CONTRACT: Final = "tests/contract/"

MUTANTS: Final = (
    Mutant(
        name="claim-waits-for-locked-rows",
        file=_DB + "ledger/claims.py",
        old='.with_for_update(skip_locked=True)\n        .cte("due")',
        new='.with_for_update()\n        .cte("due")',
        tests=(
            _CONTRACT + "test_claims.py::test_a_claim_goes_past_what_another_transaction_holds",
        ),
        why="A claim waits for a proposal that another transaction holds, instead of taking the next one.",
    ),
    Mutant(
        name="sweep-waits-for-locked-rows",
        file=_DB + "ledger/recovery.py",
        old=".with_for_update(skip_locked=True, key_share=True)",
        new=".with_for_update(key_share=True)",
        tests=(
            _CONTRACT + "test_sweeps.py::test_a_claim_waits_for_nobody_who_holds_what_is_overdue",
        ),
        why="A claim that sweeps waits for whoever holds an overdue proposal.",
    ),
    Mutant(
        name="claim-takes-one-more",
        file=_DB + "ledger/claims.py",
        old='        "limit": request.limit,\n',
        new='        "limit": request.limit + 1,\n',
        tests=(
            _CONTRACT
            + "test_claims.py::test_the_urgent_go_first_and_of_these_what_has_been_due_longest",
        ),
        why="A worker gets one proposal more than it asked for.",
    ),
    Mutant(
        name="claim-takes-one-more-on-sqlite",
        file=_DB + "ledger/claims.py",
        old='parameters["limit"] = request.limit - len(found)',
        new='parameters["limit"] = request.limit + 1 - len(found)',
        tests=(
            _CONTRACT
            + "test_claims.py::test_the_urgent_go_first_and_of_these_what_has_been_due_longest",
        ),
        why="A worker gets one proposal more than it asked for.",
    ),
    Mutant(
        name="starts-before-it-is-due",
        file=_DB + "ledger/status.py",
        old="written_now() >= _ROW.scheduled_at",
        new="written_now() != _ROW.scheduled_at",
        tests=(
            _CONTRACT + "test_claims.py::test_only_what_is_validated_and_due_is_claimed",
            _CONTRACT + "test_starting.py::test_it_is_not_started_and_the_error_says_why",
        ),
        why="A scheduled proposal starts before its time, or a claim fails on it.",
    ),
    Mutant(
        name="retried-before-it-is-due",
        file=_DB + "ledger/claims.py",
        old="written_now() >= _P.next_retry_at",
        new="written_now() != _P.next_retry_at",
        tests=(_CONTRACT + "test_claims.py", _CONTRACT + "test_retries.py"),
        why="A proposal is claimed before the time that was set for it.",
    ),
    Mutant(
        name="starts-after-it-expired",
        file=_DB + "ledger/status.py",
        old="        or_(_ROW.expires_at.is_(None), _ROW.expires_at > written_now()),\n",
        new="",
        tests=(_CONTRACT + "test_starting.py::test_it_is_not_started_and_the_error_says_why",),
        why="A proposal starts after it has expired, or the error does not say so.",
    ),
    Mutant(
        name="starts-before-what-it-depends-on",
        file=_DB + "ledger/status.py",
        old="        or_(_ROW.depends_on.is_(None), _unfinished().is_(None)),\n",
        new="",
        tests=(_CONTRACT + "test_order.py::test_it_is_claimable_when_all_is_completed",),
        why="A proposal starts before what it depends on is completed, or a claim fails on it.",
    ),
    Mutant(
        name="claim-ignores-priority",
        file=_DB + "ledger/claims.py",
        old="_ORDER = (_P.priority.desc(), _DUE, _P.id)",
        new="_ORDER = (_DUE, _P.id)",
        tests=(
            _CONTRACT
            + "test_claims.py::test_the_urgent_go_first_and_of_these_what_has_been_due_longest",
        ),
        why="Urgent proposals are claimed after others.",
    ),
    Mutant(
        name="recovery-takes-leases-that-last",
        file=_DB + "ledger/recovery.py",
        old="_R.lease_expires_at <= written_now())",
        new="_R.lease_expires_at.is_not(None))",
        tests=(_CONTRACT + "test_recovery.py",),
        why="An execution is ended while its lease lasts.",
    ),
    Mutant(
        name="recovery-forgets-expired-leases",
        file=_DB + "ledger/recovery.py",
        old="_R.lease_expires_at <= written_now())",
        new="_R.lease_expires_at > written_now())",
        tests=(_CONTRACT + "test_recovery.py::test_the_outcome_of_a_silent_worker_is_unknown",),
        why="An execution whose worker has crashed is never ended.",
    ),
    Mutant(
        name="sweep-forgets-what-expired",
        file=_DB + "ledger/recovery.py",
        old='    each.end(_PAST_EXPIRY, _cancel_expired, "cancel proposal")\n',
        new="",
        tests=(
            _CONTRACT
            + "test_recovery.py::test_what_was_not_started_in_time_is_cancelled_by_the_next_claim",
        ),
        why="What has expired stays pending for ever.",
    ),
    Mutant(
        name="fence-lets-older-records-through",
        file=_DB + "ledger/executions.py",
        old="newest_record(_P.id) == record_id",
        new="newest_record(_P.id) >= record_id",
        tests=(
            _CONTRACT + "test_leases.py::test_a_second_execution_fences_the_first_workers_record",
        ),
        why="A worker whose execution was taken over moves the proposal all the same.",
    ),
    Mutant(
        name="fence-ignores-the-status",
        file=_DB + "ledger/executions.py",
        old="return few_in(_P.status, ActionStatus.EXECUTING.value), newest_record(_P.id) == record_id",
        new="return (newest_record(_P.id) == record_id,)",
        tests=(
            _CONTRACT
            + "test_leases.py::test_a_proposal_that_was_moved_meanwhile_stays_and_its_record_has_the_outcome",
        ),
        why="A worker moves a proposal that was cancelled meanwhile.",
    ),
    Mutant(
        name="ended-twice-on-a-server",
        file=_DB + "ledger/executions.py",
        old="            nearly_all(_R.completed_at.is_(None)),\n",
        new="",
        tests=(_CONTRACT + "test_leases.py::test_what_has_ended_is_lost_to_its_worker",),
        why="Ending an execution twice is no LeaseLost.",
    ),
    Mutant(
        name="ended-twice-on-sqlite",
        file=_DB + "ledger/executions.py",
        old='    .where(_R.id == bindparam("record"), _R.completed_at.is_(None))\n',
        new='    .where(_R.id == bindparam("record"))\n',
        tests=(_CONTRACT + "test_leases.py::test_what_has_ended_is_lost_to_its_worker",),
        why="Ending an execution twice is no LeaseLost.",
    ),
    Mutant(
        name="heartbeat-after-the-end",
        file=_DB + "ledger/executions.py",
        old="            _R.completed_at.is_(None),\n            select(_P.id)",
        new="            select(_P.id)",
        tests=(
            _CONTRACT
            + "test_leases.py::test_an_execution_by_hand_that_has_ended_has_no_lease_to_extend",
        ),
        why="A heartbeat for an execution that has ended is no LeaseLost.",
    ),
    Mutant(
        name="one-retry-too-many",
        file=_DB + "ledger/executions.py",
        old="_P.retry_count < _P.max_retries",
        new="_P.retry_count <= _P.max_retries",
        tests=(_CONTRACT + "test_retries.py::test_no_retries_are_none",),
        why="A proposal is run again once more than it allows.",
    ),
    Mutant(
        name="retries-are-not-counted",
        file=_DB + "ledger/recovery.py",
        old="retry_count=_P.retry_count + 1,",
        new="retry_count=_P.retry_count,",
        tests=(
            _CONTRACT
            + "test_retries.py::test_so_many_retries_are_so_many_and_the_last_failure_stays",
        ),
        why="A proposal that always fails is run again for ever.",
    ),
    Mutant(
        name="expected-version-is-a-minimum",
        file=_DB + "ledger/status.py",
        old='_ROW.version == bindparam("expected")',
        new='_ROW.version >= bindparam("expected")',
        tests=(_CONTRACT + "test_versions.py::test_who_has_read_another_version_changes_nothing",),
        why="A caller who has read an old version changes a newer one.",
    ),
    Mutant(
        name="move-without-guard",
        file=_DB + "ledger/status.py",
        old="return [any_of(sources), *start, *held]",
        new="return [*start, *held]",
        tests=(_CONTRACT + "test_lifecycle.py::test_the_facade_knows_every_step_and_no_other",),
        why="A step that the lifecycle does not have is no InvalidTransition.",
    ),
    Mutant(
        name="lifecycle-with-a-step-too-many",
        file="src/operator_core/actions/lifecycle.py",
        old="_S.COMPLETED: frozenset(),",
        new="_S.COMPLETED: frozenset({_S.VALIDATED}),",
        tests=("tests/actions/test_lifecycle_and_errors.py::test_the_table_is_the_designs",),
        why="A completed proposal can be run again.",
    ),
    Mutant(
        name="key-ignores-the-ticket",
        file=_DB + "ledger/proposals.py",
        old='if name not in ("reason", "parameters", "traceparent")',
        new='if name not in ("reason", "parameters", "traceparent", "ticket_id")',
        tests=(
            _CONTRACT
            + "test_idempotency.py::test_each_field_that_is_compared_is_enough_for_a_conflict",
        ),
        why="The same key for another ticket returns the first ticket's proposal.",
    ),
    Mutant(
        name="key-ignores-the-parameters",
        file=_DB + "ledger/proposals.py",
        old="        json.dumps(proposal.parameters, sort_keys=True),\n",
        new="",
        tests=(
            _CONTRACT
            + "test_idempotency.py::test_another_content_under_the_same_key_is_a_conflict",
        ),
        why="The same key with other parameters returns a proposal of something else.",
    ),
    Mutant(
        name="many-created-backwards",
        file=_DB + "ledger/proposals.py",
        old="return sorted(insert_rows(conn, _INSERT_ONE, values), key=itemgetter(0))",
        new="return sorted(insert_rows(conn, _INSERT_ONE, values), key=itemgetter(0), reverse=True)",
        tests=(_CONTRACT + "test_proposals.py::test_many_are_created_in_their_order",),
        why="Proposals that are created together get each other's ids.",
    ),
    Mutant(
        name="kill-switch-leaves-retries-on-sqlite",
        file=_DB + "ledger/stops.py",
        old="    conn.execute(_CALL_OFF.where(*stop.which), stop.parameters)\n    return count",
        new="    return count",
        tests=(
            _CONTRACT
            + "test_stopping.py::test_a_retry_that_is_called_off_is_an_event_and_does_not_count",
        ),
        why="After the kill switch a failed proposal is run again.",
    ),
    Mutant(
        name="kill-switch-leaves-retries-on-postgresql",
        file=_DB + "ledger/stops.py",
        old=".select_from(cancelled).add_cte(called_off)",
        new=".select_from(cancelled)",
        tests=(
            _CONTRACT
            + "test_stopping.py::test_a_retry_that_is_called_off_is_an_event_and_does_not_count",
        ),
        why="After the kill switch a failed proposal is run again.",
    ),
    Mutant(
        name="workflow-cancels-others-too",
        file=_DB + "ledger/stops.py",
        old="_OF_WORKFLOW = _ROW.workflow_id == bindparam",
        new="_OF_WORKFLOW = _ROW.workflow_id >= bindparam",
        tests=(_CONTRACT + "test_workflows.py::test_cancelling_one_leaves_those_beside_it",),
        why="Cancelling one workflow cancels those after it.",
    ),
    Mutant(
        name="pages-repeat-a-row",
        file=_DB + "ledger/queries.py",
        old='"before": _ROW.id < bindparam("before"),',
        new='"before": _ROW.id <= bindparam("before"),',
        tests=(_CONTRACT + "test_proposals.py::test_pages_join_without_gap_or_repeat",),
        why="The last proposal of a page is the first of the next.",
    ),
    Mutant(
        name="history-repeats-an-event",
        file=_DB + "ledger/history.py",
        old="query = query.where(_ROW.id > after)",
        new="query = query.where(_ROW.id >= after)",
        tests=(_CONTRACT + "test_records.py::test_the_history_is_read_in_pages",),
        why="The last event of a page is the first of the next.",
    ),
    Mutant(
        name="first-heartbeat-too-late",
        file=_DB + "verbs/holding.py",
        old="        self._rest = seconds / BEATS\n        self.until",
        new="        self._rest = 2 * seconds / BEATS\n        self.until",
        tests=(
            _CONTRACT
            + "test_holding.py::test_each_heartbeat_comes_when_a_third_of_the_lease_is_over_and_not_before",
        ),
        why="One heartbeat that is lost costs the lease.",
    ),
    Mutant(
        name="lost-lease-goes-unnoticed",
        file=_DB + "verbs/holding.py",
        old="                lost.append(error)\n                body.cancel()\n",
        new="                lost.append(error)\n",
        tests=(
            _CONTRACT
            + "test_holding.py::test_who_loses_the_lease_while_at_it_is_cancelled_and_told",
        ),
        why="A worker goes on although another executes its proposal.",
    ),
    Mutant(
        name="megabyte-less-one",
        file=_DB + "sql/base.py",
        old="len(text) > limit:",
        new="len(text) >= limit:",
        tests=(_CONTRACT + "test_values.py::test_a_megabyte_is_kept_and_a_byte_more_is_not",),
        why="Parameters of exactly the limit are refused.",
    ),
    Mutant(
        name="depth-65-by-text",
        file="src/operator_core/actions/values.py",
        old="> MAX_JSON_DEPTH\n",
        new="> MAX_JSON_DEPTH + 1\n",
        tests=("tests/actions/test_json_copies.py::test_depth_is_limited",),
        why="A level too many is written, which another reader may refuse.",
    ),
    Mutant(
        name="values-that-only-look-equal",
        file="src/operator_core/actions/values.py",
        old="        if copied != value:\n            return None\n",
        new="",
        tests=(
            "tests/actions/test_json_copies.py::test_what_json_can_not_hold_is_refused_with_its_path",
        ),
        why="A date or a tuple is stored as something else.",
    ),
    Mutant(
        name="depth-65",
        file="src/operator_core/actions/values.py",
        old="if depth >= MAX_JSON_DEPTH:",
        new="if depth > MAX_JSON_DEPTH:",
        tests=(_CONTRACT + "test_values.py::test_what_can_not_be_kept_is_refused_with_its_path",),
        why="JSON that is deeper than the limit is kept, and may not be readable.",
    ),
    Mutant(
        name="stop-needs-one-of-each-kind",
        file=_DB + "ledger/stops.py",
        old="if refusals and not count and not called_off:",
        new="if refusals:",
        tests=(
            _CONTRACT + "test_stopping.py::test_nor_does_it_where_it_is_the_only_one_of_its_kind",
        ),
        why="One row that can't be changed stops the stop, if it is the only one of its kind.",
    ),
    Mutant(
        name="late-record-is-an-outcome",
        file=_DB + "ledger/recovery.py",
        old="        _R.id == newest_record(_R.proposal_id),\n",
        new="",
        tests=(
            _CONTRACT
            + "test_abandoned.py::test_a_record_of_an_earlier_execution_that_ends_late_is_not_this_ones",
        ),
        why="A recovery ends the same execution again and again, and never its proposal.",
    ),
    Mutant(
        name="search-is-not-json",
        file=_DB + "ledger/queries.py",
        old='        values["search_json"] = to_json(values["search"]).decode()[1:-1]\n',
        new='        values["search_json"] = values["search"]\n',
        tests=(
            _CONTRACT
            + "test_proposals.py::test_searching_finds_text_in_parameters_reason_and_error",
        ),
        why="A search for a quotation mark or a line break finds nothing in parameters.",
    ),
    Mutant(
        name="halt-forgets-the-cancelled",
        file=_DB + "ledger/halts.py",
        old="    running = [*conn.execute(_RUNNING, this), *conn.execute(_UNNOTICED, this)]\n",
        new="    running = [*conn.execute(_RUNNING, this)]\n",
        tests=(
            _CONTRACT + "test_halts.py::test_what_was_cancelled_and_is_still_executed_is_running",
        ),
        why="A halt does not list what was cancelled before and is still executed.",
    ),
    Mutant(
        name="not-knowing-is-a-failure",
        file=_DB + "verbs/holding.py",
        old="        GeneratorExit,\n        OutcomeUnknown,\n    )\n",
        new="        GeneratorExit,\n    )\n",
        tests=(_CONTRACT + "test_holding.py::test_a_block_may_say_that_it_does_not_know",),
        why="A handler says that it does not know, and the ledger says that nothing was done.",
    ),
)
