"""Units of work: plain functions of a connection, with optional facts that help a runner to run them."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import groupby
from typing import Any, Final, Generic, Literal, TypeVar, cast

from sqlalchemy import Connection, Executable

__all__ = [
    "UNANSWERED",
    "Batch",
    "Shared",
    "Shortcut",
    "SingleStatement",
    "Unanswered",
    "Unit",
    "run_units",
]

A = TypeVar("A")
T = TypeVar("T")

Unit = Callable[[Connection], T]
"""A unit of work: a plain function of a connection that never commits and keeps no state.

It may run more than once, for example after another unit of its group fails or after a serialization failure. All its
effects must therefore go through the connection.
"""


class _Unanswered(Enum):
    UNANSWERED = auto()


Unanswered = Literal[_Unanswered.UNANSWERED]

UNANSWERED: Final = _Unanswered.UNANSWERED
"""The result of a shortcut whose statement changed nothing: the unit itself must run and find the cause."""


@dataclass(frozen=True, slots=True)
class Shortcut(Generic[T]):
    """One statement that does the work of a unit in the usual case, and that a driver can run without SQLAlchemy.

    `statement` is built once per program, and its bound `parameters` are plain values. `answer` converts its rows to
    the result, or returns `UNANSWERED` if nothing was changed; then the unit itself runs. The unit also runs if the
    database refuses the statement with a SQLSTATE that starts with one of the prefixes in `explains`. `answer` may also
    return another shortcut, which only reads: then that one has the result.
    """

    statement: Executable
    parameters: Mapping[str, Any]
    answer: "Callable[[Sequence[Any]], T | Unanswered | Shortcut[T]]"
    explains: tuple[str, ...] = ("23",)


@dataclass(frozen=True, slots=True)
class Batch(Generic[A, T]):
    """A unit that can be batched where one writer runs the waiting units: those with the same `each` run as one.

    `each` takes the connection and the arguments of all units, and returns their results in the same order. If one
    unit fails, all fail, and each runs again alone, as in every group.
    """

    each: Callable[[Connection, Sequence[A]], list[T]]
    argument: A


@dataclass(frozen=True, slots=True)
class Shared(Generic[A, T]):
    """A unit that can share a statement on a server with concurrent units of the same `key`.

    `together` takes the arguments of all units, and returns the one statement that does the work of all. Its answer is
    a list with the result of each unit in the same order, or `UNANSWERED` for a unit that must run alone. The statement
    waits for no lock of another transaction: it skips locked rows, and the units that need them run alone. If the
    database refuses it, each unit runs alone. `size` is the number of rows that this unit adds to the statement.
    """

    key: Hashable
    together: Callable[[Sequence[A]], Shortcut[list[T | Unanswered]]]
    argument: A
    size: int = 1


@dataclass(frozen=True, slots=True)
class SingleStatement(Generic[T]):
    """A unit that changes the database by at most one statement, which is atomic without a transaction around it."""

    unit: Unit[T]
    shortcut: Shortcut[T] | None = None
    batch: Batch[Any, T] | None = None
    shared: Shared[Any, T] | None = None

    def __call__(self, conn: Connection) -> T:
        return self.unit(conn)


def run_units(
    conn: Connection, units: Sequence[Unit[Any]], after: Callable[[], None] = lambda: None
) -> list[Any]:
    """Runs `units` in order, adjacent units with the same batch as one; returns the results in the same order.

    `after` runs after each unit or batch.
    """
    results: list[Any] = []
    for each, some in groupby(units, _each):
        if each is None:
            for unit in some:
                results.append(unit(conn))
                after()
        else:
            batched = (
                cast("Batch[Any, Any]", cast("SingleStatement[Any]", unit).batch) for unit in some
            )
            results.extend(each(conn, [batch.argument for batch in batched]))
            after()
    return results


def _each(unit: Unit[Any]) -> Callable[[Connection, Sequence[Any]], list[Any]] | None:
    batch = cast("SingleStatement[Any]", unit).batch if isinstance(unit, SingleStatement) else None
    return None if batch is None else batch.each
