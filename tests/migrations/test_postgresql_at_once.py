"""Many processes that migrate one database on a server at the same moment: all succeed, once is migrated."""

import pytest

from operator_core.db import migrate
from tests.databases import Databases, query
from tests.migrations.postgresql_tools import (
    catalogue,
    columns,
    contents,
    made_by,
    unversioned,
    version,
)
from tests.migrations.tools import UPGRADE, at_once

EIGHT = 8

UPGRADE_SERVER = "import asyncpg, sqlalchemy.dialects.postgresql.asyncpg\n" + UPGRADE


def assert_all_succeeded(ended: list[tuple[int, str]]) -> None:
    assert not any(status for status, _ in ended), [each for _, each in ended if each]


def test_eight_upgrades_of_a_fresh_database_all_succeed(
    postgres: Databases, postgres_url: str
) -> None:
    assert_all_succeeded(at_once(EIGHT, UPGRADE_SERVER, postgres_url))
    assert version(postgres_url) == [migrate.HEAD]
    assert catalogue(postgres_url) == made_by(postgres, "head")


@pytest.mark.parametrize("count", [3, pytest.param(EIGHT, marks=pytest.mark.soak)])
def test_several_adoptions_adopt_each_row_once(postgres: Databases, count: int) -> None:
    url = unversioned(postgres)
    plain = columns(url)
    before = contents(url, plain)
    assert_all_succeeded(at_once(count, UPGRADE_SERVER, url))
    assert version(url) == [migrate.HEAD]
    assert catalogue(url) == made_by(postgres, "head")
    assert contents(url, plain) == before
    told = query(url, "SELECT event_type, count(*) FROM action_events GROUP BY 1 ORDER BY 1")
    assert told == [("proposal_created", 3), ("record_finished", 2), ("record_started", 3)]


@pytest.mark.soak
@pytest.mark.parametrize("round_", range(10))
def test_many_rounds_of_eight(postgres: Databases, round_: int) -> None:
    test_eight_upgrades_of_a_fresh_database_all_succeed(postgres, postgres.new())
    test_several_adoptions_adopt_each_row_once(postgres, EIGHT)


NO_LOCK = """
from operator_core.db.migrate import postgresql
whole = postgresql.lock_script
postgresql.lock_script = lambda **given: [
    statement for statement in whole(**given) if "advisory" not in statement
]
assert len(postgresql.lock_script(wait=1)) == len(whole(wait=1)) - 1
"""


def test_the_race_has_teeth(postgres: Databases) -> None:
    """Without the advisory lock, some fail."""
    failed = []
    for _ in range(5):
        ended = at_once(4, UPGRADE_SERVER + NO_LOCK, postgres.new())
        failed = [complaint for status, complaint in ended if status]
        if failed:
            break
    assert failed
    assert any("already exists" in complaint or "unique" in complaint for complaint in failed)
