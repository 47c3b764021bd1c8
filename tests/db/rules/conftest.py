"""The rules' SQL on each database."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import LiteralString, cast

import pytest

from operator_core.db.sql import sqlite_library
from tests.databases import Databases, connected
from tests.db.rules.sql import ON_SERVER, Lite, Server


@pytest.fixture(scope="module", params=["sqlite3", "pysqlite3"])
def lite(request: pytest.FixtureRequest) -> Iterator[Lite]:
    module = sqlite3 if request.param == "sqlite3" else sqlite_library._found
    if module is None:
        pytest.skip("pysqlite3 is not installed")
    found = Lite(module)
    with closing(found.connection):
        yield found


@pytest.fixture(scope="module")
def server(postgres: Databases) -> Iterator[Server]:
    with connected(postgres.new()) as connection:
        connection.execute(cast(LiteralString, ON_SERVER))
        yield Server(connection)
