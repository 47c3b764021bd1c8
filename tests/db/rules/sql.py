"""The rules' SQL in databases of its own, and the same in Python."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, LiteralString, cast

import psycopg

from operator_core.actions.conditions import matches, read_parameters
from operator_core.actions.rules import Condition, Rule

VERSIONS: Final = Path(__file__).resolve().parents[3] / "migrations" / "versions"
ON_SERVER: Final = (VERSIONS / "conditions.postgresql.sql").read_text()

Rules = Sequence[Sequence[Condition]]
Pairs = set[tuple[int, int]]
Evaluate = Callable[[Rules, Sequence[str]], Pairs]
"""Returns which rules match which parameters, by their places."""


def expressions() -> list[str]:
    """SQLite's expressions, as a revision reads them."""
    text = (VERSIONS / "conditions.sqlite.sql").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("--")]
    return [each.strip().removesuffix(";") for each in "\n".join(lines).split(";\n\n")]


NAME, IDENTITY, CONDITIONS = expressions()

SQLITE_SCHEMA: Final = f"""
CREATE TABLE proposals (id INTEGER PRIMARY KEY, action_name TEXT, parameters TEXT);
CREATE TABLE rules (id INTEGER PRIMARY KEY, action_name TEXT, conditions TEXT);
CREATE TABLE inputs (id INTEGER PRIMARY KEY, parameters);
CREATE TABLE matches (rule_id INTEGER, row_id INTEGER);
CREATE TRIGGER proposals_matched AFTER INSERT ON proposals
BEGIN
    INSERT INTO matches (rule_id, row_id)
    SELECT rule.id, NEW.id FROM rules AS rule
    WHERE CASE WHEN {NAME.replace(":name", "NEW.action_name").replace(":pattern", "rule.action_name")}
        THEN {CONDITIONS.replace(":parameters", "NEW.parameters").replace(":conditions", "rule.conditions")} END;
END;
"""


class Lite:
    """Rules and proposals in an SQLite database of one library."""

    def __init__(self, module: Any) -> None:
        self.connection = module.connect(":memory:", isolation_level=None)
        self.connection.execute("PRAGMA trusted_schema = OFF")
        self.connection.executescript(SQLITE_SCHEMA)

    def __call__(self, rules: Rules, documents: Sequence[str]) -> Pairs:
        self.connection.execute("BEGIN")
        self.connection.executemany(
            "INSERT INTO rules (id, conditions) VALUES (?, ?)", enumerate(map(stored, rules))
        )
        self.connection.executemany(
            "INSERT INTO inputs (id, parameters) VALUES (?, ?)", enumerate(documents)
        )
        # In one statement: what a trigger evaluates once, it evaluates once for each row.
        self.connection.execute(
            "INSERT INTO proposals (id, parameters) SELECT id, parameters FROM inputs"
        )
        found = set(self.connection.execute("SELECT rule_id, row_id FROM matches"))
        self.connection.execute("ROLLBACK")
        return found

    def value(self, expression: str, **parameters: object) -> object:
        return self.connection.execute(f"SELECT {expression}", parameters).fetchone()[0]


class Server:
    """PostgreSQL with the functions."""

    def __init__(self, connection: "psycopg.Connection[Any]") -> None:
        self.connection = connection

    def __call__(self, rules: Rules, documents: Sequence[str]) -> Pairs:
        return set(
            self.connection.execute(
                "SELECT rule.place - 1, document.place - 1 "
                "FROM unnest(%s::text[]) WITH ORDINALITY AS rule (conditions, place), "
                "unnest(%s::text[]) WITH ORDINALITY AS document (parameters, place) "
                "WHERE action_ledger_condition_matches(parameters::json, conditions::json)",
                (list(map(stored, rules)), list(documents)),
            )
        )

    def value(self, sql: str, *parameters: object) -> Any:
        cursor = self.connection.execute(cast(LiteralString, "SELECT " + sql), parameters)
        return cursor.fetchall()[0][0]


def in_python(rules: Rules, documents: Sequence[str]) -> Pairs:
    read = [read_parameters(document) for document in documents]
    return {
        (rule, place)
        for place, document in enumerate(read)
        for rule, conditions in enumerate(rules)
        if document is None or all(matches(each, document) for each in conditions)
    }


def stored(conditions: Sequence[Condition]) -> str:
    return Rule(name="a rule", conditions=conditions).conditions_json()
