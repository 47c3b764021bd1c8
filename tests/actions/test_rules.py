"""Rules and conditions: what the models take and refuse, and what Python's evaluation says."""

import ast
import inspect
import json
import sys
import unicodedata
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from operator_core.actions.actors import normalised
from operator_core.actions.conditions import MAX_OPERAND, MAX_OPERANDS, MAX_PATH
from operator_core.actions.errors import InvalidValue
from operator_core.actions.rules import (
    MAX_APPROVALS,
    MAX_APPROVERS,
    MAX_CONDITIONS,
    Condition,
    Rule,
    condition_matches,
    name_matches,
    rule_matches,
)
from operator_core.actions.types import ActionType

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def condition(op: str = "eq", value: Any = 1, path: Any = ("a",)) -> dict[str, Any]:
    return {"path": list(path), "op": op, "value": value}


def test_what_has_a_default_need_not_be_said() -> None:
    assert Rule(name="drops").model_dump() == {
        "name": "drops",
        "action_name": None,
        "action_type": None,
        "agent_id": None,
        "requester_type": None,
        "conditions": (),
        "effect": "require",
        "approvals": 1,
        "roles": None,
        "approvers": None,
        "allow_self": False,
        "allow_agents": False,
        "decide_within": None,
        "valid_for": None,
        "covers_retries": False,
        "valid_from": None,
        "valid_until": None,
    }


def full() -> Rule:
    return Rule(
        name="large transfers",
        action_name="transfer_*",
        action_type=ActionType.TOOL,
        agent_id="billing",
        requester_type="agent",
        conditions=[
            condition("gt", 100.5, ["amount"]),
            condition("in", [1, "x", None, True, -0.0], ["to", 0, ""]),
            {"path": ["note"], "op": "exists"},
            Condition(path=["é"], op="prefix", value="\U0001f692"),
        ],
        effect="require",
        approvals=2,
        roles=["sre", "owner"],
        approvers=["ann", "bob"],
        allow_self=True,
        allow_agents=True,
        decide_within=3600,
        valid_for=600.5,
        covers_retries=True,
        valid_from=NOON,
        valid_until=NOON + timedelta(days=1),
    )


def test_json_round_trips_are_exact() -> None:
    rule = full()
    text = rule.model_dump_json()
    assert Rule.model_validate_json(text) == rule
    assert Rule.model_validate(json.loads(text)) == rule
    assert Rule.model_validate(rule.model_dump()) == rule
    assert Rule.model_validate_json(text).model_dump_json() == text


def test_the_conditions_are_stored_as_json() -> None:
    assert full().conditions_json() == (
        '[{"path":["amount"],"op":"gt","value":100.5},'
        '{"path":["to",0,""],"op":"in","value":[1,"x",null,true,-0.0]},'
        '{"path":["note"],"op":"exists"},'
        '{"path":["é"],"op":"prefix","value":"\U0001f692"}]'
    )
    assert Rule(name="x").conditions_json() == "[]"


def test_a_rule_is_frozen_and_shares_nothing_with_what_it_was_made_of() -> None:
    values = [1, 2]
    rule = Rule(name="x", conditions=[condition("in", values)], roles=(roles := ["sre"]))
    values.append(3)
    roles.append("owner")
    assert rule.conditions[0].value == (1, 2)
    assert rule.roles == ("sre",)
    with pytest.raises(ValidationError, match="frozen"):
        rule.approvals = 0  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        rule.conditions[0].value = 3  # type: ignore[misc]


class Colour(StrEnum):
    RED = "red"


def test_a_member_of_an_enum_becomes_its_value() -> None:
    made = Condition(path=[Colour.RED], op="eq", value=Colour.RED)  # type: ignore[arg-type]
    assert type(made.path[0]) is str
    assert type(made.value) is str


def test_every_field_is_described() -> None:
    for model in (Rule, Condition):
        schema = model.model_json_schema()
        assert schema["additionalProperties"] is False
        for name, field in schema["properties"].items():
            assert field.get("description"), name
    assert Rule.model_json_schema()["required"] == ["name"]
    assert Condition.model_json_schema()["required"] == ["path", "op"]


def test_the_signature_names_every_field() -> None:
    (told,) = (
        [argument.arg for argument in each.args.kwonlyargs]
        for node in ast.walk(ast.parse(inspect.getsource(sys.modules[Rule.__module__])))
        if isinstance(node, ast.ClassDef) and node.name == "Rule"
        for each in ast.walk(node)
        if isinstance(each, ast.FunctionDef) and each.name == "__init__"
    )
    assert told == list(Rule.model_fields)


LONG = "x" * (MAX_OPERAND + 1)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("name", {"name": ""}),
        ("name", {"name": " "}),
        ("name", {"name": "\u200b\u00ad"}),
        ("name", {"name": None}),
        ("name", {"name": "x" * 256}),
        ("name", {"name": "\ud800"}),
        ("colour", {"colour": "red"}),
        ("action_name", {"action_name": ""}),
        ("action_name", {"action_name": " "}),
        ("action_name", {"action_name": "a\0"}),
        ("action_name", {"action_name": "x" * 256}),
        ("action_type", {"action_type": "magic"}),
        ("agent_id", {"agent_id": ""}),
        ("agent_id", {"agent_id": "\u2060"}),
        ("agent_id", {"agent_id": 7}),
        ("requester_type", {"requester_type": "Agent"}),
        ("requester_type", {"requester_type": ""}),
        ("effect", {"effect": "allow"}),
        ("effect", {"effect": None}),
        ("approvals", {"approvals": 0}),
        ("approvals", {"approvals": -1}),
        ("approvals", {"approvals": MAX_APPROVALS + 1}),
        ("approvals", {"approvals": True}),
        ("approvals", {"approvals": 1.0}),
        ("approvals", {"approvals": "1"}),
        ("approvals", {"approvals": None}),
        ("roles", {"roles": []}),
        ("roles", {"roles": "sre"}),
        ("roles[0]", {"roles": [""]}),
        ("roles[1]", {"roles": ["sre", "\u200d"]}),
        ("roles", {"roles": ["sre", "SRE"]}),
        ("roles", {"roles": [str(each) for each in range(MAX_APPROVERS + 1)]}),
        ("approvers", {"approvers": []}),
        ("approvers", {"approvers": ["ann", "Ann\u200b"]}),
        ("approvers[0]", {"approvers": [" "]}),
        ("approvers", {"approvers": ["ann"], "approvals": 2}),
        ("approvers", {"approvers": ["Billing"], "agent_id": "billing"}),
        ("approvers", {"approvers": ["ann", "billing"], "agent_id": "BILLING", "approvals": 2}),
        ("allow_self", {"allow_self": 1}),
        ("allow_agents", {"allow_agents": "yes"}),
        ("covers_retries", {"covers_retries": None}),
        ("decide_within", {"decide_within": 0}),
        ("decide_within", {"decide_within": -1}),
        ("decide_within", {"decide_within": float("inf")}),
        ("decide_within", {"decide_within": float("nan")}),
        ("decide_within", {"decide_within": "1"}),
        ("valid_for", {"valid_for": 0.0}),
        ("valid_for", {"valid_for": 1e9}),
        ("valid_from", {"valid_from": "soon"}),
        ("valid_until", {"valid_from": NOON, "valid_until": NOON}),
        ("valid_until", {"valid_from": NOON, "valid_until": NOON - timedelta(1)}),
        ("conditions", {"conditions": None}),
        ("conditions", {"conditions": {"path": ["a"], "op": "exists"}}),
        ("conditions", {"conditions": [condition()] * (MAX_CONDITIONS + 1)}),
        ("conditions", {"conditions": [condition("in", ["x" * 1000] * 100)]}),
        ("conditions[0]", {"conditions": ["amount > 1"]}),
        ("conditions[0].op", {"conditions": [condition("like", "x")]}),
        ("conditions[1].op", {"conditions": [condition(), {"path": ["a"], "value": 1}]}),
        ("conditions[0].operator", {"conditions": [{**condition(), "operator": "eq"}]}),
        ("conditions[0].path", {"conditions": [{"op": "exists"}]}),
        ("conditions[0].path", {"conditions": [condition(path=[])]}),
        ("conditions[0].path", {"conditions": [{**condition(), "path": "a"}]}),
        ("conditions[0].path", {"conditions": [condition(path=["a"] * (MAX_PATH + 1))]}),
        ("conditions[0].path[1]", {"conditions": [condition(path=["a", -1])]}),
        ("conditions[0].path[0]", {"conditions": [condition(path=[2**31])]}),
        ("conditions[0].path[0]", {"conditions": [condition(path=[True])]}),
        ("conditions[0].path[0]", {"conditions": [condition(path=[1.0])]}),
        ("conditions[0].path[0]", {"conditions": [condition(path=[None])]}),
        ("conditions[0].path[0]", {"conditions": [condition(path=["a\0"])]}),
        ("conditions[0].path[0]", {"conditions": [condition(path=["\udfff"])]}),
        ("conditions[0].path[0]", {"conditions": [condition(path=[LONG])]}),
        ("conditions[0].value", {"conditions": [{"path": ["a"], "op": "eq"}]}),
        ("conditions[0].value", {"conditions": [condition("exists", True)]}),
        ("conditions[0].value", {"conditions": [condition("in", [])]}),
        ("conditions[0].value", {"conditions": [condition("in", 1)]}),
        ("conditions[0].value", {"conditions": [condition("in", None)]}),
        ("conditions[0].value", {"conditions": [condition("in", [1] * (MAX_OPERANDS + 1))]}),
        ("conditions[0].value[1]", {"conditions": [condition("in", [1, [2]])]}),
        ("conditions[0].value[0]", {"conditions": [condition("in", [float("nan")])]}),
        ("conditions[0].value", {"conditions": [condition("eq", [1])]}),
        ("conditions[0].value", {"conditions": [condition("eq", {})]}),
        ("conditions[0].value", {"conditions": [condition("prefix", 1)]}),
        ("conditions[0].value", {"conditions": [condition("prefix", None)]}),
        ("conditions[0].value", {"conditions": [condition("prefix", ["a"])]}),
        ("conditions[0].value", {"conditions": [condition("lt", None)]}),
        ("conditions[0].value", {"conditions": [condition("le", True)]}),
        ("conditions[0].value", {"conditions": [condition("gt", [1])]}),
        ("conditions[0].value", {"conditions": [condition("ge", NOON)]}),
        ("conditions[0].value", {"conditions": [condition("gt", float("inf"))]}),
        ("conditions[0].value", {"conditions": [condition("gt", float("nan"))]}),
        ("conditions[0].value", {"conditions": [condition("gt", 1e308)]}),
        ("conditions[0].value", {"conditions": [condition("gt", 1e-301)]}),
        ("conditions[0].value", {"conditions": [condition("gt", 2**63)]}),
        ("conditions[0].value", {"conditions": [condition("gt", -(2**63) - 1)]}),
        ("conditions[0].value", {"conditions": [condition("eq", LONG)]}),
        ("conditions[0].value", {"conditions": [condition("eq", "a\0")]}),
        ("conditions[0].value", {"conditions": [condition("eq", "\ud800")]}),
    ],
)
def test_bad_input_is_refused_with_its_path(path: str, fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue) as caught:
        Rule(**{"name": "x", **fields})
    assert caught.value.path == path
    assert caught.value.problem
    assert "ValidationError" not in str(caught.value)


def test_what_is_just_allowed() -> None:
    Rule(name="x" * 255, approvals=MAX_APPROVALS, decide_within=0.001, valid_for=31_622_400)
    Rule(name="x", approvers=["ann", "bob"], approvals=2, valid_until=NOON)
    Rule(name="x", approvers=["billing"], agent_id="billing", allow_self=True)
    Rule(name="x", conditions=[condition(path=["a"] * MAX_PATH)] * MAX_CONDITIONS)
    Condition(path=["", 0, 2**31 - 1, "x" * MAX_OPERAND], op="eq", value="x" * MAX_OPERAND)
    for number in (2**63 - 1, -(2**63), 0.0, -0.0, 1e-300, 9.99e307):
        Condition(path=["a"], op="lt", value=number)
    for value in (None, True, ""):
        Condition(path=["a"], op="ne", value=value)
    Condition(path=["a"], op="exists", value=None)


def test_an_error_holds_no_values() -> None:
    with pytest.raises(InvalidValue) as caught:
        Rule(name="x", conditions=[condition("lt", {"password": "s3cret"})])
    assert "s3cret" not in str(caught.value)
    assert "password" not in str(caught.value)


# What matches


def says(op: str, value: Any, parameters: object, path: Any = ("a",)) -> bool:
    each = {} if op == "exists" else {"value": value}
    return condition_matches(Condition(path=path, op=op, **each), parameters)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("op", "value", "found", "expected"),
    [
        ("eq", 100, 100, True),
        ("eq", 100, 100.0, True),
        ("eq", 100, 101, False),
        ("ne", 100, 100, False),
        ("ne", 100, 101, True),
        ("gt", 100, 101, True),
        ("gt", 100, 100, False),
        ("gt", 100, 100.0, False),
        ("ge", 100, 100, True),
        ("lt", 100, 99.9, True),
        ("lt", 100, 100, False),
        ("le", 100, 100, True),
        # Integers are exact, and beside a fraction they are floats.
        ("gt", 2**53, 2**53 + 1, True),
        ("gt", 2.0**53, 2**53 + 1, False),
        ("eq", 2.0**53, 2**53 + 1, True),
        # Too near to be told apart.
        ("gt", 0.3, 0.1 + 0.2, True),
        ("lt", 0.3, 0.1 + 0.2, True),
        ("eq", 0.3, 0.1 + 0.2, True),
        ("gt", 0.3, 0.3, False),
        ("gt", 0.3, 0.3000001, True),
        ("lt", 0.3, 0.3000001, False),
        ("eq", 0, -0.0, True),
        # Too large for one of the databases.
        ("lt", 0, 2**63, True),
        ("lt", 0, 1e308, True),
        ("lt", 0, 9e307, False),
        ("gt", -9e307, 9e307, True),
        ("lt", -9e307, 9e307, False),
        ("gt", 0, 1e-301, False),
        # Texts by their code points.
        ("eq", "a", "a", True),
        ("eq", "a", "A", False),
        ("lt", "\U0001f692", "\uffff", True),
        ("gt", "a", "ab", True),
        ("prefix", "ab", "abc", True),
        ("prefix", "ab", "a", False),
        ("prefix", "", "", True),
        ("prefix", "%", "abc", False),
        # Truth values and null.
        ("eq", True, True, True),
        ("eq", True, False, False),
        ("ne", None, None, False),
        ("eq", None, None, True),
        # Other types can't be compared.
        ("eq", 1, True, True),
        ("eq", 100, "100", True),
        ("lt", 100, "100", True),
        ("lt", "100", 100, True),
        ("eq", None, False, True),
        ("prefix", "1", 100, True),
        ("gt", 100, None, True),
        ("gt", 100, [1], True),
        ("eq", "x", {"x": 1}, True),
        # In a list, values of other types say nothing, unless all are.
        ("in", [1, 2], 2, True),
        ("in", [1, 2], 3, False),
        ("in", [1, "x"], "y", False),
        ("in", [1, 2], "y", True),
        ("in", [0.3, 0.5], 0.1 + 0.2, True),
        ("exists", None, None, True),
        ("exists", None, 0, True),
    ],
)
def test_one_value(op: str, value: Any, found: object, expected: bool) -> None:
    assert says(op, value, {"a": found}) is expected
    assert says(op, value, json.dumps({"a": found}, ensure_ascii=False)) is expected


@pytest.mark.parametrize(
    ("path", "is_there"),
    [
        (["a"], True),
        (["a", "b"], True),
        (["a", "b", 1], True),
        (["a", "b", 2], False),
        (["a", "b", "1"], False),
        (["a", 0], False),
        (["a", "b", 1, "c"], False),
        (["b"], False),
        (["A"], False),
        ([0], False),
        (["a", ""], True),
    ],
)
def test_a_path_leads_somewhere_or_nowhere(path: Any, is_there: bool) -> None:
    parameters = {"a": {"b": [1, 2], "": 0}}
    assert says("exists", None, parameters, path) is is_there
    # What is missing matches all other operators.
    for op, value in (("eq", "x"), ("lt", -1), ("prefix", "y"), ("in", ["z"])):
        assert is_there or says(op, value, parameters, path)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "1", "null", '{"a":1}}', '{"a":NaN}', '{"a":-Infinity}', '{"a":1,}', "{a:1}"),
        *('{"a":1,"a":1}', '{"a":1,"\\u0061":1}', '{"b":"\\u0000"}', '{"b":"\\ud83d\\ude92"}'),
        *('{"a":"\ud800"}', '{"a":1}\0', '{"b":"\\\\u0000"}', "[" * 100_000),
    ],
)  # fmt: skip
def test_what_can_not_be_evaluated_matches(text: str) -> None:
    for op, value in (("eq", 2), ("ne", 1), ("lt", 0), ("gt", 5), ("in", [3]), ("exists", None)):
        assert says(op, value, text)


class Transfer(BaseModel):
    amount: int


def test_parameters_may_be_a_model() -> None:
    assert says("gt", 100, Transfer(amount=101), ["amount"])
    assert not says("gt", 100, Transfer(amount=100), ["amount"])
    assert says("gt", 100, object(), ["amount"])


FIELDS: dict[str, Any] = {
    "action_name": "drop_table",
    "action_type": "tool",
    "agent_id": "Billing",
    "requester_type": "agent",
    "parameters": '{"amount":100}',
}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({}, True),
        ({"action_name": "drop_*"}, True),
        ({"action_name": "drop_?"}, False),
        ({"action_name": "DROP_*"}, False),
        ({"action_type": "tool"}, True),
        ({"action_type": "subject"}, False),
        ({"agent_id": "billing\u200b"}, True),
        ({"agent_id": "other"}, False),
        ({"requester_type": "agent"}, True),
        ({"requester_type": "user"}, False),
        ({"conditions": [condition("ge", 100, ["amount"])]}, True),
        ({"conditions": [condition("gt", 100, ["amount"])]}, False),
        (
            {"conditions": [condition("ge", 100, ["amount"]), condition("lt", 100, ["amount"])]},
            False,
        ),
        ({"conditions": [condition("eq", 1, ["missing"])]}, True),
    ],
)
def test_a_rule_is_for_a_proposal_or_not(rule: dict[str, Any], expected: bool) -> None:
    made = Rule(name="x", **rule)
    assert rule_matches(made, FIELDS) is expected
    assert rule_matches(made, {**FIELDS, "action_type": ActionType.TOOL}) is expected


@pytest.mark.parametrize("missing", ["agent_id", "requester_type", "action_name", "action_type"])
def test_who_does_not_say_is_meant(missing: str) -> None:
    rule = full()
    fits = {
        "action_name": "transfer_x",
        "action_type": "tool",
        "agent_id": "billing",
        "requester_type": "agent",
        "parameters": "no JSON",
    }
    assert rule_matches(rule, fits)
    assert not rule_matches(rule, {**fits, missing: "another"})
    assert rule_matches(rule, {**fits, missing: None})
    assert rule_matches(rule, {each: fits[each] for each in fits if each != missing})


def test_an_invisible_agent_says_nothing() -> None:
    assert rule_matches(Rule(name="x", agent_id="billing"), {**FIELDS, "agent_id": "\u200b"})


def test_missing_parameters_match() -> None:
    rule = Rule(name="x", conditions=[condition("gt", 100, ["amount"])])
    assert rule_matches(rule, {"action_name": "drop_table"})


# Names and identities


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("*", "anything", True),
        ("*", "", True),
        ("?", "", False),
        ("?", "\U0001f692", True),
        ("drop_*", "drop_", True),
        ("drop_*", "dropXtable", False),
        ("*_table", "drop_table_table", True),
        ("a*b*c", "aXbXbXc", True),
        ("a*b*c", "aXbXb", False),
        ("[ab]", "a", False),
        ("[ab]", "[ab]", True),
        ("a.c", "abc", False),
        ("a*", "a\nb", True),
        ("**?**", "x", True),
        (None, "x", True),
        ("x", None, True),
    ],
)
def test_a_pattern_matches_a_name(pattern: str | None, name: str | None, expected: bool) -> None:
    assert name_matches(pattern, name) is expected


def test_no_pattern_takes_long() -> None:
    assert not name_matches("a*" * 120 + "b", "a" * 255)


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        ("Ann", "ann"),
        ("  Ann \t Lee\n", "ann lee"),
        ("\uff21nn", "ann"),
        ("Stra\u00dfe", "strasse"),
        ("e\u0301", "é"),
        ("e\u200d\u0301", "é"),
        ("a\u00ad\u200bnn\ufe0f", "ann"),
        ("\ufb01", "fi"),
        ("\u200b", ""),
    ],
)
def test_an_identity_as_people_see_it(identity: str, expected: str) -> None:
    assert normalised(identity) == expected


@given(st.text())
def test_what_is_normalised_stays_as_it_is(identity: str) -> None:
    found = normalised(identity)
    assert normalised(found) == found
    assert unicodedata.normalize("NFKC", found) == found
