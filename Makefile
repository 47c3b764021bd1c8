# Each target sets up what it needs in .venv; only Python 3.11+, git and make must be there.

# The newest Python from 3.11 on, unless PYTHON names another. Each candidate is run and not only found:
# pyenv has a shim for versions that are not active, and Debian a Python without venv.
PYTHONS := python3.19 python3.18 python3.17 python3.16 python3.15 python3.14 python3.13 python3.12 python3.11 python3 python
USABLE := import sys, ensurepip, sqlite3, venv; sys.exit(sys.version_info < (3, 11))
NEWEST = $(shell for name in $(PYTHONS); do $$name -c '$(USABLE)' 2>/dev/null && echo $$name && break; done)
PYTHON ?= $(or $(NEWEST),$(error there is no Python 3.11 or newer with venv and sqlite3; PYTHON=/path/to/python names one))
VENV ?= .venv
BIN := $(VENV)/bin
PEERS_VENV ?= .venv-peers

.DEFAULT_GOAL := help
.PHONY: help demo test coverage soak mutants lint format bench bench-peers schema build clean

help: ## show what there is to make
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 13

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[cli,test,lint]'
	@touch $@

demo: $(VENV)/installed ## replay a dozen tool calls into a new ledger and show what became of them
	@rm -f demo.db demo.db-wal demo.db-shm
	$(BIN)/operator-core actions replay examples/tool_calls.jsonl --db-path demo.db

test: $(VENV)/installed ## run the tests, short forms of the soaks included
	$(BIN)/python -m pytest -m "not soak" --numprocesses auto

coverage: $(VENV)/installed ## run the tests and say which lines they don't reach; takes twice as long
	$(BIN)/python -m pytest -m "not soak" --numprocesses auto --cov --cov-report=term:skip-covered

soak: $(VENV)/installed ## run the long tests: hundreds of kills, thousands of cancellations
	$(BIN)/python -m pytest -m soak --timeout=3600 -s

mutants: $(VENV)/installed ## plant faults one at a time and say which of them no test notices
	$(BIN)/python -m tests.mutants

lint: $(VENV)/installed ## style, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(VENV)/installed ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/installed ## measure against the plain repository that one would write by hand
	$(BIN)/python -m benchmarks

# The peers bring dependencies of their own, which must not become the ledger's.
$(PEERS_VENV)/installed: benchmarks/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS_VENV)
	$(PEERS_VENV)/bin/pip install --quiet --disable-pip-version-check --upgrade --requirement $<
	@touch $@

bench-peers: $(VENV)/installed $(PEERS_VENV)/installed ## measure workers and PostgreSQL against the job queues one would pick instead
	$(BIN)/python -m benchmarks.peers --python $(PEERS_VENV)/bin/python

schema: $(VENV)/installed ## write db/schema.py anew from the revisions
	$(BIN)/python migrations/dump_schema.py

build: $(VENV)/installed ## wheel and sdist into dist/
	$(BIN)/pip install --quiet --disable-pip-version-check build
	$(BIN)/python -m build

clean: ## remove what the other targets made
	rm -rf $(VENV) $(PEERS_VENV) build dist demo.db demo.db-wal demo.db-shm
