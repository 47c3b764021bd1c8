"""Reserved actor names: they denote the ledger itself in its history, and no caller may use them."""

import re
import unicodedata
from functools import lru_cache
from typing import Final

__all__ = ["LEDGER", "MIGRATION", "RAW_SQL", "is_reserved"]

LEDGER: Final = "ledger"
"""The actor of changes by the ledger: expired proposals, and dependents of failed ones."""

MIGRATION: Final = "migration"
"""The actor of the events of adopted rows."""

RAW_SQL: Final = "raw SQL"
"""The actor of changes by SQL that names no actor."""

# Invisible characters outside the categories of controls and formats: fillers, joiners and variation
# selectors (Unicode Standard Annex 44, Default_Ignorable_Code_Point).
_INVISIBLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)


def _normalised(name: str) -> str:
    """The name as people see it: NFKC, case folded, without invisible characters or redundant whitespace."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    seen = "".join(
        " " if each.isspace() else each
        for each in _INVISIBLE.sub("", folded)
        if each.isspace() or unicodedata.category(each) not in ("Cc", "Cf")
    )
    return " ".join(seen.split())


_RESERVED: Final = frozenset(_normalised(name) for name in (LEDGER, MIGRATION, RAW_SQL))


@lru_cache(1024)
def is_reserved(name: str) -> bool:
    """Whether `name` is, or looks like, a reserved name."""
    return _normalised(name) in _RESERVED
