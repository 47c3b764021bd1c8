"""Everything that the facade does has its command, and every command can speak JSON."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from operator_core.cli.app import app
from operator_core.db import ActionDB

COMMANDS = {
    "add_rule": "rules add",
    "amend_proposal": "actions amend",
    "approvals": "actions show",
    "approve_proposal": "actions approve",
    "approved_not_started": "actions inbox --approved",
    "cancel_all_pending": "actions stop",
    "cancel_proposal": "actions cancel",
    "cancel_workflow": "workflows cancel",
    "changes": "actions follow",
    "claim": "actions claim",
    "claim_proposal": "actions claim --id",
    "claimed": "worker run",
    "complete": "actions complete",
    "complete_many": "actions complete",
    "count_proposals": "actions count",
    "create_proposal": "actions propose",
    "create_proposals": "actions replay",
    "create_record": "actions record",
    "create_workflow": "workflows create",
    "events": "actions history --follow",
    "explain": "rules explain",
    "fail": "actions fail",
    "fail_many": "actions fail",
    "find_call": "actions list --call",
    "get_proposal": "actions show",
    "get_record": "actions show",
    "get_records_for_proposal": "actions show",
    "get_workflow": "workflows show",
    "grant": "grants add",
    "grants": "grants list",
    "halt": "actions halt",
    "halt_report": "actions halts",
    "halts": "actions halts",
    "heartbeat": "actions heartbeat",
    "history": "actions history",
    "holding": "worker run",
    "is_approved": "actions show",
    "iter_proposals": "actions export",
    "limits": "limits list",
    "list_proposals": "actions list",
    "list_workflow_actions": "workflows show",
    "mode": "actions mode",
    "newest_event_id": "actions history",
    "pending_approvals": "actions inbox",
    "recover_expired": "actions recover",
    "reject_proposal": "actions reject",
    "remove_limit": "limits remove",
    "resolve_outcome": "actions resolve",
    "resume": "actions resume",
    "retry": "actions retry",
    "revoke_grant": "grants revoke",
    "revoke_rule": "rules revoke",
    "rules": "rules list",
    "set_limit": "limits set",
    "unresolved": "actions unresolved",
    "update_proposal_status": "actions validate",
    "update_record": "actions complete",
    "wait_for": "actions follow",
    "wait_until": "actions follow",
    "withdraw_approval": "actions withdraw",
    "workflow_status": "workflows show",
}

NO_VERBS = {"close", "db_path", "from_env", "open", "transaction"}
"""What opens, closes and groups the calls of a program."""

PRINT_OTHER_THINGS = {"db sql", "db grants", "actions export", "worker run", "mcp-gateway"}
"""SQL, JSON without an option, the log of a worker, a protocol."""


def commands() -> dict[str, Any]:
    def found(group: Any, path: str) -> Iterator[tuple[str, Any]]:
        for name, command in group.commands.items():
            at = f"{path} {name}".strip()
            yield from found(command, at) if hasattr(command, "commands") else [(at, command)]

    return dict(found(typer.main.get_command(app), ""))


def test_every_verb_of_the_facade_has_a_command() -> None:
    verbs = {name for name in dir(ActionDB) if not name.startswith("_")}
    assert sorted(verbs - NO_VERBS - COMMANDS.keys()) == []
    assert sorted(COMMANDS.keys() - verbs) == []


@pytest.mark.parametrize("verb", COMMANDS)
def test_the_command_exists_with_the_option(verb: str) -> None:
    path, _, option = COMMANDS[verb].partition(" --")
    command = commands()[path]
    assert not option or f"--{option}" in {name for each in command.params for name in each.opts}


def test_every_command_prints_json_and_says_what_it_does() -> None:
    for path, command in commands().items():
        options = {name for each in command.params for name in each.opts}
        assert ("--json" in options) is (path not in PRINT_OTHER_THINGS), path
        assert command.help, path
        for each in command.params:
            assert getattr(each, "help", None), f"{path} {each.name}"
