"""A JSON object is copied exactly, to plain types, by way of its text or value by value."""

import json
import math
from collections import OrderedDict, defaultdict
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operator_core.actions import values
from operator_core.actions.errors import InvalidValue
from operator_core.actions.types import ActionProposal
from operator_core.actions.values import to_json_object
from operator_core.db.sql.base import encode_json


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Plain(Enum):
    ONE = 1


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


class Number(float):
    __slots__ = ()

    def __float__(self) -> float:
        return 2.5


class Odd(int):
    def __int__(self) -> int:
        return 7


class Few(dict[str, int]):
    def items(self) -> Any:
        return [("other", 1)]


class Backwards(list[int]):
    def __iter__(self) -> Any:
        return reversed(self)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=4)


def slowly(value: Any) -> Any:
    return values._copy(value, None, 0)


def shape(value: Any) -> Any:
    """The value with the type of each part: 1, 1.0 and True are equal, and so are 0.0 and -0.0."""
    if isinstance(value, dict):
        return dict, [(shape(key), shape(item)) for key, item in value.items()]
    if isinstance(value, list):
        return list, [shape(item) for item in value]
    return type(value), repr(value)


def outcome(copy: Any, value: Any) -> Any:
    try:
        return shape(copy(value))
    except InvalidValue as error:
        return "refused", error.path, error.problem


@given(OBJECTS)
def test_both_ways_make_the_same_copy(value: dict[str, Any]) -> None:
    slow, fast = (outcome(copy, value) for copy in (slowly, to_json_object))
    assert slow == fast
    assert slow == shape(value) or slow[0] == "refused"


@given(OBJECTS)
def test_the_text_of_a_copy_reads_back_as_the_value(value: dict[str, Any]) -> None:
    try:
        copied = to_json_object(value)
    except InvalidValue:
        return
    assert shape(json.loads(encode_json(copied, "parameters", 1 << 20))) == shape(value)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (Text("text"), "text"),
        (Number(1.5), 1.5),
        (Odd(3), 3),
        (Few(a=1), {"a": 1}),
        (Backwards([1, 2]), [1, 2]),
        (OrderedDict(a=1), {"a": 1}),
        (defaultdict(list, a=[1]), {"a": [1]}),
    ],
)
# The character is one for which the copy by way of the text gives up.
@pytest.mark.parametrize("beside", ["x", "\\u0000"])
def test_a_value_of_a_subclass_is_copied_as_its_plain_value(
    value: Any, plain: Any, beside: str
) -> None:
    parameters = {"here": [value], "beside": beside, Colour.RED: 1}
    copied = to_json_object(parameters)
    assert shape(copied) == shape({"here": [plain], "beside": beside, "red": 1})
    assert ActionProposal(action_name="a", reason="b", parameters=parameters).parameters == copied


@pytest.mark.parametrize(
    "value",
    [
        Plain.ONE,
        (1, 2),
        {1, 2},
        b"text",
        Decimal(1),
        date(2026, 1, 1),
        datetime(2026, 1, 1, tzinfo=UTC),
        UUID(int=1),
        PurePosixPath("text"),
        iter([1]),
        math.inf,
        -math.inf,
        math.nan,
        {1: "key"},
        {None: "key"},
        "\0",
        "\ud800",
        {"\0": 1},
        pytest.param(10**4300, id="too many digits to print"),
        pytest.param(2**14_001, id="too many bits"),
    ],
)
def test_what_json_can_not_hold_is_refused_with_its_path(value: Any) -> None:
    with pytest.raises(InvalidValue, match=r"^a\.b\[0\]"):
        to_json_object({"a": {"b": [value]}})


@pytest.mark.parametrize("levels", [64, 65, 300, 100_000])
def test_depth_is_limited(levels: int) -> None:
    value: Any = 1
    for _ in range(levels - 1):
        value = [value]
    if levels <= 64:
        assert to_json_object({"a": value}) == {"a": value}
    else:
        with pytest.raises(InvalidValue, match="nested deeper than 64"):
            to_json_object({"a": value})


def test_a_wide_object_is_not_a_deep_one() -> None:
    value = {str(number): [{}] for number in range(100)}
    assert to_json_object(value) == value


def test_a_circle_is_refused() -> None:
    value: dict[str, Any] = {}
    value["a"] = value
    with pytest.raises(InvalidValue, match="nested deeper than 64"):
        to_json_object(value)


def test_a_copy_shares_nothing_that_can_change() -> None:
    value = {"a": {"b": [1]}}
    copied = to_json_object(value)
    value["a"]["b"].append(2)
    assert copied == {"a": {"b": [1]}}


def test_what_was_smuggled_into_a_frozen_model_is_stored_as_a_plain_value() -> None:
    proposal = ActionProposal(action_name="a", reason="b", parameters={"a": 1})
    proposal.parameters["a"] = Level.HIGH
    again = ActionProposal.model_validate(proposal.__dict__)
    assert shape(again.parameters) == shape({"a": 3})
