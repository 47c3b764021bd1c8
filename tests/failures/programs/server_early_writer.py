"""The planted bug in the place of `writer.py`: acknowledges what it will commit later, 50 at a time."""

import sys

import psycopg
from writer import say

with psycopg.connect(sys.argv[1]) as connection:
    while True:
        for _ in range(50):
            row = connection.execute(
                "INSERT INTO action_proposals (action_name, parameters, reason, proposed_at)"
                " VALUES ('naive', '{}', 'no', now()) RETURNING id"
            ).fetchone()
            assert row is not None
            say(f"proposal {row[0]}")
        connection.commit()
