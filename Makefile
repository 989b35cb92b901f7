# Two commands do everything on a machine with Python 3.11 and make: `make demo` and `make test`.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
FIND_PYTHON := $$(command -v $(PYTHON) || command -v python3)
CODE := manifests expert_zoo pipeline trainer jobs tests bench

.PHONY: demo test test-long chaos check audit format lint types bench accuracy experts lock clean help

help:            ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 14

# Installed once, again when the lock changes. `python3` serves where there is no python3.11 on the path.
$(INSTALLED): requirements.lock setup.cfg pyproject.toml
	@$(FIND_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(FIND_PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -r requirements.lock
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

install: $(INSTALLED)   ## the environment in .venv, from requirements.lock

demo: $(INSTALLED)      ## render scenes, label them, audit against the truth, show a contact sheet
	$(BIN)/python -m jobs.demo

test: $(INSTALLED)      ## the whole test suite, the long ones included
	$(BIN)/python -m pytest -q

test-long: $(INSTALLED) ## only the tests that take minutes: 25 SIGKILLs, two jobs on one store, accuracy
	$(BIN)/python -m pytest -q -m long

chaos: $(INSTALLED)     ## a quarter of an hour of kills, lost nodes, full disks and stores in trouble (docs/survival.md)
	$(BIN)/python -m tests.chaos

check: $(INSTALLED) lint types  ## what CI runs: format, lint, types, packages that fit, and all tests but the long ones
	$(BIN)/pip check
	$(BIN)/python -m pytest -q -m "not long"

lint: $(INSTALLED)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)

types: $(INSTALLED)
	$(BIN)/mypy

audit: $(INSTALLED)     ## known weaknesses of the locked packages; asks the package index, so it needs a network
	$(FIND_PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/pip install --quiet pip-audit
	$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement requirements.lock --requirement requirements-detection.lock

format: $(INSTALLED)    ## rewrite the code in the project's format
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

bench: $(INSTALLED)     ## throughput, planning and listing, as ratios within one run
	$(BIN)/python -m bench.run

accuracy: $(INSTALLED)  ## the pocket experts on 500 held-out scenes (docs/pocket.md)
	$(BIN)/python -m bench.pocket_accuracy --scenes 500 --words

experts: $(INSTALLED)   ## 33 trainings that show what experts are worth to a small model, in a little over two hours (docs/results.md)
	$(BIN)/python -m bench.experts_matter

lock:                   ## pin the newest versions that setup.cfg allows
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile setup.cfg --extra dev --python-version 3.11 --no-header --output-file requirements.lock
	$(BIN)/uv pip compile requirements-detection.in --constraint requirements.lock --python-version 3.11 --no-header --output-file requirements-detection.lock

clean:
	rm -rf $(VENV) out/demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
