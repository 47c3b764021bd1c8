"""Databases that several migration tests start from: made once, copied for each test."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.migrations.tools import alembic

Copy = Callable[[str], Path]


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `alembic upgrade head` makes of no file at all; look at it, but work on copies."""
    path = tmp_path_factory.mktemp("fresh") / "ledger.db"
    alembic(path, "upgrade", "head")
    return path


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `alembic upgrade 0001` makes of no file at all."""
    path = tmp_path_factory.mktemp("plain") / "ledger.db"
    alembic(path, "upgrade", "0001")
    return path


@pytest.fixture
def copy(tmp_path: Path, fresh: Path) -> Copy:
    """Copies of the fresh ledger, by name."""

    def make(name: str) -> Path:
        return Path(shutil.copy(fresh, tmp_path / name))

    return make


@pytest.fixture
def legacy(shared_data: Path, tmp_path: Path) -> Path:
    """A copy of a predecessor's database: the three plain tables, rows in all, no version."""
    return Path(shutil.copy(shared_data / "predecessor_p12.db", tmp_path / "legacy.db"))


@pytest.fixture
def unknown(shared_data: Path, tmp_path: Path) -> Path:
    """A copy of the predecessor's last database: the same tables with more columns, and others."""
    return Path(shutil.copy(shared_data / "predecessor_v2.db", tmp_path / "unknown.db"))
