"""The wheel and the sdist carry the revisions: what is installed migrates with no checkout in sight."""

import importlib.util
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from operator_core.db.migrate import HEAD
from tests.migrations.tools import ROOT, catalogue, python, rows_of, run, version

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("hatchling") is None,
    reason="needs hatchling, which builds the package, in the same environment",
)


def build(source: Path, target: str, into: Path) -> Path:
    run(sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(into), cwd=source)
    (made,) = into.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package in it, as pip installs it, from the wheel or by way of the sdist."""
    wheel: Path
    if request.param == "wheel":
        wheel = request.getfixturevalue("wheel")
    else:
        unpacked = tmp_path_factory.mktemp("unpacked")
        with tarfile.open(request.getfixturevalue("sdist")) as archive:
            archive.extractall(unpacked, filter="data")
        (source,) = unpacked.iterdir()
        wheel = build(source, "wheel", tmp_path_factory.mktemp("from_sdist"))
    target = tmp_path_factory.mktemp("installed")
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index")
    run(sys.executable, *pip, "--no-deps", "--target", str(target), str(wheel))
    return target


UPGRADE = """
import sys
from operator_core.db import migrate
assert migrate.__file__.startswith(sys.argv[1]), migrate.__file__
assert migrate.alembic_config().config_file_name.startswith(sys.argv[1])
migrate.upgrade("sqlite:///" + sys.argv[2])
assert not any(".py" in str(path) and "/migrations/" in path and not path.startswith(sys.argv[1])
    for path in (str(getattr(module, "__file__", "")) for module in list(sys.modules.values())))
"""


def upgrade(installed: Path, path: Path) -> None:
    python(UPGRADE, installed, path, cwd=path.parent, env={"PYTHONPATH": str(installed)})


def test_what_is_installed_makes_a_new_ledger(installed: Path, tmp_path: Path, fresh: Path) -> None:
    upgrade(installed, tmp_path / "new.db")
    assert catalogue(tmp_path / "new.db") == catalogue(fresh)
    assert version(tmp_path / "new.db") == [HEAD]


def test_what_is_installed_adopts_a_legacy_database(
    installed: Path, legacy: Path, fresh: Path
) -> None:
    upgrade(installed, legacy)
    assert catalogue(legacy) == catalogue(fresh)
    assert len(rows_of(legacy, "action_proposals")) == 300


def test_the_alembic_command_works_with_the_installed_settings(
    installed: Path, tmp_path: Path, fresh: Path
) -> None:
    """For who deploys with the wheel alone: `alembic -c .../operator_core/alembic.ini upgrade head`."""
    path = tmp_path / "new.db"
    settings = installed / "operator_core" / "alembic.ini"
    run(
        *(sys.executable, "-m", "alembic", "-c", str(settings), "-x", f"url=sqlite:///{path}"),
        *("upgrade", "head"),
        cwd=tmp_path,
        env={"PYTHONPATH": str(installed)},
    )
    assert catalogue(path) == catalogue(fresh)


def test_the_wheel_holds_all_that_migrating_needs_and_nothing_of_the_checkout(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        settings = archive.read("operator_core/alembic.ini")
    assert settings == (ROOT / "alembic.ini").read_bytes()
    versions = {
        f"operator_core/migrations/versions/{path.name}"
        for path in (ROOT / "migrations" / "versions").glob("*.py")
    }
    assert names >= versions | {
        "operator_core/py.typed",
        "operator_core/migrations/env.py",
        "operator_core/migrations/script.py.mako",
    }
    assert {name.split("/")[0].split("-")[0] for name in names} == {"operator_core"}
    assert not [name for name in names if name.endswith((".pyc", ".db", "dump_schema.py"))]


def test_the_sdist_holds_the_tests_and_the_revisions(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "alembic.ini",
        "migrations/env.py",
        "migrations/script.py.mako",
        "src/operator_core/py.typed",
        "tests/conftest.py",
    }
