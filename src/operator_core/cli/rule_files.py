"""Files of rules, and the difference between such a file and the rules of a ledger."""

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from pydantic_core import to_json

from operator_core.actions.actors import normalised
from operator_core.actions.errors import InvalidValue
from operator_core.actions.rules import Rule
from operator_core.actions.types import StoredRule

__all__ = ["Changes", "changed_fields", "changes", "read_rules"]

_SETS: Final = ("roles", "approvers")


class Changes(NamedTuple):
    """What makes the rules of a ledger those of a file."""

    add: tuple[Rule, ...]
    revoke: tuple[StoredRule, ...]
    """A rule that is changed is revoked, and another one of the same name is added."""
    same: tuple[StoredRule, ...]
    over: tuple[Rule, ...]
    """Rules of the file whose time is over: they are not added."""


def read_rules(path: Path) -> list[Rule]:
    """Reads the rules of a JSON or TOML file: a list ``rules`` of objects with the fields of `Rule`.

    Raises `InvalidValue` with the path of the problem in the file, and `OSError`.
    """
    content = path.read_bytes()
    read = _toml if path.suffix.lower() == ".toml" else _json
    try:
        document: object = read(content.decode())
    except UnicodeDecodeError:
        raise InvalidValue("", "is not UTF-8") from None
    if not isinstance(document, dict):
        raise InvalidValue("", "must be an object with a list named rules")
    fields = cast("dict[str, Any]", document)
    listed: object = fields.get("rules")
    if set(fields) != {"rules"} or not isinstance(listed, list):
        raise InvalidValue("", "must have a list named rules, and nothing else")
    rules = [_rule(each, f"rules[{at}]") for at, each in enumerate(cast("list[object]", listed))]
    seen: set[str] = set()
    for at, rule in enumerate(rules):
        if (name := normalised(rule.name)) in seen:
            raise InvalidValue(f"rules[{at}].name", "is the name of an earlier rule too")
        seen.add(name)
    return rules


def _toml(text: str) -> object:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidValue("", f"is not TOML: {error}") from None


def _json(text: str) -> object:
    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise InvalidValue("", "has an object that has a key twice")
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        problem = f"is not JSON: {error.msg} at line {error.lineno} column {error.colno}"
        raise InvalidValue("", problem) from None
    except RecursionError:
        raise InvalidValue("", "is nested too deep") from None


def _rule(value: object, at: str) -> Rule:
    if not isinstance(value, Mapping):
        raise InvalidValue(at, "must be an object with the fields of a rule")
    try:
        return Rule.model_validate(dict(cast("Mapping[str, Any]", value)))
    except InvalidValue as error:
        where = f"{at}.{error.path}" if error.path else at
        raise InvalidValue(where, error.problem) from None


def changes(wanted: Sequence[Rule], active: Iterable[StoredRule], now: datetime) -> Changes:
    """Returns what makes the active rules the wanted ones.

    Two rules are the same if their content is: identities as they are compared, and roles, approvers and conditions
    in any order. Of several active ones that are the same, the oldest stays.
    """
    over = [rule for rule in wanted if rule.valid_until is not None and rule.valid_until <= now]
    missing = {_content(rule): rule for rule in wanted if rule not in over}
    same: list[StoredRule] = []
    revoke: list[StoredRule] = []
    for rule in active:
        (same if missing.pop(_content(rule), None) else revoke).append(rule)
    return Changes(tuple(missing.values()), tuple(revoke), tuple(same), tuple(over))


def changed_fields(old: Rule, new: Rule) -> Iterator[str]:
    """Yields the names of the fields in which two rules differ."""
    before, after = _fields(old), _fields(new)
    return (name for name in before if to_json(before[name]) != to_json(after[name]))


def _content(rule: Rule) -> bytes:
    return to_json(_fields(rule))


def _fields(rule: Rule) -> dict[str, Any]:
    found = {name: getattr(rule, name) for name in Rule.model_fields}
    if rule.agent_id is not None:
        found["agent_id"] = normalised(rule.agent_id)
    for name in _SETS:
        if found[name] is not None:
            found[name] = sorted(normalised(each) for each in found[name])
    found["conditions"] = sorted(to_json(each.as_json()).decode() for each in rule.conditions)
    return found
