"""Names that stand for the ledger itself, and whatever looks like one."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operator_core.actions.actors import LEDGER, MIGRATION, RAW_SQL, is_reserved

RESERVED = (LEDGER, MIGRATION, RAW_SQL)


@pytest.mark.parametrize("name", RESERVED)
@pytest.mark.parametrize(
    "disguise",
    [
        str,
        str.upper,
        str.title,
        " {}".format,
        "{} ".format,
        "\u3000{}\t\n".format,
        "\u200b".join,
        lambda name: name[0] + "\u00ad" + name[1:],
        lambda name: name + "\ufe0f\U000e0061",
        lambda name: "\u202e" + name + "\u2066",
        lambda name: name.replace(" ", "\u00a0\u2009"),
        lambda name: "".join(chr(ord(each) + 0xFEE0) if each != " " else each for each in name),
        lambda name: "\x1b" + name + "\x85",
        # Each pass uncovers something for the next.
        lambda name: name.replace("a", "\u200b\uff21\ufe0f"),
    ],
)
def test_it_is_known_in_every_disguise(name: str, disguise: "object") -> None:
    assert callable(disguise)
    assert is_reserved(disguise(name))


@pytest.mark.parametrize(
    "name", ["ledgers", "raw", "rawSQL", "sql", "migration-2", "on call", "ledg er", ""]
)
def test_what_merely_resembles_one_is_none(name: str) -> None:
    assert not is_reserved(name)


@given(st.sampled_from(RESERVED), st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]), st.booleans())
def test_the_form_of_the_text_makes_no_difference(name: str, form: str, upper: bool) -> None:
    text = unicodedata.normalize(form, name)  # type: ignore[arg-type]
    assert is_reserved(text.upper() if upper else text)


@given(st.text())
def test_any_text_has_an_answer(text: str) -> None:
    assert is_reserved(text) in (True, False)
