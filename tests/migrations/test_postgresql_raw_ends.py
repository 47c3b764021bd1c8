"""End codes, causes and digests by raw SQL on a server."""

from collections.abc import Iterator

import pytest
from psycopg.errors import CheckViolation, IntegrityError

from operator_core.actions import EndCode
from tests.databases import connected
from tests.migrations.ends import (
    CAUSES,
    DIGEST,
    OTHER,
    WRONG_CAUSES,
    WRONG_CODES,
    WRONG_DIGESTS,
)
from tests.migrations.postgresql_tools import DB, one, sql

SAID = "status_changed_by = 'ops', status_changed_at = '2998-01-01'"
CANCEL = f"UPDATE action_proposals SET status = 'cancelled', {SAID}"


@pytest.fixture
def db(server_ledger: str) -> Iterator[DB]:
    with connected(server_ledger) as connection:
        yield connection


def propose(db: DB, **values: object) -> int:
    row = {"action_name": "a", "parameters": "{}", "reason": "r", "proposed_at": "2026-01-01"}
    row |= values
    names, marks = ", ".join(row), ", ".join(["%s"] * len(row))
    insert = f"INSERT INTO action_proposals ({names}) VALUES ({marks}) RETURNING id"
    return one(db, insert, *row.values())


def told(db: DB) -> str | None:
    return one(db, "SELECT details::text FROM action_events ORDER BY id DESC LIMIT 1")


def refused(
    db: DB, statement: str, by: str, *parameters: object, kind: type[Exception] = IntegrityError
) -> None:
    with pytest.raises(kind, match=by):
        sql(db, statement, *parameters)


def test_an_end_code_is_one_of_those_that_are_known(db: DB) -> None:
    for code in EndCode:
        sql(db, f"{CANCEL}, end_code = %s WHERE id = %s", code.value, propose(db))
        assert told(db) == f'{{"end_code":"{code.value}"}}'
    propose(db)
    for wrong in WRONG_CODES:
        statement = f"{CANCEL}, end_code = %s WHERE status = 'proposed'"
        refused(db, statement, "ck_action_proposals_end_code", wrong, kind=CheckViolation)


def test_a_cause_is_one_id_in_one_form(db: DB) -> None:
    for cause in CAUSES:
        sql(db, f"{CANCEL}, status_cause = %s WHERE id = %s", cause, propose(db))
        assert told(db) == f'{{"end_code":"cancelled",{cause[1:]}'
        validate = f"UPDATE action_proposals SET status = 'validated', {SAID}, status_cause = %s"
        sql(db, f"{validate} WHERE id = %s", cause, propose(db))
        assert told(db) == cause
    propose(db)
    for wrong in WRONG_CAUSES:
        statement = f"{CANCEL}, status_cause = %s WHERE status = 'proposed'"
        refused(db, statement, "ck_action_proposals_status_cause", wrong, kind=CheckViolation)


@pytest.mark.parametrize("status", ["proposed", "validated", "completed", "cancelled", "failed"])
def test_neither_changes_without_a_move(db: DB, status: str) -> None:
    propose(db, status=status)
    for change in ("end_code = 'denied'", "status_cause = '{\"rule\":3}'"):
        for more in ("", f", {SAID}"):
            refused(db, f"UPDATE action_proposals SET {change}{more}", "attributed")
    if status in ("cancelled", "failed"):
        refused(db, "UPDATE action_proposals SET end_code = NULL", "attributed")


def test_a_retry_at_another_time_is_no_move(db: DB) -> None:
    propose(db, status="failed", max_retries=1)
    later = f"UPDATE action_proposals SET next_retry_at = '2998-01-01', {SAID}"
    refused(db, f"{later}, end_code = 'denied'", "attributed")
    refused(db, f"{later}, status_cause = '{{\"rule\":3}}'", "attributed")
    sql(db, later)
    assert told(db) is None
    assert one(db, "SELECT end_code FROM action_proposals") == "failed"


def test_only_a_bad_end_has_a_code(db: DB) -> None:
    propose(db)
    move = "UPDATE action_proposals SET status = 'validated'"
    for more in ("", f", {SAID}"):
        refused(db, f"{move}{more}, end_code = 'denied'", "attributed")
    id_ = propose(db, status="failed")
    sql(db, f"{move}, {SAID} WHERE id = %s", id_)
    assert one(db, "SELECT end_code FROM action_proposals WHERE id = %s", id_) is None
    assert told(db) is None


def test_a_new_proposal_has_no_other_end_than_its_status(db: DB) -> None:
    for status in ("cancelled", "failed"):
        for code in (None, status):
            id_ = propose(db, status=status, end_code=code)
            found = sql(db, "SELECT end_code, version FROM action_proposals WHERE id = %s", id_)
            assert found == [(status, 1)]
            assert told(db) is None
    for wrong in (
        {"end_code": "cancelled"},
        {"end_code": "denied", "status": "cancelled"},
        {"end_code": "proposed"},
        {"status_cause": '{"rule":3}', "status": "cancelled"},
        {"status_cause": '{"rule":3}'},
    ):
        with pytest.raises(IntegrityError, match="attributed"):
            propose(db, **wrong)


def test_a_digest_has_one_form_and_is_written_once(db: DB) -> None:
    for wrong in WRONG_DIGESTS:
        with pytest.raises(CheckViolation, match="ck_action_proposals_content_digest"):
            propose(db, content_digest=wrong)
    first = propose(db, content_digest=DIGEST)
    assert told(db) == f'{{"digest":"{DIGEST}"}}'
    fill = "UPDATE action_proposals SET content_digest = %s WHERE id = %s"
    for other in (OTHER, None, ""):
        refused(db, fill, "can not be edited", other, first)
    sql(db, fill, DIGEST, first)
    second = propose(db)
    assert told(db) is None
    for wrong in WRONG_DIGESTS:
        refused(db, fill, "content_digest", wrong, second, kind=CheckViolation)
    sql(db, fill, OTHER, second)
    refused(db, fill, "can not be edited", DIGEST, second)
    assert told(db) is None
