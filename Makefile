# The project's commands; "make help" lists them. Works on a fresh machine with Python 3.11 or newer,
# git and make. On Windows, and wherever there is no make, see "Without make" in README.rst.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := -m pip --disable-pip-version-check --quiet --no-input
# Other versions of Python that "make test" runs the unit tests with, where they are installed.
OTHERS := 3.12 3.13
PYTEST_ARGS ?=
# Files of tests share nothing, so all cores run them. Each process of the tests marks its children.
AT_ONCE := -n auto --dist loadfile

# Tests of real connections and processes meet a machine that is busy with others of them: what fails is run
# once more, alone, and has to pass then. Both runs are shown; CONTRIBUTING.rst says what is due afterwards.
run_tests = $(BIN)/python -m pytest $(1) $(AT_ONCE) $(PYTEST_ARGS) || { test $$? -eq 1 && \
  echo "== what failed, again and alone" && \
  $(BIN)/python -m pytest $(1) --last-failed --last-failed-no-failures none $(PYTEST_ARGS); }

# Where this is set, each of the thousands of processes that tests start would compile the project anew.
export PYTHONDONTWRITEBYTECODE :=

SHELL := /bin/sh
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

# ---------------------------------------------------------------- commands

.PHONY: help
help:  ## list these commands
	@echo "ipkernel: interactive parallel computing in Python"; echo
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | \
	  while IFS='|' read -r name text; do printf '%-22s %s\n' "$$name" "$$text"; done

.PHONY: demo
demo: $(VENV)/.with-runtime  ## start a cluster on this machine and analyse the standard library
	@$(BIN)/python examples/stdlib_metrics.py

.PHONY: test
test: lint docs unit-others unit system system-portable integration  ## run every check: lint, docs, all tests

.PHONY: unit
unit: $(VENV)/.with-test  ## run the unit tests only
	@echo "== unit tests, $$($(BIN)/python -V)"
	@$(BIN)/python -m pytest tests/unit $(AT_ONCE) $(PYTEST_ARGS)

.PHONY: system
system: $(VENV)/.with-test  ## run the system tests only (real connections, one process)
	@echo "== system tests, $$($(BIN)/python -V)"
	@$(call run_tests,tests/system)

.PHONY: system-portable
system-portable: $(VENV)/.with-test  ## run the system tests, portable implementations
	@echo "== system tests, portable implementations, $$($(BIN)/python -V)"
	@export IPKERNEL_PORTABLE=1; $(call run_tests,tests/system)

.PHONY: integration
integration: $(VENV)/.with-test  ## run the integration tests only (real processes)
	@echo "== integration tests, $$($(BIN)/python -V)"
	@$(call run_tests,tests/integration)

.PHONY: unit-others
unit-others: $(addprefix unit-,$(OTHERS))  ## run the unit tests with the other Pythons found

.PHONY: lint
lint: $(VENV)/.with-lint  ## check style, format, types and news fragments
	@echo "== ruff"
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || \
	  { echo "some files are not formatted: run '$(BIN)/ruff format .'" >&2; exit 1; }
	@echo "== mypy"
	@$(BIN)/mypy
	@echo "== news fragments"
	@$(BIN)/towncrier build --draft --version next >/dev/null

.PHONY: docs
docs: $(VENV)/.with-docs  ## build the documentation, warnings are errors
	@echo "== documentation"
	@$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

.PHONY: bench
bench: $(VENV)/.with-test  ## measure side by side with the peers, and write the report
	@$(BIN)/python -m benchmarks

.PHONY: soak
ROUNDS ?= 10000
soak: $(VENV)/.with-test  ## kill engines ten thousand times (ROUNDS=...), controllers 200 times; mixed work for ten minutes
	@$(BIN)/python -m tests.support.storm --rounds $(ROUNDS)
	@IPKERNEL_SOAK=10 IPKERNEL_SOAK_SECONDS=600 $(BIN)/python -m pytest -s \
	  tests/integration/test_soak.py tests/integration/test_crash_matrix.py tests/integration/test_crash_parts.py

.PHONY: clean
clean:  ## remove what builds and tools leave behind (keeps the virtual environments)
	@rm -rf build dist *.egg-info docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-run.svg
	@find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean  ## remove the virtual environments too
	@rm -rf .venv .venv-*

# ---------------------------------------------------------------- virtual environments

NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

$(VENV)/.made:
	@set -e; \
	if ! [ -x $(BIN)/python ] || ! $(BIN)/python -c '$(NEW_ENOUGH)' 2>/dev/null; then \
	  found=; \
	  for p in "$(PYTHON)" python3 python3.13 python3.12 python3.11 \
	           $$HOME/.pyenv/versions/3.1[1-9].*/bin/python3; do \
	    if "$$p" -c '$(NEW_ENOUGH)' >/dev/null 2>&1; then found=$$p; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "ipkernel needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1 || true)." >&2; \
	    echo "Install one, or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; \
	  fi; \
	  if ! "$$found" -c 'import ensurepip, venv' >/dev/null 2>&1; then \
	    echo "$$found cannot make virtual environments (Debian, Ubuntu: apt install python3-venv)." >&2; exit 1; \
	  fi; \
	  echo "making $(VENV) with $$($$found -V)"; \
	  "$$found" -m venv --clear $(VENV); \
	fi; touch $@

$(VENV)/.with-runtime: $(VENV)/.made pyproject.toml
	@echo "installing ipkernel and what it needs into $(VENV)"
	@$(BIN)/python $(PIP) install -e .
	@touch $@

$(VENV)/.with-%: $(VENV)/.made pyproject.toml
	@echo "installing what '$*' needs into $(VENV)"
	@$(BIN)/python $(PIP) install -e '.[$*]'
	@touch $@

$(VENV)/.with-dev: $(VENV)/.made pyproject.toml
	@echo "installing everything for developers into $(VENV)"
	@$(BIN)/python $(PIP) install -e '.[dev]'
	@for extra in runtime test docs lint; do touch $(VENV)/.with-$$extra; done; touch $@

.PHONY: dev
dev: $(VENV)/.with-dev  ## set up the virtual environment for development

# The first interpreter of that version: on the path, else the newest of pyenv.
.PHONY: $(addprefix unit-,$(OTHERS))
$(addprefix unit-,$(OTHERS)): unit-%:
	@set -e; python=$$(command -v python$* || true); \
	if [ -z "$$python" ] || ! "$$python" -c 'import ensurepip' >/dev/null 2>&1; then \
	  python=$$(ls -d $$HOME/.pyenv/versions/$*.*/bin/python$* 2>/dev/null | sort -V | tail -n 1); \
	fi; \
	if [ -z "$$python" ]; then echo "== unit tests with Python $*: skipped, not installed"; exit 0; fi; \
	if [ ! -e .venv-$*/.made ] || [ pyproject.toml -nt .venv-$*/.made ]; then \
	  echo "making .venv-$* with $$("$$python" -V)"; \
	  [ -x .venv-$*/bin/python ] || "$$python" -m venv .venv-$*; \
	  .venv-$*/bin/python $(PIP) install -e '.[test]'; touch .venv-$*/.made; \
	fi; \
	echo "== unit tests, $$(.venv-$*/bin/python -V)"; \
	.venv-$*/bin/python -m pytest tests/unit $(AT_ONCE) $(PYTEST_ARGS)
