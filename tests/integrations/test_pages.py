"""The code on the pages of the frameworks runs; their links lead somewhere."""

import asyncio
from pathlib import Path

import pytest

from tests.test_docs import (  # noqa: F401 - fixtures
    ROOT,
    loop,
    place,
    run_blocks,
)

PAGES = sorted((ROOT / "docs" / "integrations").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_on_a_page_runs_from_top_to_bottom(
    page: Path,
    place: Path,  # noqa: F811
    loop: asyncio.Runner,  # noqa: F811
) -> None:
    run_blocks(page, place, None, loop)
