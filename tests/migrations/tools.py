"""What the migration tests do with real files and real processes: run alembic, read catalogues, race."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from operator_core.db.sql.sqlite_library import dbapi
from tests import warm

ROOT = Path(__file__).resolve().parents[2]
"""The checkout, where ``alembic`` finds its settings."""

VERSION_TABLE = "operator_core_alembic_version"
TABLES = (
    "tickets",
    "action_proposals",
    "action_records",
    "action_events",
    "workflows",
    "action_halts",
    "outcome_resolutions",
    "action_limits",
    "action_rules",
    "action_requirements",
    "action_grants",
    "action_decisions",
    "action_starts",
    "action_dependencies",
)

NUMBERED = TABLES[:-2]
"""Those whose rows have ids."""

Rows = list[tuple[Any, ...]]


def run(
    *args: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None, fails: bool = False
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end, in an environment without the ledger's variable unless `env` has it."""
    done = subprocess.run(
        args,
        cwd=cwd,
        env=_environment(env),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    return _checked(done, fails=fails)


def _environment(env: Mapping[str, str] | None) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if key != "OPERATOR_DATABASE_URL"}
    return inherited | dict(env or {})


def _checked(
    done: subprocess.CompletedProcess[str], *, fails: bool
) -> subprocess.CompletedProcess[str]:
    assert (done.returncode != 0) is fails, f"{done.args}\n{done.stdout}\n{done.stderr}"
    return done


def python(code: str, *args: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a new interpreter; warnings are errors there too."""
    return run(sys.executable, "-W", "error", "-c", code, *map(str, args), **options)


def alembic(
    path: Path | None, *args: str, x: Sequence[str] = (), **options: Any
) -> subprocess.CompletedProcess[str]:
    """Runs the ``alembic`` command at the root, on the database at `path`, in a process that starts warm."""
    return warm_alembic(*_flags(path, x), *args, **options)


def real_alembic(
    path: Path | None, *args: str, x: Sequence[str] = (), **options: Any
) -> subprocess.CompletedProcess[str]:
    """The same as users run it, by an interpreter of its own: for the tests of the commands themselves."""
    return run(sys.executable, "-m", "alembic", *_flags(path, x), *args, **options)


def warm_alembic(
    *args: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None, fails: bool = False
) -> subprocess.CompletedProcess[str]:
    done = warm.run("alembic", *args, cwd=cwd, env=_environment(env), timeout=110)
    return _checked(done, fails=fails)


def _flags(path: Path | None, x: Sequence[str]) -> list[str]:
    chosen = [*x, *([f"url=sqlite:///{path}"] if path else [])]
    return [word for each in chosen for word in ("-x", each)]


def alembic_here(path: Path, command: str, revision: str, *x: str) -> None:
    """The same inside this process, where what counts is the outcome and not the command line."""
    from alembic import command as commands

    from operator_core.db import migrate

    def work(conn: Any) -> None:
        config = migrate.alembic_config(dict(each.split("=", 1) for each in x))
        config.attributes["connection"] = conn
        getattr(commands, command)(config, revision)

    migrate.run_locked(f"sqlite:///{path}", work)


@contextmanager
def opened(path: Path) -> Iterator[dbapi.Connection]:
    """A plain connection as another tool has it, with SQLite's default settings."""
    connection = dbapi.connect(path, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


def query(path: Path, sql: str, *parameters: object) -> Rows:
    with opened(path) as connection:
        return connection.execute(sql, parameters).fetchall()


def catalogue(path: Path, *, version_table: bool = True) -> Rows:
    """Every row of sqlite_master to the letter, but for where in the file it stands."""
    rows = query(path, "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name")
    return [row for row in rows if version_table or row[2] != VERSION_TABLE]


def rows_of(path: Path, table: str, columns: str = "*") -> Rows:
    return query(path, f"SELECT {columns} FROM {table} ORDER BY rowid")


def contents(path: Path, tables: Sequence[str] = TABLES) -> dict[str, Rows]:
    """Every row of every table that is there."""
    there = {name for (name,) in query(path, "SELECT name FROM sqlite_master WHERE type = 'table'")}
    return {table: rows_of(path, table) for table in tables if table in there}


def sequences(path: Path) -> dict[str, int]:
    """The highest id that each table ever gave."""
    return dict(query(path, "SELECT name, seq FROM sqlite_sequence"))


def version(path: Path) -> list[str]:
    return [row[0] for row in query(path, f"SELECT version_num FROM {VERSION_TABLE}")]


def fingerprint(path: Path) -> str:
    """Of the file's bytes, and of the names of what stands beside it."""
    beside = sorted(other.name for other in path.parent.glob(f"{path.name}-*"))
    return hashlib.sha256(path.read_bytes()).hexdigest() + " ".join(beside)


def is_sound(path: Path) -> bool:
    with opened(path) as connection:
        return (
            connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            and connection.execute("PRAGMA foreign_key_check").fetchall() == []
        )


def copy_of_tree(folder: Path) -> Path:
    """A scratch copy of the settings and revisions, to break."""
    shutil.copytree(
        ROOT / "migrations", folder / "migrations", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "alembic.ini", folder / "alembic.ini")
    return folder


_AT_ONCE = """
import os, sys, traceback
count, folder = int(sys.argv[1]), sys.argv[2]
del sys.argv[1:3]
{code}
barrier, lift = os.pipe()
children = []
for number in range(count):
    child = os.fork()
    if child:
        children.append(child)
        continue
    os.close(lift)
    os.dup2(os.open(os.path.join(folder, str(number)), os.O_WRONLY | os.O_CREAT), 2)
    status = 1
    try:
        os.read(barrier, 1)
        act(*sys.argv[1:])
        status = 0
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else left.code is not None
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status & 255)
os.close(lift)
print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


def at_once(count: int, code: str, *args: object, cwd: Path = ROOT) -> list[tuple[int, str]]:
    """Runs `act(*args)`, which `code` defines, in `count` processes that all start at one moment.

    They are forks of one that has imported all that `code` does and opened nothing, so that they cost
    what they do, and wait for one pipe to be closed. Gives back exit status and complaints.
    """
    with tempfile.TemporaryDirectory() as folder:
        script = _AT_ONCE.format(code=code)
        done = run(
            sys.executable, "-c", script, str(count), folder, *map(str, args), cwd=cwd
        ).stdout.splitlines()[-1]
        complaints = [(Path(folder) / str(number)).read_text() for number in range(count)]
    return [(int(status), each) for status, each in zip(done.split(), complaints, strict=True)]


UPGRADE = """
from alembic.config import main
import alembic.command, sqlalchemy.dialects.sqlite, operator_core.db.migrate, operator_core.db.sql.tables
def act(url):
    main(argv=["-x", "url=" + url, "upgrade", "head"])
"""
"""`alembic upgrade head`, for `at_once`."""

OPEN = """
import asyncio
import sqlalchemy.dialects.sqlite
from operator_core.db import ActionDB
def act(path):
    async def main():
        async with ActionDB(path) as db:
            await db.count_proposals()
    asyncio.run(main())
"""
"""Opening a ledger by its path, for `at_once`."""
