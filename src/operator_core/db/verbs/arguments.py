"""Checks of the arguments that are not fields of a model: before any SQL runs, by the rules of the models."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from functools import cache
from typing import Annotated, Any, Final, Generic, Optional, TypeVar, cast

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    InstanceOf,
    TypeAdapter,
    ValidationError,
)

from operator_core.actions.actors import is_reserved
from operator_core.actions.conditions import ParameterPath
from operator_core.actions.errors import InvalidValue
from operator_core.actions.limits import MaxStarts, MaxSum, Window
from operator_core.actions.model import to_invalid_value
from operator_core.actions.rules import MAX_APPROVERS, MAX_CONDITIONS, Identity
from operator_core.actions.types import (
    ActionProposal,
    ActionStatus,
    ActionType,
    Claim,
    Condition,
    EndCode,
    HaltMode,
    ProposalRequest,
    RequesterType,
    Rule,
)
from operator_core.actions.values import (
    MAX_DELAY,
    MAX_ID,
    Digest,
    Identifier,
    JsonObject,
    LongText,
    Name,
    Reason,
    Traceparent,
    UtcDatetime,
)

__all__ = [
    "ACTOR",
    "AGE",
    "CLAIM",
    "COLLECTION",
    "CONDITIONS",
    "DIGEST",
    "ERROR_MESSAGE",
    "FLAG",
    "ID",
    "JSON",
    "LEASE",
    "MAPPING",
    "MAX_STARTS",
    "MAX_SUM",
    "MODE",
    "NAME",
    "NAMES",
    "OPTIONAL_ERROR_MESSAGE",
    "OPTIONAL_ID",
    "PATH",
    "PERSON",
    "POSITION",
    "REASON",
    "REQUESTER_TYPE",
    "REQUIRED_NAME",
    "REQUIRED_REASON",
    "ROLES",
    "RULE",
    "SECONDS",
    "SIZE",
    "STATUS",
    "TIME",
    "TRACEPARENT",
    "TYPE",
    "TYPES",
    "WINDOW",
    "Argument",
    "check",
    "check_proposal",
    "count_up_to",
    "instance_of",
]

T = TypeVar("T")

_MAX_SECONDS: Final = 3600
_MAX_AGE: Final = 3650 * 86_400
_SHORTEST_LEASE: Final = 0.001
# Well below the size limit of one value in SQLite (1,000,000,000 bytes).
_MAX_SIZE: Final = 1 << 28


class Argument(Generic[T]):
    """The values that an argument may have: a type with Pydantic's annotations.

    `problem` replaces Pydantic's message where that is unclear. ``{kind}`` in it is replaced by the type of the value.
    """

    def __init__(self, annotation: Any, problem: str | None = None) -> None:
        self.adapter: TypeAdapter[T] = TypeAdapter(annotation)
        self.problem = problem


def check(argument: Argument[T], value: object, path: str) -> T:
    """Returns `value`, the argument named `path`, checked and converted; raises `InvalidValue`."""
    try:
        return argument.adapter.validate_python(value)
    except ValidationError as error:
        if argument.problem is None:
            raise to_invalid_value(error, path) from None
        problem = argument.problem.format(kind=type(value).__name__)
        raise InvalidValue(path, problem) from None


def _integer(least: int, most: int) -> Any:
    return Annotated[int, Field(strict=True, ge=least, le=most)]


def _not_reserved(name: str) -> str:
    if is_reserved(name):
        raise InvalidValue("", "must not be a reserved name of the ledger")
    return name


def _in_seconds(least: float, most: float) -> AfterValidator:
    def check_span(span: timedelta) -> float:
        seconds = span.total_seconds()
        if not least <= seconds <= most:
            raise ValueError
        return seconds

    return AfterValidator(check_span)


def _to_list(value: object) -> object:
    """Returns a list of one value or of several."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        return [value]
    return list(cast("Iterable[object]", value))


def _check_collection(value: object) -> Iterable[Any]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise ValueError
    return cast("Iterable[Any]", value)


def _several(of: Any) -> Any:
    return Optional[Annotated[tuple[of, ...], BeforeValidator(_to_list)]]  # noqa: UP045 - pyright refuses `|` here


_timedelta = InstanceOf[timedelta]

ID: Final[Argument[int]] = Argument(Identifier, f"must be an integer from 1 to {MAX_ID}")
"""A positive 64-bit integer. A bool is refused."""

OPTIONAL_ID: Final[Argument[int | None]] = Argument(
    Identifier | None, f"must be None or an integer from 1 to {MAX_ID}"
)

POSITION: Final[Argument[int | None]] = Argument(
    _integer(0, MAX_ID) | None, f"must be None or an integer from 0 to {MAX_ID}"
)
"""An id to continue after, where 0 is before the first; or the largest number of rows to return."""

SECONDS: Final[Argument[float]] = Argument(
    Annotated[float, Field(strict=True, ge=0, le=_MAX_SECONDS)],
    f"must be a number of seconds from 0 to {_MAX_SECONDS}",
)

LEASE: Final[Argument[float]] = Argument(
    Annotated[_timedelta, _in_seconds(_SHORTEST_LEASE, MAX_DELAY)],
    "must be a timedelta from a millisecond to seven days",
)
"""The length of a lease: a timedelta, returned in seconds."""

AGE: Final[Argument[float | None]] = Argument(
    Optional[Annotated[_timedelta, _in_seconds(0, _MAX_AGE)]],  # noqa: UP045
    "must be None or a timedelta from 0 to 3,650 days",
)
"""An age: a timedelta, returned in seconds."""

SIZE: Final[Argument[int]] = Argument(
    _integer(len("{}"), _MAX_SIZE), f"must be a number of bytes from 2 to {_MAX_SIZE}"
)
"""A number of bytes that is enough for an empty JSON object."""

FLAG: Final[Argument[bool]] = Argument(Annotated[bool, Field(strict=True)], "must be True or False")

STATUS: Final[Argument[ActionStatus]] = Argument(
    ActionStatus, f"must be one of {', '.join(ActionStatus)}"
)

MODE: Final[Argument[HaltMode]] = Argument(HaltMode, f"must be one of {', '.join(HaltMode)}")

NAME: Final[Argument[str | None]] = Argument(Name | None)
"""Text as in `action_name`, `proposed_by` and idempotency keys."""

REQUIRED_NAME: Final[Argument[str]] = Argument(Name)

NAMES: Final[Argument[tuple[str, ...] | None]] = Argument(_several(Name))
"""Several names, or one alone."""

TYPES: Final[Argument[tuple[ActionType, ...] | None]] = Argument(
    _several(ActionType), f"must be among {', '.join(ActionType)}"
)
"""Several action types, or one alone."""

ACTOR: Final[Argument[str]] = Argument(Annotated[Name, AfterValidator(_not_reserved)])
"""The name of an actor. A name that is, or looks like, a reserved name of the ledger is refused."""

PERSON: Final[Argument[str]] = Argument(Annotated[Identity, AfterValidator(_not_reserved)])
"""The name of an actor that is compared with others, and so has something to see in it."""

REASON: Final[Argument[str | None]] = Argument(Reason | None)

REQUIRED_REASON: Final[Argument[str]] = Argument(Reason)

ERROR_MESSAGE: Final[Argument[str]] = Argument(LongText)

OPTIONAL_ERROR_MESSAGE: Final[Argument[str | None]] = Argument(LongText | None)

JSON: Final[Argument[dict[str, Any] | None]] = Argument(JsonObject | None)
"""A copy of a JSON object."""

TIME: Final[Argument[datetime | None]] = Argument(
    UtcDatetime | None, "must be None or a datetime of the years 1970 to 9998"
)
"""A time. A naive one is local time, as it is in Python."""

END_CODE: Final[Argument[EndCode | None]] = Argument(
    EndCode | None, f"must be None or one of {', '.join(EndCode)}"
)

REQUESTER_TYPE: Final[Argument[RequesterType | None]] = Argument(
    RequesterType | None, f"must be None or one of {', '.join(RequesterType)}"
)

TRACEPARENT: Final[Argument[str | None]] = Argument(Traceparent | None)

WINDOW: Final[Argument[float]] = Argument(Window)
"""The window of a limit, in seconds."""

MAX_STARTS: Final[Argument[int | None]] = Argument(MaxStarts | None)

MAX_SUM: Final[Argument[int | None]] = Argument(MaxSum | None)

PATH: Final[Argument[tuple[str | int, ...] | None]] = Argument(ParameterPath | None)
"""Where a value is in the parameters: keys and indices."""
TYPE: Final[Argument[RequesterType]] = Argument(
    RequesterType, f"must be one of {', '.join(RequesterType)}"
)

DIGEST: Final[Argument[str | None]] = Argument(
    Digest | None, "must be None or a digest: oc1: and 64 hexadecimal digits"
)

ROLES: Final[Argument[tuple[str, ...]]] = Argument(
    Annotated[tuple[Identity, ...], BeforeValidator(_to_list), Field(max_length=MAX_APPROVERS)]
)
"""Several roles, or one alone; at most 100."""

CONDITIONS: Final[Argument[tuple[Condition, ...]]] = Argument(
    Annotated[tuple[Condition, ...], BeforeValidator(_to_list), Field(max_length=MAX_CONDITIONS)]
)

COLLECTION: Final[Argument[Iterable[Any]]] = Argument(
    Annotated[Any, AfterValidator(_check_collection)], "must be a collection, not {kind}"
)
"""Any iterable except text and bytes; it may be a generator."""

MAPPING: Final[Argument[Mapping[Any, Any]]] = Argument(
    InstanceOf[Mapping[Any, Any]], "must be a mapping, not {kind}"
)


@cache
def count_up_to(most: int) -> Argument[int]:
    """An integer from 1 to `most`."""
    return Argument(_integer(1, most), f"must be an integer from 1 to {most}")


@cache
def instance_of(kind: type[T]) -> Argument[T]:
    """An instance of `kind`."""
    article = "an" if kind.__name__[0] in "AEIOU" else "a"
    return Argument(InstanceOf[kind], f"must be {article} {kind.__name__}, not {{kind}}")


CLAIM: Final[Argument[Claim]] = instance_of(Claim)
"""One of the claims that `claim` returned."""

RULE: Final[Argument[Rule]] = instance_of(Rule)

_REQUEST: Final[Argument[ProposalRequest]] = instance_of(ProposalRequest)


def check_proposal(value: object, path: str, actor: str, proposed_by: str | None) -> ActionProposal:
    """Returns a checked copy of a proposal, so that nothing can change it before it is written.

    The proposer is `proposed_by`, or else that of an `ActionProposal`, or else `actor`. The model is checked a
    second time, because ``model_copy`` checks nothing and a dict inside a frozen model can be changed.
    Raises `InvalidValue`, also if the proposer has a reserved name of the ledger.
    """
    values = dict(check(_REQUEST, value, path).__dict__)
    if proposed_by is not None:
        values = {**values, "proposed_by": proposed_by}
    elif not isinstance(value, ActionProposal):
        values = {**values, "proposed_by": actor}
    proposal = ActionProposal.model_validate(values)
    check(ACTOR, proposal.proposed_by, "proposed_by")
    return proposal
