"""Faults in where units run on SQLite: the writer and its groups, the connection, the upgrade."""

from typing import Final

from tests.mutants.mutant import Mutant

__all__ = ["MUTANTS"]

_DB: Final = "src/operator_core/db/"
_WRITER: Final = _DB + "sqlite/writer.py"
_CONTRACT: Final = "tests/contract/"
_FAILURES: Final = "tests/failures/"

MUTANTS: Final = (
    Mutant(
        name="answer-before-the-commit",
        file=_WRITER,
        old='            raw.execute("COMMIT")\n        except',
        new='            self._answer(group, results, False)\n            raw.execute("COMMIT")\n        except',
        tests=(_FAILURES + "test_kill_points.py",),
        why="A write is acknowledged that a crash or a full disk undoes.",
    ),
    Mutant(
        name="rollback-for-commit",
        file=_WRITER,
        old='            raw.execute("COMMIT")\n        except',
        new='            raw.execute("ROLLBACK")\n        except',
        tests=(
            _CONTRACT
            + "test_proposals.py::test_a_proposal_comes_back_with_its_id_and_the_databases_times",
        ),
        why="A write is acknowledged and not kept.",
    ),
    Mutant(
        name="transaction-rolled-back-for-committed",
        file=_WRITER,
        old='        await transaction.end("COMMIT")\n',
        new='        await transaction.end("ROLLBACK")\n',
        tests=(_CONTRACT + "test_transactions.py::test_what_is_called_inside_is_kept_together",),
        why="A transaction is acknowledged and not kept.",
    ),
    Mutant(
        name="failed-block-is-committed",
        file=_WRITER,
        old='        except BaseException:\n            await transaction.end("ROLLBACK")\n            raise\n        await',
        new='        except BaseException:\n            await transaction.end("COMMIT")\n            raise\n        await',
        tests=(_CONTRACT + "test_transactions.py::test_an_exception_undoes_all_of_it",),
        why="A transaction whose block failed is kept.",
    ),
    Mutant(
        name="deferred-begin",
        file=_DB + "sqlite/handle.py",
        old='raw.execute("BEGIN IMMEDIATE")',
        new='raw.execute("BEGIN")',
        tests=(
            _FAILURES
            + "test_contention.py::test_units_that_read_and_then_write_run_one_after_another_and_none_is_busy",
        ),
        why="Two processes that read and then write are Busy at once.",
    ),
    Mutant(
        name="no-savepoint-in-the-writers-transaction",
        file=_DB + "sqlite/transaction.py",
        old="        with savepoint(conn):\n            return unit(conn)",
        new="        return unit(conn)",
        tests=(_CONTRACT + "test_failed_units.py::test_in_a_transaction_of_the_ledgers",),
        why="A call that fails inside transaction() leaves half of its rows.",
    ),
    Mutant(
        name="no-savepoint-in-an-engines-transaction",
        file=_DB + "run/borrowed.py",
        old="        with savepoint(conn):\n            return unit(conn)",
        new="        return unit(conn)",
        tests=(_CONTRACT + "test_failed_units.py::test_in_a_transaction_of_the_ledgers",),
        why="A call that fails inside transaction() leaves half of its rows, or ends the transaction.",
    ),
    Mutant(
        name="no-savepoint-in-a-session",
        file=_DB + "run/borrowed.py",
        old="        with savepoint(conn):\n            return unit(conn)",
        new="        return unit(conn)",
        tests=(_CONTRACT + "test_failed_units.py::test_in_a_session_of_somebodys",),
        why="A call that fails leaves half of its rows in the service's transaction.",
    ),
    Mutant(
        name="begin-cancelled-with-its-answer",
        file=_WRITER,
        old='            if not answer.abandoned:\n                await transaction.end("ROLLBACK")\n            raise',
        new="            raise",
        tests=(
            _FAILURES
            + "test_cancelled_begins.py::test_a_transaction_cancelled_in_the_turn_in_which_it_has_begun_is_rolled_back",
        ),
        why="A transaction that is cancelled as it begins keeps the write lock for ever.",
    ),
    Mutant(
        name="begin-cancelled-while-it-waits",
        file=_WRITER,
        old="answer = Answer(orphaned=transaction.abandon)",
        new="answer = Answer()",
        tests=(_FAILURES + "test_cancelled_begins.py",),
        why="A transaction that is cancelled while it waits for another process keeps the write lock for ever.",
    ),
    Mutant(
        name="begin-that-nobody-is-told-of",
        file=_DB + "sqlite/connection.py",
        old="        if self.future.done():\n            self._orphan(error)\n",
        new="        if self.future.done():\n            pass\n",
        tests=(_FAILURES + "test_cancelled_begins.py",),
        why="A transaction whose caller is gone when it has begun keeps the write lock for ever.",
    ),
    Mutant(
        name="group-fails-as-one",
        file=_WRITER,
        old="            if len(group) == 1:\n                self._send_error(group, error)\n",
        new="            if group:\n                self._send_error(group, error)\n",
        tests=(
            _FAILURES
            + "test_group_commit.py::test_one_failing_unit_of_a_group_costs_its_neighbours_nothing",
        ),
        why="One call that fails makes those fail that were committed with it.",
    ),
    Mutant(
        name="synchronous-normal",
        file=_DB + "sqlite/handle.py",
        old='"PRAGMA synchronous = FULL"',
        new='"PRAGMA synchronous = NORMAL"',
        tests=(_FAILURES + "test_syncs.py", "tests/db/test_opening.py"),
        why="An acknowledged write is lost with the power.",
    ),
    Mutant(
        name="foreign-keys-off",
        file=_DB + "sqlite/handle.py",
        old='"PRAGMA foreign_keys = ON"',
        new='"PRAGMA foreign_keys = OFF"',
        tests=("tests/db/test_opening.py::test_the_settings_that_durability_needs_are_on",),
        why="References to rows that do not exist are kept.",
    ),
    Mutant(
        name="files-are-known-before-they-are-held",
        file=_DB + "sqlite/files.py",
        old="self._beside[suffix] = there if begun else None",
        new="self._beside[suffix] = there",
        tests=(
            _FAILURES
            + "test_closing.py::test_a_write_goes_on_when_the_readers_close_before_it_begins",
        ),
        why="A write that is durable is reported as StorageCorrupt while the ledger is closed.",
    ),
    Mutant(
        name="parameters-in-sqlites-messages",
        file=_DB + "sqlite/engine.py",
        old='make_url("sqlite://"), hide_parameters=True)',
        new='make_url("sqlite://"), hide_parameters=False)',
        tests=(
            _FAILURES
            + "test_no_values.py::test_a_program_that_logs_every_statement_logs_no_values",
        ),
        why="A program that logs SQLAlchemy's statements logs the content of proposals.",
    ),
    Mutant(
        name="call-from-inside-its-transaction",
        file=_WRITER,
        old="check_outside(() if held is None else (held,))",
        new="check_outside(())",
        tests=(
            _CONTRACT
            + "test_transactions.py::test_calling_the_ledger_from_inside_its_own_transaction_is_told",
        ),
        why="A call to the ledger inside its own transaction hangs.",
    ),
    Mutant(
        name="upgrade-without-a-lock",
        file=_DB + "migrate/sqlite.py",
        old='    conn.exec_driver_sql("BEGIN IMMEDIATE")\n    try:\n        yield\n',
        new='    conn.exec_driver_sql("BEGIN")\n    try:\n        yield\n',
        tests=("tests/migrations/test_at_once.py",),
        why="Several processes that open a new file at once fail.",
    ),
    Mutant(
        name="newer-schema-is-opened",
        file=_DB + "migrate/revisions.py",
        old="if revision is not None and revision not in REVISIONS:",
        new="if revision is not None and revision in REVISIONS[:0]:",
        tests=("tests/db/test_opening.py::test_a_newer_schema_is_refused_through_every_door",),
        why="Code that does not know a newer schema writes to it.",
    ),
    Mutant(
        name="connections-close-at-once",
        file=_DB + "sqlite/connection.py",
        old="        if self._earlier is not None:\n            self._earlier._ended.result()\n",
        new="",
        tests=("tests/failures/test_closing.py::test_its_connections_close_one_after_another",),
        why="A closed ledger leaves its log beside the file, and a copy of the file is empty.",
    ),
    Mutant(
        name="fresh-index-is-a-checkpoint",
        file=_DB + "sqlite/contents.py",
        old="if not self._watched and not any(index[_SALTS]):",
        new="if False:",
        tests=(
            "tests/failures/test_replaced_files.py::test_a_file_whose_connections_all_come_and_go_is_still_the_same",
        ),
        why="A service's engine that recycles its connections makes the ledger believe that its file was replaced.",
    ),
)
