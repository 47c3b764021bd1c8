"""End codes, causes and digests by raw SQL on SQLite."""

from collections.abc import Iterator

import pytest

from operator_core.actions import EndCode
from operator_core.db.sql.sqlite_library import dbapi
from tests.migrations.ends import (
    CAUSES,
    DIGEST,
    OTHER,
    WRONG_CAUSES,
    WRONG_CODES,
    WRONG_DIGESTS,
)
from tests.migrations.raw_tools import PROPOSAL, SETTINGS, empty, propose, refused, refused_row

LATER = "2998-01-01 00:00:00.000000"
SAID = "status_changed_by = 'ops', status_changed_at = '2998-01-01 00:00:00.000000'"
# As the facade writes, so that the triggers have nothing to complete.
WHOLE = f"{SAID}, updated_at = '{LATER}', version = version + 1"
CANCEL = f"UPDATE action_proposals SET status = 'cancelled', {SAID}"


@pytest.fixture(params=SETTINGS)
def db(request: pytest.FixtureRequest) -> Iterator[dbapi.Connection]:
    with empty(request.param) as connection:
        yield connection


def told(db: dbapi.Connection) -> str | None:
    ((details,),) = db.execute("SELECT details FROM action_events ORDER BY id DESC LIMIT 1")
    return details


def test_an_end_code_is_one_of_those_that_are_known(db: dbapi.Connection) -> None:
    for code in EndCode:
        id_ = propose(db)
        db.execute(f"{CANCEL}, end_code = ? WHERE id = ?", [code.value, id_])
        assert told(db) == f'{{"end_code":"{code.value}"}}'
    propose(db)
    for wrong in (*WRONG_CODES, 3, b"denied"):
        refused(db, f"{CANCEL}, end_code = ? WHERE status = 'proposed'", "end_code", [wrong])


def test_a_cause_is_one_id_in_one_form(db: dbapi.Connection) -> None:
    for cause in CAUSES:
        id_ = propose(db)
        db.execute(f"{CANCEL}, status_cause = ? WHERE id = ?", [cause, id_])
        assert told(db) == f'{{"end_code":"cancelled",{cause[1:]}'
        id_ = propose(db)
        db.execute(
            f"UPDATE action_proposals SET status = 'validated', {SAID}, status_cause = ? WHERE id = ?",
            [cause, id_],
        )
        assert told(db) == cause
    propose(db)
    for wrong in (*WRONG_CAUSES, 3, b'{"rule":3}'):
        statement = f"{CANCEL}, status_cause = ? WHERE status = 'proposed'"
        refused(db, statement, "status_cause", [wrong])


@pytest.mark.parametrize("status", ["proposed", "validated", "completed", "cancelled", "failed"])
def test_neither_changes_without_a_move(db: dbapi.Connection, status: str) -> None:
    propose(db, status=status)
    for change in ("end_code = 'denied'", "status_cause = '{\"rule\":3}'"):
        for more in ("", f", {SAID}", ", version = 2, updated_at = '2998-01-01 00:00:00.000000'"):
            refused(db, f"UPDATE action_proposals SET {change}{more}", "attributed")
            refused(db, f"UPDATE action_proposals SET status = status, {change}{more}")
    if status in ("cancelled", "failed"):
        refused(db, "UPDATE action_proposals SET end_code = NULL", "attributed")


def test_a_retry_at_another_time_is_no_move(db: dbapi.Connection) -> None:
    propose(db, status="failed", max_retries=1)
    later = "next_retry_at = '2998-01-01 00:00:00.000000'"
    refused(db, f"UPDATE action_proposals SET {later}, {SAID}, end_code = 'denied'", "attributed")
    db.execute(f"UPDATE action_proposals SET {later}, {SAID}")
    assert told(db) is None
    assert db.execute("SELECT end_code FROM action_proposals").fetchall() == [("failed",)]


def test_only_a_bad_end_has_a_code(db: dbapi.Connection) -> None:
    propose(db)
    move = "UPDATE action_proposals SET status = 'validated'"
    for more in ("", f", {SAID}"):
        refused(db, f"{move}{more}, end_code = 'denied'", "attributed")
    propose(db, status="failed")
    # Who is older than the code leaves it where it is, and the ledger takes it away.
    db.execute(f"UPDATE action_proposals SET status = 'validated', {WHOLE} WHERE id = 2")
    assert db.execute("SELECT end_code FROM action_proposals WHERE id = 2").fetchall() == [(None,)]
    assert told(db) is None


def test_a_cause_is_not_inherited(db: dbapi.Connection) -> None:
    propose(db)
    cause = '{"decision":7}'
    db.execute(
        f"UPDATE action_proposals SET status = 'validated', status_cause = ?, {WHOLE}", [cause]
    )
    assert told(db) == cause
    after = WHOLE.replace("2998", "2999")
    db.execute(f"UPDATE action_proposals SET status = 'executing', {after}")
    assert told(db) is None
    assert db.execute("SELECT status_cause FROM action_proposals").fetchall() == [(None,)]


def test_a_new_proposal_has_no_other_end_than_its_status(db: dbapi.Connection) -> None:
    for status in ("cancelled", "failed"):
        for code in (None, status):
            id_ = propose(db, status=status, end_code=code)
            found = db.execute("SELECT end_code, version FROM action_proposals WHERE id = ?", [id_])
            assert found.fetchall() == [(status, 1)]
            assert told(db) is None
    for wrong in (
        {"end_code": "cancelled"},
        {"end_code": "denied", "status": "cancelled"},
        {"end_code": "proposed"},
        {"status_cause": '{"rule":3}', "status": "cancelled"},
        {"status_cause": '{"rule":3}'},
    ):
        refused_row(db, "action_proposals", {**PROPOSAL, **wrong}, "attributed")


def test_a_digest_has_one_form_and_is_written_once(db: dbapi.Connection) -> None:
    for wrong in (*WRONG_DIGESTS, 3, DIGEST.encode()):
        row = {**PROPOSAL, "content_digest": wrong}
        refused_row(db, "action_proposals", row, "content_digest")
    propose(db, content_digest=DIGEST)
    assert told(db) == f'{{"digest":"{DIGEST}"}}'
    fill = "UPDATE action_proposals SET content_digest = ? WHERE id = ?"
    for other in (OTHER, None, ""):
        refused(db, fill, "can not be edited", [other, 1])
    db.execute(fill, [DIGEST, 1])
    propose(db)
    assert told(db) is None
    for wrong in (*WRONG_DIGESTS, DIGEST.encode()):
        refused(db, fill, "content_digest", [wrong, 2])
    db.execute(fill, [OTHER, 2])
    refused(db, fill, "can not be edited", [DIGEST, 2])
    assert told(db) is None


@pytest.mark.parametrize(
    "details",
    [
        None,
        "{}",
        '{"end_code":"denied"}',
        '{"end_code":"cancelled","rule":3}',
        '{"rule":3}',
        '{"end_code": "cancelled"}',
        '{"digest":"x"}',
    ],
)
def test_the_details_of_a_move_are_those_of_the_row(
    db: dbapi.Connection, details: str | None
) -> None:
    """As a trigger of somebody else might write it, in the place of ours."""
    propose(db)
    db.execute("DROP TRIGGER action_proposals_changed")
    db.execute(f"{CANCEL}, end_code = 'cancelled', version = 2")
    columns = (
        "proposal_id, event_type, from_status, to_status, actor, occurred_at, version, details"
    )
    values = (
        "1, 'status_changed', 'proposed', 'cancelled', 'ops', '2026-01-01 00:00:00.000000', 2, ?"
    )
    event = f"INSERT INTO action_events ({columns}) VALUES ({values})"
    refused(db, event, "action_events_genuine", [details])
    db.execute(event, ['{"end_code":"cancelled"}'])


def test_the_details_of_a_creation_are_its_digest(db: dbapi.Connection) -> None:
    db.execute("DROP TRIGGER action_proposals_created")
    propose(db, content_digest=DIGEST)
    columns = "proposal_id, event_type, to_status, actor, occurred_at, version, details"
    values = "1, 'proposal_created', 'proposed', 'ops', '2026-01-01 00:00:00.000000', 1, ?"
    event = f"INSERT INTO action_events ({columns}) VALUES ({values})"
    for wrong in (None, "{}", f'{{"digest":"{OTHER}"}}'):
        refused(db, event, "action_events_genuine", [wrong])
    db.execute(event, [f'{{"digest":"{DIGEST}"}}'])
