"""The normalised forms of the identities of a proposal, which SQL can't compute."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from pydantic_core import to_json

from operator_core.actions.actors import normalised

__all__ = ["IDENTITIES", "identity_keys", "key_of"]

IDENTITIES: Final = ("requester_id", "agent_id", "proposed_by")
"""The fields that say who asks for an action, who acts and who proposes it."""

# Of these, SQL knows the normalised form: it is the lower case.
_PLAIN: Final = re.compile(r"[!-~]*")


@lru_cache(4096)
def key_of(identity: str) -> str | None:
    """The normalised form of an identity; None for printable ASCII without spaces, where it is the lower case."""
    return None if _PLAIN.fullmatch(identity) else normalised(identity)


def identity_keys(fields: Mapping[str, Any]) -> str | None:
    """The normalised identities of a proposal with these fields as the JSON text that the database stores.

    None if SQL knows them without it.
    """
    found = {
        name: key
        for name in IDENTITIES
        if (value := fields[name]) is not None and (key := key_of(value)) is not None
    }
    return to_json(found).decode() if found else None
