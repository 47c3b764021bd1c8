"""The models: what they take, what they refuse, and how they travel."""

import ast
import inspect
import json
import os
import pickle
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from operator_core.actions import errors
from operator_core.actions.model import KEPT
from operator_core.actions.types import (
    ActionEvent,
    ActionProposal,
    ActionRecord,
    ActionStatus,
    ActionType,
    EventType,
    ProposalRequest,
    Workflow,
)


class TransferLeader(BaseModel):
    model_config = ConfigDict(strict=True)

    region_id: int
    to_store: int = Field(alias="toStore")
    by: date = date(2026, 1, 1)


def test_what_has_a_default_need_not_be_said() -> None:
    before = datetime.now(UTC)
    proposal = ActionProposal(action_name="transfer_leader", reason="hot store")
    assert proposal.model_dump(exclude={"proposed_at"}) == {
        "id": None,
        "ticket_id": None,
        "action_name": "transfer_leader",
        "action_type": ActionType.SUBJECT,
        "parameters": {},
        "reason": "hot store",
        "status": ActionStatus.PROPOSED,
        "proposed_by": "agent",
        "priority": 0,
        "scheduled_at": None,
        "expires_at": None,
        "max_retries": 0,
        "retry_delay": 1.0,
        "max_retry_delay": 300.0,
        "workflow_id": None,
        "depends_on": (),
        "wait_on_failure": False,
        "exclusive_key": None,
        "supersedes_id": None,
        "approval": None,
        "lapses_at": None,
        "requester_id": None,
        "requester_type": None,
        "agent_id": None,
        "run_id": None,
        "parent_id": None,
        "call_id": None,
        "traceparent": None,
        "validated_at": None,
        "cancelled_at": None,
        "created_at": None,
        "updated_at": None,
        "retry_count": 0,
        "next_retry_at": None,
        "last_error": None,
        "version": None,
        "end_code": None,
        "content_digest": None,
    }
    assert before <= proposal.proposed_at <= datetime.now(UTC)


def test_a_naive_time_is_local_time() -> None:
    now = datetime.now()
    proposal = ActionProposal(
        action_name="x",
        action_type=ActionType.TOOL,
        parameters={"a": 1},
        reason="y",
        status=ActionStatus.VALIDATED,
        proposed_at=now,
        proposed_by="agent",
    )
    assert proposal.proposed_at == now.astimezone()
    assert proposal.proposed_at.tzinfo is UTC


@pytest.mark.parametrize(
    ("fold", "expected"), [(0, "2026-10-25T00:30:00"), (1, "2026-10-25T01:30:00")]
)
def test_the_hour_that_comes_twice_is_told_apart_by_its_fold(
    monkeypatch: pytest.MonkeyPatch, fold: int, expected: str
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        proposal = ActionProposal(
            action_name="x", reason="y", proposed_at=datetime(2026, 10, 25, 2, 30, fold=fold)
        )
        assert proposal.proposed_at == datetime.fromisoformat(expected).replace(tzinfo=UTC)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_models_are_frozen() -> None:
    proposal = ActionProposal(action_name="x", reason="y")
    with pytest.raises(ValidationError, match="frozen"):
        proposal.reason = "z"  # type: ignore[misc]
    with pytest.raises(errors.InvalidValue, match="colour"):
        ActionProposal(action_name="x", reason="y", colour="red")  # type: ignore[call-arg]


def test_a_proposal_shares_nothing_with_what_it_was_made_of() -> None:
    given = {"a": [1, {"b": 2}]}
    proposal = ActionProposal(action_name="x", reason="y", parameters=given)
    given["a"].append(3)
    given["a"][1]["b"] = 4  # type: ignore[index]
    assert proposal.parameters == {"a": [1, {"b": 2}]}


def test_parameters_may_be_a_model_and_come_back_as_one() -> None:
    given = TransferLeader(region_id=7, toStore=2, by=date(2026, 5, 6))
    proposal = ActionProposal(action_name="transfer_leader", reason="y", parameters=given)  # type: ignore[arg-type]
    assert proposal.parameters == {"region_id": 7, "toStore": 2, "by": "2026-05-06"}
    assert proposal.parameters_as(TransferLeader) == given
    with pytest.raises(ValidationError):
        proposal.model_copy(update={"parameters": {"region_id": "7"}}).parameters_as(TransferLeader)


def test_json_round_trips_are_exact() -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    for model in (
        ActionProposal(
            action_name="x",
            reason="line\nline",
            parameters={"n": 10**40, "f": -0.0, "e": 1e300, "u": "é🚒", "d": {"": [None, True]}},
            proposed_at=when,
            validated_at=when + timedelta(microseconds=1),
            id=2**63 - 1,
        ),
        ActionRecord(proposal_id=1, success=False, error_message="", result_data={}),
        ActionEvent(
            id=1,
            proposal_id=1,
            event_type=EventType.STATUS_CHANGED,
            from_status=ActionStatus.PROPOSED,
            actor="a",
            occurred_at=when,
        ),
    ):
        text = model.model_dump_json()
        again = type(model).model_validate_json(text)
        assert again == model
        assert again.model_dump_json() == text
        assert type(model).model_validate(json.loads(text)) == model
        assert type(model).model_validate(model.model_dump()) == model
        assert pickle.loads(pickle.dumps(model)) == model


def test_the_json_schema_is_of_use_to_a_model() -> None:
    for model in (ActionProposal, ActionRecord, ActionEvent):
        schema = model.model_json_schema()
        assert schema["additionalProperties"] is False
        for name, field in schema["properties"].items():
            assert field.get("description"), name
    schema = ActionProposal.model_json_schema()
    assert schema["required"] == ["action_name", "reason"]
    assert schema["properties"]["parameters"]["type"] == "object"
    assert schema["$defs"]["ActionStatus"]["enum"] == [status.value for status in ActionStatus]
    assert schema["properties"]["action_name"]["maxLength"] == 255


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", 0),
        ("id", -1),
        ("id", 2**63),
        ("id", True),
        ("id", "1"),
        ("id", 1.0),
        ("ticket_id", "7"),
        ("action_name", ""),
        ("action_name", " \t"),
        ("action_name", "a\0b"),
        ("action_name", "\ud800"),
        ("action_name", "x" * 256),
        ("action_name", b"bytes"),
        ("action_name", None),
        ("reason", "\n"),
        ("reason", "x" * 65537),
        ("proposed_by", ""),
        ("status", "done"),
        ("status", None),
        ("action_type", "magic"),
        ("parameters", "{}"),
        ("proposed_at", "soon"),
        ("proposed_at", None),
    ],
)
def test_what_a_field_can_not_hold_is_an_invalid_value_with_its_path(
    field: str, value: object
) -> None:
    given = {"action_name": "x", "reason": "y", field: value}
    with pytest.raises(errors.InvalidValue) as caught:
        ActionProposal(**given)  # type: ignore[arg-type]
    assert caught.value.path == field
    assert isinstance(caught.value, ValueError)
    with pytest.raises(errors.InvalidValue):
        ActionProposal.model_validate(given)


def test_every_problem_is_named() -> None:
    with pytest.raises(errors.InvalidValue) as caught:
        ActionProposal.model_validate_json('{"reason": "", "parameters": {"a": 1e400}, "id": 0}')
    assert {path for path, _ in caught.value.problems} == {
        "id",
        "action_name",
        "reason",
        "parameters.a",
    }
    assert caught.value.path in str(caught.value)


@pytest.mark.parametrize(
    "model", [ProposalRequest, ActionProposal, ActionRecord], ids=lambda model: model.__name__
)
def test_type_checkers_are_told_of_every_field_but_those_that_the_ledger_gives(
    model: type[BaseModel],
) -> None:
    told = {
        node.name: [
            argument.arg
            for each in ast.walk(node)
            if isinstance(each, ast.FunctionDef) and each.name == "__init__"
            for argument in each.args.kwonlyargs
        ]
        for node in ast.parse(inspect.getsource(sys.modules[model.__module__])).body
        if isinstance(node, ast.ClassDef)
    }
    fields = model.model_fields.items()
    assert set(told[model.__name__]) == {n for n, field in fields if KEPT not in field.metadata}


def test_inside_somebody_elses_model_it_is_pydantics_own_error() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(list[ActionProposal]).validate_python([{"action_name": "x", "reason": ""}])
    assert caught.value.errors()[0]["loc"] == (0, "reason")


def test_the_vocabulary_needs_no_database() -> None:
    program = (
        "import sys; import operator_core.actions; "
        "print([m for m in ('sqlalchemy', 'alembic', 'aiosqlite', 'sqlite3') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.strip() == "[]"


def test_a_changed_copy_of_a_stored_model_leaves_the_others_as_they_are() -> None:
    now = datetime.now(UTC)
    values = {"id": 1, "name": "drain", "description": None, "ticket_id": None}
    one, other = (
        Workflow.from_stored({**values, "created_at": now, "updated_at": now}) for _ in "ab"
    )
    copied = one.model_copy(update={"name": "fill"})
    copied.model_fields_set.discard("ticket_id")
    one.model_fields_set.discard("ticket_id")
    assert one.model_fields_set == other.model_fields_set == set(Workflow.model_fields)
    assert one == other != copied
    assert one.model_dump(exclude_unset=True) == one.model_dump()
