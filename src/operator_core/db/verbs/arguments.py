"""Arguments that are not fields of a model, checked before any SQL runs, by the models' own rules."""

from collections.abc import Iterable, Mapping
from datetime import timedelta
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
from operator_core.actions.errors import InvalidValue
from operator_core.actions.model import to_invalid_value
from operator_core.actions.types import (
    ActionProposal,
    ActionStatus,
    ActionType,
    Claim,
    ProposalRequest,
)
from operator_core.actions.values import (
    MAX_DELAY,
    MAX_ID,
    Identifier,
    JsonObject,
    LongText,
    Name,
    Reason,
)

__all__ = [
    "ACTOR",
    "AGE",
    "CLAIM",
    "COLLECTION",
    "ERROR_MESSAGE",
    "FLAG",
    "ID",
    "JSON",
    "LEASE",
    "MAPPING",
    "NAME",
    "NAMES",
    "OPTIONAL_ERROR_MESSAGE",
    "OPTIONAL_ID",
    "POSITION",
    "REASON",
    "SECONDS",
    "SIZE",
    "STATUS",
    "TYPES",
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
# Well below what SQLite holds in one value (a thousand million bytes).
_MAX_SIZE: Final = 1 << 28


class Argument(Generic[T]):
    """What an argument may be: a type with Pydantic's annotations.

    `problem` says what it must be, where Pydantic's own words would not; ``{kind}`` in it is the type of the value.
    """

    def __init__(self, annotation: Any, problem: str | None = None) -> None:
        self.adapter: TypeAdapter[T] = TypeAdapter(annotation)
        self.problem = problem


def check(argument: Argument[T], value: object, path: str) -> T:
    """`value`, which is the argument named `path`, as the ledger takes it; raises `InvalidValue`."""
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
        raise InvalidValue("", "must not be a name that stands for the ledger itself")
    return name


def _in_seconds(least: float, most: float) -> AfterValidator:
    def check_span(span: timedelta) -> float:
        seconds = span.total_seconds()
        if not least <= seconds <= most:
            raise ValueError
        return seconds

    return AfterValidator(check_span)


def _to_list(value: object) -> object:
    """One or several, as a list."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        return [value]
    return list(cast("Iterable[object]", value))


def _check_collection(value: object) -> Iterable[Any]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise ValueError
    return cast("Iterable[Any]", value)


def _several(of: Any) -> Any:
    return Optional[Annotated[tuple[of, ...], BeforeValidator(_to_list)]]  # noqa: UP045 - of Annotated, no type to pyright


_timedelta = InstanceOf[timedelta]

ID: Final[Argument[int]] = Argument(Identifier, f"must be an integer from 1 to {MAX_ID}")
"""A positive 64-bit integer, and no bool."""

OPTIONAL_ID: Final[Argument[int | None]] = Argument(
    Identifier | None, f"must be None or an integer from 1 to {MAX_ID}"
)

POSITION: Final[Argument[int | None]] = Argument(
    _integer(0, MAX_ID) | None, f"must be None or an integer from 0 to {MAX_ID}"
)
"""An id to go on behind, 0 being before the first; or how many rows at the most."""

SECONDS: Final[Argument[float]] = Argument(
    Annotated[float, Field(strict=True, ge=0, le=_MAX_SECONDS)],
    f"must be a number of seconds from 0 to {_MAX_SECONDS}",
)

LEASE: Final[Argument[float]] = Argument(
    Annotated[_timedelta, _in_seconds(_SHORTEST_LEASE, MAX_DELAY)],
    "must be a timedelta from a millisecond to seven days",
)
"""How long a lease is: a timedelta, returned in seconds."""

AGE: Final[Argument[float | None]] = Argument(
    Optional[Annotated[_timedelta, _in_seconds(0, _MAX_AGE)]],  # noqa: UP045
    "must be None or a timedelta from 0 to 3,650 days",
)
"""An age: a timedelta, returned in seconds."""

SIZE: Final[Argument[int]] = Argument(
    _integer(len("{}"), _MAX_SIZE), f"must be a number of bytes from 2 to {_MAX_SIZE}"
)
"""A number of bytes that an empty JSON object fits in."""

FLAG: Final[Argument[bool]] = Argument(Annotated[bool, Field(strict=True)], "must be True or False")

STATUS: Final[Argument[ActionStatus]] = Argument(
    ActionStatus, f"must be one of {', '.join(ActionStatus)}"
)

NAME: Final[Argument[str | None]] = Argument(Name | None)
"""Text as in `action_name`, `proposed_by` and idempotency keys."""

NAMES: Final[Argument[tuple[str, ...] | None]] = Argument(_several(Name))
"""Names, of which one may stand alone."""

TYPES: Final[Argument[tuple[ActionType, ...] | None]] = Argument(
    _several(ActionType), f"must be among {', '.join(ActionType)}"
)
"""Action types, of which one may stand alone."""

ACTOR: Final[Argument[str]] = Argument(Annotated[Name, AfterValidator(_not_reserved)])
"""Who acts: no name that is, or looks like, one of the ledger's own."""

REASON: Final[Argument[str | None]] = Argument(Reason | None)

ERROR_MESSAGE: Final[Argument[str]] = Argument(LongText)

OPTIONAL_ERROR_MESSAGE: Final[Argument[str | None]] = Argument(LongText | None)

JSON: Final[Argument[dict[str, Any] | None]] = Argument(JsonObject | None)
"""A copy of a JSON object."""

COLLECTION: Final[Argument[Iterable[Any]]] = Argument(
    Annotated[Any, AfterValidator(_check_collection)], "must be a collection, not {kind}"
)
"""Several things, whether they are there already or come by and by."""

MAPPING: Final[Argument[Mapping[Any, Any]]] = Argument(
    InstanceOf[Mapping[Any, Any]], "must be a mapping, not {kind}"
)


@cache
def count_up_to(most: int) -> Argument[int]:
    """A number of things from 1 to `most`."""
    return Argument(_integer(1, most), f"must be an integer from 1 to {most}")


@cache
def instance_of(kind: type[T]) -> Argument[T]:
    """An instance of `kind`."""
    article = "an" if kind.__name__[0] in "AEIOU" else "a"
    return Argument(InstanceOf[kind], f"must be {article} {kind.__name__}, not {{kind}}")


CLAIM: Final[Argument[Claim]] = instance_of(Claim)
"""What `claim` has returned."""

_REQUEST: Final[Argument[ProposalRequest]] = instance_of(ProposalRequest)


def check_proposal(value: object, path: str, actor: str, proposed_by: str | None) -> ActionProposal:
    """A checked copy of what is proposed, by `proposed_by`, so that nothing can change it before it is written.

    Checked again although it was when it was made: ``model_copy`` checks nothing, and a dict inside a frozen
    model can still be changed. Raises `InvalidValue`, also for a proposer with a name of the ledger's own.
    """
    values = dict(check(_REQUEST, value, path).__dict__)
    if proposed_by is not None:
        values = {**values, "proposed_by": proposed_by}
    elif not isinstance(value, ActionProposal):
        values = {**values, "proposed_by": actor}
    proposal = ActionProposal.model_validate(values)
    check(ACTOR, proposal.proposed_by, "proposed_by")
    return proposal
