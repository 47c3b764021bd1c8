"""``operator-core actions approve``, ``reject``, ``withdraw``, ``inbox`` and ``amend``."""

import asyncio
import getpass
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from typer.testing import Result

from operator_core.actions.types import (
    ActionProposal,
    ActionStatus,
    DecisionKind,
    Rule,
    StoredProposal,
)
from operator_core.db import ActionDB
from tests.cli.conftest import Invoke
from tests.cli.watcher import Watcher, plain

T = TypeVar("T")

PARAMETERS = {"store": "s-1", "note": "line\nbreak \x1b[2J \u202e", "big": 2**53 + 1, "whole": 1.0}

CTRL_D = "\x04"


@pytest.fixture(params=["file", "server"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A ledger with a rule: two of the role sre approve each drain."""
    if request.param == "server":
        url: str = request.getfixturevalue("server_ledger")
    else:
        url = f"sqlite:///{tmp_path / 'ledger.db'}"

    async def add(db: ActionDB) -> None:
        rule = Rule(name="two of sre", action_name="drain", approvals=2, roles=["sre"])
        await db.add_rule(rule, by="olga", reason="policy")

    used(url, add)
    return url


def used(url: str, use: Callable[[ActionDB], Awaitable[T]]) -> T:
    """Uses a ledger as another program does."""

    async def run() -> T:
        async with ActionDB(url) as db:
            return await use(db)

    return asyncio.run(run())


def make(url: str, **fields: Any) -> StoredProposal:
    values: dict[str, Any] = {"action_name": "drain", "reason": "disk is dying"}
    values |= {"parameters": PARAMETERS, "requester_id": "ann"}
    proposal = ActionProposal(**values | fields)
    return used(url, lambda db: db.create_proposal(proposal))


def status(url: str, id_: int) -> ActionStatus:
    found = used(url, lambda db: db.get_proposal(id_))
    assert found is not None
    return found.status


Run = Callable[..., Result]


@pytest.fixture
def run(invoke: Invoke, target: str) -> Run:
    """Runs a command of `actions` on the ledger."""

    def run(*arguments: str | int) -> Result:
        return invoke("actions", *map(str, arguments), "--url", target)

    return run


def test_a_quorum_approves_exactly_what_is_shown(run: Run, target: str) -> None:
    made = make(target, max_retries=2, retry_delay=7.0)
    first = run("approve", 1, "--digest", made.digest, "--by", "maria", "--role", "sre")
    assert (first.exit_code, first.stderr) == (0, "")
    lines = [line.strip() for line in first.stdout.splitlines()]
    # Nothing is shortened or rounded, and no character of it moves the cursor.
    assert lines[1] == "proposal 1  drain  proposed"
    assert '"note": "line\\nbreak \\u001b[2J \\u202e",' in lines
    assert '"big": 9007199254740993,' in lines
    assert '"whole": 1.0' in lines
    for fact in ("requester   ann", "retries     0 of 2", "retry delay 7.0"):
        assert fact in lines
    assert f"digest      {made.digest}" in lines
    required = "two of sre (requirement 1, rule 1): 2 approvals with a role among sre"
    assert f"missing 2   {required}" in lines
    assert lines[-2] == "approved by maria (decision 1)"
    assert lines[-1] == "still missing: 1 of 2 (sre) for two of sre"
    again = run("approve", 1, "--digest", made.digest, "--by", "MARIA", "--role", "sre")
    assert f"missing 1   {required}; approved by maria" in again.stdout
    assert "MARIA has approved it already (decision 1): nothing was written" in again.stdout
    last = run(
        *("approve", 1, "--digest", made.digest, "--by", "noor", "--role", "sre", "--role", "dba"),
        *("--comment", "looks\ngood", "--requirement", 1),
    )
    assert last.stdout.endswith(" nothing is missing; proposal 1 is validated\n")
    page = run("show", 1).stdout
    assert f"met         {required}; approved by maria, noor" in page
    assert "as sre dba, requirement 1): looks good" in page
    assert "approval required (requirement 1, rule 1)  by ledger: two of sre" in page


def test_who_approves_is_the_login_name_unless_it_is_said(run: Run, target: str) -> None:
    made = make(target)
    done = run("approve", 1, "--digest", made.digest, "--role", "sre")
    assert f" approved by {getpass.getuser()} (decision 1)\n" in done.stdout
    told = run("approve", 1, "--digest", made.digest, "--role", "sre", "--by", "mia", "--json")
    decision = json.loads(told.stdout)
    assert (decision["decided_by"], decision["roles"]) == ("mia", ["sre"])


def test_what_can_not_be_approved_is_refused(run: Run, target: str) -> None:
    made, other = make(target), make(target, parameters={"store": "s-2"})
    place = ("--by", "mia", "--role", "sre")
    for arguments, code, words in (
        (("--digest", other.digest, *place), 1, "what was seen is not what proposal 1 would run"),
        (("--digest", made.digest, "--by", "mia"), 1, "mia may not give an approval"),
        (("--digest", made.digest, "--by", "ann", "--role", "sre"), 1, "ann may not give"),
        (("--digest", "oc1:1", *place), 1, "must be None or a digest"),
        (place, 1, f"there is no terminal to ask at: --digest {made.digest} approves"),
        (("--json", *place), 2, "--json needs --digest"),
    ):
        done = run("approve", 1, *arguments)
        assert done.exit_code == code, arguments
        assert words in " ".join(done.stderr.replace("│", " ").split())
    assert run("approve", 9, "--digest", made.digest).stderr.endswith("no proposal with id 9\n")
    assert used(target, lambda db: db.approvals(1)).decisions == ()


def test_it_asks_at_a_terminal(target: str) -> None:
    make(target)

    def answer(key: str) -> tuple[int, str]:
        arguments = ("actions", "approve", "1", "--by", "mia", "--role", "sre", "--url", target)
        with Watcher(*arguments, columns=90) as person:
            person.wait_for("Approve exactly this? [y/N]:")
            person.press(key)
            return person.wait(), plain(person.seen)

    for key in ("\n", "n\n", CTRL_D):
        code, seen = answer(key)
        assert code == 1
        assert '"big": 9007199254740993,' in seen
        assert used(target, lambda db: db.approvals(1)).decisions == ()
    assert " not approved" in answer("n\n")[1]
    code, seen = answer("y\n")
    assert (code, "approved by mia (decision 1)" in seen) == (0, True)
    (decision,) = used(target, lambda db: db.approvals(1)).decisions
    assert decision.digest in seen


def test_what_changed_while_it_asked_is_not_approved(target: str) -> None:
    """The digest that is approved is that of what was shown."""
    make(target)
    arguments = ("actions", "approve", "1", "--by", "mia", "--role", "sre", "--url", target)
    with Watcher(*arguments) as person:
        person.wait_for("Approve exactly this? [y/N]:")
        used(target, lambda db: db.amend_proposal(1, parameters={}, by="eve", reason="r"))
        person.press("y\n")
        assert person.wait() == 1
        assert "proposal 1 is already cancelled" in plain(person.seen)
    assert used(target, lambda db: db.approvals(2)).decisions == ()


def test_a_service_may_validate_it_afterwards(run: Run, target: str) -> None:
    made = make(target)
    for name in ("mia", "noor"):
        done = run(
            *("approve", 1, "--digest", made.digest, "--no-validate", "--by", name),
            *("--role", "sre"),
        )
    assert done.stdout.endswith(" nothing is missing; proposal 1 is proposed\n")
    waiting = run("inbox", "--approved")
    assert "mia, noor" in waiting.stdout
    assert run("inbox").stdout == " nothing waits for approval\n"


def test_under_a_halt_it_is_held(run: Run, target: str) -> None:
    made = make(target)
    assert run("halt", "--yes", "--reason", "look", "--keep").exit_code == 0
    for name in ("mia", "noor"):
        done = run("approve", 1, "--digest", made.digest, "--by", name, "--role", "sre")
    assert done.stdout.endswith(" is proposed, held by a halt until it is resumed\n")
    assert run("resume", "--reason", "seen").exit_code == 0
    assert status(target, 1) is ActionStatus.VALIDATED
    assert run("inbox", "--approved").exit_code == 0


def test_a_rejection_is_for_good(run: Run, target: str) -> None:
    make(target)
    assert run("reject", 1, "--by", "mia").exit_code == 2
    done = run("reject", 1, "--by", "mia", "--reason", "not now", "--role", "sre")
    assert done.stdout == " rejected by mia (decision 1); proposal 1 is cancelled\n"
    again = run("reject", 1, "--by", "mia", "--reason", "not now")
    assert again.exit_code == 1
    assert "proposal 1 is already cancelled" in again.stderr
    page = run("show", 1).stdout
    assert "rejected (decision 1)  by mia: not now" in page
    assert "end code    rejected" in page
    make(target)
    told = json.loads(run("reject", 2, "--reason", "r", "--by", "mia", "--json").stdout)
    assert (told["kind"], told["comment"]) == ("rejected", "r")


def test_who_decides_may_be_no_person(run: Run, target: str) -> None:
    used(target, lambda db: db.add_rule(Rule(name="r"), by="mia", reason="r"))
    made = make(target)
    refused = run("approve", 1, "--by", "bot", "--by-type", "agent", "--digest", made.digest)
    assert refused.exit_code == 1
    assert "bot" in refused.stderr
    assert run("approve", 1, "--by", "bot", "--by-type", "robot").exit_code == 2
    done = run("approve", 1, "--by", "cron", "--by-type", "system", "--digest", made.digest)
    assert done.exit_code == 0
    make(target)
    told = run("reject", 2, "--by", "bot", "--by-type", "agent", "--reason", "r", "--json")
    assert json.loads(told.stdout)["decider_type"] == "agent"


def test_an_approval_can_be_withdrawn(run: Run, target: str) -> None:
    made = make(target)
    run("approve", 1, "--digest", made.digest, "--by", "mia", "--role", "sre")
    done = run("withdraw", 1, "--by", "mia", "--reason", "misread")
    assert done.stdout.splitlines() == [
        " the approval of mia is withdrawn (decision 2)",
        " still missing: 2 of 2 (sre) for two of sre",
    ]
    again = run("withdraw", 1, "--by", "mia", "--reason", "misread")
    assert (again.exit_code, "without an approval of mia" in again.stderr) == (1, True)
    found = used(target, lambda db: db.approvals(1)).decisions
    assert [each.kind for each in found] == [DecisionKind.APPROVED, DecisionKind.WITHDRAWN]
    run("approve", 1, "--digest", made.digest, "--by", "mia", "--role", "sre")
    told = json.loads(run("withdraw", 1, "--by", "mia", "--reason", "r", "--json").stdout)
    assert told["withdraws_id"] == 3


def test_the_inbox_lists_what_waits_oldest_first(run: Run, target: str) -> None:
    late = Rule(name="in time", action_name="late", decide_within=3600.0)
    used(target, lambda db: db.add_rule(late, by="olga", reason="policy"))
    first = make(target, agent_id="bot", run_id="run-1")
    make(target, action_name="late", requester_id=None)
    make(target, action_name="free")
    done = run("inbox")
    assert done.exit_code == 0
    rows = [line.split() for line in done.stdout.splitlines() if "for" in line.split()]
    assert rows[0][:4] == ["1", "drain", "ann,", "bot"]
    assert rows[0][5] == "never"
    assert rows[0][6:14] == ["2", "of", "2", "(sre)", "for", "two", "of", "sre;"]
    assert rows[1][:3] == ["2", "late", "agent"]
    assert "never" not in rows[1]
    assert "1 of 1 for in time; " in done.stdout

    def ids(*options: str) -> list[int]:
        lines = run("inbox", "--json", *options).stdout.splitlines()
        return [json.loads(line)["proposal"]["id"] for line in lines]

    assert ids() == [1, 2]
    assert ids("--agent", "bot") == ids("--run", "run-1") == ids("--action", "drain") == [1]
    assert ids("--role", "dba") == [2]
    assert ids("--for", "ann", "--role", "sre") == [2]
    assert ids("--after", "1") == [2]
    assert ids("--approved") == []
    assert "later ones: --after 1" in run("inbox", "--limit", "1").stdout
    told = json.loads(run("inbox", "--json", "--limit", "1").stdout)
    assert told["digest"] == first.digest
    assert told["requirements"][0]["missing"] == 2
    assert run("inbox", "--approved", "--for", "mia").exit_code == 2


def test_what_is_approved_and_not_started_is_listed(run: Run, target: str) -> None:
    made = make(target)
    assert run("inbox", "--approved").stdout == " nothing approved waits for a worker\n"
    for name in ("mia", "noor"):
        run("approve", 1, "--digest", made.digest, "--by", name, "--role", "sre")
    assert status(target, 1) is ActionStatus.VALIDATED
    (row,) = [line for line in run("inbox", "--approved").stdout.splitlines() if "mia" in line]
    assert "mia, noor; " in row
    assert "nothing waits for approval" in run("inbox").stdout


def test_an_amended_proposal_is_another_one(run: Run, target: str, tmp_path: Path) -> None:
    make(target, parameters={"store": "s-1", "count": 1})
    done = run(
        *("amend", 1, "--parameters", '{"store": "s-1", "count": 1.0}'),
        *("--reason", "typo", "--by", "ann"),
    )
    assert (done.exit_code, done.stderr) == (0, "")
    found = used(target, lambda db: db.get_proposal(2))
    assert found is not None
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    assert ' -  "count": 1' in lines
    assert ' +  "count": 1.0' in lines
    assert lines[-3:] == [
        " proposal 2 supersedes proposal 1, by ann; it is proposed",
        f" digest {found.digest}",
        " missing: 2 of 2 (sre) for two of sre",
    ]
    assert "superseded  by proposal 2" in run("show", 1).stdout
    assert "supersedes  proposal 1" in run("show", 2).stdout
    file = tmp_path / "new.json"
    file.write_text('{"store": "s-2"}')
    told = run("amend", 2, "--parameters", f"@{file}", "--reason", "r", "--by", "ann", "--json")
    assert json.loads(told.stdout)["parameters"] == {"store": "s-2"}
    same = run("amend", 3, "--parameters", f"@{file}", "--reason", "r", "--by", "ann")
    assert "the parameters are the same" in same.stdout
    gone = run("amend", 3, "--parameters", "{}", "--reason", "r", "--by", "ann")
    assert gone.exit_code == 1
    for wrong in ("[1]", "{", "@missing.json", '{"a": 1e400}'):
        refused = run("amend", 4, "--parameters", wrong, "--reason", "r", "--by", "ann")
        assert refused.exit_code in (1, 2), wrong
    assert status(target, 4) is ActionStatus.PROPOSED


def test_a_page_as_json_has_what_is_required_and_decided(run: Run, target: str) -> None:
    made = make(target)
    run("approve", 1, "--digest", made.digest, "--by", "mia", "--role", "sre")
    told = json.loads(run("show", 1, "--json").stdout)["approvals"]
    assert (told["approved"], told["lapses_at"]) == (False, None)
    (required,) = told["requirements"]
    assert (required["missing"], required["counted"], required["met"]) == (1, [1], False)
    assert [each["decided_by"] for each in told["decisions"]] == ["mia"]
