"""What one would write by hand with sqlite3, in the place of `contender.py`: the planted bugs."""

import json
import sqlite3
import sys

from meeting import meet


def connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    return connection


def read_then_write(path: str, units: int) -> None:
    """A plain BEGIN, which takes the write lock only when it comes to writing."""
    busy = 0
    connection = connect(path)
    meet("ready")
    for unit in range(units):
        connection.execute("BEGIN")
        (seen,) = connection.execute("SELECT count(*) FROM action_proposals").fetchone()
        if unit == 0:
            meet("read")
        try:
            connection.execute(
                "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at)"
                " VALUES ('naive', ?, 'no', '2026-01-01 00:00:00.000000')",
                [json.dumps({"seen": seen})],
            )
            connection.execute("COMMIT")
        except sqlite3.OperationalError:
            busy += 1
            connection.execute("ROLLBACK")
    print(json.dumps({"busy": busy}))


def claim(path: str, name: str, proposals: int) -> None:
    """Looks whether it may, then does, and what it saw may be over by then."""
    won: list[int] = []
    connection = connect(path)
    meet("ready")
    for number in range(1, proposals + 1):
        (status,) = connection.execute(
            "SELECT status FROM action_proposals WHERE id = ?", [number]
        ).fetchone()
        if number == 1:
            meet("read")
        if status == "validated":
            connection.execute(
                "UPDATE action_proposals SET status = 'executing' WHERE id = ?", [number]
            )
            won.append(number)
    print(json.dumps({"name": name, "won": won}))


if __name__ == "__main__":
    mode, path, name, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    if mode == "serial":
        read_then_write(path, count)
    else:
        claim(path, name, count)
