"""A pytest plugin: the fixture `action_db`, an empty ledger in memory for each test.

Installed with the package: nothing needs to be imported or listed in a conftest. It needs
pytest-asyncio; where that is not installed there is no such fixture.
"""

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

try:
    import pytest_asyncio
except ImportError:
    pytest_asyncio = None

if TYPE_CHECKING:
    from operator_core.db import ActionDB

__all__ = ["action_db"]


async def action_db() -> AsyncGenerator["ActionDB"]:
    """An open ledger in memory, its schema ready, that no other test sees."""
    # Not above: pytest loads this module in every run, also of projects that never ask for it.
    from operator_core.db import ActionDB  # noqa: PLC0415

    async with ActionDB(":memory:") as db:
        yield db


if pytest_asyncio is not None:
    action_db = pytest_asyncio.fixture(action_db)
