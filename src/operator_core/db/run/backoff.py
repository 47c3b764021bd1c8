"""The delay before an attempt is retried."""

import asyncio
import random

__all__ = ["delay", "pause"]


async def pause(failures: int, *, first: float = 0.01, longest: float = 1.0) -> None:
    """Waits after a number of failures, for the `delay` of that number."""
    await asyncio.sleep(delay(failures, first=first, longest=longest))


def delay(failures: int, *, first: float = 0.01, longest: float = 1.0) -> float:
    """The seconds to wait after a number of failures: exponential backoff with full jitter.

    It is a random number from 0 to ``min(longest, first * 2 ** failures)`` (M. Brooker, "Exponential Backoff And
    Jitter", AWS, 2015).
    """
    return random.uniform(0, min(longest, first * 2.0**failures))  # noqa: S311 - no secret
