"""Writes ``operator_core/db/schema.py``, the schema as text, from the revisions.

``make schema`` runs it; a test fails if the text and the revisions differ.
"""

import sqlite3
import sys
import tempfile
from pathlib import Path

HEADER = '''"""The schema at head as SQLite script text, for programs that create the tables without Alembic.

Generated from the revisions by ``make schema``; do not edit.
"""

from typing import Final

__all__ = ["ACTIONS_SCHEMA_SQL", "SCHEMA_SQL"]
'''


def statements(path: Path) -> dict[bool, list[str]]:
    """Every statement of the catalogue of the database at `path`; under True, those about tickets only."""
    connection = sqlite3.connect(path)
    try:
        found = connection.execute(
            "SELECT name, tbl_name, sql FROM sqlite_master WHERE sql IS NOT NULL "
            "AND name NOT LIKE 'sqlite~_%' ESCAPE '~' AND tbl_name != ? ORDER BY "
            "CASE type WHEN 'table' THEN 1 WHEN 'index' THEN 2 WHEN 'view' THEN 3 ELSE 4 END, rowid",
            ["operator_core_alembic_version"],
        ).fetchall()
    finally:
        connection.close()
    sorted_: dict[bool, list[str]] = {True: [], False: []}
    for _, table, sql in found:
        about_tickets = table == "tickets" and "action_" not in sql
        for kind in ("TABLE", "INDEX", "UNIQUE INDEX", "VIEW", "TRIGGER"):
            sql = sql.replace(f"CREATE {kind} ", f"CREATE {kind} IF NOT EXISTS ", 1)
        sorted_[about_tickets].append(sql + ";\n")
    return sorted_


def render(path: Path) -> str:
    """The text of the module for the database at `path`."""
    parts = statements(path)
    text = HEADER
    for name, about_tickets, doc in (
        ("SCHEMA_SQL", True, "The table ``tickets``, which another service writes."),
        (
            "ACTIONS_SCHEMA_SQL",
            False,
            "The ledger's own tables, and triggers on tickets: run after `SCHEMA_SQL`.",
        ),
    ):
        script = "\n".join(parts[about_tickets]).replace("\\", "\\\\")
        text += f'\n{name}: Final = """\\\n{script}"""\n"""{doc}"""\n'
    return text


def main() -> None:
    # The import below imports the module that this writes, so the module must exist.
    target = Path(__file__).parents[1] / "src/operator_core/db/schema.py"
    if not target.exists():
        target.write_text(HEADER + '\nSCHEMA_SQL: Final = ""\nACTIONS_SCHEMA_SQL: Final = ""\n')
    from operator_core.db import migrate

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        migrate.upgrade(f"sqlite:///{path}")
        target.write_text(render(path))
    sys.stderr.write(f"wrote {target.name}\n")


if __name__ == "__main__":
    main()
