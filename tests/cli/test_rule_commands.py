"""``operator-core rules`` and ``grants``."""

import asyncio
import getpass
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from operator_core.actions.types import ActionProposal, StoredRule
from operator_core.db import ActionDB
from tests.cli.conftest import Invoke
from tests.cli.watcher import Watcher, plain

Run = Callable[..., Result]


@pytest.fixture(params=["file", "server"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty ledger."""
    if request.param == "server":
        return request.getfixturevalue("server_ledger")
    url = f"sqlite:///{tmp_path / 'ledger.db'}"

    async def make() -> None:
        async with ActionDB(url):
            pass

    asyncio.run(make())
    return url


@pytest.fixture
def run(invoke: Invoke, target: str) -> Run:
    def run(*arguments: str | int | Path) -> Result:
        return invoke(*map(str, arguments), "--url", target)

    return run


def rules(url: str, *, active: bool = True) -> list[StoredRule]:
    async def read() -> list[StoredRule]:
        async with ActionDB(url) as db:
            return await db.rules(active=active)

    return asyncio.run(read())


def add(run: Run, *arguments: str) -> dict[str, Any]:
    """Adds a rule and returns it."""
    done = run("rules", "add", "--reason", "policy", "--by", "olga", *arguments, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_a_rule_has_what_its_options_say(run: Run, target: str) -> None:
    made = add(
        run,
        *("--name", "big drains", "--action", "drain_*", "--action-type", "tool"),
        *("--agent", "Bot", "--requester-type", "agent", "--approvals", "2"),
        *("--role", "sre", "--role", "DBA", "--approver", "mia", "--approver", "noor"),
        *("--condition", "amount gt 100", "--condition", "disk.sizes[0] in [1, 2.5]"),
        *("--condition", "name prefix prod-", "--condition", "force exists"),
        *("--condition", '{"path": ["a.b"], "op": "eq", "value": null}'),
        *("--allow-self", "--allow-agents", "--covers-retries"),
        *("--decide-within", "1.5h", "--valid-for", "2d"),
        *("--valid-from", "2026-01-01T00:00:00+0000", "--valid-until", "9000-01-01"),
    )
    (rule,) = rules(target)
    assert json.loads(rule.model_dump_json()) == made
    assert (rule.name, rule.action_name, rule.agent_id) == ("big drains", "drain_*", "bot")
    assert (rule.approvals, rule.roles, rule.approvers) == (2, ("sre", "dba"), ("mia", "noor"))
    assert [each.as_json() for each in rule.conditions] == [
        {"path": ("amount",), "op": "gt", "value": 100},
        {"path": ("disk", "sizes", 0), "op": "in", "value": (1, 2.5)},
        {"path": ("name",), "op": "prefix", "value": "prod-"},
        {"path": ("force",), "op": "exists"},
        {"path": ("a.b",), "op": "eq", "value": None},
    ]
    assert (rule.decide_within, rule.valid_for) == (5400, 172_800)
    assert rule.valid_from == datetime(2026, 1, 1, tzinfo=UTC)
    assert (rule.added_by, rule.reason) == ("olga", "policy")
    first, second = run("rules", "list").stdout.splitlines()
    assert first.startswith(
        " rule 1 big drains: drain_*, action type tool, agent id bot, requester type agent,"
        ' amount gt 100, disk.sizes[0] in [1,2.5], name prefix "prod-", force exists,'
    )
    assert "2 approvals with a role among sre dba by mia noor, also one's own, also by" in first
    assert ", decided within 1h30m, each good for 2d0h, retries included, from 202" in first
    assert second.startswith("   added by olga at ")
    assert second.endswith(": policy")


def test_what_is_no_rule_is_a_usage_error(run: Run, target: str) -> None:
    name = ("--name", "n")
    for wrong in (
        ("--deny", "--approvals", "2", *name),
        ("--deny", "--role", "sre", *name),
        ("--approvals", "21", *name),
        ("--approver", "mia", "--approvals", "2", *name),
        ("--condition", "amount", *name),
        ("--condition", "amount above 1", *name),
        ("--condition", "a..b gt 1", *name),
        ("--condition", "[-1] gt 1", *name),
        ("--condition", "a gt 1e400", *name),
        ("--condition", "{", *name),
        ("--decide-within", "1y", *name),
        ("--decide-within", "0", *name),
        ("--name", " "),
        (),
    ):
        assert run("rules", "add", "--reason", "r", *wrong).exit_code == 2, wrong
    assert run("rules", "add", *name).exit_code == 2
    assert rules(target) == []
    assert run("rules", "list").stdout == " no rules\n"


def test_a_rule_is_revoked_once(run: Run, target: str) -> None:
    add(run, "--name", "no drops", "--action", "drop_*", "--deny")
    done = run("rules", "revoke", 1, "--reason", "obsolete")
    assert done.exit_code == 0
    assert f"   revoked by {getpass.getuser()} at " in done.stdout
    again = run("rules", "revoke", 1, "--reason", "obsolete")
    assert (again.exit_code, "rule 1 is already revoked" in again.stderr) == (1, True)
    assert "no rule with id 9" in run("rules", "revoke", 9, "--reason", "r").stderr
    assert run("rules", "revoke", 1).exit_code == 2
    assert run("rules", "list").stdout == " no rules\n"
    assert run("rules", "list", "--json").stdout == ""
    assert "no drops: drop_*: denied" in run("rules", "list", "--all").stdout
    (told,) = run("rules", "list", "--all", "--json").stdout.splitlines()
    assert json.loads(told)["revoke_reason"] == "obsolete"


def test_it_explains_what_would_be_asked(run: Run, target: str) -> None:
    add(run, "--name", "big", "--action", "drain", "--condition", "amount gt 100")
    add(run, "--name", "agents", "--agent", "bot", "--requester-type", "user", "--deny")
    add(run, "--name", "all", "--approvals", "2")
    done = run("rules", "explain", "--action", "drain", "--parameters", '{"amount": 101}')
    assert done.stdout.splitlines() == [
        " rule 1 big: drain, amount gt 100: 1 approval",
        "   action_name fits drain",
        "   parameters.amount gt 100, or it can't be evaluated",
        " rule 2 agents: every action, agent id bot, requester type user: denied",
        "   agent_id is bot, and the proposal does not say it",
        "   requester_type is user, and the proposal does not say it",
        " rule 3 all: every action: 2 approvals",
        "   it is for every action",
    ]
    small = ("--parameters", '{"amount": 1}', "--agent", "other", "--requester-type", "user")
    told = run("rules", "explain", "--action", "drain", *small, "--json")
    (found,) = map(json.loads, told.stdout.splitlines())
    assert (found["rule"]["name"], found["why"]) == ("all", [])
    assert run("rules", "revoke", 3, "--reason", "r").exit_code == 0
    assert run("rules", "explain", "--action", "drain", *small).stdout == (" nothing is required\n")
    for wrong in ("[]", "{", '{"a": 1e400}'):
        bad = run("rules", "explain", "--action", "drain", "--parameters", wrong)
        assert bad.exit_code == 2
    assert run("actions", "list").stdout == " no such proposals\n"


TOML = """
[[rules]]
name = "big drains"
action_name = "drain_*"
approvals = 2
roles = ["SRE", "dba"]
conditions = [
    { path = ["amount"], op = "gt", value = 100 },
    { path = ["disks", 0], op = "exists" },
]
decide_within = 3600

[[rules]]
name = "no drops"
action_name = "drop_*"
effect = "deny"
valid_until = 9000-01-01T00:00:00Z
"""


def test_a_file_is_loaded_as_a_difference(run: Run, target: str, tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(TOML)
    trial = run("rules", "load", file, "--dry-run")
    assert trial.exit_code == 0
    shown = (
        " + big drains: drain_*, amount gt 100, disks[0] exists: 2 approvals with a role among"
        " sre dba, decided within 1h0m"
    )
    lines = trial.stdout.splitlines()
    assert lines[0].replace("SRE", "sre") == shown
    assert lines[1].startswith(" + no drops: drop_*: denied, until ")
    assert rules(target) == []
    done = run("rules", "load", file, "--yes", "--by", "olga")
    assert done.stdout.splitlines()[-1] == " 2 added, 0 revoked, by olga"
    assert [(each.id, each.name, each.reason) for each in rules(target)] == [
        (1, "big drains", "loaded from rules.toml"),
        (2, "no drops", "loaded from rules.toml"),
    ]
    for again in ((), ("--yes",), ("--dry-run",)):
        same = run("rules", "load", file, *again)
        assert (same.exit_code, same.stdout) == (0, " nothing to change: 2 the same\n")
    # The same content in another form: JSON, another order, identities in other letters.
    other = tmp_path / "rules.json"
    first, second = (json.loads(each.model_dump_json()) for each in rules(target))
    kept = {"name", "action_name", "approvals", "roles", "conditions", "decide_within", "effect"}
    kept |= {"valid_until"}
    drains, drops = ({name: each[name] for name in kept} for each in (first, second))
    drains |= {"roles": ["dba", "sre"], "conditions": drains["conditions"][::-1]}
    drains["conditions"][0].pop("value")
    other.write_text(json.dumps({"rules": [drops, drains]}))
    assert run("rules", "load", other, "--json", "--yes").stdout == ""
    # Another content under the same name, and a rule that is gone.
    drains["approvals"] = 3
    other.write_text(json.dumps({"rules": [drains]}))
    done = run("rules", "load", other, "--yes", "--by", "olga", "--reason", "review")
    lines = done.stdout.splitlines()
    assert [line[:10] for line in lines] == [
        " - rule 1 ",
        "   another",
        " - rule 2 ",
        " + big dra",
        " 1 added, ",
    ]
    assert lines[1] == "   another approvals"
    assert [(each.id, each.approvals, each.reason) for each in rules(target)] == [(3, 3, "review")]
    assert [each.revoke_reason for each in rules(target, active=False)][:2] == ["review"] * 2
    assert run("rules", "load", other).stdout == " nothing to change: 1 the same\n"
    other.write_text('{"rules": []}')
    told = run("rules", "load", other, "--dry-run", "--json").stdout
    assert [json.loads(line)["change"] for line in told.splitlines()] == ["revoke"]
    assert len(rules(target)) == 1


def test_what_is_over_is_left_out_and_the_same_twice_is_revoked(
    run: Run, target: str, tmp_path: Path
) -> None:
    add(run, "--name", "n", "--approvals", "2")
    add(run, "--name", "n", "--approvals", "2")
    file = tmp_path / "rules.json"
    over = {"name": "over", "valid_until": "2020-01-01T00:00:00Z"}
    file.write_text(json.dumps({"rules": [{"name": "n", "approvals": 2}, over]}))
    done = run("rules", "load", file, "--yes")
    assert " left out, its time is over: over" in done.stdout
    assert [each.id for each in rules(target)] == [1]
    again = run("rules", "load", file, "--yes").stdout.splitlines()
    assert again == [
        " left out, its time is over: over",
        " nothing to change: 1 the same",
    ]


def test_a_file_that_can_not_be_read_changes_nothing(run: Run, target: str, tmp_path: Path) -> None:
    add(run, "--name", "n")
    file = tmp_path / "rules.json"
    twice = '{"rules": [{"name": "a"}, {"name": "A"}]}'
    for text, words in (
        ("{", "is not JSON"),
        ("[]", "must be an object"),
        ("{}", "must have a list named rules"),
        ('{"rules": [], "other": 1}', "must have a list named rules, and nothing else"),
        ('{"rules": [1]}', "rules[0]: must be an object"),
        ('{"rules": [{"name": "a", "approval": 2}]}', "rules[0].approval"),
        ('{"rules": [{"name": "a"}, {"name": "b", "roles": []}]}', "rules[1].roles"),
        ('{"rules": [{"name": "a", "name": "b"}]}', "has a key twice"),
        (twice, "rules[1].name: is the name of an earlier rule too"),
    ):
        file.write_text(text)
        done = run("rules", "load", file, "--yes")
        assert done.exit_code == 2
        assert words in " ".join(done.stderr.replace("│", " ").split()), text
    toml = tmp_path / "rules.toml"
    toml.write_bytes(b"\xff")
    assert run("rules", "load", toml, "--yes").exit_code == 2
    toml.write_text("rules = [")
    assert run("rules", "load", toml, "--yes").exit_code == 2
    assert run("rules", "load", tmp_path / "missing", "--yes").exit_code == 2
    assert run("rules", "load", tmp_path, "--yes").exit_code == 2
    file.write_text('{"rules": []}')
    asked = run("rules", "load", file)
    assert asked.exit_code == 1
    assert "there is no terminal to ask at: --yes applies it" in asked.stderr
    assert run("rules", "load", file, "--json").exit_code == 2
    assert [each.name for each in rules(target)] == ["n"]


def test_it_asks_before_it_loads(run: Run, target: str, tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(TOML)
    for key, code in (("n\n", 1), ("y\n", 0)):
        assert rules(target) == []
        with Watcher("rules", "load", file, "--url", target, columns=150) as person:
            person.wait_for("+ no drops", "Apply this? [y/N]:")
            person.press(key)
            assert person.wait() == code
    assert len(rules(target)) == 2


def test_rules_that_changed_while_it_asked_are_left_alone(
    run: Run, target: str, tmp_path: Path
) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(TOML)
    with Watcher("rules", "load", file, "--url", target) as person:
        person.wait_for("Apply this? [y/N]:")
        add(run, "--name", "another")
        person.press("y\n")
        assert person.wait() == 1
        assert "the rules have changed since they were shown" in plain(person.seen)
    assert [each.name for each in rules(target)] == ["another"]


def test_a_grant_is_bounded_and_revoked_once(run: Run, target: str) -> None:
    add(run, "--name", "all", "--role", "sre")
    given = ("grants", "add", "--action", "drain_*", "--reason", "night", "--by", "mia")
    done = run(
        *(*given, "--max-uses", 2, "--valid-for", "8h", "--role", "SRE"),
        *("--condition", "amount le 100"),
    )
    assert (done.exit_code, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first.startswith(" grant 1 drain_*, amount le 100: the vote of mia, sre, 0 of 2 used")
    assert second.endswith(": night")

    async def use() -> None:
        async with ActionDB(target) as db:
            for amount in (100, 101):
                await db.create_proposal(
                    ActionProposal(
                        action_name="drain_store", reason="r", parameters={"amount": amount}
                    )
                )

    asyncio.run(use())
    (told,) = map(json.loads, run("grants", "list", "--json").stdout.splitlines())
    assert (told["uses"], told["granted_by"], told["roles"]) == (1, "mia", ["sre"])
    until = datetime.fromisoformat(told["valid_until"])
    made = datetime.fromisoformat(told["created_at"])
    assert abs(until - made - timedelta(hours=8)) < timedelta(minutes=5)
    assert "grant 1)" in run("actions", "show", 1).stdout
    assert run("actions", "inbox").stdout.count("1 of 1 (sre) for all") == 1
    gone = run("grants", "revoke", 1, "--reason", "over", "--by", "noor")
    assert "1 of 2 used" in gone.stdout
    assert "   revoked by noor at " in gone.stdout
    again = run("grants", "revoke", 1, "--reason", "over")
    assert (again.exit_code, "grant 1 is already revoked" in again.stderr) == (1, True)
    assert run("grants", "list").stdout == " no grants\n"
    assert "   revoked by noor" in run("grants", "list", "--all").stdout


def test_a_grant_says_how_long(run: Run, target: str) -> None:
    given = ("grants", "add", "--action", "a", "--reason", "r", "--max-uses", 1)
    both = ("--valid-for", "1h", "--valid-until", "9000-01-01")
    for wrong, code in (
        ((), 2),
        (both, 2),
        (("--valid-until", "2020-01-01"), 1),
        (("--valid-for", "1h", "--condition", "a exists"), 1),
        (("--valid-for", "1h", "--max-uses", 0), 2),
    ):
        assert run(*given, *wrong).exit_code == code, wrong
    done = run(*given, "--valid-until", "9000-01-01", "--json")
    assert json.loads(done.stdout)["granted_by"] == getpass.getuser()
