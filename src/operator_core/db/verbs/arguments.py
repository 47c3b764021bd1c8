"""Arguments that are not fields of a model, checked before any SQL runs, by the models' own rules."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final, cast

from pydantic import BaseModel, TypeAdapter, ValidationError

from operator_core.actions.actors import is_reserved
from operator_core.actions.errors import InvalidValue
from operator_core.actions.types import (
    ActionProposal,
    ActionStatus,
    ActionType,
    Claim,
    ProposalRequest,
    to_invalid_value,
)
from operator_core.actions.values import (
    MAX_DELAY,
    MAX_ID,
    LongText,
    Name,
    Reason,
    join_paths,
    to_json_object,
)

__all__ = [
    "check_actor",
    "check_age",
    "check_claim",
    "check_count",
    "check_error",
    "check_flag",
    "check_id",
    "check_iterable",
    "check_json",
    "check_key",
    "check_lease",
    "check_limit",
    "check_many",
    "check_mapping",
    "check_message",
    "check_model",
    "check_name",
    "check_names",
    "check_optional_id",
    "check_position",
    "check_proposal",
    "check_reason",
    "check_seconds",
    "check_size",
    "check_status",
    "check_types",
    "check_version",
]

_NAME: Final[TypeAdapter[str]] = TypeAdapter(Name)
_REASON: Final[TypeAdapter[str]] = TypeAdapter(Reason)
_MESSAGE: Final[TypeAdapter[str]] = TypeAdapter(LongText)

_MAX_SECONDS: Final = 3600
_MAX_AGE: Final = 3650 * 86_400
_SHORTEST_LEASE: Final = 0.001
# Well below what SQLite holds in one value (a thousand million bytes).
_MAX_SIZE: Final = 1 << 28


def check_id(value: object, path: str) -> int:
    """A positive 64-bit integer, and no bool; raises `InvalidValue`."""
    if type(value) is not int or not 1 <= value <= MAX_ID:
        raise InvalidValue(path, f"must be an integer from 1 to {MAX_ID}")
    return value


def check_optional_id(value: object, path: str) -> int | None:
    """None, or as `check_id`."""
    return None if value is None else check_id(value, path)


def check_position(value: object, path: str) -> int | None:
    """None, or an id to go on behind, 0 being before the first; raises `InvalidValue`."""
    if value is not None and (type(value) is not int or not 0 <= value <= MAX_ID):
        raise InvalidValue(path, f"must be None or an integer from 0 to {MAX_ID}")
    return value


def check_limit(value: object) -> int | None:
    """None, or how many rows at the most, 0 or more; raises `InvalidValue`."""
    return check_position(value, "limit")


def check_seconds(value: object, path: str) -> None:
    """A number of seconds from 0 to an hour; raises `InvalidValue`."""
    if type(value) not in (int, float) or not 0 <= cast(float, value) <= _MAX_SECONDS:
        raise InvalidValue(path, f"must be a number of seconds from 0 to {_MAX_SECONDS}")


def check_lease(value: object) -> float:
    """How long a lease is, in seconds; raises `InvalidValue` for what is no timedelta from 1 ms to 7 days."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else -1
    if not _SHORTEST_LEASE <= seconds <= MAX_DELAY:
        raise InvalidValue("lease", "must be a timedelta from a millisecond to seven days")
    return seconds


def check_age(value: object, path: str) -> float | None:
    """None, or an age in seconds; raises `InvalidValue` for what is no timedelta from 0 to 3,650 days."""
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, timedelta) else -1
    if not 0 <= seconds <= _MAX_AGE:
        raise InvalidValue(path, "must be None or a timedelta from 0 to 3,650 days")
    return seconds


def check_names(value: object, path: str) -> tuple[str, ...] | None:
    """None, or names, of which one may stand alone; raises `InvalidValue`."""
    if value is None:
        return None
    names = [value] if isinstance(value, str) else _listed(value, path)
    return tuple(_check(_NAME, name, path) for name in names)


def check_types(value: object, path: str) -> tuple[str, ...] | None:
    """None, or values of action types, of which one may stand alone; raises `InvalidValue`."""
    if value is None:
        return None
    types = [value] if isinstance(value, str) else _listed(value, path)
    try:
        return tuple(ActionType(cast(Any, kind)).value for kind in types)
    except ValueError:
        raise InvalidValue(path, f"must be among {', '.join(ActionType)}") from None


def _listed(value: object, path: str) -> list[object]:
    if not isinstance(value, Iterable):
        raise InvalidValue(path, "must be one or several")
    return list(cast(Iterable[object], value))


def check_iterable(value: object, path: str) -> Iterable[Any]:
    """Several things, whether they are there already or come by and by; raises `InvalidValue`."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise InvalidValue(path, f"must be a collection, not {type(value).__name__}")
    return cast(Iterable[Any], value)


def check_many(value: object, path: str) -> list[Any]:
    """As `check_iterable`, in a list of their own."""
    return list(check_iterable(value, path))


def check_mapping(value: object, path: str) -> dict[Any, Any]:
    """A mapping, in a dictionary of its own; raises `InvalidValue`."""
    if not isinstance(value, Mapping):
        raise InvalidValue(path, f"must be a mapping, not {type(value).__name__}")
    return dict(cast(Mapping[Any, Any], value))


def check_size(value: object, path: str) -> None:
    """A number of bytes that an empty JSON object fits in; raises `InvalidValue`."""
    if type(value) is not int or not len("{}") <= value <= _MAX_SIZE:
        raise InvalidValue(path, f"must be a number of bytes from 2 to {_MAX_SIZE}")


def check_count(value: object, path: str, most: int) -> None:
    """A number of things from 1 to `most`; raises `InvalidValue`."""
    if type(value) is not int or not 1 <= value <= most:
        raise InvalidValue(path, f"must be an integer from 1 to {most}")


def check_flag(value: object, path: str) -> bool:
    """True or False and nothing that merely counts as one; raises `InvalidValue`."""
    if type(value) is not bool:
        raise InvalidValue(path, "must be True or False")
    return value


def check_status(value: object, path: str = "status") -> ActionStatus:
    """An `ActionStatus`, or its value; raises `InvalidValue`."""
    try:
        return ActionStatus(cast(Any, value))
    except ValueError:
        known = ", ".join(ActionStatus)
        raise InvalidValue(path, f"must be one of {known}") from None


def check_json(value: object, path: str) -> dict[str, Any] | None:
    """None, or a copy of a JSON object; raises `InvalidValue` at `path` or below it."""
    if value is None:
        return None
    try:
        return to_json_object(value)
    except InvalidValue as error:
        raise InvalidValue(join_paths(path, error.path), error.problem) from None


def check_claim(value: object) -> Claim:
    """What `claim` has given."""
    if not isinstance(value, Claim):
        raise InvalidValue("claim", f"must be a Claim, not {type(value).__name__}")
    return value


def check_model(value: object, model: type[BaseModel], path: str) -> None:
    """An instance of `model`; raises `InvalidValue`."""
    if not isinstance(value, model):
        article = "an" if model.__name__[0] in "AEIOU" else "a"
        raise InvalidValue(path, f"must be {article} {model.__name__}, not {type(value).__name__}")


def check_proposal(value: object, path: str, actor: str, proposed_by: str | None) -> ActionProposal:
    """A checked copy of what is proposed, by `proposed_by`, so that nothing can change it before it is written.

    Checked again although it was when it was made: ``model_copy`` checks nothing, and a dict inside a frozen
    model can still be changed. Raises `InvalidValue`, also for a proposer with a name of the ledger's own.
    """
    check_model(value, ProposalRequest, path)
    given = cast(ProposalRequest, value).__dict__
    if proposed_by is not None:
        given = {**given, "proposed_by": proposed_by}
    elif not isinstance(value, ActionProposal):
        given = {**given, "proposed_by": actor}
    proposal = ActionProposal.model_validate(given)
    check_actor(proposal.proposed_by, "proposed_by")
    return proposal


def _check(adapter: TypeAdapter[str], value: object, path: str) -> str:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise to_invalid_value(error, path) from None


def check_name(value: object, path: str) -> str | None:
    """None, or text as in `action_name` and `proposed_by`; raises `InvalidValue`."""
    return None if value is None else _check(_NAME, value, path)


def check_key(value: object) -> str | None:
    """An idempotency key: None, or text as a name is; raises `InvalidValue`."""
    return check_name(value, "idempotency_key")


def check_actor(value: object, path: str = "actor") -> str:
    """Who acts; raises `InvalidValue`, also for what is, or looks like, a name of the ledger's own."""
    actor = _check(_NAME, value, path)
    if is_reserved(actor):
        raise InvalidValue(path, "must not be a name that stands for the ledger itself")
    return actor


def check_reason(value: object) -> str | None:
    """Why, or None; raises `InvalidValue`."""
    return None if value is None else _check(_REASON, value, "reason")


def check_message(value: object) -> str | None:
    """An error message, or None; raises `InvalidValue`."""
    return None if value is None else _check(_MESSAGE, value, "error_message")


def check_error(value: object) -> str:
    """What went wrong; raises `InvalidValue`."""
    return _check(_MESSAGE, value, "error_message")


def check_version(value: object) -> int | None:
    """None, or a version; raises `InvalidValue`."""
    return check_optional_id(value, "expected_version")
