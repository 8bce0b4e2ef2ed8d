# Every target sets itself up: only python3 (3.11 or newer) and git need to be there.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.headrace-installed
EXTRAS := geo,bio,regions,s3,dev
MARKS ?= not slow

.PHONY: help setup demo test check lint test-all bench docs clean

help:
	@echo "make setup     the environment in $(VENV), nothing else"
	@echo "make demo      all four modalities, end to end, in minutes"
	@echo "make test      the tests, without the slow ones"
	@echo "make check     format, lint, types and unit tests: before every commit"
	@echo "make test-all  the slow tests too"
	@echo "make bench     the figures of the README"
	@echo "make docs      a page for every module, from its docstrings, in build/api"

setup: $(STAMP)

# The stamp is written last, so an install that was interrupted is taken up again.
$(STAMP): pyproject.toml constraints.txt preprocessing/_jpeg.c
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "setup: $$($(PYTHON) --version 2>&1) is too old. headrace needs Python 3.11 or newer. Name one: make setup PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/pip || { rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); } || { rm -rf $(VENV); \
	  echo "setup: $(PYTHON) could not make a virtual environment. On Debian and Ubuntu its half is a package of its own: apt install python3-venv" >&2; exit 1; }
	@echo "setup: installing headrace and what it needs into $(VENV) (minutes, once)"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]' || { \
	  echo "setup: pip could not install (its message is above). Mend that and run the same command again; what is installed stays." >&2; exit 1; }
	@touch $@
	@echo "setup: done"

demo: setup
	@$(BIN)/headrace demo

test: setup
	@$(BIN)/python -m pytest -m '$(MARKS)'

test-all: setup
	@$(BIN)/python -m pytest -m ''

lint: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

check: lint
	@$(BIN)/python -m pytest tests/unit tests/test_architecture.py

bench: setup
	@shopt -s nullglob; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

docs: setup
	@$(BIN)/pdoc --no-show-source --output-directory build/api storage preprocessing pipelines training flows
	@echo "docs: build/api/index.html"

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
