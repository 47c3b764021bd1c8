"""The digest of a proposal: an approval names it and a claim checks it, so that what was approved is what runs.

``docs/digest.md`` defines the hashed bytes, for implementers in other languages.

The digest covers `DIGEST_FIELDS`, the fields that decide what runs, for whom, when and how often:

====================================  =======  ======================================================================
field                                 covered  reason
====================================  =======  ======================================================================
action_name, action_type, parameters  yes      What runs.
ticket_id                             yes      The cause. Consent for one ticket is not consent for another.
requester_id, requester_type          yes      For whom it runs. They also decide who may approve it.
agent_id                              yes      Which agent acts.
run_id, parent_id                     yes      The run and the execution that it belongs to. A halt stops it by them.
scheduled_at, expires_at              yes      When it may start.
max_retries                           yes      How often it may run.
retry_delay, max_retry_delay          yes      How soon it may run again.
depends_on, wait_on_failure           yes      What must be completed first, and the effect of its failure.
exclusive_key                         yes      What must not run at the same time.
priority                              no       It only orders proposals that may all start.
reason, proposed_by, proposed_at      no       The explanation, and who wrote it down when. No worker acts on them.
call_id, traceparent                  no       Links to the same call in other systems.
idempotency_key                       no       It decides whether the proposal is written, not what runs.
workflow_id, supersedes_id            no       Links between proposals. `depends_on` has the order of a workflow.
content_digest                        no       The stored digest itself.
id, created_at                        no       Not known before the row is written. A decision names the id itself.
status and all that changes with it   no       The ledger sets them: times, version, retries, errors, end codes.
====================================  =======  ======================================================================

A change of this list or of the canonical form needs another version than ``oc1``.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from functools import lru_cache
from json.encoder import encode_basestring
from operator import itemgetter
from typing import Any, Final, NoReturn, TypeAlias, cast

from pydantic_core import to_json

from operator_core.actions.errors import InvalidValue
from operator_core.actions.values import MAX_JSON_DEPTH, format_path, join_paths, to_utc

__all__ = ["DIGEST_FIELDS", "canonical_bytes", "proposal_bytes", "proposal_digest"]

_VERSION: Final = "oc1"

# Nothing else that is hashed begins with it, so a digest of something else is never that of a proposal.
_PREFIX: Final = f"operator-core/proposal/{_VERSION}\n"

_Path: TypeAlias = tuple[str | int, ...]


def canonical_bytes(value: object) -> bytes:
    """Returns the canonical form of `value`: dict with str keys, list, str, int, float, bool or None.

    It is the form of RFC 8785 except for numbers, all of which RFC 8785 converts to doubles:

    - An int has all its digits: 2**53 + 1 stays itself.
    - A float that is a whole number below 1e21 ends in ``.0``, so that it differs from the int: ``1.0``, ``-0.0``.

    Only equal values have equal bytes; 1, 1.0 and True are different values here.
    Raises `InvalidValue` with the path of NaN, infinity, a lone surrogate, any other type (also a subclass), more
    than `MAX_JSON_DEPTH` levels, or an int with more digits than Python converts (4300).
    """
    return _canonical(value).encode()


def proposal_bytes(fields: Mapping[str, Any]) -> bytes:
    """Returns the bytes that `proposal_digest` hashes."""
    return _usual_bytes(fields) or _bytes_by_rules(fields)


def _bytes_by_rules(fields: Mapping[str, Any]) -> bytes:
    members: list[str] = []
    for name, key, write in _MEMBERS:
        value = fields.get(name)
        if value is not None:
            members.append(key + write(name, value))
        elif name in _OPTIONAL:
            members.append(key + "null")
        else:
            raise InvalidValue(name, "is missing")
    return f"{_PREFIX}{{{','.join(members)}}}".encode()


def proposal_digest(fields: Mapping[str, Any]) -> str:
    """Returns the digest of the proposal with these `fields`, ``oc1:`` and 64 hexadecimal digits.

    `fields` maps names to values, in the types of `ActionProposal`; names outside `DIGEST_FIELDS` are ignored. A
    missing optional field counts as None. Raises `InvalidValue` for a missing required field or a wrong type.
    """
    return f"{_VERSION}:{hashlib.sha256(proposal_bytes(fields)).hexdigest()}"


def _wrong(name: str, wanted: str, value: object) -> NoReturn:
    raise InvalidValue(name, f"must be {wanted}, not {type(value).__name__}")


def _text(name: str, value: object) -> str:
    if isinstance(value, Enum):
        value = value.value
    if type(value) is not str:
        _wrong(name, "text", value)
    _check_text(value, (name,))
    return _encode(value)


def _integer(name: str, value: object) -> str:
    if type(value) is not int:
        _wrong(name, "an integer", value)
    return _int(value, (name,))


def _flag(name: str, value: object) -> str:
    if type(value) is not bool:
        _wrong(name, "true or false", value)
    return "true" if value else "false"


def _seconds(name: str, value: object) -> str:
    if type(value) is not float and type(value) is not int:
        _wrong(name, "a number", value)
    try:
        # SQLite stores -0.0 as 0.0. Adding zero does the same.
        return _float(value + 0.0, (name,))
    except OverflowError:
        raise InvalidValue(name, "must be a finite number") from None


def _time(name: str, value: object) -> str:
    if not isinstance(value, datetime):
        _wrong(name, "a datetime", value)
    try:
        utc = to_utc(value)
    except InvalidValue as error:
        raise InvalidValue(name, error.problem) from None
    return f'"{utc.isoformat(timespec="microseconds").removesuffix("+00:00")}Z"'


def _ids(name: str, value: object) -> str:
    if type(value) is not tuple and type(value) is not list:
        _wrong(name, "a list of ids", value)
    ids = enumerate(cast("Sequence[int]", value))
    written = [(id_, _integer(f"{name}[{index}]", id_)) for index, id_ in ids]
    # Their order has no effect on what runs.
    return f"[{','.join([text for _, text in sorted(written)])}]"


def _object(name: str, value: object) -> str:
    if type(value) is not dict:
        _wrong(name, "a JSON object", value)
    try:
        return _canonical(cast(object, value))
    except InvalidValue as error:
        raise InvalidValue(join_paths(name, error.path), error.problem) from None


_REQUIRED: Final[Mapping[str, Callable[[str, object], str]]] = {
    "action_name": _text,
    "action_type": _text,
    "parameters": _object,
    "max_retries": _integer,
    "retry_delay": _seconds,
    "max_retry_delay": _seconds,
    "depends_on": _ids,
    "wait_on_failure": _flag,
}
_OPTIONAL: Final[Mapping[str, Callable[[str, object], str]]] = {
    "ticket_id": _integer,
    "requester_id": _text,
    "requester_type": _text,
    "agent_id": _text,
    "run_id": _text,
    "parent_id": _integer,
    "scheduled_at": _time,
    "expires_at": _time,
    "exclusive_key": _text,
}

DIGEST_FIELDS: Final = (*_REQUIRED, *_OPTIONAL)
"""The fields of a proposal that its digest covers; the module's docstring has the reasons."""

_MEMBERS: Final = [
    (name, f'"{name}":', write) for name, write in sorted({**_REQUIRED, **_OPTIONAL}.items())
]


_encode: Final = json.JSONEncoder(ensure_ascii=False).encode

_SCALARS: Final = frozenset({str, int, bool, type(None)})
_TEXT: Final = frozenset({str})


_names: Final = itemgetter("action_name", "agent_id", "requester_id", "run_id")
_kinds: Final = itemgetter("action_type", "requester_type")
_settings: Final = itemgetter("max_retries", "max_retry_delay", "retry_delay", "wait_on_failure")
_unused: Final = itemgetter("depends_on", "expires_at", "parent_id", "scheduled_at", "ticket_id")


def _usual_bytes(fields: Mapping[str, Any]) -> bytes | None:
    """Returns the bytes of a usual proposal, in a third of the time; None for any other.

    A usual one has no ticket, parent, times, dependencies or exclusive key, and nothing that would be refused.
    """
    try:
        if (
            _unused(fields) != ((), None, None, None, None)
            or fields.get("exclusive_key") is not None
        ):
            return None
        name, agent, requester, run = map(_quoted, _names(fields))
        kind, requester_type = map(_of_kind, _kinds(fields))
        before, between, after = _around_parameters(*_settings(fields))
        parameters = fields["parameters"]
        if name == "null" or kind == "null" or type(parameters) is not dict:
            return None
        return (
            f'{_PREFIX}{{"action_name":{name},"action_type":{kind},"agent_id":{agent},{before}'
            f'"parameters":{_canonical(cast(object, parameters))},"parent_id":null,"requester_id":{requester},'
            f'"requester_type":{requester_type},{between},"run_id":{run},{after}}}'
        ).encode()
    except (InvalidValue, KeyError, TypeError, UnicodeEncodeError):
        # `_bytes_by_rules` finds the problem and its path.
        return None


def _quoted(value: object) -> str:
    if value is None:
        return "null"
    if type(value) is not str:
        raise TypeError
    return encode_basestring(value)


@lru_cache(256, typed=True)
def _of_kind(value: object) -> str:
    return "null" if value is None else _text("", value)


@lru_cache(256, typed=True)
def _around_parameters(
    max_retries: object, max_retry_delay: object, retry_delay: object, wait_on_failure: object
) -> tuple[str, str, str]:
    """The members between the others, which few proposals change."""
    retries = _integer("max_retries", max_retries)
    longest = _seconds("max_retry_delay", max_retry_delay)
    return (
        f'"depends_on":[],"exclusive_key":null,"expires_at":null,"max_retries":{retries},"max_retry_delay":{longest},',
        f'"retry_delay":{_seconds("retry_delay", retry_delay)}',
        f'"scheduled_at":null,"ticket_id":null,"wait_on_failure":{_flag("wait_on_failure", wait_on_failure)}',
    )


def _canonical(value: object) -> str:
    return _by_json(value) or _by_rules(value, ())


def _by_json(value: object) -> str | None:
    """Returns the canonical form, written by Pydantic, or None if Pydantic may write another form or nothing.

    For the usual value this takes a sixth of the time of `_by_rules`.
    """
    try:
        text = to_json(_ordered(value, MAX_JSON_DEPTH)).decode()
    except Exception:
        # `_by_rules` finds the problem and its path.
        return None
    return None if len(text) >= _LONG and _maybe_huge(text) else text


# Python converts ints of this many digits whatever its limit is.
_LONG: Final = 640
_maybe_huge: Final = re.compile(rf"\d{{{_LONG}}}").search


def _ordered(value: Any, levels: int) -> Any:
    """Returns `value` with sorted keys; raises ValueError if its canonical form may not be what Pydantic writes."""
    kind: object = type(cast(object, value))
    if kind is dict:
        # For ASCII, the order by code point is that of UTF-16 too.
        if levels == 0 or not (_TEXT.issuperset(map(type, value)) and "".join(value).isascii()):
            raise ValueError
        ordered = {key: value[key] for key in sorted(value)}
        if not _SCALARS.issuperset(map(type, value.values())):
            for key, item in value.items():
                if type(item) not in _SCALARS:
                    ordered[key] = _ordered(item, levels - 1)
        return ordered
    if kind is list:
        if levels == 0:
            raise ValueError
        if _SCALARS.issuperset(map(type, value)):
            return value
        return [_ordered(item, levels - 1) for item in value]
    # Outside these limits, the exponent has another form.
    if kind in _SCALARS or (kind is float and (1e-4 <= abs(value) < 1e16 or value == 0)):
        return value
    raise ValueError


def _by_rules(value: object, path: _Path) -> str:
    """Returns the canonical form by the rules of ``docs/digest.md``, one by one."""
    if value is None:
        return "null"
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) is str:
        return _string(value, path)
    if type(value) is int:
        return _int(value, path)
    if type(value) is float:
        return _float(value, path)
    kind = type(value)
    if kind is not dict and kind is not list:
        _refuse(path, f"must be a JSON value, not {kind.__name__}")
    if len(path) >= MAX_JSON_DEPTH:
        _refuse(path, f"must not be nested deeper than {MAX_JSON_DEPTH}")
    if kind is list:
        items = enumerate(cast("list[object]", value))
        return "[" + ",".join([_by_rules(item, (*path, index)) for index, item in items]) + "]"
    members: list[tuple[bytes, str]] = []
    for key, item in cast("dict[object, object]", value).items():
        if type(key) is not str:
            _refuse(path, f"must have string keys only, not {type(key).__name__}")
        at = (*path, key)
        name = _string(key, at)
        members.append((key.encode("utf-16-be"), f"{name}:{_by_rules(item, at)}"))
    return "{" + ",".join([member for _, member in sorted(members)]) + "}"


def _refuse(path: _Path, problem: str) -> NoReturn:
    raise InvalidValue(format_path(path), problem)


_ESCAPES: Final = {code: f"\\u{code:04x}" for code in range(0x20)} | {
    ord("\b"): "\\b",
    ord("\t"): "\\t",
    ord("\n"): "\\n",
    ord("\f"): "\\f",
    ord("\r"): "\\r",
    ord('"'): '\\"',
    ord("\\"): "\\\\",
}


def _check_text(text: str, path: _Path) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        _refuse(path, "must not contain a lone surrogate")


def _string(text: str, path: _Path) -> str:
    _check_text(text, path)
    return f'"{text.translate(_ESCAPES)}"'


def _int(value: int, path: _Path) -> str:
    try:
        return str(value)
    except ValueError:
        _refuse(path, "must not have more digits than Python converts")


def _float(value: float, path: _Path) -> str:
    if not math.isfinite(value):
        _refuse(path, "must be a finite number")
    # Python and ECMAScript choose the same digits: the fewest that identify the double, nearest to it.
    text = repr(value)
    mantissa, separator, exponent = text.partition("e")
    if not separator:
        return text
    sign = "-" if value < 0 else ""
    digits = mantissa.lstrip("-").replace(".", "")
    # The number of digits before the decimal point.
    point = int(exponent) + 1
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    if 0 < point <= 21:
        # repr uses an exponent from 1e16 on, where every double is a whole number.
        return f"{sign}{digits:0<{point}}.0"
    return f"{mantissa}e{int(exponent):+d}"
