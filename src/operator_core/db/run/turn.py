"""The lock of a connection that threads use by turns."""

import threading
from collections.abc import Callable
from typing import TypeVar

from operator_core.actions.errors import ActionError

__all__ = ["Turn", "in_the_middle"]


T = TypeVar("T")


class Turn:
    """A lock, and the thread that has taken it to run a call: `owner` is its number.

    Take it by `run` or ``with turn.lock:``, because a signal can't interrupt that between the lock and the block.
    """

    __slots__ = ("lock", "owner")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.owner: int | None = None

    @property
    def is_mine(self) -> bool:
        """Whether the calling thread is in the middle of a call, and would wait for itself.

        That is so in a signal handler, and in what the garbage collector runs.
        """
        # An interrupt can leave the number of a thread that no longer has the lock.
        return self.owner == threading.get_ident() and self.lock.locked()

    def run(self, call: Callable[[], T]) -> T:
        """Runs `call` in this turn; raises `ActionError` in the middle of another call of the same thread."""
        if self.is_mine:
            raise in_the_middle()
        with self.lock:
            try:
                self.owner = threading.get_ident()
                return call()
            finally:
                self.owner = None


def in_the_middle() -> ActionError:
    """The error for a call from a signal handler that would wait for the call that the signal interrupted."""
    return ActionError(
        "this thread is in the middle of another call on the ledger: a signal handler can't call it then"
    )
