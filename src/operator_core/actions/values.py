"""The types and limits of values in the ledger, the same on every backend: JSON, text, times and ids."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, NoReturn, TypeAlias, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    Secret,
    SecretBytes,
    SecretStr,
    StringConstraints,
)
from pydantic_core import from_json, to_json

from operator_core.actions.errors import InvalidValue

__all__ = [
    "MAX_DELAY",
    "MAX_DEPENDENCIES",
    "MAX_ID",
    "MAX_JSON_BYTES",
    "MAX_JSON_DEPTH",
    "MAX_NAME",
    "MAX_REASON",
    "MAX_RETRIES",
    "MAX_TEXT",
    "Dependencies",
    "Digest",
    "Identifier",
    "JsonObject",
    "LongText",
    "Name",
    "Priority",
    "Reason",
    "Retries",
    "Seconds",
    "Traceparent",
    "UtcDatetime",
    "Version",
    "format_path",
    "join_paths",
    "to_json_object",
    "to_utc",
]

MAX_JSON_DEPTH: Final = 64
"""Limit of the nesting of objects and lists; the outermost counts as one."""

MAX_JSON_BYTES: Final = 1 << 20
"""Default limit of an encoded JSON object, in bytes of UTF-8 (1 MiB)."""

MAX_NAME: Final = 255
"""Limit of a name or an actor, in characters."""

MAX_REASON: Final = 1 << 16
"""Limit of a reason, in characters."""

MAX_TEXT: Final = 1 << 20
"""Limit of an error message, in characters."""

MAX_ID: Final = (1 << 63) - 1
"""The largest id: the limit of a signed 64-bit column."""

MAX_DEPENDENCIES: Final = 1000
"""Limit of a proposal's dependencies."""

MAX_RETRIES: Final = 1000
"""Limit of `max_retries`."""

MAX_DELAY: Final = 604_800
"""Limit of a retry's delay and of a lease, in seconds (seven days)."""

# Python limits the decimal digits of an int (sys.set_int_max_str_digits, 4300 by default). Another process
# might not be able to read a longer one.
_MAX_INT_BITS: Final = 14_000

_Trail: TypeAlias = "tuple[_Trail, str | int] | None"
"""The position in a JSON value, as a linked list: a path is built only if there is a problem."""


def format_path(keys: tuple[str | int, ...]) -> str:
    """Formats a path, for example ``parameters.stores[2]["odd key"]``."""
    text = ""
    for key in keys:
        if isinstance(key, int):
            text += f"[{key}]"
        elif key.isidentifier() and key.isascii():
            text += f".{key}" if text else key
        else:
            text += f"[{key!a}]"
    return text


def join_paths(path: str, inner: str) -> str:
    """Returns the full path of `inner`, a path inside the value at `path`."""
    separator = "." if path and inner and not inner.startswith("[") else ""
    return path + separator + inner


def _refuse(trail: _Trail, problem: str) -> NoReturn:
    keys: list[str | int] = []
    while trail is not None:
        trail, key = trail
        keys.append(key)
    raise InvalidValue(format_path(tuple(reversed(keys))), problem)


def _check_text(text: str, trail: _Trail) -> None:
    if "\0" in text:
        _refuse(trail, "must not contain a NUL character")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            _refuse(trail, "must not contain a lone surrogate")


# The base classes' own methods: a subclass may have others.
_items: Final[Callable[[object], Iterable[object]]] = cast(Any, list).__iter__
_pairs: Final[Callable[[object], Iterable[tuple[object, object]]]] = cast(Any, dict).items


def _copy(value: object, trail: _Trail, depth: int) -> object:
    """Copies `value`, so that later changes by the caller don't affect the proposal.

    A value of a subclass, such as a member of a `StrEnum` or a `defaultdict`, is copied as its plain value.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        _check_text(value, trail)
        return str.__str__(value)
    if isinstance(value, int):
        if value.bit_length() > _MAX_INT_BITS:
            _refuse(trail, f"must not need more than {_MAX_INT_BITS} bits")
        return int.__int__(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            _refuse(trail, "must be a finite number")
        return float.__float__(value)
    if not isinstance(value, dict | list):
        _refuse(trail, f"must be a JSON value, not {type(value).__name__}")
    if depth >= MAX_JSON_DEPTH:
        _refuse(trail, f"must not be nested deeper than {MAX_JSON_DEPTH}")
    if isinstance(value, list):
        items = enumerate(_items(cast(object, value)))
        return [_copy(item, (trail, index), depth + 1) for index, item in items]
    copied: dict[str, object] = {}
    for key, item in _pairs(cast(object, value)):
        if not isinstance(key, str):
            _refuse(trail, f"must have string keys only, not {type(key).__name__}")
        _check_text(key, (trail, key))
        copied[str.__str__(key)] = _copy(item, (trail, key), depth + 1)
    return copied


# An integer of more digits may need more than _MAX_INT_BITS.
_many_digits = re.compile(rb"\d{4000}").search


def _copy_by_text(value: object) -> object:
    """Copies `value` by way of its JSON text; returns None if that may not be an exact copy of a valid value.

    For the usual value this takes a third of the time of `_copy`.
    """
    try:
        text = to_json(value)
        copied = from_json(text, allow_inf_nan=False, cache_strings="keys")
        # The text has the other types' representations, such as a date's, which are not equal to them.
        if copied != value:
            return None
    except Exception:
        # The slower copy finds the problem and its path.
        return None
    deep = text.count(b"{") + text.count(b"[") > MAX_JSON_DEPTH
    huge = len(text) >= 4000 and _many_digits(text)
    return None if deep or huge or b"\\u0000" in text else copied


def _refuse_masked(value: object, dumped: Any, trail: _Trail) -> None:
    """Refuses every secret in `value` that appears in `dumped` as its mask."""
    if isinstance(value, SecretStr | SecretBytes | Secret):
        secret = cast(object, value.get_secret_value())
        if isinstance(secret, bytes):
            secret = secret.decode(errors="replace")
        if dumped != secret:
            _refuse(trail, "must not be a secret: only its mask would be stored")
    elif isinstance(value, Mapping) and isinstance(dumped, Mapping):
        # Both have the same order; only the types of the keys may differ.
        values = cast("Mapping[Any, Any]", value)
        pairs = zip(values.values(), cast("Mapping[Any, Any]", dumped).items(), strict=False)
        for item, (key, text) in pairs:
            _refuse_masked(item, text, (trail, str(key)))
    elif isinstance(value, list | tuple | set | frozenset) and isinstance(dumped, list):
        pairs = zip(cast("Iterable[object]", value), cast("list[Any]", dumped), strict=False)
        for index, (item, text) in enumerate(pairs):
            _refuse_masked(item, text, (trail, index))


def to_json_object(value: Any) -> dict[str, Any]:
    """Returns a deep copy of `value`, a JSON object or a Pydantic model, as a dict.

    The copy has plain types only: a member of a `StrEnum` becomes its text, a `defaultdict` a dict.
    Raises `InvalidValue` with the path of a value that JSON or a database's text can't hold: other types, keys that
    are not strings, numbers that are not finite, NUL, lone surrogates, more than `MAX_JSON_DEPTH` levels. It also
    refuses a Pydantic secret, because asterisks would replace it.
    """
    if isinstance(value, BaseModel):
        dumped = value.model_dump(mode="json", by_alias=True)
        _refuse_masked(value.model_dump(by_alias=True), dumped, None)
        value = dumped
    if not isinstance(value, dict):
        raise InvalidValue("", f"must be a JSON object, not {type(value).__name__}")
    copied = _copy_by_text(cast(object, value))
    if copied is None:
        copied = _copy(cast(object, value), None, 0)
    return cast("dict[str, Any]", copied)


def to_utc(value: datetime) -> datetime:
    """Converts `value` to UTC; a naive time is local time, as elsewhere in Python, and its `fold` counts.

    Raises `InvalidValue` outside the years 1970 to 9998, so that the time fits into the databases in every time
    zone.
    """
    try:
        utc = value if value.tzinfo is UTC else value.astimezone(UTC)
    except (OverflowError, OSError, ValueError):
        utc = None
    if utc is None or not 1970 <= utc.year <= 9998:
        raise InvalidValue("", "must be a time in the years 1970 to 9998")
    return utc


def _once(ids: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(ids)) != len(ids):
        raise InvalidValue("", "must name each proposal once")
    return ids


# Pydantic itself refuses lone surrogates. The pattern contains the other rules, in a form that readers of
# JSON Schema also understand.
_NOT_BLANK: Final = r"^[^\u0000]*[^\s\u0000][^\u0000]*$"
_NO_NUL: Final = r"^[^\u0000]*$"


def _text(limit: int, pattern: str) -> StringConstraints:
    return StringConstraints(strict=True, max_length=limit, pattern=pattern)


# W3C Trace Context, 3.2: version, trace-id, parent-id and flags. The version ff is invalid, and so are ids of zeros.
_is_traceparent = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
).fullmatch


def _check_traceparent(text: str) -> str:
    if _is_traceparent(text) is None:
        raise InvalidValue("", "must be a traceparent of W3C Trace Context")
    return text


JsonObject: TypeAlias = Annotated[dict[str, Any], BeforeValidator(to_json_object)]
UtcDatetime: TypeAlias = Annotated[datetime, AfterValidator(to_utc)]
Identifier: TypeAlias = Annotated[int, Field(strict=True, ge=1, le=MAX_ID)]
Name: TypeAlias = Annotated[str, _text(MAX_NAME, _NOT_BLANK)]
Reason: TypeAlias = Annotated[str, _text(MAX_REASON, _NOT_BLANK)]
LongText: TypeAlias = Annotated[str, _text(MAX_TEXT, _NO_NUL)]
Traceparent: TypeAlias = Annotated[str, AfterValidator(_check_traceparent)]
Digest: TypeAlias = Annotated[str, Field(strict=True, pattern="^oc1:[0-9a-f]{64}$")]
Priority: TypeAlias = Annotated[int, Field(strict=True, ge=-32768, le=32767)]
Retries: TypeAlias = Annotated[int, Field(strict=True, ge=0, le=MAX_RETRIES)]
Seconds: TypeAlias = Annotated[float, Field(strict=True, ge=0, le=MAX_DELAY, allow_inf_nan=False)]
Dependencies: TypeAlias = Annotated[
    tuple[Identifier, ...], Field(max_length=MAX_DEPENDENCIES), AfterValidator(_once)
]
Version: TypeAlias = Annotated[int, Field(strict=True, ge=1, le=MAX_ID)]
