"""``operator-core mcp-gateway``, for an MCP client: a server behind a ledger."""

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from importlib import import_module
from typing import Annotated, Any, Final, cast
from uuid import uuid4

import typer

from operator_core.cli.options import DbPath, Url, choose, complain, fail, reported
from operator_core.db import migrate
from operator_core.gate import Gate

__all__ = ["app"]

_ADAPTER: Final = "operator_core.integrations.mcp"
"""Imported when the command runs, and by name: the package mcp is no dependency."""

app = typer.Typer()

Command = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="-- COMMAND ARGS...", help="The command that starts the server behind the gateway."
    ),
]
UpstreamUrl = Annotated[
    str | None,
    typer.Option(
        "--upstream-url",
        metavar="URL",
        help="The server behind the gateway, if it is one over streamable HTTP.",
        show_default=False,
    ),
]
Run = Annotated[
    str | None,
    typer.Option(
        "--run",
        metavar="NAME",
        help="The run of the calls. A call is known again only in the same run. The default is a new one.",
        show_default=False,
    ),
]
Agent = Annotated[
    str | None,
    typer.Option("--agent", metavar="NAME", help="The agent that calls.", show_default=False),
]
Requester = Annotated[
    str | None,
    typer.Option(
        "--requester", metavar="NAME", help="The user for whom it calls.", show_default=False
    ),
]
Wait = Annotated[
    float,
    typer.Option(
        "--wait",
        metavar="SECONDS",
        min=0,
        help="How long a request waits for a decision; then the answer is that the call is pending.",
    ),
]
Rerun = Annotated[
    bool,
    typer.Option(
        "--rerun",
        help="Execute a call without an id again if it is repeated, instead of answering with its first result.",
    ),
]


@app.command("mcp-gateway")
def gateway_command(
    *,
    command: Command = None,
    upstream_url: UpstreamUrl = None,
    db_path: DbPath = None,
    url: Url = None,
    run_id: Run = None,
    agent: Agent = None,
    requester: Requester = None,
    wait: Wait = 50.0,
    rerun: Rerun = False,
) -> None:
    """Serve MCP on standard input and output: the tools of another server, behind the ledger.

    Each call of a tool is proposed, decided by the ledger's rules and people, executed once and recorded. The ledger
    must exist. The server gets the environment, but not the URL of the ledger.
    """
    if bool(command) == bool(upstream_url):
        raise typer.BadParameter(
            "either a command or --upstream-url must be given", param_hint="-- COMMAND ARGS..."
        )
    try:
        import_module(_ADAPTER)
    except ImportError as error:
        complain(f"the package mcp is missing, or too old: pip install 'mcp>=2.3' ({error})")
        raise typer.Exit(2) from None
    place = choose(db_path, url)
    place.require_existing()
    with reported(place), place.opened() as (run, db):
        try:
            name = f"mcp-{uuid4().hex}" if run_id is None else run_id
            gate = Gate(db, run_id=name, agent_id=agent, requester=requester)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        run(_serve(gate, command or [], upstream_url, wait, rerun=rerun))


async def _serve(
    gate: Gate, command: list[str], upstream_url: str | None, wait: float, *, rerun: bool
) -> None:
    """Serves until the client closes standard input."""
    adapter, sdk = import_module(_ADAPTER), import_module("mcp.client")
    stdio = import_module("mcp.server.stdio")
    ended = asyncio.Event()
    async with AsyncExitStack() as stack:
        try:
            upstream = await stack.enter_async_context(
                sdk.Client(adapter.watched(_transport(command, upstream_url), ended))
            )
        except Exception as error:
            fail(f"there is no connection to the server: {_first(error)}")
        server = adapter.gateway(gate, upstream.session, wait=wait, rerun=rerun, ended=ended)
        # Nothing that this process or the server prints reaches standard output from here on.
        incoming, outgoing = await stack.enter_async_context(stdio.stdio_server())
        await server.run(incoming, outgoing, server.create_initialization_options())


def _transport(command: list[str], upstream_url: str | None) -> Any:
    if upstream_url is not None:
        return import_module("mcp.client.streamable_http").streamable_http_client(upstream_url)
    stdio = import_module("mcp.client.stdio")
    # The tools must not reach the ledger by themselves.
    env = {key: value for key, value in os.environ.items() if key != migrate.URL_VARIABLE}
    server = stdio.StdioServerParameters(command=command[0], args=command[1:], env=env)
    return stdio.stdio_client(server, errlog=sys.stderr)


def _first(error: BaseException) -> BaseException:
    """The error itself, or the first one of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
