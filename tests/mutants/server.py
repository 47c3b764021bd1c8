"""Faults in where units run on PostgreSQL: attempts, lanes, the driver without SQLAlchemy, what errors say."""

from typing import Final

from tests.mutants.mutant import Mutant

__all__ = ["MUTANTS"]

_DB: Final = "src/operator_core/db/"
_LOST: Final = "tests/failures/test_lost_connections.py::"
_ANSWERS: Final = "tests/failures/test_lost_answers.py::"
_BATCHES: Final = "tests/db/postgresql/test_batches.py::"
_SERVER: Final = "tests/db/postgresql/test_server_runner.py::"

MUTANTS: Final = (
    Mutant(
        name="direct-write-run-again",
        file=_DB + "postgresql/runner.py",
        old="if kind is Trouble.LOST and writes:",
        new="if False:",
        tests=(_ANSWERS + "test_it_is_unknown_and_made_once",),
        why="A write whose answer was lost is made twice.",
    ),
    Mutant(
        name="lane-goes-on-after-an-unknown-outcome",
        file=_DB + "postgresql/batching.py",
        old="if isinstance(failure, _NOBODYS_FAULT):",
        new="if not group:",
        tests=(_ANSWERS + "test_callers_who_share_a_statement_are_all_told_and_written_once",),
        why="Writes that were sent together and whose answer was lost are made twice.",
    ),
    Mutant(
        name="lane-fails-as-one",
        file=_DB + "postgresql/batching.py",
        old="if isinstance(failure, _NOBODYS_FAULT):",
        new="if group:",
        tests=(_SERVER + "test_nobody_pays_for_a_neighbour_in_the_same_statement",),
        why="One call that fails makes those fail that were sent with it.",
    ),
    Mutant(
        name="shared-statement-waits-for-locked-rows",
        file=_DB + "sql/sharing.py",
        old=".with_for_update(of=lock, skip_locked=True, key_share=True)",
        new=".with_for_update(of=lock, key_share=True)",
        tests=(_BATCHES + "test_a_locked_row_delays_only_its_own_caller",),
        why="Callers wait for a row that only one of them changes.",
    ),
    Mutant(
        name="second-mover-of-a-statement-is-answered",
        file=_DB + "sql/sharing.py",
        old="answers[first[row[0]]] = result(row)",
        new="answers = [result(row) if call['id'] == row[0] else each for call, each in zip(calls, answers)]",
        tests=(_BATCHES + "test_a_refused_move_is_refused_to_its_caller_only",),
        why="Of two workers that start a proposal in one statement, both believe that they did.",
    ),
    Mutant(
        name="shared-claim-goes-to-one-caller",
        file=_DB + "ledger/claims.py",
        old="shares[wanted[_place(row) - 1]].append(row)",
        new="shares[0].append(row)",
        tests=(_BATCHES + "test_concurrent_claims_share_a_statement_and_no_proposal",),
        why="A worker gets the proposals of its neighbours, whose names their records have.",
    ),
    Mutant(
        name="statement-run-again-after-it-was-sent",
        file=_DB + "postgresql/connections.py",
        old="attempt.connected = attempt.committing = attempt.alone = True",
        new="attempt.connected = True",
        tests=(
            _LOST + "test_a_connection_lost_with_a_statement_on_its_way_is_an_unknown_outcome",
            _LOST + "test_an_answer_lost_after_the_commit_is_an_unknown_outcome_and_a_kept_row",
        ),
        why="A write whose answer was lost is made twice.",
    ),
    Mutant(
        name="unit-run-again-after-its-commit",
        file=_DB + "postgresql/connections.py",
        old="                result = unit(conn)\n                attempt.committing = True\n",
        new="                result = unit(conn)\n",
        tests=("tests/failures/test_lost_commits.py",),
        why="A unit whose COMMIT was not answered is run twice.",
    ),
    Mutant(
        name="lost-commit-is-unavailable",
        file=_DB + "postgresql/runner.py",
        old="        if trouble(error) is Trouble.LOST:\n            return outcome_unknown(error)\n",
        new="",
        tests=(_LOST + "test_so_is_a_transaction_whose_commit_was_not_answered",),
        why="A caller whose COMMIT was not answered takes the transaction for not done.",
    ),
    Mutant(
        name="conflict-is-not-tried-again",
        file=_DB + "postgresql/attempts.py",
        old="return failures < _MAX_CONFLICTS",
        new="return False",
        tests=(_LOST + "test_a_unit_that_loses_to_another_transaction_is_run_again",),
        why="Callers see serialization failures and deadlocks.",
    ),
    Mutant(
        name="stale-connection-is-used",
        file=_DB + "postgresql/connections.py",
        old="            if not is_stale(conn.connection.driver_connection):\n                return conn\n            throw_away(conn)\n        return None",
        new="            return conn\n        return None",
        tests=(_LOST + "test_connections_that_died_while_nobody_used_them_are_noticed_by_nobody",),
        why="After a restart of the server the first calls fail.",
    ),
    Mutant(
        name="details-of-rows-in-errors",
        file=_DB + "sql/errors.py",
        old="        scrub(error)\n",
        new="        pass\n",
        tests=(_LOST + "test_no_message_and_no_cause_holds_the_values_of_a_row",),
        why="A log shows the values of a row.",
    ),
    Mutant(
        name="parameters-in-postgresqls-messages",
        file=_DB + "sql/postgresql_errors.py",
        old="            error.params = None\n",
        new="",
        tests=(_LOST + "test_no_message_and_no_cause_holds_the_values_of_a_row",),
        why="A traceback shows the parameters of a proposal.",
    ),
    Mutant(
        name="transactions-at-another-level",
        file=_DB + "postgresql/connections.py",
        old='WHOLE: Final[IsolationLevel] = "READ COMMITTED"',
        new='WHOLE: Final[IsolationLevel] = "SERIALIZABLE"',
        tests=(_SERVER + "test_a_database_with_another_level_by_default_is_as_good",),
        why="Units conflict with each other, and cascades are refused.",
    ),
    Mutant(
        name="migrations-at-once",
        file=_DB + "migrate/postgresql.py",
        old='f"SELECT pg_advisory_xact_lock({LOCK_KEY})",',
        new='"SELECT 1",',
        tests=("tests/migrations/test_postgresql_at_once.py",),
        why="Of several deploys that migrate at once all but one fail.",
    ),
    Mutant(
        name="events-before-they-are-complete",
        file=_DB + "ledger/history.py",
        old="_NEXT.where(_BEHIND, _ROW.transaction_id < _HORIZON)",
        new="_NEXT.where(_BEHIND)",
        tests=("tests/failures/test_late_commits.py",),
        why="A follower never sees an event that was committed late.",
    ),
    Mutant(
        name="read-takes-the-transaction-along",
        file=_DB + "run/borrowed.py",
        old="return read(conn) if is_sqlite(conn) else in_savepoint(conn, read)",
        new="return read(conn)",
        tests=("tests/contract/test_transactions.py::test_a_failed_read_leaves_it_too",),
        why="After a read that fails, COMMIT rolls back what the block was told is written.",
    ),
    Mutant(
        name="written-row-is-refused",
        file=_DB + "ledger/proposals.py",
        old="if new.depends or len(new.values) > MAX_ROWS:",
        new="if len(new.values) > MAX_ROWS:",
        tests=(
            "tests/db/postgresql/test_server_refusals.py::test_a_refusal_never_comes_after_the_row_was_written",
        ),
        why="`Busy` says that nothing was changed, and the proposal is there.",
    ),
    Mutant(
        name="pgbouncers-loss-is-a-refusal",
        file=_DB + "sql/postgresql_errors.py",
        old='misunderstood = state == "08P01" and _DOES_NOT_EXIST not in _states(error)',
        new='misunderstood = state == "08P01"',
        tests=("tests/failures/test_pgbouncer.py::test_a_server_that_is_lost_behind_it_is_lost",),
        why="A write whose answer was lost behind PgBouncer is said to be absent.",
    ),
    Mutant(
        name="listener-is-cancelled-once",
        file=_DB + "postgresql/listener.py",
        old="while self._task is not None and not self._task.done():",
        new="if self._task is not None and not self._task.done():",
        tests=(
            "tests/failures/test_lost_listener.py::test_a_driver_that_loses_a_cancellation_does_not_listen_for_ever",
        ),
        why="Where a driver loses the cancellation, a connection listens for ever.",
    ),
)
