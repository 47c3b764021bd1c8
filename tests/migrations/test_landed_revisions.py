"""What a landed revision makes never changes: its catalogue is kept in a file, to the letter.

The files of 0001 and 0002 were dumped from the eight revisions that 0002 stands for. Quotes around names and the
breaking of lines are taken away; they mean nothing.
"""

import re
from pathlib import Path
from typing import Final

import pytest

from operator_core.db import migrate
from tests.databases import Databases, query
from tests.migrations import postgresql_tools, tools

CATALOGUES: Final = Path(__file__).with_name("catalogues")
LANDED: Final = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010")


def plain(definition: object) -> str:
    return " ".join(re.sub(r'"(\w+)"', r"\1", str(definition or "")).split())


def lines(rows: tools.Rows) -> list[str]:
    return sorted(" | ".join(map(plain, row)) for row in rows)


@pytest.mark.parametrize("revision", LANDED)
def test_on_sqlite(revision: str, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    migrate.upgrade(f"sqlite:///{path}", revision)
    kept = (CATALOGUES / f"{revision}.sqlite.txt").read_text().splitlines()
    assert lines(tools.catalogue(path, version_table=False)) == kept


@pytest.mark.parametrize("revision", LANDED)
def test_on_postgresql(revision: str, postgres: Databases) -> None:
    url = postgresql_tools.ledger_at(postgres, revision)
    version, *kept = (CATALOGUES / f"{revision}.postgresql.txt").read_text().splitlines()
    ((here,),) = query(url, "SELECT current_setting('server_version_num')::int / 10000")
    if f"PostgreSQL {here}" != version:
        pytest.skip(
            f"the catalogue was dumped from {version}, which prints definitions in its own way"
        )
    assert lines(postgresql_tools.catalogue(url)) == kept
