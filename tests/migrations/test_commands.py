"""Alembic's own commands at the root of the checkout."""

from pathlib import Path

import pytest

from operator_core.actions import InvalidValue
from operator_core.db import migrate
from operator_core.db.sql.sqlite_library import dbapi
from tests.migrations.conftest import Copy
from tests.migrations.tools import (
    alembic,
    catalogue,
    copy_of_tree,
    opened,
    real_alembic,
    version,
)


def test_check_finds_nothing_to_do_at_head(fresh: Path) -> None:
    assert "No new upgrade operations detected" in real_alembic(fresh, "check").stdout


def test_check_is_clean_on_an_adopted_database(legacy: Path) -> None:
    migrate.upgrade(f"sqlite:///{legacy}")
    assert "No new upgrade operations detected" in alembic(legacy, "check").stdout


def test_check_complains_below_head(plain: Path) -> None:
    assert "not up to date" in real_alembic(plain, "check", fails=True).stderr


def test_check_has_teeth(copy: Copy) -> None:
    path = copy("changed.db")
    with opened(path) as connection:
        connection.execute("ALTER TABLE action_records ADD COLUMN extra TEXT")
    assert "remove_column" in alembic(path, "check", fails=True).stderr


def test_autogenerate_makes_an_empty_revision(tmp_path: Path, fresh: Path) -> None:
    tree = copy_of_tree(tmp_path)
    before = set((tree / "migrations" / "versions").glob("*.py"))
    real_alembic(fresh, "revision", "--autogenerate", "-m", "Nothing to do", cwd=tree)
    (made,) = set((tree / "migrations" / "versions").glob("*.py")) - before
    text = made.read_text()
    assert "op." not in text
    assert text.count("    pass") == 2
    number = f"{int(migrate.HEAD) + 1:04}"
    assert f'revision = "{number}"\ndown_revision = "{migrate.HEAD}"\n' in text
    assert text.startswith('"""Nothing to do')
    # What the template makes is a revision that Alembic can read.
    assert f"{migrate.HEAD} ->" in alembic(None, "history", cwd=tree).stdout


def test_current_and_history_say_where_a_database_stands(fresh: Path, plain: Path) -> None:
    assert real_alembic(fresh, "current").stdout.split() == [migrate.HEAD, "(head)"]
    assert alembic(plain, "current").stdout.split() == ["0001"]
    history = real_alembic(None, "history").stdout.splitlines()
    steps = zip(("<base>", *migrate.REVISIONS), migrate.REVISIONS, strict=False)
    told = [f"{before} -> {after}" for before, after in steps]
    told[-1] += " (head)"
    assert [line.split(",")[0] for line in history] == told[::-1]


def test_current_of_no_database_is_nothing(tmp_path: Path) -> None:
    assert alembic(tmp_path / "none.db", "current").stdout == ""
    assert catalogue(tmp_path / "none.db") == []


def test_upgrading_twice_changes_nothing(copy: Copy) -> None:
    path = copy("twice.db")
    before = catalogue(path)
    real_alembic(path, "upgrade", "head")
    assert catalogue(path) == before
    assert version(path) == [migrate.HEAD]


def test_going_down_and_what_is_not_allowed_are_commands_too(copy: Copy) -> None:
    path = copy("down.db")
    real_alembic(path, "downgrade", "0001")
    assert version(path) == ["0001"]
    migrate.upgrade(str(path))
    with opened(path) as connection:
        connection.execute(
            "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at) "
            "VALUES ('a', '{}', 'r', '2026-01-01 00:00:00.000000')"
        )
    complaint = real_alembic(path, "downgrade", "0001", fails=True).stderr
    assert "WouldLoseData" in complaint
    assert version(path) == [migrate.HEAD]


def test_the_url_comes_from_x_then_the_variable_then_the_settings(tmp_path: Path) -> None:
    x, variable, settings = (tmp_path / name for name in ("x.db", "variable.db", "ledger.db"))
    tree = copy_of_tree(tmp_path)
    env = {"OPERATOR_DATABASE_URL": f"sqlite:///{variable}"}
    alembic(x, "upgrade", "0001", cwd=tree, env=env)
    assert [path.exists() for path in (x, variable, settings)] == [True, False, False]
    alembic(None, "upgrade", "head", cwd=tree, env=env)
    assert [path.exists() for path in (x, variable, settings)] == [True, True, False]
    alembic(None, "upgrade", "head", cwd=tree)
    assert [path.exists() for path in (x, variable, settings)] == [True, True, True]
    assert version(x) == ["0001"]
    assert version(variable) == version(settings) == [migrate.HEAD]


@pytest.mark.parametrize(
    "form", ["{}", "sqlite:///{}", "sqlite+aiosqlite:///{}", "sqlite+pysqlite:///{}"]
)
def test_every_form_that_a_ledger_opens_by_can_be_upgraded(tmp_path: Path, form: str) -> None:
    path = tmp_path / "with space%20.db"
    if "://" in form:
        path = tmp_path / "ledger.db"
    migrate.upgrade(form.format(path))
    assert version(path) == [migrate.HEAD]


def test_a_path_in_the_variable_serves_alembic_as_it_serves_the_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    real_alembic(None, "upgrade", "head", env={"OPERATOR_DATABASE_URL": str(path)})
    assert version(path) == [migrate.HEAD]


@pytest.mark.parametrize("word", ["garbage", "localhost", "postgresql:"])
def test_a_bare_word_makes_no_ledger(tmp_path: Path, word: str) -> None:
    tree = copy_of_tree(tmp_path)
    before = set(tree.iterdir())
    told = alembic(
        None, "upgrade", "head", cwd=tree, env={"OPERATOR_DATABASE_URL": word}, fails=True
    )
    assert "InvalidValue: OPERATOR_DATABASE_URL" in told.stderr
    told = alembic(None, "upgrade", "head", x=[f"url={word}"], cwd=tree, fails=True)
    assert "InvalidValue: -x url" in told.stderr
    assert set(tree.iterdir()) == before


def test_a_database_that_is_not_supported_is_refused_by_name() -> None:
    with pytest.raises(InvalidValue, match="must be of SQLite or PostgreSQL, not mysql"):
        migrate.upgrade("mysql://host/db")


@pytest.mark.parametrize("name", ["text.txt", "folder", "missing/ledger.db"])
def test_what_is_no_database_is_left_as_it_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "text.txt":
        path.write_text("not a database, but long enough to be read as one" * 20)
    elif name == "folder":
        path.mkdir()
    before = path.read_bytes() if path.is_file() else None
    real_alembic(path, "upgrade", "head", fails=True)
    assert (path.read_bytes() if path.is_file() else None) == before
    assert sorted(tmp_path.iterdir()) == ([path] if path.exists() else [])


def test_the_offline_downgrade_undoes_the_offline_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "offline.db"
    with opened(path) as connection:
        connection.executescript(real_alembic(None, "upgrade", "head", "--sql").stdout)
        connection.executescript(
            real_alembic(None, "downgrade", f"{migrate.HEAD}:base", "--sql").stdout
        )
    assert {row[2] for row in catalogue(path)} <= {
        "operator_core_alembic_version",
        "sqlite_sequence",
    }


def test_the_offline_script_of_the_later_revisions_keeps_rows_and_ids(
    plain: Path, fresh: Path, tmp_path: Path
) -> None:
    path = tmp_path / "plain.db"
    path.write_bytes(plain.read_bytes())
    with opened(path) as connection:
        connection.executescript(
            "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at) VALUES"
            " ('a', '{}', 'r', '2026-01-01 00:00:00.000000'), ('b', '{}', 'r', '2026-01-01 00:00:00.000000');"
            "DELETE FROM action_proposals WHERE id = 2"
        )
        connection.executescript(alembic(None, "upgrade", "0001:head", "--sql").stdout)
        assert connection.execute("SELECT id, action_name FROM action_proposals").fetchall() == [
            (1, "a")
        ]
        new = connection.execute(
            "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at) "
            "VALUES ('c', '{}', 'r', '2026-01-01 00:00:00.000000')"
        )
        assert new.lastrowid == 3
    assert catalogue(path) == catalogue(fresh)


def test_sqlite_is_new_enough_for_what_the_triggers_say() -> None:
    assert dbapi.sqlite_version_info >= (3, 35)
