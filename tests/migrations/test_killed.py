"""A migration that ends in the middle, by a kill or by an error, leaves nothing of itself behind."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.exc import DatabaseError

from operator_core.actions import UnmanagedSchema
from operator_core.db import migrate
from tests.migrations.tools import (
    TABLES,
    alembic,
    catalogue,
    contents,
    copy_of_tree,
    is_sound,
    python,
    query,
    version,
)

# One process imports everything; each migration runs in a fork of it, which kills itself just before
# the n-th statement that SQLite is given, COMMIT and PRAGMAs included.
KILL = """
import json, os, shutil, signal, sys, logging
import alembic.command, sqlalchemy.dialects.sqlite, operator_core.db.sql.tables
from operator_core.db import migrate
from operator_core.db.migrate import deploy
logging.disable(logging.CRITICAL)

source, folder, how, points = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
connect = deploy.connect

def act(path, until, count=None):
    done = 0
    def trace(statement):
        nonlocal done
        done += 1
        if done == until:
            os.kill(os.getpid(), signal.SIGKILL)
    def traced(*args, **options):
        connection = connect(*args, **options)
        connection.set_trace_callback(trace)
        return connection
    deploy.connect = traced
    if how == "upgrade":
        migrate.upgrade("sqlite:///" + path)
    else:
        conn = deploy.over(traced(path, busy_timeout=5))
        migrate.make_current(conn, busy_timeout=5)
        conn.close()
    return done

def start(path):
    if source:
        shutil.copy(source, path)

if points is None:
    path = os.path.join(folder, "counted.db")
    start(path)
    print(act(path, 0))
else:
    for point in points:
        path = os.path.join(folder, f"{point}.db")
        start(path)
        child = os.fork()
        if not child:
            act(path, point)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status), (point, status)
"""


def kill_at(
    choose: Callable[[int], list[int]],
    source: Path | None,
    folder: Path,
    how: str,
    planted: str = "",
) -> list[Path]:
    """Files whose migration was killed, one for each of the points that `choose` picks."""
    args = (source or "", folder, how)
    total = int(python(planted + KILL, *args, "null").stdout)
    points = choose(total)
    # A part at a time: the whole would be given up as a hang.
    for first in range(0, len(points), 100):
        python(planted + KILL, *args, json.dumps(points[first : first + 100]))
    sys.stdout.write(f"killed {len(points)} migrations ({how}) at statements of {total}\n")
    return [folder / f"{point}.db" for point in points]


def some(total: int) -> list[int]:
    """A few at the start, a few at the end, where COMMIT is, and some between."""
    between = range(5, total - 4, max(1, total // 8))
    return sorted({1, 2, 3, 4, *between, *range(total - 4, total + 1)})


def quarters(total: int) -> list[int]:
    return [total // 4, total // 2, total * 3 // 4]


def every(total: int) -> list[int]:
    return list(range(1, total + 1))


def test_the_next_upgrade_of_a_new_file_succeeds(tmp_path: Path, fresh: Path) -> None:
    check_new(some, "upgrade", tmp_path, fresh)


def test_the_next_opening_of_a_new_file_succeeds(tmp_path: Path, fresh: Path) -> None:
    check_new(some, "open", tmp_path, fresh)


@pytest.mark.parametrize("how", ["upgrade", "open"])
def test_the_next_adoption_succeeds_with_every_row_kept(
    tmp_path: Path, fresh: Path, legacy: Path, how: str
) -> None:
    check_legacy(some, how, tmp_path, fresh, legacy)


@pytest.mark.soak
@pytest.mark.parametrize("how", ["upgrade", "open"])
def test_every_statement_of_a_new_file(tmp_path: Path, fresh: Path, how: str) -> None:
    check_new(every, how, tmp_path, fresh)


@pytest.mark.soak
@pytest.mark.parametrize("how", ["upgrade", "open"])
@pytest.mark.timeout(3600)
def test_statements_all_through_an_adoption(
    tmp_path: Path, fresh: Path, legacy: Path, how: str
) -> None:
    check_legacy(lambda total: every(total)[::3] + every(total)[-9:], how, tmp_path, fresh, legacy)


def check_new(choose: Callable[[int], list[int]], how: str, folder: Path, fresh: Path) -> None:
    for path in kill_at(choose, None, folder, how):
        migrate.upgrade(f"sqlite:///{path}")
        assert catalogue(path) == catalogue(fresh)
        assert version(path) == [migrate.HEAD]
        assert is_sound(path)


def check_legacy(
    choose: Callable[[int], list[int]], how: str, folder: Path, fresh: Path, legacy: Path
) -> None:
    tables, untouched = TABLES[:3], catalogue(legacy)
    before = contents(legacy, tables)
    whole = Path(shutil.copy(legacy, folder / "whole.db"))
    migrate.upgrade(f"sqlite:///{whole}")
    after = contents(whole, tables)
    for path in kill_at(choose, legacy, folder, how):
        # All of it, with its version, or nothing.
        adopted = catalogue(path) != untouched
        assert contents(path, tables) == (after if adopted else before)
        if adopted:
            assert version(path) == [migrate.HEAD]
        migrate.upgrade(f"sqlite:///{path}")
        assert catalogue(path) == catalogue(fresh)
        assert contents(path, tables) == after
        assert is_sound(path)
        # One event for each adopted thing, not two.
        events = "SELECT count(*) FROM action_events"
        assert query(path, events) == query(whole, events)


BROKEN = '''"""Does something and fails.

Revision: 9999, after the newest
"""

from alembic import op

revision = "9999"
down_revision = "{head}"


def upgrade() -> None:
    op.execute("CREATE TABLE half (id INTEGER PRIMARY KEY)")
    op.execute("INSERT INTO half VALUES (1)")
    op.execute("DROP TRIGGER action_events_not_deleted")
    op.execute("DELETE FROM action_events")
    raise RuntimeError("half-way")
'''


@pytest.mark.parametrize("start", ["fresh", "legacy", "nothing"])
def test_nothing_stays_of_a_revision_that_raises(
    tmp_path: Path, fresh: Path, legacy: Path, start: str
) -> None:
    tree = copy_of_tree(tmp_path)
    (tree / "migrations" / "versions" / "9999_broken.py").write_text(
        BROKEN.format(head=migrate.HEAD)
    )
    path = tmp_path / "ledger.db"
    if start == "nothing":
        path.touch()
    else:
        shutil.copy(fresh if start == "fresh" else legacy, path)
    tables = {"fresh": TABLES, "legacy": TABLES[:3], "nothing": ()}[start]
    before = (path.read_bytes(), catalogue(path), contents(path, tables))
    complaint = alembic(path, "upgrade", "head", cwd=tree, fails=True).stderr
    assert "RuntimeError: half-way" in complaint
    assert (path.read_bytes(), catalogue(path), contents(path, tables)) == before


NO_TRANSACTION = """
import contextlib
from operator_core.db.migrate import sqlite
sqlite.immediate = lambda conn: contextlib.nullcontext()
"""


def test_the_kills_have_teeth(tmp_path: Path, legacy: Path) -> None:
    """Without one transaction around everything, kills leave what no upgrade ever gets over."""
    stuck = 0
    for path in kill_at(quarters, legacy, tmp_path, "upgrade", NO_TRANSACTION):
        try:
            migrate.upgrade(f"sqlite:///{path}")
        except (DatabaseError, UnmanagedSchema):
            stuck += 1
    assert stuck
