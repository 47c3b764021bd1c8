"""The tools of `stores` as an MCP server on standard input and output: it knows nothing of the ledger."""

import stores
from mcp.server.mcpserver import MCPServer

server = MCPServer("stores")
server.add_tool(stores.read_metrics)
server.add_tool(stores.drain_store)
server.add_tool(stores.delete_backup)

if __name__ == "__main__":
    server.run("stdio")
