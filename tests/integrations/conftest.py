"""Tests of the adapters; `make test-frameworks` runs them, where the frameworks are."""

from importlib.util import find_spec

FRAMEWORKS = ("agents", "agno", "claude_agent_sdk", "langchain", "langgraph", "mcp", "pydantic_ai")

# Nothing is collected in the environment of the ledger, so that pytest fails if only this folder is asked for.
collect_ignore_glob = [] if all(map(find_spec, FRAMEWORKS)) else ["test_*.py"]
