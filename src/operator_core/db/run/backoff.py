"""The delay before an attempt is retried."""

import asyncio
import random

__all__ = ["pause"]


async def pause(failures: int, *, first: float = 0.01, longest: float = 1.0) -> None:
    """Waits after a number of failures: exponential backoff with full jitter.

    The delay is a random number of seconds from 0 to ``min(longest, first * 2 ** failures)`` (M. Brooker, "Exponential
    Backoff And Jitter", AWS, 2015).
    """
    await asyncio.sleep(random.uniform(0, min(longest, first * 2.0**failures)))  # noqa: S311 - no secret
