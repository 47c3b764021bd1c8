"""A pytest plugin: the fixture `action_db`, an empty ledger in memory for each test.

The package registers the plugin, so a project imports nothing and adds nothing to its conftest. The fixture needs
pytest-asyncio; without it, the fixture does not exist.
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
    """An open ledger in memory with its schema; each test gets its own."""
    # Imported here, because pytest loads this module in every run, even if no test uses the fixture.
    from operator_core.db import ActionDB  # noqa: PLC0415

    async with ActionDB(":memory:") as db:
        yield db


if pytest_asyncio is not None:
    action_db = pytest_asyncio.fixture(action_db)
