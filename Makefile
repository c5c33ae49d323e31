# make demo    the whole method on EditWorld, from nothing        (CONTROLS=1: with the control runs)
# make test    the tests, a process a core, at most 4             (ARGS="-k gcpo" goes to pytest)
# make lint    ruff and mypy                make format  what ruff can mend by itself
# make zoo ARGS=editor    pretrain a tiny model: verifier-small, verifier-base or editor; call again to continue
# make lock    regenerate requirements.lock
#
# Every target first makes .venv and installs the pinned packages, once: a stamp in .venv is named after
# the content of requirements.lock and pyproject.toml. PYTHON=/path/to/python3 chooses the interpreter.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV ?= .venv
BIN := $(VENV)/bin
KEY := $(shell cat requirements.lock pyproject.toml | { sha256sum 2>/dev/null || shasum -a 256; } | cut -c1-16)
STAMP := $(VENV)/.installed-$(KEY)
PIP := -m pip --disable-pip-version-check --no-input
FIT := import sys; sys.exit(sys.version_info < (3, 11))

# The first interpreter that runs and is new enough; PYTHON=... leaves no choice.
PYTHON ?=
CANDIDATES := $(or $(PYTHON),python3 python3.11 python3.12 python3.13 python)
define find_python
python=""; \
for name in $(CANDIDATES); do \
  if "$$name" -c '$(FIT)' >/dev/null 2>&1; then python="$$name"; break; fi; \
done; \
if [ -z "$$python" ]; then \
  echo "No Python 3.11 or newer among: $(CANDIDATES). Install one, or name it: make $@ PYTHON=/path/to/python3" >&2; \
  exit 1; \
fi
endef
define make_venv
"$$python" -m venv --clear $(1) || { \
  echo "$$python cannot make a virtual environment: on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }
endef

.PHONY: demo test lint format zoo lock setup
.DEFAULT_GOAL := demo

demo: $(STAMP)
	@$(BIN)/edit-r1 demo $(if $(CONTROLS),--controls) $(ARGS)

test: $(STAMP)
	@$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile $(ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

zoo: $(STAMP)
	@$(BIN)/edit-r1 world pretrain $(or $(ARGS),$(error name one: make zoo ARGS=verifier-small, verifier-base or editor))

setup: $(STAMP)

$(STAMP):
	@if ! $(BIN)/python -c '$(FIT)' >/dev/null 2>&1; then $(find_python); $(call make_venv,$(VENV)); fi
	@echo "Installing the packages of requirements.lock into $(VENV): about 2 minutes and 6 GB the first time"
	@$(BIN)/python $(PIP) install --quiet --requirement requirements.lock
	@# --no-build-isolation: the build backend is in the lock as well, so nothing unpinned is fetched.
	@$(BIN)/python $(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.installed-*
	@touch $@

# Resolves the newest versions that pyproject.toml allows, with every extra, in an environment of its own.
# What stays in the lock is names and versions only: no addresses, no paths, not this package, not pip.
lock:
	@$(find_python); \
	scratch="$$(mktemp -d)"; trap 'rm -rf "$$scratch"' EXIT; \
	$(call make_venv,"$$scratch/venv"); \
	"$$scratch/venv/bin/python" $(PIP) install --quiet '.[local,train,serve,dev]'; \
	{ echo "# Linux x86-64, Python 3.11 or newer. Written by \`make lock\`; do not edit."; \
	  "$$scratch/venv/bin/python" $(PIP) freeze --all --exclude edit-r1 --exclude pip \
	  | LC_ALL=C grep -E '^[A-Za-z0-9._-]+==[^ @]+$$' | LC_ALL=C sort -f; } > "$$scratch/lock"; \
	mv "$$scratch/lock" requirements.lock; \
	echo "requirements.lock: $$(grep -c == requirements.lock) packages"
