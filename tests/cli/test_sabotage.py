"""``operator-core db check`` finds rows that were changed past the triggers, and triggers that were changed."""

import pytest

from operator_core.cli.findings import Verdict
from operator_core.db import migrate
from tests.cli.conftest import Invoke
from tests.cli.tampering import (
    File,
    Ledger,
    file,
    ledger,
    made_file,
    made_on_server,
    server,
)

__all__ = ["file", "ledger", "made_file", "made_on_server", "server"]


def test_an_intact_ledger_is_clean(ledger: Ledger, invoke: Invoke) -> None:
    assert ledger.bad() == {}
    assert invoke("db", "check", *ledger.place).exit_code == 0


EVENT = "INSERT INTO action_events (id, proposal_id, record_id, event_type, from_status, to_status, version, actor, occurred_at) OVERRIDING SYSTEM VALUE VALUES "
NOW = "'2026-01-01 00:00:00.000000'"

ROWS = {
    "a status that no event says": (
        "statuses",
        "UPDATE action_proposals SET status = 'completed' WHERE id = 5",
        "proposal 5 is completed; its last event: proposed",
    ),
    "an end that was taken back": (
        "statuses",
        "UPDATE action_proposals SET status = 'validated' WHERE id = 1",
        "proposal 1 is validated; its last event: completed",
    ),
    "a proposal without events": (
        "statuses",
        "DELETE FROM action_events WHERE proposal_id = 5",
        "proposal 5 is proposed; its last event: no event",
    ),
    "a lost last event": (
        "statuses",
        "DELETE FROM action_events WHERE proposal_id = 3 AND to_status = 'cancelled'",
        "proposal 3 is cancelled; its last event: proposed",
    ),
    "a lost creation": (
        "history",
        "DELETE FROM action_events WHERE proposal_id = 1 AND event_type = 'proposal_created'",
        "comes before its proposal was created",
    ),
    "a second creation": (
        "history",
        f"{EVENT} (900, 5, NULL, 'proposal_created', NULL, 'proposed', NULL, 'eve', {NOW})",
        "event 900 of proposal 5 creates its proposal a second time",
    ),
    "a step that no lifecycle has": (
        "history",
        f"{EVENT} (900, 5, NULL, 'status_changed', 'proposed', 'completed', 2, 'eve', {NOW})",
        "event 900 of proposal 5 is not a move of the lifecycle",
    ),
    "a step to where it is": (
        "history",
        f"{EVENT} (900, 5, NULL, 'status_changed', 'proposed', 'proposed', 2, 'eve', {NOW})",
        "event 900 of proposal 5 is not a move of the lifecycle",
    ),
    "a step to nowhere": (
        "history",
        f"{EVENT} (900, 5, NULL, 'status_changed', 'proposed', NULL, 2, 'eve', {NOW})",
        "event 900 of proposal 5 is not a move of the lifecycle",
    ),
    "a step from elsewhere": (
        "history",
        f"{EVENT} (900, 5, NULL, 'status_changed', 'validated', 'executing', 2, 'eve', {NOW})",
        "event 900 of proposal 5 does not go on from the status before it",
    ),
    "a lost step": (
        "history",
        "DELETE FROM action_events WHERE proposal_id = 1 AND to_status = 'executing'",
        "of proposal 1 does not go on from the status before it",
    ),
    "a retry that changes the status": (
        "history",
        f"{EVENT} (900, 4, NULL, 'retry_cancelled', 'failed', 'validated', 9, 'eve', {NOW})",
        "event 900 of proposal 4 is about a retry and changes the status",
    ),
    "an event of an execution that names none": (
        "history",
        f"{EVENT} (900, 5, NULL, 'record_started', NULL, NULL, NULL, 'eve', {NOW})",
        "event 900 of proposal 5 is about an execution, but names none",
    ),
    "an event of an execution with a status": (
        "history",
        f"{EVENT} (900, 1, 1, 'record_finished', NULL, 'completed', NULL, 'eve', {NOW})",
        "event 900 of proposal 1 is about an execution, but names none, or names a status",
    ),
    "an event of a proposal that names an execution": (
        "history",
        "UPDATE action_events SET record_id = 1 WHERE proposal_id = 1 AND to_status = 'completed'",
        "of proposal 1 is about a proposal and names an execution",
    ),
    "a creation that is not the first version": (
        "history",
        "UPDATE action_events SET version = 2 WHERE proposal_id = 5",
        "of proposal 5 creates its proposal with a version other than 1",
    ),
    "the same version twice": (
        "history",
        "UPDATE action_events SET version = 1 WHERE proposal_id = 3",
        "of proposal 3 has no version above that of the event before it",
    ),
    "a forged event after those that have a version": (
        "history",
        "UPDATE action_events SET version = 1 WHERE proposal_id = 5;"
        f"{EVENT} (900, 5, NULL, 'status_changed', 'proposed', 'validated', NULL, 'eve', {NOW})",
        "event 900 of proposal 5 has no version above that of the event before it",
    ),
    "a version that the proposal has not reached": (
        "history",
        f"{EVENT} (900, 5, NULL, 'status_changed', 'proposed', 'validated', 77, 'eve', {NOW})",
        "event 900 of proposal 5 has a version above that of its proposal",
    ),
    "a failed proposal that is completed although nobody found that it was done": (
        "history",
        "UPDATE action_events SET success = false"
        " WHERE proposal_id = 8 AND event_type = 'outcome_resolved'",
        "of proposal 8 is not a move of the lifecycle",
    ),
    "a resolution that says the opposite of its event": (
        "resolutions",
        "UPDATE outcome_resolutions SET succeeded = false WHERE record_id = 5",
        "the resolution of record 5 says something else than its event",
    ),
    "a resolution by another": (
        "resolutions",
        "UPDATE outcome_resolutions SET resolved_by = 'eve' WHERE record_id = 5",
        "the resolution of record 5 says something else than its event",
    ),
    "a resolution without an event": (
        "resolutions",
        "DELETE FROM action_events WHERE record_id = 5 AND event_type = 'outcome_resolved'",
        "the resolution of record 5 has no event",
    ),
    "a resolution that is gone": (
        "resolutions",
        "DELETE FROM outcome_resolutions WHERE record_id = 5",
        "the resolution of record 5 has an event, but there is none",
    ),
    "a resolution of what was known": (
        "resolutions",
        "UPDATE action_records SET outcome_unknown = false, success = true WHERE id = 5",
        "the resolution of record 5 is of a record whose outcome is known",
    ),
    "a resolution for another proposal": (
        "resolutions",
        "UPDATE outcome_resolutions SET proposal_id = 1 WHERE record_id = 5",
        "the resolution of record 5 names another proposal than its record",
    ),
    "another end code than the history says": (
        "ends",
        "UPDATE action_proposals SET end_code = 'denied' WHERE id = 3",
        "proposal 3 has another end code or cause than the event of its last move",
    ),
    "another cause than the history says": (
        "ends",
        "UPDATE action_proposals SET status_cause = '{\"proposal\":1}' WHERE id = 3",
        "proposal 3 has another end code or cause than the event of its last move",
    ),
    "a cause that nobody told": (
        "ends",
        'UPDATE action_events SET details = \'{"end_code":"denied","rule":3}\''
        " WHERE proposal_id = 2 AND to_status = 'failed'",
        "proposal 2 has another end code or cause than the event of its last move",
    ),
    "an end without a code": (
        "ends",
        "UPDATE action_proposals SET end_code = NULL WHERE id = 3;"
        "UPDATE action_events SET details = NULL WHERE proposal_id = 3",
        "proposal 3 has an end code that its status does not have",
    ),
    "a code of what has not ended": (
        "ends",
        'UPDATE action_events SET details = \'{"end_code":"failed"}\''
        " WHERE proposal_id = 1 AND to_status = 'executing'",
        "proposal 1 has an event of a move whose end code and status do not fit",
    ),
    "another digest than the history says": (
        "ends",
        f"UPDATE action_proposals SET content_digest = 'oc1:{'0' * 64}' WHERE id = 5",
        "proposal 5 has another digest than the event of its creation",
    ),
    "another digest than that of the content": (
        "digests",
        "UPDATE action_proposals SET parameters = '{\"a\":1}' WHERE id = 5",
        "proposal 5: the digest is not that of its content",
    ),
    "a change without an event": (
        "versions",
        "UPDATE action_events SET version = 1 WHERE proposal_id = 5;"
        "UPDATE action_proposals SET version = 4 WHERE id = 5",
        "proposal 5: 3 changes have no event",
    ),
    "an execution without events": (
        "executions",
        "DELETE FROM action_events WHERE record_id = 1",
        "record 1 of proposal 1 has no event of its start",
    ),
    "an execution that was started twice": (
        "executions",
        f"{EVENT} (900, 1, 1, 'record_started', NULL, NULL, NULL, 'eve', {NOW})",
        "record 1 of proposal 1 has more than one event of its start",
    ),
    "an execution whose end has no event": (
        "executions",
        "DELETE FROM action_events WHERE record_id = 1 AND event_type = 'record_finished'",
        "record 1 of proposal 1 has ended and has no event of its end",
    ),
    "an end of what has not ended": (
        "executions",
        f"{EVENT} (900, 6, 4, 'record_finished', NULL, NULL, NULL, 'eve', {NOW})",
        "record 4 of proposal 6 has not ended and has an event of its end",
    ),
    "an execution that ended twice": (
        "executions",
        f"{EVENT} (900, 1, 1, 'record_finished', NULL, NULL, NULL, 'eve', {NOW})",
        "record 1 of proposal 1 has more than one event of its end",
    ),
    "an end before the start": (
        "executions",
        "DELETE FROM action_events WHERE record_id = 1 AND event_type = 'record_started';"
        f"{EVENT} (900, 1, 1, 'record_started', NULL, NULL, NULL, 'eve', {NOW})",
        "record 1 of proposal 1 has the event of its end before that of its start",
    ),
    "an outcome that was turned round": (
        "executions",
        "UPDATE action_records SET success = false WHERE id = 1",
        "record 1 of proposal 1 has another outcome than the event of its end",
    ),
    "an execution that was given to another proposal": (
        "executions",
        "UPDATE action_records SET proposal_id = 5 WHERE id = 1",
        "record 1 of proposal 5 has an event of another proposal",
    ),
    "an event of another worker": (
        "executions",
        "UPDATE action_events SET worker = 'eve' WHERE record_id = 1",
        "record 1 of proposal 1 has an event of another worker",
    ),
    "an execution that no trigger saw": (
        "executions",
        "INSERT INTO action_records (id, proposal_id) OVERRIDING SYSTEM VALUE VALUES (77, 5)",
        "record 77 of proposal 5 has no event of its start",
    ),
    "a lost edge": (
        "dependencies",
        "DELETE FROM action_dependencies WHERE depends_on_id = 5",
        "proposal 7, which depends on 5: depends_on has no edge for it",
    ),
    "an edge that nobody proposed": (
        "dependencies",
        "INSERT INTO action_dependencies (proposal_id, depends_on_id) VALUES (5, 1)",
        "proposal 5, which depends on 1: depends_on does not name it, and has an edge",
    ),
    "an id below the first": (
        "ids",
        f"{EVENT} (0, 5, NULL, 'proposal_created', NULL, 'proposed', NULL, 'eve', {NOW})",
        "action_events: the id 0 is out of range",
    ),
    "an id that ends the numbering": (
        "ids",
        f"{EVENT} ({2**62}, 5, NULL, 'proposal_created', NULL, 'proposed', NULL, 'eve', {NOW})",
        f"action_events: the id {2**62} is out of range",
    ),
    "a ticket that is gone": (
        "foreign keys",
        "DELETE FROM tickets",
        "action_proposals row 1 refers to a row of tickets that isn't there: 1",
    ),
    "a ticket of a workflow that is gone": (
        "foreign keys",
        "UPDATE workflows SET ticket_id = 9",
        "workflows row 1 refers to a row of tickets that isn't there: 9",
    ),
    "a workflow that is gone": (
        "foreign keys",
        "DELETE FROM workflows",
        "action_proposals row 5 refers to a row of workflows that isn't there: 1",
    ),
    "a proposal that is gone, and its execution": (
        "foreign keys",
        "DELETE FROM action_proposals WHERE id = 1",
        "action_records row 1 refers to a row of action_proposals that isn't there: 1",
    ),
    "a proposal that is gone, and what waits for it": (
        "foreign keys",
        "DELETE FROM action_proposals WHERE id = 5",
        "action_dependencies row 7 refers to a row of action_proposals that isn't there: 5",
    ),
    "a proposal that is gone, and what it waits for": (
        "foreign keys",
        "DELETE FROM action_proposals WHERE id = 3",
        "action_dependencies row 3 refers to a row of action_proposals that isn't there: 3",
    ),
    "a proposal that is gone, and its history": (
        "foreign keys",
        "DELETE FROM action_dependencies;DELETE FROM action_proposals WHERE id = 3",
        "refers to a row of action_proposals that isn't there: 3",
    ),
    "an execution that is gone": (
        "foreign keys",
        "DELETE FROM action_records WHERE id = 1",
        "refers to a row of action_records that isn't there: 1",
    ),
    "an approval of another person": (
        "decisions",
        "UPDATE action_decisions SET decided_by = 'eve', decider_key = 'eve' WHERE id = 1",
        'approved {"decision":1,"digest":"oc1:',
    ),
    "an approval of other content": (
        "decisions",
        f"UPDATE action_decisions SET digest = 'oc1:{'0' * 64}' WHERE id = 1",
        "has no event that says the same",
    ),
    "an approval that no trigger saw": (
        "decisions",
        "INSERT INTO action_decisions (id, proposal_id, kind, decided_by, decider_key) "
        "OVERRIDING SYSTEM VALUE VALUES (77, 10, 'approved', 'eve', 'eve')",
        'approved {"decision":77}: has no event that says the same',
    ),
    "a rejection that is gone": (
        "decisions",
        "DELETE FROM action_decisions WHERE kind = 'rejected'",
        "has an event, but there is none that says so",
    ),
    "a requirement that is gone": (
        "decisions",
        "DELETE FROM action_requirements WHERE proposal_id = 10",
        'approval_required {"requirement":1,"rule":1}: has an event, but there is none',
    ),
    "a requirement that no trigger saw": (
        "decisions",
        "INSERT INTO action_requirements (id, proposal_id, name) "
        "OVERRIDING SYSTEM VALUE VALUES (77, 10, 'mine')",
        'approval_required {"requirement":77}: has no event that says the same',
    ),
    "a rule that is gone": (
        "decisions",
        "DELETE FROM action_rules WHERE id = 2",
        'rule_revoked {"rule":2}: has an event, but there is none that says so',
    ),
    "a rule that was silently revoked": (
        "decisions",
        f"UPDATE action_rules SET revoked_at = {NOW}, revoked_by = 'eve', revoke_reason = 'r'"
        " WHERE id = 1",
        'rule_revoked {"rule":1}: has no event that says the same',
    ),
    "a grant that is open again": (
        "decisions",
        "UPDATE action_grants SET revoked_at = NULL, revoked_by = NULL, revoke_reason = NULL",
        'grant_revoked {"grant":1}: has an event, but there is none that says so',
    ),
    "an approval that is told twice": (
        "decisions",
        "INSERT INTO action_events (id, proposal_id, event_type, actor, reason, occurred_at, details) "
        "OVERRIDING SYSTEM VALUE SELECT 900, proposal_id, event_type, actor, reason, occurred_at, details "
        "FROM action_events WHERE event_type = 'rejected'",
        "has more than one event",
    ),
    "a requirement that asks for less": (
        "requirements",
        "UPDATE action_requirements SET approvals = 1 WHERE id = 1",
        "requirement 1 of proposal 10 is not what rule 1 requires",
    ),
    "a requirement for other roles": (
        "requirements",
        "UPDATE action_requirements SET roles = '[\"dev\"]' WHERE id = 1",
        "requirement 1 of proposal 10 is not what rule 1 requires",
    ),
    "an approval that nobody gave": (
        "approvals",
        "UPDATE action_proposals SET approval = 'given' WHERE id = 10",
        "proposal 10 has another approval than its requirements and decisions come to",
    ),
    "an approval that is forgotten": (
        "approvals",
        "UPDATE action_proposals SET approval = NULL, lapses_at = NULL WHERE id = 10",
        "proposal 10 has another approval than its requirements and decisions come to",
    ),
    "a time for the approvals that was taken away": (
        "approvals",
        "UPDATE action_proposals SET lapses_at = NULL WHERE id = 10",
        "proposal 10 has another lapses_at than its requirements and decisions come to",
    ),
    "an approval of what needs none": (
        "approvals",
        "UPDATE action_proposals SET approval = 'given' WHERE id = 5",
        "proposal 5 has an approval, and nothing is required of it",
    ),
    "a person under another key": (
        "identities",
        "UPDATE action_decisions SET decider_key = 'eve' WHERE id = 1",
        "action_decisions row 1: decider_key is not the normalised form of decided_by",
    ),
    "a grant under another key": (
        "identities",
        "UPDATE action_grants SET grantor_key = 'eve'",
        "action_grants row 1: grantor_key is not the normalised form of granted_by",
    ),
    "a rule for an agent that nobody is": (
        "identities",
        "UPDATE action_rules SET agent_id = 'Bot' WHERE id = 1",
        "action_rules row 1: agent_id is not the normalised form of agent_id",
    ),
    "a requester under another key": (
        "identities",
        'UPDATE action_proposals SET identity_keys = \'{"requester_id":"eve"}\' WHERE id = 10',
        "proposal 10: identity_keys has another requester_id than the proposal",
    ),
    "an event of an approval that moves something": (
        "history",
        "UPDATE action_events SET version = 2 WHERE event_type = 'rejected'",
        "of proposal 12 is about an approval, and names an execution, a status or a version",
    ),
    "an event of a rule that names a proposal": (
        "history",
        "UPDATE action_events SET proposal_id = 5 WHERE event_type = 'rule_revoked'",
        "of proposal 5 is about the whole ledger and a proposal, or about neither",
    ),
    "a rule of a requirement that is gone": (
        "foreign keys",
        "DELETE FROM action_rules WHERE id = 1",
        "action_requirements row 1 refers to a row of action_rules that isn't there: 1",
    ),
    "a grant of a decision that is gone": (
        "foreign keys",
        "DELETE FROM action_grants",
        "refers to a row of action_grants that isn't there: 1",
    ),
}


@pytest.mark.parametrize("what", ROWS)
def test_rows_that_were_changed_past_the_triggers_are_found(ledger: Ledger, what: str) -> None:
    subject, script, said = ROWS[what]
    if isinstance(ledger, File):
        script = script.replace(" OVERRIDING SYSTEM VALUE", "")
    ledger.tamper(script)
    bad = ledger.bad()
    assert said in bad[subject].text
    assert not {"schema", "rows", "tables", "integrity"} & set(bad)
    verdict = Verdict.WARNING if subject == "versions" else Verdict.BROKEN
    assert bad[subject].verdict is verdict


@pytest.mark.parametrize(("script", "status"), [("version = 9", 0), ("status = 'failed'", 1)])
def test_what_is_broken_fails_the_command_and_a_warning_does_not(
    ledger: Ledger, invoke: Invoke, script: str, status: int
) -> None:
    ledger.tamper(
        "UPDATE action_events SET version = 1 WHERE proposal_id = 5;"
        f"UPDATE action_proposals SET {script} WHERE id = 5"
    )
    done = invoke("db", "check", *ledger.place)
    assert done.exit_code == status
    assert "proposal 5" in done.stdout


def test_ten_are_named_and_the_rest_are_counted(ledger: Ledger) -> None:
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 25) "
    ledger.tamper(
        f"{numbers}INSERT INTO action_proposals (action_name, parameters, reason, proposed_at) "
        f"SELECT 'x', '{{}}', 'y', CAST({NOW} AS {'TEXT' if isinstance(ledger, File) else 'TIMESTAMPTZ'}) FROM n"
    )
    told = ledger.bad()["statuses"].text.splitlines()
    assert told[-1] == "and 15 more"
    assert len(told) == 11


# ------ what the tables are made of


FILES = {
    "an added trigger": (
        "CREATE TRIGGER mine BEFORE INSERT ON action_events BEGIN SELECT RAISE(IGNORE); END",
        "trigger mine is added",
    ),
    "an added trigger, its table in other letters": (
        "CREATE TRIGGER mine AFTER UPDATE ON Action_Proposals BEGIN SELECT 1; END",
        "trigger mine is added",
    ),
    "an added trigger on the version": (
        f"CREATE TRIGGER mine AFTER UPDATE ON {migrate.VERSION_TABLE} BEGIN SELECT 1; END",
        "trigger mine is added",
    ),
    "an added unique index": (
        "CREATE UNIQUE INDEX mine ON action_records (id, worker)",
        "index mine is added",
    ),
    "an added column": (
        "ALTER TABLE action_records ADD mine TEXT",
        "table action_records is changed",
    ),
    "a lost trigger": (
        "DROP TRIGGER action_events_not_deleted",
        "trigger action_events_not_deleted is missing",
    ),
    "a lost index": (
        "DROP INDEX idx_action_records_proposal",
        "index idx_action_records_proposal is missing",
    ),
    "a changed trigger": (
        "DROP TRIGGER action_events_not_deleted;"
        "CREATE TRIGGER action_events_not_deleted BEFORE DELETE ON action_events BEGIN SELECT 1; END",
        "trigger action_events_not_deleted is changed",
    ),
    "a table that became a view": (
        "PRAGMA foreign_keys = OFF; PRAGMA legacy_alter_table = ON;"
        "ALTER TABLE action_dependencies RENAME TO kept; CREATE VIEW action_dependencies AS SELECT * FROM kept",
        "table action_dependencies is missing",
    ),
    "a table with other references": (
        "PRAGMA writable_schema = ON; UPDATE sqlite_master "
        "SET sql = replace(sql, 'REFERENCES action_proposals', 'REFERENCES tickets') "
        "WHERE name = 'action_dependencies'",
        "table action_dependencies is changed",
    ),
}


@pytest.mark.parametrize("what", FILES)
def test_what_a_file_is_made_of_is_compared(file: File, what: str) -> None:
    script, said = FILES[what]
    file.run(script)
    schema = file.bad()["schema"]
    assert schema.verdict is Verdict.BROKEN
    assert said in schema.text


@pytest.mark.parametrize("seq", ["1", f"{2**62 - 1}", f"{2**63 - 1}", "'x'"])
def test_a_numbering_that_was_moved_is_found(file: File, seq: str) -> None:
    file.run(f"UPDATE sqlite_sequence SET seq = {seq} WHERE name = 'action_events'")
    bad = file.bad()
    assert set(bad) == {"next ids"}
    assert bad["next ids"].verdict is Verdict.BROKEN
    assert bad["next ids"].text.startswith("the next id of action_events was already used")


def test_a_numbering_that_is_gone_is_found(file: File) -> None:
    file.run("DELETE FROM sqlite_sequence")
    assert len(file.bad()["next ids"].text.splitlines()) == 9


def test_what_refuses_nothing_is_a_warning(file: File, invoke: Invoke) -> None:
    file.run(
        "CREATE INDEX mine ON action_proposals (reason);"
        "CREATE UNIQUE INDEX of_tickets ON tickets (id, status);"
        "CREATE TRIGGER on_tickets AFTER UPDATE ON tickets BEGIN SELECT 1; END;"
        "CREATE VIEW open_ones AS SELECT id FROM action_proposals;"
        "CREATE TABLE orders (id INTEGER PRIMARY KEY, proposal INTEGER REFERENCES action_proposals (id));"
        "INSERT INTO orders VALUES (1, 999);"
        "CREATE TRIGGER on_orders AFTER INSERT ON orders BEGIN SELECT 1; END"
    )
    bad = file.bad()
    assert set(bad) == {"additions"}
    assert bad["additions"].text.splitlines() == [
        f"{name} is added" for name in ("index mine", "index of_tickets", "trigger on_tickets")
    ]
    assert invoke("db", "check", *file.place).exit_code == 0
