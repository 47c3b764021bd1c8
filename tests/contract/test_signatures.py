"""The parameters by their names, which are the same everywhere: what identifies a proposal is its `proposal_id`."""

from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

import operator_core.actions
import operator_core.db
from operator_core.actions import ActionRecord, ActionStatus, InvalidValue, WorkflowProposal
from operator_core.db import ActionDB
from tests.conftest import proposal

S = ActionStatus


async def test_every_verb_takes_its_parameters_by_their_names(db: ActionDB) -> None:
    made = await db.create_proposal(proposal=proposal(status=S.VALIDATED, max_retries=1))
    await db.update_proposal_status(proposal_id=made.id, status=S.EXECUTING)
    record = await db.create_record(record=ActionRecord(proposal_id=made.id))
    await db.update_record(
        record_id=record.id, success=False, error_message="no leader", result_data={"tried": 3}
    )
    await db.update_proposal_status(proposal_id=made.id, status=S.FAILED)
    await db.retry(proposal_id=made.id)
    found = await db.get_proposal(proposal_id=made.id)
    assert found is not None
    assert found.status is S.VALIDATED
    ended = await db.get_record(record_id=record.id)
    assert ended is not None
    assert (ended.success, ended.error_message) == (False, "no leader")
    assert await db.get_records_for_proposal(proposal_id=made.id) == [ended]
    assert {each.proposal_id for each in await db.history(proposal_id=made.id)} == {made.id}
    workflow, _ = await db.create_workflow(
        workflow=WorkflowProposal(name="move"), proposals=[proposal()]
    )
    assert await db.get_workflow(workflow_id=workflow.id) == workflow
    assert len(await db.list_workflow_actions(workflow_id=workflow.id)) == 1
    assert await db.workflow_status(workflow_id=workflow.id) is not None
    assert await db.cancel_workflow(workflow_id=workflow.id) == 1


async def test_what_is_wrong_with_one_is_said_by_its_name(db: ActionDB) -> None:
    for call, name in (
        (db.get_proposal(proposal_id=0), "proposal_id"),
        (db.update_proposal_status(proposal_id=0, status=S.CANCELLED), "proposal_id"),
        (db.retry(proposal_id=0), "proposal_id"),
        (db.get_record(record_id=0), "record_id"),
        (db.update_record(record_id=0, success=True), "record_id"),
        (db.get_workflow(workflow_id=0), "workflow_id"),
        (db.cancel_workflow(workflow_id=0), "workflow_id"),
    ):
        with pytest.raises(InvalidValue) as caught:
            await call
        assert caught.value.path == name


async def test_where_a_ledger_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "ledger.db"
    for place in ("ledger.db", Path("ledger.db"), path, f"sqlite:///{path}"):
        db = ActionDB(db_path=place)
        assert db.db_path == path
    async with ActionDB(db_path=":memory:") as db:
        assert db.db_path is None
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    assert ActionDB(db_path=engine).db_path is None
    assert ActionDB(db_path="postgresql://db.invalid/ledger").db_path is None
    await engine.dispose()


def test_what_callers_annotate_is_exported() -> None:
    assert {"ActionDB", "ActionLedger", "Claim", "Execution", "Listing"} <= set(
        operator_core.db.__all__
    )
    assert {"Claim", "ActionProposal", "CommitOutcomeUnknown"} <= set(operator_core.actions.__all__)
