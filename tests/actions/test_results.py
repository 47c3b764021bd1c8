"""What an action gave back, whatever it is, is kept or said of, and nothing raises."""

import json
from collections import OrderedDict, UserDict
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from operator_core.actions.results import NOT_KEPT, describe, keep
from operator_core.actions.values import MAX_JSON_BYTES, MAX_TEXT, to_json_object


class Leader(BaseModel):
    store: int


class Colour(StrEnum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Metres(float):
    def __str__(self) -> str:
        return f"{super().__str__()} m"


class Login(BaseModel):
    password: SecretStr


class Hostile(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError("no")

    def __len__(self) -> int:
        raise RuntimeError("no")


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("result", "kept"),
    [
        (None, None),
        ({}, {}),
        ({"a": [1, 2.5, None, True]}, {"a": [1, 2.5, None, True]}),
        (Leader(store=3), {"store": 3}),
        (OrderedDict(a=(1, 2)), {"a": [1, 2]}),
        (UserDict(a=UserDict(b=1)), {"a": {"b": 1}}),
        ("done", {"result": "done"}),
        ("", {"result": ""}),
        (True, {"result": True}),
        (0, {"result": 0}),
        ([1, {"a": (2,)}], {"result": [1, {"a": [2]}]}),
        ((), {"result": []}),
        ([Leader(store=3)], {"result": [{"store": 3}]}),
        ({"leaders": (Leader(store=3),)}, {"leaders": [{"store": 3}]}),
        (Colour.RED, {"result": "red"}),
        ({"colour": Colour.RED, "level": Level.HIGH}, {"colour": "red", "level": 3}),
        ({Colour.RED: Level.HIGH}, {"red": 3}),
        (Metres(1.5), {"result": 1.5}),
    ],
)
def test_what_json_can_hold_is_kept(result: object, kept: Any) -> None:
    assert keep(result, MAX_JSON_BYTES) == (kept, None)


@pytest.mark.parametrize(
    ("result", "kind", "size", "why"),
    [
        (datetime(2030, 1, 1, tzinfo=UTC), "datetime.datetime", None, "datetime"),
        (float("nan"), "builtins.float", None, "finite"),
        ({"a": float("inf")}, "builtins.dict", 1, "a: must be a finite"),
        (b"\xff\xfe", "builtins.bytes", 2, "bytes"),
        ({1, 2, 3}, "builtins.set", 3, "set"),
        ("\ud800", "builtins.str", 1, "surrogate"),
        ("a\0", "builtins.str", 2, "NUL"),
        ({1: "a"}, "builtins.dict", 1, "string keys"),
        ("x" * MAX_JSON_BYTES, "builtins.str", MAX_JSON_BYTES + len('{"result":""}'), "larger"),
        (Login(password=SecretStr("hunter2")), f"{__name__}.Login", None, "secret"),
        ([Login(password=SecretStr("hunter2"))], "builtins.list", 1, "secret"),
        (Metres("nan"), f"{__name__}.Metres", None, "finite"),
        (Hostile(a=1), f"{__name__}.Hostile", None, "RuntimeError"),
        (lambda: None, "builtins.function", None, "function"),
        ([[]], None, None, None),
    ],
)
def test_a_note_stands_for_what_it_can_not(
    result: object, kind: str | None, size: int | None, why: str | None
) -> None:
    if kind is None:
        for _ in range(70):
            result = [result]
        kind, size, why = "builtins.list", 1, "nested"
    kept, problem = keep(result, MAX_JSON_BYTES)
    assert kept is not None
    note = kept[NOT_KEPT]
    assert (note["type"], note.get("size"), note["why"]) == (kind, size, problem)
    assert why is not None
    assert why in (problem or "")
    assert "hunter2" not in json.dumps(kept)


@given(
    st.recursive(
        st.none() | st.floats() | st.text() | st.binary() | st.datetimes() | st.complex_numbers(),
        lambda inner: (
            st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text() | st.integers(), inner)
        ),
    )
)
def test_whatever_it_is_something_is_kept_and_the_ledger_takes_it(result: object) -> None:
    kept, problem = keep(result, 1000)
    assert kept is None if result is None else to_json_object(kept) == kept
    assert (problem is not None) == (kept is not None and NOT_KEPT in kept)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no such store"), "ValueError: no such store"),
        (KeyError(), "KeyError"),
        (SystemExit(2), "SystemExit: 2"),
        (Mute(), "Mute: its text can't be read"),
        (RuntimeError("a\0b\ud800"), "RuntimeError: a\ufffdb?"),
    ],
)
def test_an_exception_has_its_words(error: BaseException, text: str) -> None:
    assert describe(error) == text
    assert len(describe(ValueError("x" * (MAX_TEXT + 1)))) == MAX_TEXT
