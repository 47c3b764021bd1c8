"""``--json`` prints what the ledger holds, to the letter: no markup, no emoji names, no width."""

import json
from pathlib import Path
from typing import Any

import pytest

from operator_core.actions import ActionProposal, ActionStatus
from operator_core.db import ActionDB
from tests.cli.conftest import Program, change

MARKUP = [
    "[bold]x[/bold] [red]y",
    "[/] [/bold] :smile: :warning:",
    "[link=http://example.org]z[/link] \\[bold]",
    "[@click=app.bell]w[/] [1;31m] [not a tag] [0]",
    "x" * 500 + " " + "long words " * 100,
    'quotes " \\ and\ttabs\nlines',
]

COMMANDS: dict[str, list[str]] = {
    "list": ["list"],
    "show": ["show", "1"],
    "claim": ["claim", "w"],
    "recover": ["recover"],
}


def texts(value: Any) -> list[str]:
    """All strings in it, keys too."""
    if isinstance(value, dict):
        return [text for pair in value.items() for each in pair for text in texts(each)]
    if isinstance(value, list):
        return [text for each in value for text in texts(each)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("terminal", [False, True], ids=["plain", "colours"])
async def test_text_that_looks_like_markup_is_text(
    program: Program,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    terminal: bool,
) -> None:
    path, text = tmp_path / "ledger.db", " ".join(MARKUP)
    async with ActionDB(path) as db:
        made = await db.create_proposal(
            ActionProposal(
                action_name=text[:255],
                parameters={each: [each] for each in MARKUP},
                reason=text,
                status=ActionStatus.VALIDATED,
            )
        )
        if command == "recover":
            await db.claim(text[:255])
    if command == "recover":
        change(path, "UPDATE action_records SET lease_expires_at = '2001-01-01 00:00:00.000000'")
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    done = program("actions", *COMMANDS[command], "--json", "--db-path", path)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    wanted = {text[:255]} if command == "recover" else {text, text[:255], *MARKUP}
    assert wanted <= set(texts(found))
    if command != "recover":
        proposal = found.get("proposal", found)
        assert (proposal["reason"], proposal["parameters"]) == (
            text,
            {each: [each] for each in MARKUP},
        )
        assert (proposal["id"], proposal["action_name"]) == (made.id, text[:255])
    assert "\x1b" not in done.stdout
