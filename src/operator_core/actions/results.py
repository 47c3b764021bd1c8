"""Converts results and exceptions to values that the ledger can store: no result fails a finished action."""

import json
from collections.abc import Mapping, Sized
from typing import Any, Final, NamedTuple, cast

from pydantic import BaseModel

from operator_core.actions.errors import InvalidValue
from operator_core.actions.values import MAX_TEXT, to_json_object

__all__ = ["NOT_KEPT", "Kept", "describe", "keep", "storable"]

NOT_KEPT: Final = "result_not_kept"
"""The key of the note that replaces a result."""


class Kept(NamedTuple):
    """A result as a JSON object, or None; `problem` says why it was replaced by a note."""

    result: dict[str, Any] | None
    problem: str | None = None


def keep(result: object, max_json_bytes: int) -> Kept:
    """Converts `result` to the value that the ledger stores; never raises.

    A JSON object, a mapping or a Pydantic model is stored unchanged. Any other JSON value is stored as
    ``{"result": ...}``; a tuple counts as a list. If JSON or the ledger can't hold the result, a note with its type,
    size and problem replaces it: ``{"result_not_kept": {"type": ..., "size": ..., "why": ...}}``.
    """
    if result is None:
        return Kept(None)
    try:
        kept = _as_object(result)
        size = len(json.dumps(kept, ensure_ascii=False, separators=(",", ":")).encode())
        if size <= max_json_bytes:
            return Kept(kept)
        problem = f"must not be larger than {max_json_bytes} bytes as JSON"
    except InvalidValue as error:
        size, problem = _size(result), str(error)
    except Exception as error:
        # A mapping or model that the handler defines may raise anything.
        size, problem = _size(result), f"can't be read: {type(error).__name__}"
    kind = type(result)
    note: dict[str, Any] = {"type": f"{kind.__module__}.{kind.__qualname__}"[:255], "why": problem}
    if size is not None:
        note["size"] = size
    return Kept({NOT_KEPT: note}, problem)


def _as_object(result: object) -> dict[str, Any]:
    plain = _plain(result)
    return to_json_object(plain if isinstance(plain, dict) else {"result": plain})


def _plain(value: object) -> object:
    """Converts `value` to the types of JSON at every level: models, mappings, tuples, enums of text and numbers."""
    if isinstance(value, BaseModel):
        return to_json_object(value)
    if isinstance(value, Mapping):
        items = cast(Mapping[object, object], value).items()
        return {_plain(key): _plain(item) for key, item in items}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast(list[object] | tuple[object, ...], value)]
    # The value itself: a subclass may override the conversions.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int.__int__(value)
    return float.__float__(value) if isinstance(value, float) else value


def _size(result: object) -> int | None:
    try:
        return len(result) if isinstance(result, Sized) else None
    except Exception:
        return None


def describe(error: BaseException) -> str:
    """Converts an exception to an error message that the ledger can store; never raises."""
    name = type(error).__name__
    try:
        message = str(error)
    except Exception:
        message = "its text can't be read"
    return storable(f"{name}: {message}" if message else name)


def storable(text: str, most: int = MAX_TEXT) -> str:
    """Converts text to text of at most `most` characters that the ledger can store; never raises."""
    kept = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
    return kept[:most]
