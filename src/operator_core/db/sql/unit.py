"""Units of work: plain functions of a connection, and what a runner may know of one before it runs it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import groupby
from typing import Any, Final, Generic, Literal, TypeVar, cast

from sqlalchemy import Connection, Executable

__all__ = [
    "UNANSWERED",
    "Batch",
    "Shortcut",
    "SingleStatement",
    "Unanswered",
    "Unit",
    "run_units",
]

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
"""The answer of a shortcut whose statement changed nothing: run the unit, which finds out why."""


@dataclass(frozen=True, slots=True)
class Shortcut(Generic[T]):
    """The one statement that does a unit's work if all goes well, for a driver to run without SQLAlchemy.

    `statement` is built once in the life of the program, its bound `parameters` are plain values, and
    `answer` makes the result of its rows, or returns `UNANSWERED`. Then nothing was changed, and the unit itself
    is run; so it is if the database refuses the statement with a SQLSTATE that begins as one of those that the
    unit `explains`.
    """

    statement: Executable
    parameters: Mapping[str, Any]
    answer: Callable[[Sequence[Any]], T | Unanswered]
    explains: tuple[str, ...] = ("23",)


@dataclass(frozen=True, slots=True)
class Batch(Generic[A, T]):
    """How concurrent units with the same `each` run as one statement.

    `each` takes the connection and the arguments of all, and returns their results in the same order. If one fails
    all do, and each is run again on its own, as in every group. `size` is how many rows this unit adds to the
    statement. One that `may_wait` for a lock of another transaction takes no neighbours along where locks are of rows.
    """

    each: Callable[[Connection, Sequence[A]], list[T]]
    argument: A
    size: int = 1
    may_wait: bool = False


@dataclass(frozen=True, slots=True)
class SingleStatement(Generic[T]):
    """A unit that changes the database by one statement at the most: whole or absent without a transaction around it."""

    unit: Unit[T]
    shortcut: Shortcut[T] | None = None
    batch: Batch[Any, T] | None = None

    def __call__(self, conn: Connection) -> T:
        return self.unit(conn)


def run_units(conn: Connection, units: Sequence[Unit[Any]]) -> list[Any]:
    """Runs `units` in their order, neighbours with the same batch together; the results in the same order."""
    results: list[Any] = []
    for each, some in groupby(units, _each):
        if each is None:
            results.extend(unit(conn) for unit in some)
        else:
            batched = (
                cast("Batch[Any, Any]", cast("SingleStatement[Any]", unit).batch) for unit in some
            )
            results.extend(each(conn, [batch.argument for batch in batched]))
    return results


def _each(unit: Unit[Any]) -> Callable[[Connection, Sequence[Any]], list[Any]] | None:
    batch = cast("SingleStatement[Any]", unit).batch if isinstance(unit, SingleStatement) else None
    return None if batch is None else batch.each
