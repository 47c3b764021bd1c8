"""A ledger with rows at an old revision, on either database, and how it goes to other revisions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from operator_core.cli.checkup import check_up
from operator_core.cli.findings import Verdict
from operator_core.cli.server_checkup import check_up_server
from operator_core.db import migrate
from operator_core.db.postgresql.connect import parse_url
from tests.databases import Databases, query
from tests.migrations import postgresql_tools, tools

Ledger = tuple[str | Path, Callable[[str], list[Any]]]
"""Where it is, and what asks it."""


def ledger_at(
    revision: str, rows: str, request: pytest.FixtureRequest, tmp_path: Path, *, on_server: bool
) -> Ledger:
    if on_server:
        postgres: Databases = request.getfixturevalue("postgres")
        url = postgresql_tools.ledger_at(postgres, revision, f"SET timezone = 'UTC'; {rows}")
        return url, lambda sql: list(query(url, sql))
    path = tmp_path / "ledger.db"
    migrate.upgrade(f"sqlite:///{path}", revision)
    with tools.opened(path) as db:
        db.executescript(rows)
    return path, lambda sql: list(tools.query(path, sql))


def url_of(place: str | Path) -> str:
    return f"sqlite:///{place}" if isinstance(place, Path) else place


def go_down(place: str | Path, revision: str, **options: str) -> None:
    x = {name.replace("_", "-"): value for name, value in options.items()}
    if isinstance(place, Path):
        tools.alembic_here(place, "downgrade", revision, *(f"{n}={v}" for n, v in x.items()))
    else:
        postgresql_tools.alembic_here(place, "downgrade", revision, x=x)


def is_sound(place: str | Path) -> bool:
    findings = check_up(place) if isinstance(place, Path) else check_up_server(parse_url(place))
    return all(each.verdict is not Verdict.BROKEN for each in findings)


def compare_with_fresh(place: str | Path, down_to: str, postgres: Databases) -> None:
    """The schema of an upgraded ledger is that of a new one, and so it is down at `down_to`."""
    for revision in ("head", down_to):
        if revision != "head":
            go_down(place, revision)
        if isinstance(place, Path):
            fresh = place.with_name(f"{revision}.db")
            migrate.upgrade(f"sqlite:///{fresh}", revision)
            assert tools.catalogue(place) == tools.catalogue(fresh)
        else:
            made = postgresql_tools.made_by(postgres, revision)
            assert postgresql_tools.catalogue(place) == made
