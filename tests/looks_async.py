"""A `SyncActionDB` with the methods of `ActionDB`, so that the contract suite runs on it."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any, Final

from operator_core.db import SyncActionDB, SyncActionLedger

BLOCKS: Final = ("transaction", "claimed", "holding")
ITERATORS: Final = ("iter_proposals", "events")

RUN_BY_SYNC: Final = frozenset(
    f"test_{name}"
    for name in (
        *("amend", "approvals", "attribution", "claims", "corrupt_rows", "damaged_claims"),
        *("grants", "halts", "idempotency", "rules"),
        *("leases", "lifecycle", "order", "proposals", "records", "recovery", "retries"),
        *("starting", "sweeps", "values", "versions", "workflows"),
    )
)
"""The modules of the contract suite that need no event loop: nothing in them waits for another task."""

CANCELS: Final = frozenset(
    {
        "test_what_a_cancelled_claim_has_taken_is_given_back",
        "test_a_claim_that_is_cancelled_twice_gives_back_too",
        "test_what_was_surely_not_begun_gives_its_approvals_back",
        "test_a_cancelled_claim_gives_the_approvals_back",
        "test_a_held_block_is_cancelled",
        "test_a_held_block_may_finish",
    }
)
"""The tests in these modules that cancel a task in the middle of a call, or whose block waits for another task."""


def runs_by_sync(module: str, function: str) -> bool:
    """Whether a test of the contract suite runs on `SyncActionDB`."""
    return module in RUN_BY_SYNC and function not in CANCELS


class LooksAsync:
    """Each method runs the one of the same name in the thread of the event loop, which it blocks."""

    def __init__(self, ledger: SyncActionLedger) -> None:
        self.ledger: Any = ledger
        # For SQL beside the facade.
        self._units = ledger._verbs._units

    async def __aenter__(self) -> "LooksAsync":
        self.ledger.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.ledger.close()

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self.ledger, name)
        if name in BLOCKS:
            return asynccontextmanager(_block(verb))
        if name in ITERATORS:
            return _iterator(verb)
        return _coroutine(verb) if callable(verb) else verb


def looks_async(target: Any, **settings: Any) -> Any:
    """A ledger on `target`, to be opened by ``async with``."""
    return LooksAsync(SyncActionDB(target, **settings))


def _coroutine(verb: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(verb)
    async def call(*args: Any, **kwargs: Any) -> Any:
        return verb(*args, **kwargs)

    return call


def _iterator(verb: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(verb)
    async def iterate(*args: Any, **kwargs: Any) -> AsyncGenerator[Any]:
        for each in verb(*args, **kwargs):
            yield each

    return iterate


def _block(verb: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(verb)
    async def block(*args: Any, **kwargs: Any) -> AsyncGenerator[Any]:
        with verb(*args, **kwargs) as inside:
            yield LooksAsync(inside) if isinstance(inside, SyncActionLedger) else inside

    return block
