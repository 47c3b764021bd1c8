"""Units of work that are one statement, said so that a driver can run it without SQLAlchemy in between."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, Generic, Literal, TypeVar

from sqlalchemy import Connection, Executable

__all__ = ["UNANSWERED", "Plain", "Unanswered"]

T = TypeVar("T")


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
