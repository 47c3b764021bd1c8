"""Names that stand for the ledger itself in its history, which nobody else may act under."""

import re
import unicodedata
from typing import Final

__all__ = ["LEDGER", "MIGRATION", "RAW_SQL", "is_reserved"]

LEDGER: Final = "ledger"
"""Who acts where no worker and no person does: what has expired or depends on what failed."""

MIGRATION: Final = "migration"
"""Who wrote the events of rows that were adopted."""

RAW_SQL: Final = "raw SQL"
"""What the history calls writers who don't say who they are."""

# What is in no font, beside the categories of controls and formats: fillers, joiners and variation
# selectors (Unicode Standard Annex 44, Default_Ignorable_Code_Point).
_INVISIBLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)


def _normalised(name: str) -> str:
    """As people see it: NFKC, without case, invisible letters and blanks that tell nothing apart."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    seen = "".join(
        " " if each.isspace() else each
        for each in _INVISIBLE.sub("", folded)
        if each.isspace() or unicodedata.category(each) not in ("Cc", "Cf")
    )
    return " ".join(seen.split())


_RESERVED: Final = frozenset(_normalised(name) for name in (LEDGER, MIGRATION, RAW_SQL))


def is_reserved(name: str) -> bool:
    """Whether `name` is, or looks like, one of the names that stand for the ledger itself."""
    return _normalised(name) in _RESERVED
