"""The rules' names and identities: the same answers in Python, SQLite and PostgreSQL."""

import itertools
from collections.abc import Sequence
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operator_core.actions.rules import name_matches, normalised
from tests.db.rules.sql import IDENTITY, NAME, Lite, Server

LAW = settings(deadline=None, max_examples=40)

PATTERNS: Final = (
    *(
        "*",
        "?",
        "",
        "drop_*",
        "drop_?",
        "*_table",
        "d*p_*b*e",
        "DROP_*",
        "**",
        "*?",
        "?*?",
        "drop_table",
    ),
    *(
        "drop%",
        "drop_table%",
        "drop\\_*",
        "\\",
        "\\*",
        "[a]*",
        "[a-z]*",
        "[",
        "]",
        "[^a]",
        "*[*",
        "a[?]b",
    ),
    *("é*", "?a", "\U0001f692*", "*\n*", "%", "_", "%%", "a_b", "{*}", ".*", "^a$", "*" * 50 + "x"),
)
NAMES: Final = (
    *(
        "drop_table",
        "drop_",
        "drop_t",
        "dropXtable",
        "DROP_TABLE",
        "table",
        "x",
        "drop%",
        "drop_table%",
    ),
    *(
        "drop\\_x",
        "\\",
        "\\x",
        "[a]b",
        "a",
        "[",
        "]",
        "^",
        "b[c",
        "a[x]b",
        "axb",
        "é",
        "éa",
        "e\u0301",
    ),
    *(
        "\U0001f692a",
        "\U0001f692",
        "a\nb",
        "\n",
        "%",
        "_",
        "%%",
        "a_b",
        "{}",
        ".x",
        "^a$",
        "y" * 200,
        "?",
        "*",
    ),
)


# As in revision 0009.
LIKE = r"translate(replace(replace(replace(%s::text, '\', '\\'), '%%', '\%%'), '_', '\_'), '*?', '%%_')"


def like(server: Server, pattern: str | None, names: Sequence[str]) -> list[bool]:
    return server.value(
        f'array_agg(coalesce(name ~~ ({LIKE} COLLATE "C"), true) ORDER BY place) '
        "FROM unnest(%s::text[]) WITH ORDINALITY AS each (name, place)",
        *(pattern, list(names)),
    )


@pytest.mark.parametrize("pattern", [None, *PATTERNS])
def test_names_match_everywhere_or_nowhere(lite: Lite, server: Server, pattern: str | None) -> None:
    expected = [name_matches(pattern, name) for name in NAMES]
    assert [bool(lite.value(NAME, pattern=pattern, name=name)) for name in NAMES] == expected
    assert like(server, pattern, NAMES) == expected


names = st.text(st.sampled_from("ab*?[]%_\\^-é\n"), max_size=6)


@LAW
@given(names, st.lists(names, min_size=1, max_size=20))
def test_any_names_do(lite: Lite, server: Server, pattern: str, names: list[str]) -> None:
    expected = [name_matches(pattern, name) for name in names]
    assert [bool(lite.value(NAME, pattern=pattern, name=name)) for name in names] == expected
    assert like(server, pattern, names) == expected


def test_no_pattern_takes_long(lite: Lite, server: Server) -> None:
    pattern, name = "a*" * 120 + "b", "a" * 255
    assert not name_matches(pattern, name)
    assert not lite.value(NAME, pattern=pattern, name=name)
    assert like(server, pattern, [name]) == [False]


# Identities

SAYS: Final = "action_ledger_identity_matches(%s, %s, %s)"


def concerned(
    lite: Lite, server: Server, rule_key: str | None, identity: str | None, key: str | None
) -> bool:
    found = lite.value(IDENTITY, rule_key=rule_key, identity=identity, identity_key=key)
    assert bool(found) == server.value(SAYS, rule_key, identity, key)
    return bool(found)


@pytest.mark.parametrize(
    ("rule_key", "identity", "with_key", "by_raw_sql"),
    [
        ("billing", "billing", True, True),
        ("billing", "Billing", True, True),
        ("billing", "other", False, False),
        ("billing", "bill ing", False, True),
        ("billing", "other one", False, True),
        ("billing", "billing\u200b", True, True),
        ("billing", "\uff42\uff49lling", True, True),
        ("billing", "büro", False, True),
        ("strasse", "Straße", True, True),
        ("billing", "\u200b", True, True),
        ("billing", "", True, True),
        ("billing", None, True, True),
        (None, "anybody", True, True),
        (None, None, True, True),
        ("", "anybody", True, True),
    ],
)
def test_raw_sql_is_concerned_at_least_as_often(
    lite: Lite,
    server: Server,
    rule_key: str | None,
    identity: str | None,
    with_key: bool,
    by_raw_sql: bool,
) -> None:
    key = None if identity is None else normalised(identity)
    assert concerned(lite, server, rule_key, identity, key) is with_key
    assert concerned(lite, server, rule_key, identity, None) is by_raw_sql
    # A false key takes nothing away from a text that the database can compare itself.
    if identity is not None and identity.isascii() and " " not in identity:
        assert concerned(lite, server, rule_key, identity, "another") is by_raw_sql


sayable_texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6
)


@LAW
@given(sayable_texts, sayable_texts, st.booleans())
def test_whoever_is_the_same_is_concerned(
    lite: Lite, server: Server, name: str, identity: str, the_same: bool
) -> None:
    rule_key = normalised(identity.swapcase() if the_same else name) or None
    key = normalised(identity)
    expected = rule_key is None or not key or rule_key == key
    assert concerned(lite, server, rule_key, identity, key) is expected
    assert concerned(lite, server, rule_key, identity, None) >= expected


def test_every_printable_character_is_compared(lite: Lite, server: Server) -> None:
    for each in itertools.chain(map(chr, range(33, 127)), ("Ab-c_D.9@x",)):
        assert normalised(each) == each.lower()
        assert concerned(lite, server, normalised(each), each, None)
        assert not concerned(lite, server, "something else", each, None)
