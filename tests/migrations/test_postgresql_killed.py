"""A migration on a server that ends in the middle, by a kill or by an error, leaves nothing of itself behind."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from operator_core.actions import ActionError
from operator_core.db import migrate
from tests.databases import Databases, query
from tests.migrations.postgresql_tools import (
    PLAIN_ROWS,
    UNGUARDED,
    alembic,
    catalogue,
    columns,
    contents,
    ledger_at,
    made_by,
    snapshot,
    unversioned,
    version,
)
from tests.migrations.tools import Rows, copy_of_tree, python

# One process imports everything; each migration runs in a fork of it, which kills itself just before the
# n-th statement, before the COMMIT or after it.
KILL = """
import json, logging, os, signal, sys
import alembic.command, asyncpg, operator_core.db.sql.tables
from sqlalchemy import event
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.engine import Engine
from operator_core.db import migrate
logging.disable(logging.CRITICAL)

do_commit = PGDialect_asyncpg.do_commit

def act(url, until):
    done = 0
    def step(*_):
        nonlocal done
        done += 1
        if done == until:
            os.kill(os.getpid(), signal.SIGKILL)
    def commit(self, connection):
        step()
        do_commit(self, connection)
        step()
    event.listen(Engine, "before_cursor_execute", step)
    PGDialect_asyncpg.do_commit = commit
    migrate.upgrade(url)

for url, until in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        act(url, until)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status), (until, status)
"""

Make = Callable[[], str]
Choose = Callable[[int], list[int]]


def steps(make: Make) -> int:
    """How many a migration has: its statements, the COMMIT, and the end."""
    statements = []

    def count(*args: object) -> None:
        statements.append(args[2])

    event.listen(Engine, "before_cursor_execute", count)
    try:
        migrate.upgrade(make())
    finally:
        event.remove(Engine, "before_cursor_execute", count)
    return len(statements) + 2


def kill_at(choose: Choose, make: Make, planted: str = "") -> list[str]:
    """Databases whose migration was killed, one for each of the points that `choose` picks."""
    total = steps(make)
    points = choose(total)
    urls = [make() for _ in points]
    python(planted + KILL, json.dumps(list(zip(urls, points, strict=True))))
    sys.stdout.write(f"killed {len(points)} migrations at steps of {total}\n")
    return urls


def some(total: int) -> list[int]:
    """The first, where the COMMIT is, and some between."""
    between = range(2, total - 1, max(1, total // 4))
    return sorted({1, *between, total - 2, total - 1, total})


def every(total: int) -> list[int]:
    return list(range(1, total + 1))


def check(choose: Choose, make: Make, fresh: Rows) -> None:
    untouched = make()
    plain = columns(untouched) if catalogue(untouched) else {}
    before = (catalogue(untouched), contents(untouched, plain))
    migrate.upgrade(untouched)
    events = query(untouched, "SELECT count(*) FROM action_events")
    whole = 0
    for url in kill_at(choose, make):
        # All of it, with its version, or nothing; the server may not have noticed yet that nobody waits.
        found = (catalogue(url), contents(url, plain))
        if found != before:
            whole += 1
            assert (found, version(url)) == ((fresh, before[1]), [migrate.HEAD])
        migrate.upgrade(url)
        assert (catalogue(url), contents(url, plain)) == (fresh, before[1])
        assert version(url) == [migrate.HEAD]
        # One event for each adopted thing, not two.
        assert query(url, "SELECT count(*) FROM action_events") == events
    # Only who was killed after the COMMIT has done it.
    assert whole == 1


@pytest.fixture
def fresh(postgres: Databases) -> Rows:
    return made_by(postgres, "head")


def test_the_next_upgrade_of_an_empty_database_succeeds(postgres: Databases, fresh: Rows) -> None:
    check(some, postgres.new, fresh)


def test_the_next_adoption_succeeds_with_every_row_kept(postgres: Databases, fresh: Rows) -> None:
    check(some, lambda: unversioned(postgres), fresh)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("start", ["empty", "unversioned"])
def test_every_statement(postgres: Databases, fresh: Rows, start: str) -> None:
    check(every, postgres.new if start == "empty" else lambda: unversioned(postgres), fresh)


NO_TRANSACTION = """
from sqlalchemy.ext.asyncio import AsyncEngine
from operator_core.db.migrate import postgresql
options = AsyncEngine.execution_options
AsyncEngine.execution_options = lambda self, **given: options(self, isolation_level="AUTOCOMMIT")
postgresql.lock = lambda conn, **given: None
"""


def test_the_kills_have_teeth(postgres: Databases) -> None:
    """Without one transaction around everything, kills leave what no upgrade ever gets over."""
    stuck = 0
    for url in kill_at(lambda total: [total // 3, total // 2], postgres.new, NO_TRANSACTION):
        try:
            migrate.upgrade(url)
        except ActionError:
            stuck += 1
    assert stuck


BROKEN = '''"""Does something and fails.

Revision: 9999, after the newest
"""

from alembic import op

revision = "9999"
down_revision = "{head}"


def upgrade() -> None:
    op.execute("CREATE TABLE half (id INTEGER PRIMARY KEY)")
    op.execute("INSERT INTO half VALUES (1)")
    op.execute("DROP TRIGGER action_events_not_deleted ON action_events")
    op.execute("DELETE FROM action_events")
    {end}
'''


@pytest.mark.parametrize(
    ("start", "end", "complaint"),
    [
        ("head", 'raise RuntimeError("half-way")', "RuntimeError: half-way"),
        ("0001", 'op.execute("SELECT 1 / 0")', "division by zero"),
        ("base", 'raise RuntimeError("half-way")', "RuntimeError: half-way"),
    ],
)
def test_nothing_stays_of_a_revision_that_raises(
    postgres: Databases, tmp_path: Path, start: str, end: str, complaint: str
) -> None:
    tree = copy_of_tree(tmp_path)
    (tree / "migrations" / "versions" / "9999_broken.py").write_text(
        BROKEN.format(end=end, head=migrate.HEAD)
    )
    url = ledger_at(postgres, "0001", PLAIN_ROWS) if start == "0001" else postgres.new()
    if start == "head":
        migrate.upgrade(url)
        query(url, UNGUARDED + PLAIN_ROWS.partition("DELETE FROM")[0])
    before = snapshot(url)
    assert complaint in alembic(url, "upgrade", "head", cwd=tree, fails=True).stderr
    assert snapshot(url) == before
