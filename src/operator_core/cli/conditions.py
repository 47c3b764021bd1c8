"""Conditions on parameters, as they are written on the command line."""

import json
import re
from typing import Any, Final

import typer

from operator_core.actions.errors import InvalidValue
from operator_core.actions.types import Condition

__all__ = ["to_condition"]

_FORM: Final = re.compile(r"(\S+)\s+([a-z]+)(?:\s+(\S.*))?", re.DOTALL)
_STEP: Final = re.compile(r"\[(\d{1,10})\]|(?:(?<!^)\.|^)([^.\[\]]+)")


def to_condition(text: str) -> Condition:
    """Parses a condition: a path, an operator and a value, such as ``disk.sizes[0] gt 100``; or its JSON object.

    A value that is not JSON is text. A path with other keys than ``a.b`` and indices needs the JSON object.
    """
    try:
        if text.lstrip().startswith("{"):
            return Condition.model_validate_json(text)
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise InvalidValue("", "must be a path, an operator and a value, or a JSON object")
        fields: dict[str, Any] = {"path": _path(match[1]), "op": match[2]}
        if match[3] is not None:
            fields["value"] = _value(match[3])
        return Condition.model_validate(fields)
    except InvalidValue as error:
        raise typer.BadParameter(str(error)) from None


def _path(text: str) -> list[str | int]:
    steps: list[str | int] = []
    at = 0
    while at < len(text):
        step = _STEP.match(text, at)
        if step is None:
            raise InvalidValue("path", "must be keys and indices, such as disk.sizes[0]")
        steps.append(step[2] if step[1] is None else int(step[1]))
        at = step.end()
    return steps


def _refuse(constant: str) -> object:
    raise ValueError(constant)


def _value(text: str) -> object:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text
