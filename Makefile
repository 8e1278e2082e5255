.DEFAULT_GOAL := help
PYTHON ?= python3
DATA ?= data
SEED ?= 1
JOBS ?= 300
FAULTS ?= 200
BIN := .venv/bin
# Tests that share servers stay in one process; those that take longest come first. More threads than
# cores would wait for each other by spinning.
TEST_PROCESSES ?= 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

.PHONY: help install demo test unit check lint types contracts format clean results chaos fault-table
.PHONY: bench bench-quality bench-toolkit bench-precision bench-gate bench-schedulers bench-generations

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

install: .venv/installed  ## set up .venv, with .venv/bin/unroll in it

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "unroll needs Python >= 3.11 with venv; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up .venv (torch, Lightning, Celery, an embedded Redis); once, about two minutes ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt -e '.[worker,embedded,dev]'
	@touch $@

demo: install  ## start an embedded service, train an attention model on dates, show it working, stop
	@$(BIN)/unroll demo

test: install  ## the whole test suite
	$(PYTEST)

unit: install  ## the quick tests: no service, no process
	$(PYTEST) tests/unit

results: install  ## measure the table of README.md: DATA=folder, ROWS="trec names", ARGS=--list; resumable
	$(BIN)/python -m tests.benchmarks.results --data "$(DATA)" --rows "$(ROWS)" $(ARGS)

bench: install  ## measure the speed: THEMES="step search", all if not given; a table, and bench.jsonl
	$(BIN)/python -m tests.benchmarks.speed $(THEMES)

bench-toolkit: install  ## how long JoeyNMT takes to 28 of them, in an environment of its own: DATA=folder
	$(BIN)/python -m tests.benchmarks.toolkit --data "$(DATA)" $(ARGS)

bench-quality: install  ## how long Multi30k takes to 28 and 35 validation BLEU, one core, minutes: DATA=folder
	$(BIN)/python -m tests.benchmarks.quality --data "$(DATA)" $(ARGS)

chaos: install  ## prove the service under faults, minutes: SEED=1 JOBS=300 FAULTS=200, ARGS=--help
	$(BIN)/python -m tests.benchmarks.chaos --seed $(SEED) --jobs $(JOBS) --faults $(FAULTS) $(ARGS)

fault-table: install  ## ten planted causes against the reasons that records give: ARGS=--help
	$(BIN)/python -m tests.benchmarks.chaos.fault_table $(ARGS)

bench-gate: install  ## how often a retrained model is let in that should not be, and that should: minutes
	$(BIN)/python -m tests.benchmarks.gate $(ARGS)

bench-schedulers: install  ## ninety nights of a schedule whose processes are killed: ARGS="--kills 300"
	$(BIN)/python -m tests.benchmarks.schedulers $(ARGS)

bench-generations: install  ## five scheduled retrainings on a Multi30k that grows, an hour: DATA=folder
	$(BIN)/python -m tests.benchmarks.generations --data "$(DATA)" $(ARGS)

bench-precision: install  ## bfloat16 against float32 by BLEU on Multi30k, two seeds each, an hour; resumable: DATA=folder
	$(BIN)/python -m tests.benchmarks.precision --data "$(DATA)" $(ARGS)

check: lint types contracts test  ## what CI runs

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

types: install
	$(BIN)/mypy

contracts: install
	$(BIN)/lint-imports

format: install  ## put the code into the common format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean:  ## remove .venv and everything made
	rm -rf .venv .joeynmt .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
