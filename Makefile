# Each target installs its needs in .venv; only Python 3.11+, git and make must be installed.

# The newest Python from 3.11 on, unless PYTHON names another. Each candidate must run, because pyenv has a shim for
# versions that are not active, and Debian has a Python without venv.
PYTHONS := python3.19 python3.18 python3.17 python3.16 python3.15 python3.14 python3.13 python3.12 python3.11 python3 python
USABLE := import sys, ensurepip, sqlite3, venv; sys.exit(sys.version_info < (3, 11))
NEWEST = $(shell for name in $(PYTHONS); do $$name -c '$(USABLE)' 2>/dev/null && echo $$name && break; done)
PYTHON ?= $(or $(NEWEST),$(error there is no Python 3.11 or newer with venv and sqlite3; PYTHON=/path/to/python names one))
VENV ?= .venv
BIN := $(VENV)/bin
PEERS_VENV ?= .venv-peers
FRAMEWORKS_VENV ?= .venv-frameworks

.DEFAULT_GOAL := help
.PHONY: help demo demo-gate test test-frameworks coverage soak mutants lint format bench bench-peers pictures schema build clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 13

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[cli,test,lint]'
	@touch $@

demo: $(VENV)/installed ## replay a dozen tool calls into a new ledger and show the results
	@rm -f demo.db demo.db-wal demo.db-shm
	$(BIN)/operator-core actions replay examples/tool_calls.jsonl --db-path demo.db

demo-gate: $(VENV)/installed ## run an agent loop behind the gate: one call waits for a person, one is halted
	@$(BIN)/python examples/gate.py

test: $(VENV)/installed ## run the tests, short forms of the soaks included
	$(BIN)/python -m pytest -m "not soak" --numprocesses auto

coverage: $(VENV)/installed ## run the tests and list the lines that they don't reach; takes twice as long
	$(BIN)/python -m pytest -m "not soak" --numprocesses auto --cov --cov-report=term:skip-covered

soak: $(VENV)/installed ## run the long tests: hundreds of kills, thousands of cancellations, all tests on all backends
	$(BIN)/python -m pytest -m soak --timeout=3600 -s
	$(BIN)/python -m pytest -m "not soak" --numprocesses auto --all-backends

mutants: $(VENV)/installed ## plant faults one at a time and list those that no test detects
	$(BIN)/python -m tests.mutants

# The frameworks must not become dependencies of the ledger, so they have an environment of their own.
$(FRAMEWORKS_VENV)/installed: pyproject.toml tests/integrations/requirements.txt
	$(PYTHON) -m venv $(FRAMEWORKS_VENV)
	$(FRAMEWORKS_VENV)/bin/pip install --quiet --disable-pip-version-check --upgrade --editable '.[test,lint]' \
		--requirement tests/integrations/requirements.txt
	@touch $@

test-frameworks: $(FRAMEWORKS_VENV)/installed ## check the types of the adapters and run their tests, with the agent frameworks
	$(FRAMEWORKS_VENV)/bin/pyright --pythonpath $(FRAMEWORKS_VENV)/bin/python src/operator_core/integrations examples/agents
	$(FRAMEWORKS_VENV)/bin/python -m pytest --numprocesses auto tests/integrations

lint: $(VENV)/installed ## style, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(VENV)/installed ## fix and format by ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/installed ## compare the speed with a plain repository written by hand, and with bare sqlite3
	$(BIN)/python -m benchmarks

# The peers have their own dependencies, which must not become dependencies of the ledger.
$(PEERS_VENV)/installed: benchmarks/peers/requirements.txt tests/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/pip install --quiet --disable-pip-version-check --upgrade --requirement $<
	@touch $@

bench-peers: $(VENV)/installed $(PEERS_VENV)/installed ## compare the speed of workers and PostgreSQL with other job queues
	$(BIN)/python -m benchmarks.peers --python $(PEERS_VENV)/bin/python

pictures: $(VENV)/installed ## make the pictures of the command line from a ledger
	$(BIN)/python docs/make_pictures.py

schema: $(VENV)/installed ## write db/schema.py from the revisions
	$(BIN)/python migrations/dump_schema.py

build: $(VENV)/installed ## wheel and sdist into dist/
	$(BIN)/pip install --quiet --disable-pip-version-check build
	$(BIN)/python -m build

clean: ## remove the files of the other targets
	rm -rf $(VENV) $(PEERS_VENV) $(FRAMEWORKS_VENV) build dist demo.db demo.db-wal demo.db-shm
