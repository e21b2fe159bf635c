# Each target does all set-up on a fresh machine: an environment in .venv, the package, then the
# work. Needs Python 3.11 or newer with pip; uses uv where it is installed. A stamp in .venv makes
# the next run quick, and pyproject.toml newer than the stamp makes it install again.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Tests share out files among processes; a server that NEO4J_URI names is one for all of them.
JOBS ?= $(if $(NEO4J_URI),0,auto)
UV := $(shell command -v uv 2>/dev/null)
NOTEBOOKS := $(wildcard notebooks/*.ipynb)

ifneq ($(UV),)
make_venv = $(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
install = $(UV) pip install --python $(BIN)/python
else
# Debian's python3 may come without ensurepip: then virtualenv does it, from a folder of its own.
virtualenv = { $(PYTHON) -m pip install --quiet --target $(VENV)/tool virtualenv && \
	PYTHONPATH=$(VENV)/tool $(PYTHON) -m virtualenv --quiet $(VENV); }
make_venv = $(PYTHON) -m venv $(VENV) 2>/dev/null || $(virtualenv)
# An environment that uv made, or whose making was stopped, has no pip yet.
install = $(BIN)/python -m pip --version >/dev/null 2>&1 || \
	$(BIN)/python -m ensurepip >/dev/null 2>&1 || $(virtualenv); \
	$(BIN)/python -m pip install --disable-pip-version-check
endif

.PHONY: help demo test check lint types contract notebooks format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       MovieLens through the whole line, to a table and a picture"
	@echo "make test       all tests, on all cores (ARGS='-k graph' and the like go to pytest; JOBS=0)"
	@echo "make check      formatting, lint, types, import contract, notebooks"
	@echo "make notebooks  run the notebooks from top to bottom, two at a time"
	@echo "make format     format the code and fix what can be fixed"
	@echo "make clean      remove the environment and build files"

demo: $(VENV)/.installed
	$(BIN)/coldstart demo $(ARGS)

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --maxprocesses 4 --dist loadfile $(ARGS)

check: lint types contract notebooks

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev
	$(BIN)/pyright

contract: $(VENV)/.installed-dev
	$(BIN)/lint-imports

notebooks: $(VENV)/.installed-dev
ifeq ($(NOTEBOOKS),)
	@echo "no notebooks yet"
else
	printf '%s\n' $(NOTEBOOKS) | OMP_NUM_THREADS=1 xargs -P 2 -I {} $(BIN)/python -m nbconvert --to notebook \
		--execute --ExecutePreprocessor.timeout=900 --output-dir build/notebooks {}
endif

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"kg-coldstart needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0] + \
		"; run make PYTHON=/path/to/python3.11")'
	$(make_venv)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(install) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(install) --editable '.[dev]'
	@touch $(VENV)/.installed $@
