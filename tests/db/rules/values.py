"""Parameters and conditions that databases might read in different ways."""

import json
from typing import Any, Final

from hypothesis import strategies as st

from operator_core.actions.rules import Condition
from tests.db.rules.sql import Rules

LITERALS: Final = (
    *("0", "-0", "1", "-1", "99", "100", "101", "7", "12345678901234567890", "1" + "0" * 400),
    *(str(base + step) for base in (2**53, 2**63, -(2**63), -(2**53)) for step in (-1, 0, 1)),
    *("0.0", "-0.0", "1.0", "100.0", "1e2", "1E+2", "100.00", "100.5", "99.9", "1e00002", "1000e-1"),
    *("100.00000000000001", "99.99999999999999", "100.00000000001", "99.99999999999", "100.001"),
    *("0.1", "0.3", "0.30000000000000004", "0.30000000000001", "0.3000000001", "0.30", "3e-1"),
    *("5e-324", "1e-300", "9.99e-301", "1e-310", "-1e-310", "1e-400", "1e-99999", "0e9999999999"),
    *("9e307", "-9e307", "9.999999e307", "1e308", "-1e308", "1.7976931348623157e308", "1e309"),
    *("1e99999", "1e999999999", "9007199254740992.0", "9007199254740993.0", "9.223372036854775807e18"),
    *("1" + "0" * 45 + "e-43", "0." + "0" * 45 + "1e48", "1.5e-7", "-1.5e-7", "-9.3e18", "1e30"),
    *('""', '"a"', '"ab"', '"abc"', '"A"', '"aB"', '"b"', '" "', '" a"', '"100"', '"true"', '"null"'),
    *('"é"', '"e\u0301"', '"\\u00e9"', '"\\u00C9"', '"ß"', '"ss"', '"%"', '"a%"', '"_"', '"*"', '"[a]"'),
    *('"\\\\"', '"\\""', '"\\n"', '"\\/"', '"/"', '"\\u0061b"', '"\\u0001"', '"\x7f"', '"\\\\x41"'),
    *('"\uffff"', '"\U0001f692"', '"\U0001f692x"', '"\\ud83d\\ude92"', '"\\uDE92"', '"\\u0000"'),
    *('"a\\u0000"', '"\\\\u0000"', '"\\\\ud83d"', '"\\\\uabcd"', '"zz"', f'"{"x" * 1000}"', f'"{"x" * 1001}"'),
    *("true", "false", "null", "[]", "[1]", "[100,200]", "{}", '{"b":100}', '{"b":null}', '[["a"]]'),
)  # fmt: skip

DOCUMENTS: Final = (
    *(f'{{"a":{literal}}}' for literal in LITERALS),
    *(f'{{"a":{{"b":{literal}}},"c":1}}' for literal in LITERALS[::3]),
    *(f'{{"c":null,"a":[{literal},{{"b":{literal}}}]}}' for literal in LITERALS[1::3]),
    # A key twice, on the path and beside it, in every disguise.
    *('{"a":1,"a":100}', '{"a":100,"a":1}', '{"a":1,"\\u0061":100}', '{"\\u0061":100}', '{"\\u0041":1}'),
    *('{"a":{"b":1},"a":100}', '{"a":{"b":1,"b":2}}', '{"a":{"b":1},"a":{"b":1}}', '{"a":{"c":1,"c":2,"b":1}}'),
    *('{"a":100,"c":{"a":1}}', '{"c":"a","a":100}', '{"c":{"a":1,"a":2}}', '{"a":[1,2],"a":3}', '{"a":1,"":2,"":3}'),
    *('{"a\\"":1}', '{"a\\\\":1,"a":100}', '{"a":"\\"a\\":1"}', '{"x":"a","y":["a","a"]}', '{"a":"a"}'),
    # Missing, and nearly there.
    *("{}", '{"A":100}', '{"b":100}', '{"":100}', '{"":{"":"a"}}', '{"0":100}', '{"é":100}', '{"e\u0301":100}'),
    *('{"\\u00e9":100}', '{"a ":100}', '{"a.b":100}', '{"$":100}', '{"a":{"0":100}}', '{"a":{"":1}}', '{"\U0001f692":100}'),
    *('{"a":[]}', '{"a":[1]}', '{"a":[[1,2],[3,4]]}', '{"a":[{"b":[0,{"c":[true]}]}]}', '{"a":{"b":{"c":"deep"}}}'),
    '{"a":' * 60 + "1" + "}" * 60,
    '{"a":' + "[" * 60 + "100" + "]" * 60 + "}",
    # White space, within texts and between them.
    *(' {"a":100}', '{"a":100}\n', '\t{ "a" : 100 , "b" : [ ] }\r\n', '{"a" : " 1 0 0 "}', '{"a": "x y"}', '{"a":\n{"b":\r100}}'),
    # Long ones.
    json.dumps({"a": 100, "b": "x" * 6000}),
    json.dumps({"a": 1, "b": "x" * 6000 + "1" * 49}),
    json.dumps({"a": 1, "b": "x" * 6000 + "1" * 50}),
    json.dumps({"a": 1, "b": "x" * 4900 + "1" * 50}),
    json.dumps({"a": 1, "b": "é" * 4900 + "1" * 50}, ensure_ascii=False),
    '{"a":1' + "0" * 9900 + "e-9900}",
    '{"a":0.' + "0" * 9900 + "1e9910}",
    '{"a":' + "9" * 140_000 + "}",
    # No objects.
    *("[]", "[1]", '["a"]', "1", '"a"', "null", "true", '[{"a":100}]'),
)  # fmt: skip

OPERANDS: Final[tuple[Any, ...]] = (
    *(0, 1, -1, 100, 2**53, 2**53 + 1, 2**63 - 1, -(2**63)),
    *(0.0, 1.0, 100.0, 0.1, 0.3, 0.1 + 0.2, 2.0**53, 2.0**63, 1e-300, 9e307, -9e307, 1.5e-7),
    *("", "a", "ab", "é", "\uffff", "\U0001f692", "100", "\\", "/", "\\u0000", "x" * 1000),
)

LISTS: Final[tuple[list[Any], ...]] = (
    *([1], [1, 100, 0.3], ["a", "ab"], [True], [None], [False, "b", 0], [0.1, 2**53], [""]),
    *([1, "a", None, True], ["x"], [1e300, -1e300], list(range(100))),
)

PATHS: Final[tuple[list[str | int], ...]] = (
    *(["a", "b"], ["a", 0], ["a", 1, "b"], ["a", "0"], [""], ["", ""], ["0"], ["é"], ["b", 0]),
    *(["a", 0, "b", 1, "c", 0], ["a", "b", "c"], ["A"], ["a."], ["\U0001f692"], ['a"'], ["a\\"]),
    *(["a"] * 16, ["a", *[0] * 15], ["a", 2**31 - 1], ["a", 0, 1]),
)

_FIELDS: Final[tuple[dict[str, Any], ...]] = (
    *(
        {"path": ["a"], "op": op, "value": value}
        for op in ("eq", "ne", "lt", "le", "gt", "ge")
        for value in OPERANDS
    ),
    *({"path": ["a"], "op": "prefix", "value": text} for text in OPERANDS if isinstance(text, str)),
    *({"path": ["a"], "op": op, "value": v} for op in ("eq", "ne") for v in (True, False, None)),
    *({"path": ["a"], "op": "in", "value": values} for values in LISTS),
    *({"path": path, "op": "exists"} for path in (["a"], *PATHS)),
    *({"path": path, "op": "gt", "value": 99} for path in PATHS),
    *({"path": path, "op": "ne", "value": "a"} for path in PATHS),
)

CONDITIONS: Final = tuple(Condition(**each) for each in _FIELDS)

TRIED: Final[Rules] = (
    (),
    *((each,) for each in CONDITIONS),
    *zip(CONDITIONS[::7], CONDITIONS[3::7], CONDITIONS[5::7], strict=False),
)


# The same for Hypothesis

floats = st.floats(allow_nan=False, allow_infinity=False)
numbers = (
    st.integers(-(2**64), 2**64).map(str)
    | floats.map(repr)
    | st.builds("{}e{}".format, st.integers(-(10**17), 10**17), st.integers(-330, 310))
    | st.builds("{}.{:03}".format, st.integers(-(10**9), 10**9), st.integers(0, 999))
)
letters = st.text(st.sampled_from('ab"\\/ué 0{}[],:%_*?\n\uffff\U0001f692'), max_size=4)
texts = letters | st.text(max_size=4)
encoded = st.builds(json.dumps, texts, ensure_ascii=st.booleans())
plain = numbers | encoded | st.sampled_from(["true", "false", "null", "[]", "{}"])
spaces = st.sampled_from(["", "", " ", "\n\t"])
keys = encoded | st.sampled_from(['"a"', '"b"', '"\\u0061"', '""'])


def nested(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    members = st.builds("{}{}:{}{}".format, keys, spaces, spaces, inner)
    return st.lists(inner, max_size=3).map(lambda each: f"[{','.join(each)}]") | st.lists(
        members, max_size=3
    ).map(lambda each: f"{{{','.join(each)}}}")


documents = st.builds(
    lambda members: f"{{{','.join(members)}}}",
    st.lists(
        st.builds("{}{}:{}".format, keys, spaces, st.recursive(plain, nested, max_leaves=5)),
        max_size=4,
    ),
)


def in_range(number: float) -> bool:
    return not number or 1e-300 <= abs(number) < 1e308


def sayable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= each <= "\udfff" for each in text)


scalars = (
    st.integers(-(2**63), 2**63 - 1) | floats.filter(in_range) | texts.filter(sayable) | st.booleans() | st.none()
)  # fmt: skip
ordered = scalars.filter(lambda value: value is not None and not isinstance(value, bool))
paths = st.lists(
    st.sampled_from(["a", "a", "b", "", 0, 1]) | texts.filter(sayable), min_size=1, max_size=4
)
conditions = st.one_of(
    st.builds(Condition, path=paths, op=st.sampled_from(["eq", "ne"]), value=scalars),
    st.builds(Condition, path=paths, op=st.sampled_from(["lt", "le", "gt", "ge"]), value=ordered),
    st.builds(Condition, path=paths, op=st.just("prefix"), value=texts.filter(sayable)),
    st.builds(
        Condition, path=paths, op=st.just("in"), value=st.lists(scalars, min_size=1, max_size=4)
    ),
    st.builds(Condition, path=paths, op=st.just("exists")),
)
some_rules = st.lists(st.lists(conditions, min_size=1, max_size=2), min_size=1, max_size=8)
some_documents = st.lists(documents, min_size=1, max_size=8)
