"""``operator-core mcp-gateway`` speaks MCP on its standard streams, in front of another server."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp_types import TextContent

from operator_core.actions import ActionStatus, Rule
from operator_core.db import ActionDB, SyncActionDB
from operator_core.integrations.mcp import CALL_ID, PENDING, PROPOSAL_ID
from tests.clocks import PATIENCE

S = ActionStatus

PROGRAM = "from operator_core.cli.output import shield_streams; shield_streams(); "
COMMAND = [
    sys.executable,
    "-c",
    PROGRAM + "from operator_core.cli.gateway_command import app; app()",
]

SERVER = """
import os
import sys
from pathlib import Path

from mcp.server.mcpserver import MCPServer

print("the server starts", file=sys.stderr)
server = MCPServer("stores")

@server.tool()
def drain(store: int) -> str:
    with Path(sys.argv[1]).open("a") as log:
        log.write(f"drained {store}\\\\n")
    return f"store {store} is drained"

@server.tool()
def environment(name: str) -> str:
    return os.environ.get(name, "not there")

@server.tool()
def die() -> str:
    os._exit(1)

server.run("stdio")
"""


class Gateway:
    """The program, spoken to line by line: whatever it prints must be of the protocol."""

    def __init__(self, command: list[str], **environment: str) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        self.number = 0
        hello = {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        }
        self.server = self.ask("initialize", hello)["result"]["serverInfo"]
        self._send({"method": "notifications/initialized"})

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        self.process.stdin.flush()

    def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self.number += 1
        self._send({"id": self.number, "method": method, "params": params})
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = json.loads(line)
            assert message["jsonrpc"] == "2.0"
            if message.get("id") == self.number:
                return message
        raise AssertionError(self.process.communicate()[1])

    def call(self, name: str, arguments: dict[str, Any], **meta: Any) -> dict[str, Any]:
        params = {"name": name, "arguments": arguments, **({"_meta": meta} if meta else {})}
        return self.ask("tools/call", params)

    def told(self, name: str, arguments: dict[str, Any], **meta: Any) -> str:
        return self.call(name, arguments, **meta)["result"]["content"][0]["text"]

    def end(self) -> tuple[int, str]:
        """Closes its standard input; returns the exit code and what it has written to standard error."""
        rest, errors = self.process.communicate(timeout=PATIENCE)
        assert rest == ""
        return self.process.returncode, errors


class Place:
    def __init__(self, folder: Path) -> None:
        self.ledger = folder / "ledger.db"
        self.log = folder / "log"
        program = folder / "server.py"
        program.write_text(SERVER.replace("\\\\n", "\\n"))
        self.server = [sys.executable, str(program), str(self.log)]
        self.started: list[Gateway] = []
        with SyncActionDB(self.ledger) as db:
            db.add_rule(Rule(name="drains", action_name="drain"), by="lead", reason="policy 4")

    def command(self, *options: str) -> list[str]:
        return [*COMMAND, "--db-path", str(self.ledger), *options]

    def start(self, *options: str, **environment: str) -> Gateway:
        gateway = Gateway([*self.command(*options), "--", *self.server], **environment)
        self.started.append(gateway)
        return gateway

    def approve(self, answer: dict[str, Any]) -> None:
        with SyncActionDB(self.ledger) as db:
            proposal = db.get_proposal(answer["_meta"][PROPOSAL_ID])
            assert proposal is not None
            db.approve_proposal(proposal.id, by="maria", digest=proposal.digest)

    def rows(self) -> list[Any]:
        with SyncActionDB(self.ledger) as db:
            return list(reversed(db.list_proposals()))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    for gateway in place.started:
        gateway.process.kill()
        with gateway.process:
            pass


def test_a_call_survives_a_kill_and_runs_once(place: Place) -> None:
    options = ("--run", "run-1", "--agent", "planner", "--requester", "u-17", "--wait", "0")
    gateway = place.start(*options)
    assert gateway.server["name"] == "stores"
    tools = gateway.ask("tools/list", {})["result"]["tools"]
    assert [tool["name"] for tool in tools] == ["drain", "environment", "die"]
    waits = gateway.call("drain", {"store": 4}, **{CALL_ID: "call-1"})["result"]
    assert waits["_meta"][PENDING]
    gateway.process.send_signal(signal.SIGKILL)
    gateway.process.communicate(timeout=PATIENCE)
    place.approve(waits)
    for _ in range(2):
        gateway = place.start(*options)
        assert gateway.told("drain", {"store": 4}, **{CALL_ID: "call-1"}) == "store 4 is drained"
        code, errors = gateway.end()
        assert code == 0
        assert "the server starts" in errors
    assert place.log.read_text() == "drained 4\n"
    (row,) = place.rows()
    assert (row.status, row.run_id, row.agent_id) == (S.COMPLETED, "run-1", "planner")
    assert (row.requester_id, row.call_id) == ("u-17", "call-1")


def test_each_start_is_another_run_unless_it_is_named(place: Place) -> None:
    for _ in range(2):
        gateway = place.start("--wait", "0")
        gateway.call("environment", {"name": "PATH"})
        gateway.end()
    one, other = place.rows()
    assert one.run_id != other.run_id


async def test_a_request_of_the_sdk_s_client_waits_for_another_process(place: Place) -> None:
    command = [*place.command("--run", "run-1"), "--", *place.server]
    server = StdioServerParameters(command=command[0], args=command[1:], env=dict(os.environ))

    async def approve(done: float, total: float | None, message: str | None) -> None:
        async with ActionDB(place.ledger) as db:
            (row,) = await db.list_proposals((S.PROPOSED,))
            await db.approve_proposal(row.id, by="maria", digest=row.digest)

    async with Client(server) as client:
        result = await client.call_tool("drain", {"store": 4}, progress_callback=approve)
    assert result.content == [TextContent(text="store 4 is drained")]
    assert place.log.read_text() == "drained 4\n"


def test_rerun_executes_a_repeated_call_again(place: Place) -> None:
    gateway = place.start("--rerun")
    for _ in range(2):
        gateway.call("environment", {"name": "PATH"})
    assert len(place.rows()) == 2


def test_the_server_does_not_get_the_url_of_the_ledger(place: Place) -> None:
    gateway = place.start(OPERATOR_DATABASE_URL="sqlite:///other.db", STORE_KEY="k")
    assert gateway.told("environment", {"name": "STORE_KEY"}) == "k"
    assert gateway.told("environment", {"name": "OPERATOR_DATABASE_URL"}) == "not there"


def test_a_server_that_has_died_gets_no_calls(place: Place) -> None:
    gateway = place.start()
    assert "It is not known whether it happened" in gateway.told("die", {})
    error = gateway.call("drain", {"store": 4})["error"]
    assert error["message"] == "the upstream server has ended"
    gateway.end()
    assert [row.action_name for row in place.rows()] == ["die"]


def test_standard_input_that_is_closed_ends_a_call_that_waits(place: Place) -> None:
    gateway = place.start("--run", "run-1")
    gateway._send({"id": 99, "method": "tools/call", "params": {"name": "drain", "arguments": {"store": 4}}})  # fmt: skip
    # Its answer says that the call before it is there.
    gateway.call("environment", {"name": "PATH"})
    gateway.process.stdin.close()
    assert gateway.process.wait(PATIENCE) == 0
    assert {row.status for row in place.rows() if row.action_name == "drain"} <= {S.PROPOSED}
    assert not place.log.exists()


# ------ what it can't start with


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=PATIENCE)  # fmt: skip
    assert done.stdout == ""
    return done


@pytest.mark.parametrize("missing", ["mcp", "mcp_types"])
def test_without_the_package_it_says_so(place: Place, missing: str) -> None:
    hidden = f"import sys; sys.modules[{missing!r}] = None; "
    command = [sys.executable, "-c", hidden + COMMAND[2], *place.command()[3:], "--", "server"]
    done = run(command)
    assert done.returncode == 2
    assert "the package mcp is missing" in done.stderr
    assert "Traceback" not in done.stderr


def test_other_commands_do_not_import_the_package() -> None:
    code = "import sys, operator_core.cli.gateway_command; sys.exit('mcp' in sys.modules)"
    assert run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        ([], 2, "either a command or"),
        (["--upstream-url", "http://stores/mcp", "--", "server"], 2, "either a command or"),
        (["--wait", "-1", "--", "server"], 2, "wait"),
        (["--run", "", "--", "server"], 2, "run_id"),
        (["--", "no-such-server"], 1, "there is no connection to the server"),
        (["--", "true"], 1, "there is no connection to the server: Connection closed"),
        (["--upstream-url", "http://127.0.0.1:9/mcp"], 1, "there is no connection to the server"),
    ],
)
def test_what_is_wrong_is_told(place: Place, arguments: list[str], code: int, why: str) -> None:
    done = run(place.command(*arguments))
    assert done.returncode == code
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_a_ledger_that_does_not_exist_is_not_created(place: Place) -> None:
    place.ledger.unlink()
    done = run(place.command("--", "server"))
    assert done.returncode not in (0, 2)
    assert "no such file" in done.stderr
    assert not place.ledger.exists()
