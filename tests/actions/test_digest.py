"""The digest of a proposal and the canonical form of JSON values."""

import hashlib
import json
import random
import re
import struct
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from operator_core.actions import digest
from operator_core.actions.digest import (
    DIGEST_FIELDS,
    canonical_bytes,
    proposal_bytes,
    proposal_digest,
)
from operator_core.actions.errors import InvalidValue
from operator_core.actions.types import ActionProposal, ActionType, RequesterType
from operator_core.actions.values import MAX_JSON_DEPTH

VECTORS: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("digest_vectors.json").read_text()
)
PREFIX = b"operator-core/proposal/oc1\n"
TIME = datetime(2026, 1, 2, 3, 4, 5, 6, UTC)

# Two values of each field that decides what runs.
COVERED: dict[str, tuple[Any, Any]] = {
    "action_name": ("transfer_leader", "transfer_Leader"),
    "action_type": (ActionType.TOOL, ActionType.SUBJECT),
    "parameters": ({"store": 1}, {"store": 1.0}),
    "ticket_id": (None, 7),
    "requester_id": ("alice", "bob"),
    "requester_type": ("user", "agent"),
    "agent_id": ("ops", None),
    "run_id": ("run-1", "run-2"),
    "parent_id": (11, 12),
    "scheduled_at": (TIME, TIME + timedelta(microseconds=1)),
    "expires_at": (None, TIME),
    "max_retries": (0, 1),
    "retry_delay": (1.0, 1.5),
    "max_retry_delay": (300.0, 300.00000000000006),
    "depends_on": ((3, 4), (34,)),
    "wait_on_failure": (False, True),
    "exclusive_key": ("store-1", "store-2"),
}
# Two values of each other field, those of the model and those that are planned.
IGNORED: dict[str, tuple[Any, Any]] = {
    "id": (None, 1),
    "reason": ("hot store", "cold store"),
    "status": ("proposed", "validated"),
    "proposed_at": (TIME, None),
    "proposed_by": ("agent", "somebody"),
    "validated_at": (None, TIME),
    "cancelled_at": (None, TIME),
    "created_at": (None, TIME),
    "updated_at": (None, TIME),
    "priority": (0, 9),
    "retry_count": (0, 1),
    "next_retry_at": (None, TIME),
    "last_error": (None, "no such store"),
    "workflow_id": (None, 1),
    "version": (None, 1),
    "call_id": ("call-1", "call-2"),
    "traceparent": (None, "00-1-2-01"),
    "idempotency_key": (None, "key"),
    "supersedes_id": (None, 1),
    "end_code": (None, "denied"),
    "content_digest": (None, "oc1:"),
    "approval": (None, "needed"),
    "lapses_at": (None, TIME),
}
FIELDS = {name: values[0] for name, values in (COVERED | IGNORED).items()}
REQUIRED = {
    "action_name",
    "action_type",
    "parameters",
    "max_retries",
    "retry_delay",
    "max_retry_delay",
    "depends_on",
    "wait_on_failure",
}

FLOATS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, (1 << 64) - 1).map(
    lambda bits: struct.unpack("<d", struct.pack("<Q", bits))[0]
).filter(lambda number: number - number == 0)
TEXTS = st.text() | st.text('\ud7ff\ue000\uff5e\U00010000\U0001f600a\x00\n"\\')


def json_values(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
        max_leaves=20,
    )


JSON = json_values(
    st.none() | st.booleans() | st.integers(-(2**200), 2**200) | FLOATS | TEXTS,
)
# So few different values that equal ones meet.
SIMILAR = st.recursive(
    st.sampled_from([None, False, True, 0, 1, 0.0, -0.0, 1.0, "", "0", "1", "1.0", "null"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["", "0"]), inner, max_size=2)
    ),
    max_leaves=3,
)


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Plain(Enum):
    TEXT = "text"
    NUMBER = 1


class Number(float):
    __slots__ = ()


def shape(value: Any) -> Any:
    """The value with the type of each part, without the order of keys."""
    if isinstance(value, dict):
        return dict, sorted((key, shape(item)) for key, item in value.items())
    if isinstance(value, list):
        return list, [shape(item) for item in value]
    return type(value), repr(value)


def by_rules(value: Any) -> bytes:
    return digest._by_rules(value, ()).encode()


def outcome(function: Callable[[Any], bytes], value: Any) -> Any:
    try:
        return function(value)
    except InvalidValue as error:
        return error.path, error.problem


def nested(depth: int, kind: type = list) -> Any:
    value: Any = kind()
    for _ in range(depth - 1):
        value = [value] if kind is list else {"a": value}
    return value


def fields_of(vector: dict[str, Any]) -> dict[str, Any]:
    """The fields of a vector in the types of the model."""
    return {
        name: datetime.fromisoformat(value) if name.endswith("_at") and value else value
        for name, value in vector["fields"].items()
    }


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_the_golden_vectors(vector: dict[str, Any]) -> None:
    fields = fields_of(vector)
    assert proposal_bytes(fields) == vector["bytes"].encode()
    assert proposal_digest(fields) == vector["digest"]
    # Without this package.
    assert vector["digest"] == "oc1:" + hashlib.sha256(vector["bytes"].encode()).hexdigest()


def test_the_golden_vectors_are_different_and_set_every_field() -> None:
    for key in ("name", "digest"):
        assert len({vector[key] for vector in VECTORS}) == len(VECTORS)
    assert set(DIGEST_FIELDS) <= {name for vector in VECTORS for name in vector["fields"]}


@settings(deadline=None)
@given(JSON)
@example({"\ue000": 1, "\U0001f600": 2})
def test_both_ways_write_the_same_bytes(value: Any) -> None:
    assert canonical_bytes(value) == by_rules(value)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    "number",
    [
        *(0.0, 5e-324, 1e-7, 9.99e-7, 1e-6, 1e-5, 9.999999999999999e-05, 1e-4, 0.1, 1.0, 1e15),
        *(9999999999999998.0, 1e16, 1.0000000000000002e16, 1e20, 9.999999999999999e20, 1e21, 1e22),
    ],
)
def test_both_ways_write_the_same_number(number: float, sign: int) -> None:
    assert canonical_bytes([sign * number]) == by_rules([sign * number])


@pytest.mark.parametrize(
    "value", [{"a": ["ü\U0001f600\n", 1, None]}, [0.0, -0.0, -1.5, 2**70], nested(MAX_JSON_DEPTH)]
)
def test_the_usual_value_takes_the_faster_way(value: Any) -> None:
    assert digest._by_json(value) is not None


@settings(deadline=None)
@given(JSON)
def test_the_bytes_read_back_as_the_value(value: Any) -> None:
    assert shape(json.loads(canonical_bytes(value))) == shape(value)


@settings(deadline=None)
@given(SIMILAR, SIMILAR)
@example([1], [True])
@example({"a": 1}, {"a": 1.0})
@example([0.0], [-0.0])
@example([1e21], [10**21])
@example([2.0**53], [2**53])
@example([2**53], [2**53 + 1])
def test_equal_values_and_no_others_have_equal_bytes(one: Any, other: Any) -> None:
    assert (canonical_bytes(one) == canonical_bytes(other)) == (shape(one) == shape(other))


@settings(deadline=None)
@given(st.dictionaries(TEXTS, SIMILAR, min_size=2), st.randoms(use_true_random=False))
def test_the_order_of_keys_is_ignored(value: dict[str, Any], chance: random.Random) -> None:
    items = list(value.items())
    chance.shuffle(items)
    assert canonical_bytes(dict(items)) == canonical_bytes(value)


def is_whole_and_short(number: float) -> bool:
    return number.is_integer() and abs(number) < 1e21


@settings(deadline=None)
@given(
    json_values(
        st.none()
        | st.booleans()
        | st.integers(-(2**53) + 1, 2**53 - 1)
        | FLOATS.filter(lambda number: not is_whole_and_short(number))
        | TEXTS,
    )
)
@example([1e21, 1.5e300, 1e-6, 1e-7, 5e-324, 0.1, -2.5e-5])
def test_it_is_rfc_8785_where_that_has_the_same_numbers(value: Any) -> None:
    assert canonical_bytes(value) == rfc8785.dumps(value)


@settings(deadline=None)
@given(FLOATS | st.floats(-1e21, 1e21).map(lambda number: float(int(number))))
@example(1e16)
@example(999999999999999900000.0)
def test_a_whole_float_is_rfc_8785_with_a_point_and_a_zero(number: float) -> None:
    assume(is_whole_and_short(number))
    rfc = b"-0" if repr(number) == "-0.0" else rfc8785.dumps(number)
    assert canonical_bytes(number) == rfc + b".0"


@pytest.mark.parametrize(
    ("value", "path", "problem"),
    [
        (float("nan"), "", "must be a finite number"),
        ({"a": [1, float("-inf")]}, "a[1]", "must be a finite number"),
        ({"a": "\ud800"}, "a", "must not contain a lone surrogate"),
        ({"a": {"\udc00": 1}}, "a['\\udc00']", "must not contain a lone surrogate"),
        (["\ud83d\ude00"], "[0]", "must not contain a lone surrogate"),
        ({"a": {1: 2}}, "a", "must have string keys only, not int"),
        ({"a": 1, None: 2}, "", "must have string keys only, not NoneType"),
        ({Colour.RED: 1}, "", "must have string keys only, not Colour"),
        ({"a": (1, 2)}, "a", "must be a JSON value, not tuple"),
        ([b""], "[0]", "must be a JSON value, not bytes"),
        ([Decimal(1)], "[0]", "must be a JSON value, not Decimal"),
        ([TIME], "[0]", "must be a JSON value, not datetime"),
        ([Colour.RED], "[0]", "must be a JSON value, not Colour"),
        ([Level.HIGH], "[0]", "must be a JSON value, not Level"),
        ([Number(1.5)], "[0]", "must be a JSON value, not Number"),
        (OrderedDict(a=1), "", "must be a JSON value, not OrderedDict"),
        ([10**5000], "[0]", "must not have more digits than Python converts"),
    ],
)
def test_other_values_are_refused_with_their_path(value: Any, path: str, problem: str) -> None:
    assert outcome(canonical_bytes, value) == outcome(by_rules, value) == (path, problem)


@pytest.mark.parametrize("kind", [list, dict])
# The key is one for which the faster way gives up.
@pytest.mark.parametrize("key", ["a", "ä"])
def test_the_depth_has_a_limit(kind: type, key: str) -> None:
    deepest = {key: nested(MAX_JSON_DEPTH - 1, kind)}
    assert json.loads(canonical_bytes(deepest)) == deepest
    for depth in (MAX_JSON_DEPTH, 100_000):
        with pytest.raises(InvalidValue, match=f"must not be nested deeper than {MAX_JSON_DEPTH}"):
            canonical_bytes({key: nested(depth, kind)})


PROPOSALS = st.fixed_dictionaries(
    {
        "action_name": TEXTS | st.none() | st.just(7),
        "action_type": st.sampled_from([*ActionType, "tool", None, 1, Plain.NUMBER]),
        "parameters": st.dictionaries(TEXTS, JSON, max_size=3) | st.none() | st.just([]),
        "max_retries": st.sampled_from([0, 1, 0.0, False, True, 1.0, None]),
        "retry_delay": st.sampled_from([0, 1, 0.0, -0.0, 1.0, 1, True, 1e300, None]),
        "max_retry_delay": st.sampled_from([300, 300.0, 0.1]),
        "wait_on_failure": st.sampled_from([True, False, 0, 1, None]),
        "depends_on": st.sampled_from([(), [], (3, 1), None]),
        "requester_type": st.sampled_from([*RequesterType, None, "user"]),
        **{
            name: TEXTS | st.none() | st.just(b"x")
            for name in ("requester_id", "agent_id", "run_id")
        },
        **{name: st.sampled_from([None, None, 7, 7.0]) for name in ("ticket_id", "parent_id")},
        "scheduled_at": st.sampled_from([None, None, TIME]),
        "expires_at": st.sampled_from([None, None, TIME, "2026-01-01"]),
    },
    optional={"exclusive_key": st.none() | TEXTS},
)


@given(PROPOSALS)
def test_the_faster_way_writes_the_same_bytes(fields: dict[str, Any]) -> None:
    by_rules = outcome(digest._bytes_by_rules, fields)
    assert outcome(digest.proposal_bytes, fields) == by_rules
    usual = digest._usual_bytes(fields)
    assert usual is None or usual == by_rules


@pytest.mark.parametrize(
    "wrong",
    [
        {"parameters": []},
        {"parameters": None},
        {"parameters": {"a": float("nan")}},
        {"action_name": None},
        {"action_name": Colour.RED},
        {"action_type": None},
        {"action_type": 1},
        {"agent_id": b"x"},
        {"run_id": "\ud800"},
        {"max_retries": True},
        {"max_retries": 1.0},
        {"retry_delay": True},
        {"retry_delay": float("inf")},
        {"wait_on_failure": 0},
        {"depends_on": None},
        {"ticket_id": 1.0},
        {"parent_id": "1"},
        {"expires_at": "2026-01-01"},
    ],
    ids=str,
)
def test_the_faster_way_accepts_nothing_else(wrong: dict[str, Any]) -> None:
    fields = {**ActionProposal(action_name="a", reason="r").__dict__, **wrong}
    by_rules = outcome(digest._bytes_by_rules, fields)
    assert outcome(digest.proposal_bytes, fields) == by_rules


def test_the_faster_way_is_taken_by_a_usual_proposal() -> None:
    for more in ({}, {"agent_id": "ä", "run_id": "r", "requester_type": RequesterType.USER}):
        usual = ActionProposal(action_name="drain_store", reason="r", max_retries=3, **more)
        assert digest._usual_bytes(usual.__dict__) == digest._bytes_by_rules(usual.__dict__)


def test_a_circular_value_is_refused_at_once() -> None:
    circle: list[Any] = []
    circle.extend([circle] * 10)
    with pytest.raises(InvalidValue, match="nested deeper"):
        canonical_bytes(circle)


def test_every_field_of_a_proposal_is_covered_or_ignored_on_purpose() -> None:
    assert set(DIGEST_FIELDS) == set(COVERED)
    assert len(set(DIGEST_FIELDS)) == len(DIGEST_FIELDS)
    assert not COVERED.keys() & IGNORED.keys()
    assert set(ActionProposal.model_fields) <= COVERED.keys() | IGNORED.keys()


@pytest.mark.parametrize("name", COVERED)
def test_a_field_that_decides_what_runs_changes_the_digest(name: str) -> None:
    one, other = COVERED[name]
    assert proposal_digest(FIELDS | {name: one}) != proposal_digest(FIELDS | {name: other})


@pytest.mark.parametrize("name", IGNORED)
def test_no_other_field_changes_the_digest(name: str) -> None:
    without = {each: value for each, value in FIELDS.items() if each != name}
    changed = FIELDS | {name: IGNORED[name][1]}
    assert proposal_digest(changed) == proposal_digest(without) == proposal_digest(FIELDS)


def test_two_fields_do_not_stand_for_each_other() -> None:
    """Each optional field has a place of its own, also where the others are None."""
    texts = ("requester_id", "requester_type", "agent_id", "run_id", "exclusive_key")
    numbers = ("ticket_id", "parent_id")
    times = ("scheduled_at", "expires_at")
    required = {name: FIELDS[name] for name in REQUIRED}
    made = [
        proposal_digest({**required, name: value})
        for names, value in ((texts, "x"), (numbers, 1), (times, TIME))
        for name in names
    ]
    assert len({proposal_digest(required), *made}) == 10


@pytest.mark.parametrize("name", DIGEST_FIELDS)
def test_a_missing_field_counts_as_none_or_is_refused(name: str) -> None:
    without = {each: value for each, value in FIELDS.items() if each != name}
    if name in REQUIRED:
        for fields in (without, FIELDS | {name: None}):
            with pytest.raises(InvalidValue) as caught:
                proposal_digest(fields)
            assert (caught.value.path, caught.value.problem) == (name, "is missing")
    else:
        assert proposal_digest(without) == proposal_digest(FIELDS | {name: None})


@pytest.mark.parametrize(
    ("name", "value", "path"),
    [
        ("action_name", 5, "action_name"),
        ("action_name", "a\ud800", "action_name"),
        ("action_type", Plain.NUMBER, "action_type"),
        ("parameters", [], "parameters"),
        ("parameters", "{}", "parameters"),
        ("parameters", {"a": [{"b": float("nan")}]}, "parameters.a[0].b"),
        ("parameters", {"a": nested(MAX_JSON_DEPTH)}, "parameters.a" + "[0]" * 63),
        ("ticket_id", "5", "ticket_id"),
        ("ticket_id", True, "ticket_id"),
        ("parent_id", 5.0, "parent_id"),
        pytest.param("parent_id", 10**5000, "parent_id", id="parent_id with too many digits"),
        ("run_id", b"run", "run_id"),
        ("scheduled_at", "2026-01-02T03:04:05.000006Z", "scheduled_at"),
        ("scheduled_at", datetime(9999, 1, 1, tzinfo=UTC), "scheduled_at"),
        ("expires_at", TIME.date(), "expires_at"),
        ("max_retries", 1.0, "max_retries"),
        ("retry_delay", "1", "retry_delay"),
        ("retry_delay", True, "retry_delay"),
        ("retry_delay", float("inf"), "retry_delay"),
        ("max_retry_delay", 10**400, "max_retry_delay"),
        ("depends_on", {1}, "depends_on"),
        ("depends_on", (1, "2"), "depends_on[1]"),
        ("wait_on_failure", 0, "wait_on_failure"),
    ],
)
def test_a_wrong_type_is_refused_with_its_path(name: str, value: Any, path: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        proposal_digest(FIELDS | {name: value})
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("action_type", ["tool", ActionType.TOOL]),
        ("requester_type", ["text", Plain.TEXT]),
        ("scheduled_at", [TIME, TIME.astimezone(timezone(timedelta(hours=5, minutes=45)))]),
        ("expires_at", [TIME, TIME.astimezone().replace(tzinfo=None)]),
        ("retry_delay", [2, 2.0]),
        ("retry_delay", [0, 0.0, -0.0]),
        ("depends_on", [(9, 10), [9, 10], (10, 9)]),
        ("depends_on", [(), []]),
    ],
)
def test_representations_of_one_value_have_one_digest(name: str, same: list[Any]) -> None:
    assert len({proposal_digest(FIELDS | {name: value}) for value in same}) == 1


@settings(deadline=None)
@given(
    json_values(st.none() | st.booleans() | st.integers(-(2**70), 2**70) | FLOATS | TEXTS),
    TEXTS,
    st.floats(0, 1e6),
    st.lists(st.integers(1, 2**63 - 1), unique=True, max_size=5),
)
def test_what_is_hashed_is_one_canonical_object(
    parameter: Any, text: str, delay: float, ids: list[int]
) -> None:
    fields = FIELDS | {
        "parameters": {"a": parameter},
        "run_id": text,
        "retry_delay": delay,
        "depends_on": ids,
    }
    head, content = proposal_bytes(fields).split(b"\n", 1)
    assert head + b"\n" == PREFIX
    read = json.loads(content)
    assert sorted(read) == list(read) == sorted(DIGEST_FIELDS)
    assert content == canonical_bytes(read)
    assert shape(read["parameters"]) == shape(fields["parameters"])
    assert (read["run_id"], read["retry_delay"], read["depends_on"]) == (text, delay, sorted(ids))
    assert read["scheduled_at"] == "2026-01-02T03:04:05.000006Z"


def test_parameters_may_be_as_deep_as_the_ledger_stores_them() -> None:
    fields = ActionProposal(action_name="a", reason="b", parameters=nested(MAX_JSON_DEPTH, dict))
    assert proposal_digest(fields.__dict__).startswith("oc1:")


def test_a_proposal_that_travels_as_json_keeps_its_digest() -> None:
    proposal = ActionProposal(
        action_name="transfer_leader",
        reason="hot store",
        parameters={"a": [1, 1.0, -0.0, 2**53 + 1, "ü\U0001f600"], "\ue000": None},
        scheduled_at=TIME,
        depends_on=(4, 3),
    )
    again = ActionProposal.model_validate_json(proposal.model_dump_json())
    assert proposal_digest(again.__dict__) == proposal_digest(proposal.__dict__)
    assert re.fullmatch(r"oc1:[0-9a-f]{64}", proposal_digest(proposal.__dict__))


def test_the_table_of_reasons_lists_every_field() -> None:
    rows = re.findall(r"^(\S.*?)  +(yes|no)  ", digest.__doc__ or "", re.MULTILINE)
    listed = {
        word: (inside == "yes", names) for names, inside in rows for word in names.split(", ")
    }
    assert {name for name, (inside, _) in listed.items() if inside} == set(DIGEST_FIELDS)
