# Everything sets itself up: a Python of at least 3.11 and make are all that a machine needs.
#
#   make run     audit this repository with the example workflow: embedded server, worker and all
#   make test    the unit, guide, workflow and replay rings
#   make check   lint, formatting, types, and make test
#   make crash   real processes killed mid-run (KILLS=100 RUNS=250 for the long version)
#   make bench   overhead beside hand-written Temporal, in one run

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready

# The agents of the examples call programs (ruff); those of the environment are the ones that are meant.
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: run test check crash bench clean

run: $(READY)
	$(BIN)/perdure run examples.audit.workflow:Audit --local --agents examples/audit/agents.toml

test: $(READY)
	$(BIN)/python -m pytest --numprocesses 4 --dist loadfile

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@$(MAKE) --no-print-directory test

crash: $(READY)
	$(BIN)/python -m pytest tests/crash

bench: $(READY)
	$(BIN)/python -m benchmarks.bench

clean:
	rm -rf $(VENV) .perdure build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "perdure needs Python 3.11 or newer; '$(PYTHON)' is older. Name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@
