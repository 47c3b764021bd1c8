"""The rules' conditions: the same answers in Python, in SQLite's triggers and in PostgreSQL."""

import math
from collections.abc import Iterable, Sequence
from typing import Final, cast

import pytest
from hypothesis import given, settings

from operator_core.actions.rules import Condition
from operator_core.db.sql import sqlite_library
from tests.db.rules.sql import CONDITIONS, Evaluate, Lite, Rules, Server, in_python, stored
from tests.db.rules.values import (
    DOCUMENTS,
    TRIED,
    floats,
    in_range,
    some_documents,
    some_rules,
)

LAW = settings(deadline=None, max_examples=40)


def same(evaluate: Evaluate, rules: Rules, documents: Sequence[str]) -> int:
    """Compares with Python's answers; returns how many are yes."""
    expected = in_python(rules, documents)
    for rule, place in sorted(evaluate(rules, documents) ^ expected)[:1]:
        says = "matches" if (rule, place) in expected else "does not match"
        pytest.fail(f"in Python {stored(rules[rule])} {says} {documents[place]!r}")
    return len(expected)


def same_for_all(evaluate: Evaluate, where: str) -> None:
    found, asked = same(evaluate, TRIED, DOCUMENTS), len(TRIED) * len(DOCUMENTS)
    assert min(len(TRIED), len(DOCUMENTS)) >= 200
    # Both answers are common.
    assert 0.1 < found / asked < 0.9
    print(f"{where}: {len(TRIED)} rules, {len(DOCUMENTS)} parameters, {asked} answers, {found} yes")


def test_sqlite_agrees(lite: Lite) -> None:
    same_for_all(lite, f"SQLite {lite.value('sqlite_version()')}")


def test_postgresql_agrees(server: Server) -> None:
    same_for_all(server, "PostgreSQL")


@LAW
@given(some_rules, some_documents)
def test_sqlite_agrees_on_any(lite: Lite, rules: Rules, documents: list[str]) -> None:
    same(lite, rules, documents)


@LAW
@given(some_rules, some_documents)
def test_postgresql_agrees_on_any(server: Server, rules: Rules, documents: list[str]) -> None:
    same(server, rules, documents)


def around(number: float) -> Iterable[float]:
    """The number, and what is near it on both sides."""
    yield number
    for size in (2**-52, 1e-15, 3e-14, 2e-13, 1e-9):
        yield from (number * (1 + size), number * (1 - size))
    yield from (math.nextafter(number, math.inf), math.nextafter(number, -math.inf))


def every_comparison(number: float) -> tuple[Rules, list[str]]:
    rules = [
        [Condition(path=["a"], op=op, value=number)] for op in ("eq", "ne", "lt", "le", "gt", "ge")
    ]
    near = [f'{{"a":{each!r}}}' for each in around(number) if math.isfinite(each)]
    if abs(number) < 2**63 and number == int(number):
        near += [f'{{"a":{int(number) + step}}}' for step in (-1, 0, 1)]
    return rules, near


@LAW
@given(floats.filter(in_range))
def test_sqlite_agrees_on_what_is_near(lite: Lite, number: float) -> None:
    same(lite, *every_comparison(number))


@LAW
@given(floats.filter(in_range))
def test_postgresql_agrees_on_what_is_near(server: Server, number: float) -> None:
    same(server, *every_comparison(number))


# Text that is no JSON

NO_JSON: Final = (
    *("", " ", "{", '{"a":1', '{"a":01}', '{"a":1}}', "nul", '{"a":True}', '{"a":1.2.3}', '{"a"}'),
    *("{a:1}", '{"a":0x10}', '{"a":.5}', '{"a":1.}', '{"a":+1}', '{"a":Infinity}', '{"a":NaN}'),
    *(
        "{'a':1}",
        '{"a":1,}',
        '{"a":1}/**/',
        '{"a":"x\ty"}',
        '{"a\n":1}',
        '{"a":"\\x41"}',
        '{"a":1}\0',
    ),
    *(
        '{"a":1}\0{',
        "\ufeff{}",
        '{"a":\x0b1}',
        '{"a":\u00a01}',
        '{"a":"\\\n"}',
        '{"a":"\x01"}',
        "[1,]",
    ),
)


@pytest.mark.parametrize("text", NO_JSON)
def test_what_is_no_json_matches_or_is_refused(lite: Lite, text: str) -> None:
    rules = [[Condition(path=["a"], op="exists")], [Condition(path=["b"], op="exists")]]
    assert len(in_python(rules, [text])) == 2
    try:
        found = lite(rules, [text])
    except sqlite_library.ERRORS as error:
        lite.connection.execute("ROLLBACK")
        found = error
    assert found == {(0, 0), (1, 0)} or str(found) == "malformed JSON"


def test_a_blob_matches(lite: Lite) -> None:
    """Some releases of SQLite would read it as their own binary JSON."""
    rules = [[Condition(path=["b"], op="exists")]]
    for blob in (b"\x4c\x17a\x131", b'{"a":1}', b"\xff"):
        assert lite(rules, cast(list[str], [blob])) == {(0, 0)}


def test_the_conditions_of_a_rule_for_another_name_are_not_looked_at(lite: Lite) -> None:
    lite.connection.execute("BEGIN")
    lite.connection.execute("INSERT INTO rules VALUES (1, 'drop_*', 'no JSON'), (2, 'c*', '[]')")
    lite.connection.execute("INSERT INTO proposals VALUES (1, 'create', '{}')")
    assert list(lite.connection.execute("SELECT * FROM matches")) == [(2, 1)]
    lite.connection.execute("ROLLBACK")


STRANGE: Final = (
    *(None, "null", "{}", "[]", "1", '"a"', "[1]", '[{"op":"eq"}]', '[{"path":["a"],"op":"eq"}]'),
    *('[{"path":["a"],"op":"like","value":"x"}]', '[{"path":["a"],"value":"x"}]', "[null]", "[[]]"),
    *('[{"path":[],"op":"eq","value":1}]', '[{"path":"a","op":"eq","value":1}]', '[{"path":{},"op":"eq","value":1}]'),
    *('[{"path":["a"],"op":"in","value":7}]', '[{"path":["a"],"op":"in","value":[]}]', '[{"path":["a"],"op":"in"}]'),
    *('[{"path":["a"],"op":"eq","value":{}}]', '[{"path":["a"],"op":"eq","value":[1]}]', '[{"path":["a"],"op":"in","value":"a"}]'),
    *('[{"path":["a"],"op":"eq","value":1e308}]', '[{"path":["a"],"op":"prefix","value":7}]', '[{"path":["a"],"op":"prefix"}]'),
    *('[{"path":["t"],"op":"lt","value":true}]', '[{"path":["n"],"op":"le","value":null}]', '[{"path":["t"],"op":"gt","value":false}]'),
)  # fmt: skip


@pytest.mark.parametrize("conditions", STRANGE)
def test_conditions_that_no_rule_has_match(
    lite: Lite, server: Server, conditions: str | None
) -> None:
    document = '{"a":2,"t":true,"n":null}'
    assert lite.value(CONDITIONS, parameters=document, conditions=conditions) == 1
    assert server.value("action_ledger_condition_matches(%s::json, %s::json)", document, conditions)


def test_missing_parameters_match(lite: Lite, server: Server) -> None:
    conditions = stored([Condition(path=["a"], op="exists")])
    assert lite.value(CONDITIONS, parameters=None, conditions=conditions) == 1
    assert server.value("action_ledger_condition_matches(NULL, %s::json)", conditions)
