"""What the worker loops with and without an event loop share."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

from operator_core.actions.errors import HaltRequested, InvalidValue, LeaseLost
from operator_core.actions.types import ActionProposal, Claim
from operator_core.db.verbs import arguments
from operator_core.db.verbs.arguments import check

__all__ = [
    "MAX_CONCURRENCY",
    "POLLS_EVERY",
    "SIGNALS",
    "HandlerExit",
    "checked",
    "reported",
    "without_stop_iteration",
]

logger = logging.getLogger("operator_core.worker")

MAX_CONCURRENCY: Final = 1000

POLLS_EVERY: Final = 1.0
"""Seconds without a commit in the ledger after which it is polled, for scheduled proposals and retries."""

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
"""The signals that stop a worker."""


class HandlerExit(RuntimeError):
    """A handler raised an exception that would end the process, such as SystemExit; the message describes it."""


def checked(
    handlers: Mapping[str, Any], worker: str | None, concurrency: int, lease: timedelta
) -> str:
    """Checks the arguments of a worker, and returns its name. Raises `InvalidValue`."""
    check(arguments.count_up_to(MAX_CONCURRENCY), concurrency, "concurrency")
    check(arguments.LEASE, lease, "lease")
    if not handlers:
        raise InvalidValue("handlers", "must have at least one")
    check(arguments.NAMES, handlers, "handlers")
    for name, handler in handlers.items():
        if not callable(handler):
            raise InvalidValue("handlers", f"must have a function for {name}")
    if worker is None:
        worker = f"{socket.gethostname()}:{os.getpid()}"
    return check(arguments.ACTOR, worker, "worker")


@contextmanager
def reported(worker: str, claim: Claim) -> Generator[threading.Event]:
    """A block that executes `claim`: logs its start and outcome, and raises no `Exception`.

    The block sets the event when the handler has returned.
    """
    what = f"proposal {claim.proposal.id} ({claim.proposal.action_name}), record {claim.record.id}"
    logger.info("%s starts %s", worker, what)
    handled = threading.Event()
    try:
        yield handled
    except LeaseLost:
        logger.warning("%s lost %s", worker, what)
    except HaltRequested as error:
        logger.warning("%s stopped %s: %s", worker, what, error)
    except Exception as error:
        if handled.is_set():
            logger.error("%s could not complete %s: %s", worker, what, error)
        else:
            # The message of the exception may contain parameters; only the record has it.
            logger.warning("%s failed %s: %s", worker, what, type(error).__name__)
    else:
        logger.info("%s completed %s", worker, what)


def without_stop_iteration(
    handler: Callable[[ActionProposal], object], proposal: ActionProposal
) -> object:
    """Calls a handler; converts StopIteration, which a future and a generator can't hold (as PEP 479 does)."""
    try:
        return handler(proposal)
    except StopIteration as error:
        raise RuntimeError("the handler raised StopIteration") from error
