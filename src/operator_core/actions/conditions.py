"""Conditions on the parameters of a proposal, with the same answers in Python, SQLite and PostgreSQL.

The databases evaluate the conditions when a proposal is written; the SQL files of the revision that creates the rules
contain their half of this module. Whatever the three might read in different ways can't be evaluated, and a condition that
can't be evaluated matches:

- parameters that are not a JSON object by RFC 8259, or that contain an escape of NUL or of a surrogate anywhere
- parameters of 5000 characters or more with 50 digits in a row
- a path that leads nowhere, or through an object that has the key twice; but ``exists`` is false where nothing is
- a value of another JSON type than the condition's, an object or a list
- an integer outside 64 bits, a number of 1e308 or more; a fraction nearer to zero than 1e-300 is zero
- a number beside a fraction (a number with ``.``, ``e`` or ``E``), if the two differ by less than 1e-13 of their size but
  are not equal, because databases round differently

Two integers are compared exactly, and an integer with a fraction as floats. Texts are compared by code points.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Self, TypeAlias, cast

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import to_json

from operator_core.actions.errors import InvalidValue
from operator_core.actions.model import Model

__all__ = [
    "MAX_OPERAND",
    "MAX_OPERANDS",
    "MAX_PATH",
    "Condition",
    "Operator",
    "ParameterPath",
    "condition_matches",
    "read_parameters",
]

MAX_PATH: Final = 16
"""Limit of the keys and indices of a condition's path."""

MAX_OPERANDS: Final = 100
"""Limit of the values of a condition with ``in``."""

MAX_OPERAND: Final = 1000
"""Limit of a key or a text in a condition, in characters."""

_MAX_INDEX: Final = (1 << 31) - 1
_MAX_INTEGER: Final = (1 << 63) - 1
_LARGEST: Final = 1e308
_SMALLEST: Final = 1e-300

Operator: TypeAlias = Literal["eq", "ne", "in", "lt", "le", "gt", "ge", "exists", "prefix"]
Scalar: TypeAlias = str | int | float | bool | None


def _to_text(value: str, at: str) -> str:
    if len(value) > MAX_OPERAND:
        raise InvalidValue(at, f"must not have more than {MAX_OPERAND} characters")
    if "\0" in value:
        raise InvalidValue(at, "must not contain a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidValue(at, "must not contain a lone surrogate") from None
    return str.__str__(value)


def _to_step(value: object, at: str) -> str | int:
    if isinstance(value, str):
        return _to_text(value, at)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidValue(at, "must be a key or an index")
    if not 0 <= value <= _MAX_INDEX:
        raise InvalidValue(at, f"must be an index from 0 to {_MAX_INDEX}")
    return int.__int__(value)


def _to_path(value: object) -> tuple[str | int, ...]:
    if not isinstance(value, list | tuple):
        raise InvalidValue("", "must be a list of keys and indices")
    steps = cast("Sequence[object]", value)
    if not 1 <= len(steps) <= MAX_PATH:
        raise InvalidValue("", f"must have from 1 to {MAX_PATH} keys and indices")
    return tuple(_to_step(step, f"[{index}]") for index, step in enumerate(steps))


def _to_scalar(value: object, at: str) -> Scalar:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _to_text(value, at)
    if isinstance(value, int):
        if not -_MAX_INTEGER - 1 <= value <= _MAX_INTEGER:
            raise InvalidValue(at, "must be an integer of 64 bits")
        return int.__int__(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidValue(at, "must be a finite number")
        if value and not _SMALLEST <= abs(value) < _LARGEST:
            raise InvalidValue(at, f"must be 0, or from {_SMALLEST} to {_LARGEST} in size")
        return float.__float__(value)
    raise InvalidValue(at, "must be text, a number, true, false or null")


def _to_operand(value: object) -> Scalar | tuple[Scalar, ...]:
    if not isinstance(value, list | tuple):
        return _to_scalar(value, "")
    items = cast("Sequence[object]", value)
    if not 1 <= len(items) <= MAX_OPERANDS:
        raise InvalidValue("", f"must have from 1 to {MAX_OPERANDS} values")
    return tuple(_to_scalar(item, f"[{index}]") for index, item in enumerate(items))


ParameterPath: TypeAlias = Annotated[tuple[str | int, ...], BeforeValidator(_to_path)]
"""Where a value is in the parameters: 1 to 16 keys of objects, and indices of lists from 0."""


class Condition(Model):
    """A condition on one value in the parameters of a proposal."""

    path: ParameterPath = Field(
        description="Where the value is: keys of objects, and indices of lists from 0."
    )
    op: Operator = Field(
        description="The comparison. exists: there is such a value, null included. prefix: a text begins with the other. "
        "in: it equals one of a list. ne, lt, le, gt, ge: not equal, less, at most, more, at least."
    )
    value: Annotated[Scalar | tuple[Scalar, ...], BeforeValidator(_to_operand)] = Field(
        default=None,
        description="What the value is compared with: for in a list, for prefix a text, for lt, le, gt and ge "
        "a number or a text; exists has none.",
    )

    @model_validator(mode="after")
    def _check_value(self) -> Self:
        problem = _problem(self.op, self.value, "value" in self.model_fields_set)
        if problem:
            raise InvalidValue("value", problem)
        return self

    def as_json(self) -> dict[str, Any]:
        """Returns the condition as the databases read it."""
        found: dict[str, Any] = {"path": self.path, "op": self.op, "value": self.value}
        if self.op == "exists":
            del found["value"]
        return found


def _problem(op: Operator, value: object, is_set: bool) -> str | None:
    if op == "exists":
        return None if value is None else "must not be given for exists"
    if not is_set:
        return "is missing"
    if op == "in":
        return None if isinstance(value, tuple) else "must be a list for in"
    if isinstance(value, tuple):
        return f"must not be a list for {op}"
    if op == "prefix":
        return None if isinstance(value, str) else "must be text for prefix"
    if op not in ("eq", "ne") and (value is None or isinstance(value, bool)):
        return f"must be a number or text for {op}"
    return None


# The evaluation

_MISSING: Final = object()

_AMBIGUOUS: Final = object()
"""Stands for the values of a key that an object has more than once."""

_BEYOND: Final = object()
"""Stands for a number that not every database can hold."""

_SIGNS: Final[dict[str, str]] = {
    "eq": "=",
    "in": "=",
    "ne": "<>",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
}

_unsafe_escape = re.compile(r"\\u(?:0000|[dD][89a-fA-F])").search
_many_digits = re.compile(r"[0-9]{50}").search


def _integer(text: str) -> object:
    # Longer texts are beyond, and int() refuses some.
    number = int(text) if len(text) <= 20 else _MAX_INTEGER + 1
    return number if -_MAX_INTEGER - 1 <= number <= _MAX_INTEGER else _BEYOND


def _fraction(text: str) -> object:
    number = float(text)
    if abs(number) >= _LARGEST:
        return _BEYOND
    return number if abs(number) >= _SMALLEST else 0.0


def _refuse(constant: str) -> object:
    raise ValueError(constant)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                found[key] = _AMBIGUOUS
            seen.add(key)
    return found


def read_parameters(parameters: object) -> dict[str, object] | None:
    """Reads parameters once for several conditions; None if none can be evaluated.

    A text is the JSON of the parameters, as it is stored; anything else is encoded as the ledger would store it.
    """
    try:
        text = parameters if isinstance(parameters, str) else to_json(parameters).decode()
        text.encode()
        if _unsafe_escape(text) or (len(text) >= 5000 and _many_digits(text)):
            return None
        found: object = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_fraction,
            parse_constant=_refuse,
        )
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, object]", found) if isinstance(found, dict) else None


def condition_matches(condition: Condition, parameters: object) -> bool:
    """Whether a condition matches parameters: their JSON text, a JSON object or a Pydantic model."""
    document = read_parameters(parameters)
    return document is None or matches(condition, document)


def matches(condition: Condition, document: Mapping[str, object]) -> bool:
    """Whether a condition matches what `read_parameters` has returned."""
    found: object = document
    for step in condition.path:
        found = _member(found, step)
        if found is _MISSING:
            return condition.op != "exists"
        if found is _AMBIGUOUS:
            return True
    if condition.op == "exists":
        return True
    operands = condition.value if isinstance(condition.value, tuple) else (condition.value,)
    compare = _begins if condition.op == "prefix" else _compare
    answers = [compare(found, operand, condition.op) for operand in operands]
    # Values of other types in a list say nothing, unless all are.
    return True in answers or False not in answers


def _member(container: object, step: str | int) -> object:
    if isinstance(container, dict) and isinstance(step, str):
        return cast("dict[str, object]", container).get(step, _MISSING)
    if isinstance(container, list) and isinstance(step, int):
        items = cast("list[object]", container)
        return items[step] if step < len(items) else _MISSING
    return _MISSING


def _begins(found: object, operand: Scalar, op: Operator) -> bool | None:
    if isinstance(found, str) and isinstance(operand, str):
        return found.startswith(operand)
    return None


def _compare(found: object, operand: Scalar, op: Operator) -> bool | None:
    """Compares two values; None if they can't be compared."""
    sign = _sign(found, operand)
    return None if sign is None else sign in _SIGNS[op]


def _sign(found: object, operand: Scalar) -> str | None:
    """Returns ``<``, ``=`` or ``>``; None for other types; and the empty text, which is in any, for what is too near."""
    if found is None or isinstance(found, bool):
        if (found is None) is not (operand is None) or not isinstance(operand, bool | None):
            return None
        return "=" if found is operand else "<>"
    if isinstance(found, str):
        return _order(found, operand) if isinstance(operand, str) else None
    if not isinstance(found, int | float) or not _is_number(operand):
        return None
    number = cast("int | float", operand)
    if isinstance(found, int) and isinstance(number, int):
        return _order(found, number)
    x, y = float(found), float(number)
    # By halves, whose difference can't overflow.
    if x != y and abs(x * 0.5 - y * 0.5) <= 5e-14 * max(abs(x), abs(y)):
        return ""
    return _order(x, y)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _order(found: Any, operand: Any) -> str:
    return "=" if found == operand else "<" if found < operand else ">"
