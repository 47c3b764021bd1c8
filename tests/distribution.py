"""Which worker of pytest-xdist runs which tests, and in which order.

What shares something that takes long to make is run by one worker; everything else is given out a test
function at a time, what takes long first, so that no worker is left with the last of it alone.
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from xdist.scheduler import LoadScopeScheduling

ROOT: Final = Path(__file__).resolve().parents[1]

_TOGETHER: Final[Mapping[str, str]] = {
    "tests/db/ledger/test_query_plans.py": "a million rows",
    "tests/db/ledger/test_work_query_plans.py": "a million rows",
}

_MADE_FOR_A_MODULE: Final = re.compile(r'scope="module"|^from tests\.cli\.tampering ', re.MULTILINE)

_FIRST: Final = (
    "tests/db/ledger/",
    "tests/contract/test_state_machine.py",
    "tests/test_",
    "tests/failures/",
    "tests/cli/",
    "tests/migrations/",
    "tests/db/",
    "tests/",
)
"""What the longest tests stand in comes first, and last what has many short ones."""


@cache
def scope(nodeid: str) -> str:
    """What the test has to be run together with."""
    file = nodeid.partition("::")[0]
    if file in _TOGETHER:
        return _TOGETHER[file]
    return file if _is_whole(file) else nodeid.partition("[")[0]


@cache
def _is_whole(file: str) -> bool:
    return _MADE_FOR_A_MODULE.search((ROOT / file).read_text()) is not None


def place(item: pytest.Item) -> int:
    """Where in the order a test comes."""
    return next(
        (place for place, name in enumerate(_FIRST) if item.nodeid.startswith(name)), len(_FIRST)
    )


class ByWhatTheyShare(LoadScopeScheduling):
    """Gives each worker a scope after the other, in the order in which they were collected."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        # By how many tests a scope has says little about how long they take.
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return scope(nodeid)
