"""What one would write by hand, in the place of `claimant.py`: the planted bug."""

import json
import sqlite3
import sys
from contextlib import closing
from typing import Any

import psycopg
from meeting import meet


class Naive:
    """Looks what is validated, then takes it, and what it saw may be over by then."""

    def __init__(self, connection: Any, mark: str, now: str) -> None:
        self.connection, self.mark, self.now = connection, mark, now

    def execute(self, sql: str, *parameters: Any) -> Any:
        said = sql.replace("?", self.mark).replace("NOW", self.now)
        return self.connection.execute(said, parameters)

    def claim(self, name: str) -> list[tuple[int, int]]:
        got: list[tuple[int, int]] = []
        meet("ready")
        while ids := self.execute(
            "SELECT id FROM action_proposals WHERE status = 'validated' ORDER BY id LIMIT 20"
        ).fetchall():
            first = not got
            if first:
                # A moment that comes by itself too, but not in every run.
                meet("read")
            for (id,) in ids:
                # The lifecycle's trigger does not help: to set the status that is there changes nothing.
                self.execute("UPDATE action_proposals SET status = 'executing' WHERE id = ?", id)
                (record,) = self.execute(
                    "INSERT INTO action_records (proposal_id, started_at, started_by, worker)"
                    " VALUES (?, NOW, ?, ?) RETURNING id",
                    id,
                    name,
                    name,
                ).fetchone()
                got.append((id, record))
            if first:
                meet("first")
        return got


def claim(place: str, name: str) -> list[tuple[int, int]]:
    if "://" in place:
        with psycopg.connect(place, autocommit=True) as connection:
            return Naive(connection, "%s", "clock_timestamp()").claim(name)
    with closing(sqlite3.connect(place, timeout=60, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        return Naive(connection, "?", "strftime('%Y-%m-%d %H:%M:%f000', 'now')").claim(name)


if __name__ == "__main__":
    place, name = sys.argv[1:]
    print(json.dumps({"name": name, "claimed": claim(place, name)}))
