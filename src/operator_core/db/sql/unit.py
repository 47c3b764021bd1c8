"""Units of work: plain functions of a connection, and what a runner may know of one before it runs it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import groupby
from typing import Any, Final, Generic, Literal, TypeVar, cast

from sqlalchemy import Connection, Executable

__all__ = ["UNANSWERED", "Alike", "Plain", "Unanswered", "Unit", "run_units"]

A = TypeVar("A")
T = TypeVar("T")

Unit = Callable[[Connection], T]
"""A unit of work: a plain function of a connection that neither commits nor keeps anything.

It may run more than once (when a neighbour in its group fails, or the database asks for it), so
all that it does, it does through the connection.
"""


class _Unanswered(Enum):
    UNANSWERED = auto()


Unanswered = Literal[_Unanswered.UNANSWERED]

UNANSWERED: Final = _Unanswered.UNANSWERED
"""What the rows of a plain unit's statement mean when they don't tell: nothing was changed, run the unit."""


@dataclass(frozen=True, slots=True)
class Plain(Generic[T]):
    """A unit of work, and the one statement that does it if all goes well.

    `statement` is built once in the life of the program, its bound `parameters` are plain values, and
    `answer` makes the result of its rows, or says `UNANSWERED`. Then nothing was changed, and `unit` finds
    out why; so it does if the database refuses the statement with a SQLSTATE that begins as one of
    those that it `explains`.
    """

    statement: Executable
    parameters: Mapping[str, Any]
    answer: Callable[[Sequence[Any]], T | Unanswered]
    unit: Callable[[Connection], T]
    explains: tuple[str, ...] = ("23",)

    def __call__(self, conn: Connection) -> T:
        return self.unit(conn)


@dataclass(frozen=True, slots=True)
class Alike(Generic[A, T]):
    """A unit of which several, waiting together, are done by one call: one statement for them all.

    `each` takes the connection and the arguments of all, and answers in their order. If one fails
    all do, and each is run again on its own, as in every group. `size` is how many rows this one adds
    to the statement. One that `may_wait` for a lock of somebody else's takes no neighbours along
    where locks are of rows. One that is alone may be `plain`.
    """

    each: Callable[[Connection, Sequence[A]], list[T]]
    argument: A
    size: int = 1
    may_wait: bool = False
    plain: Plain[T] | None = None

    def __call__(self, conn: Connection) -> T:
        return self.each(conn, [self.argument])[0]


def run_units(conn: Connection, units: Sequence[Unit[Any]]) -> list[Any]:
    """Runs `units` in their order, neighbours that are alike together; the results in the same order."""
    results: list[Any] = []
    for each, some in groupby(units, _each):
        if each is None:
            results.extend(unit(conn) for unit in some)
        else:
            results.extend(each(conn, [cast("Alike[Any, Any]", unit).argument for unit in some]))
    return results


def _each(unit: Unit[Any]) -> Callable[[Connection, Sequence[Any]], list[Any]] | None:
    return cast("Alike[Any, Any]", unit).each if isinstance(unit, Alike) else None
