"""What an action gave back, as the ledger can keep it: an action that was done never fails for its result."""

import json
from collections.abc import Mapping, Sized
from typing import Any, Final, NamedTuple, cast

from pydantic import BaseModel

from operator_core.actions.errors import InvalidValue
from operator_core.actions.values import MAX_TEXT, to_json_object

__all__ = ["NOT_KEPT", "Kept", "describe", "keep"]

NOT_KEPT: Final = "result_not_kept"
"""The key under which the note stands that replaces a result."""


class Kept(NamedTuple):
    """A result as a JSON object, or None; `problem` says why it is a note about another one."""

    result: dict[str, Any] | None
    problem: str | None = None


def keep(result: object, max_json_bytes: int) -> Kept:
    """`result` as the ledger keeps it; never raises.

    A JSON object, a mapping or a Pydantic model is kept as it is, any other JSON value (a tuple counts as a
    list) as ``{"result": ...}``. What JSON or the ledger can't hold is replaced by a note of its type, its size and
    what is wrong with it: ``{"result_not_kept": {"type": ..., "size": ..., "why": ...}}``.
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
        # A mapping or a model of the handler's own may raise anything.
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
    """`value` as JSON's own types, also inside one another: models, mappings, tuples, enums of text and numbers."""
    if isinstance(value, BaseModel):
        return to_json_object(value)
    if isinstance(value, Mapping):
        items = cast(Mapping[object, object], value).items()
        return {_plain(key): _plain(item) for key, item in items}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast(list[object] | tuple[object, ...], value)]
    # As it is, whatever a class of somebody's own makes of its text.
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
    """An exception as an error message that the ledger can keep; never raises."""
    name = type(error).__name__
    try:
        said = str(error)
    except Exception:
        said = "its text can't be read"
    text = f"{name}: {said}" if said else name
    kept = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
    return kept[:MAX_TEXT]
