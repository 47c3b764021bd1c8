"""What a gate stores of results and errors."""

import logging
from typing import Any, Final, cast

from operator_core.actions.results import describe, keep, storable

__all__ = ["kept", "stored", "text_of"]

logger = logging.getLogger(__name__)

_RESULT: Final = "result"
_Object = dict[str, Any]


def stored(result: object, max_json_bytes: int) -> dict[str, Any] | None:
    """What a gate stores of a result, so that `kept` gives back what the tool returned; never raises."""
    if result is None:
        return None
    found = keep({_RESULT: result}, max_json_bytes)
    if found.problem is not None:
        logger.warning("the result of a tool: %s", found.problem)
    value = (found.result or {}).get(_RESULT)
    # An object with this one key looks like a wrapped value.
    if (
        found.problem is None
        and isinstance(value, dict)
        and list(cast(_Object, value)) != [_RESULT]
    ):
        return cast(_Object, value)
    return found.result


def kept(result: dict[str, Any] | None) -> Any:
    """The result of a tool, of what the ledger has stored."""
    if result is not None and list(result) == [_RESULT]:
        return result[_RESULT]
    return result


def text_of(error: BaseException | str) -> str:
    """An error as text that the ledger can store."""
    return storable(error) if isinstance(error, str) else describe(error)
