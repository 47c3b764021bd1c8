"""Names of actors: when two names are the same, and which are reserved.

A reserved name denotes the ledger itself in its history, and no caller may use it.
"""

import re
import unicodedata
from functools import lru_cache
from typing import Final

__all__ = ["LEDGER", "MIGRATION", "RAW_SQL", "is_reserved", "normalised"]

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


def normalised(identity: str) -> str:
    """Returns the identity as people see it: NFKC, case folded, without invisible characters or redundant whitespace.

    Two identities with the same result are one identity. The result of a result is the same again.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", identity).casefold())
    seen = "".join(
        " " if each.isspace() else each
        for each in _INVISIBLE.sub("", folded)
        if each.isspace() or unicodedata.category(each) not in ("Cc", "Cf")
    )
    found = " ".join(seen.split())
    # A letter and an accent with an invisible character between them become one character in the next pass.
    return found if found == identity else normalised(found)


_RESERVED: Final = frozenset(normalised(name) for name in (LEDGER, MIGRATION, RAW_SQL))


@lru_cache(1024)
def is_reserved(name: str) -> bool:
    """Whether `name` is, or looks like, a reserved name."""
    return normalised(name) in _RESERVED
