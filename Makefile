# Each target sets up what it needs in .venv; only Python 3.11+, git and make must be there.

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
PEERS_VENV ?= .venv-peers

.DEFAULT_GOAL := help
.PHONY: help demo test coverage soak lint format bench bench-peers schema build clean

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
	$(BIN)/python -m pytest -m "not soak" --numprocesses auto --dist loadfile

coverage: $(VENV)/installed ## run the tests and say which lines they don't reach; takes twice as long
	$(BIN)/python -m pytest -m "not soak" --numprocesses auto --dist loadfile --cov --cov-report=term:skip-covered

soak: $(VENV)/installed ## run the long tests: hundreds of kills, thousands of cancellations
	$(BIN)/python -m pytest -m soak --timeout=3600 -s

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
