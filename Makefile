# A fresh machine needs Python 3.11 or newer with venv, and make. `make` alone lists the commands.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# PYTHON=python3.13 chooses the interpreter, VENV=dir keeps a second environment beside the first.
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST_ARGS ?= -n 2 --dist loadfile
FUZZ_SECONDS ?= 60
FUZZ_SEED ?= 0
SOAK_SECONDS ?= 600
BENCH_ARGS ?=

# Named interpreters stand in only for the default: one that was asked for is used or refused.
ifeq ($(origin PYTHON),undefined)
PYTHONS := python3 python3.13 python3.12 python3.11
else
PYTHONS := $(PYTHON)
endif

.PHONY: help demo run test lint format types fuzz soak bench bench-peers bench-locust bench-micro lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.demo ## Start sandboxes, DNS and the router on loopback, and show a first request
	@$(BIN)/fastrouter demo

run: $(VENV)/.demo ## Start the router on 0.0.0.0:8080 (settings come from the environment)
	@$(BIN)/fastrouter serve

test: $(VENV)/.dev ## Run the tests (PYTEST_ARGS replaces the options)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.dev ## Check style and the common mistakes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	bash -n .ci/run

format: $(VENV)/.dev ## Lay out the sources, and fix what can be fixed safely
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev ## Check the types
	$(BIN)/mypy

fuzz: $(VENV)/.dev ## Fuzz heads, bodies, frames and exchanges with atheris (FUZZ_SECONDS=60 in all)
	$(PIP) install --editable '.[dev,fuzz]'
	$(BIN)/python -m tests.fuzz all --seconds $(FUZZ_SECONDS) --seed $(FUZZ_SEED)

soak: $(VENV)/.dev ## Mixed traffic with random faults, every response checked (SOAK_SECONDS=600)
	$(BIN)/python -m tests.adversity.soak --seconds $(SOAK_SECONDS) --report docs/soak.md

bench: $(VENV)/.dev ## Measure the router against a raw TCP relay, under 4 minutes (BENCH_ARGS adds options)
	$(BIN)/python -m bench $(BENCH_ARGS)

bench-peers: $(VENV)/.dev ## Measure it against nginx, HAProxy, Caddy, Envoy and FastAPI too, as far as installed
	$(BIN)/python -m bench --peers all $(BENCH_ARGS)

bench-locust: $(VENV)/.dev ## Agents by locust against the demo, or ROUTER=URL (LOCUST_ARGS: bench/locustfile.py)
	$(BIN)/python -m bench.locust_run

bench-micro: $(VENV)/.dev ## Measure modules one by one (MICRO_ARGS='--benchmark-autosave --benchmark-compare')
	$(BIN)/python -m bench.micro $(MICRO_ARGS)

lock: $(VENV)/.dev ## Pin the image's packages again, newest releases that pyproject.toml allows
	$(PIP) install 'uv>=0.9'
	$(call lock,pyproject.toml,requirements.lock)
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
		> $(VENV)/build-requirements.in
	$(call lock,$(VENV)/build-requirements.in,requirements-build.lock)

clean: ## Remove the environment, caches and build products
	rm -rf .venv .venv-* build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks tests/fuzz/out .coverage htmlcov
	find fastrouter tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

# For every Python from 3.11 on. No header and no comments: they would name this machine's paths.
define lock
echo '# Written by "make lock"; do not edit.' > $(2)
$(BIN)/uv pip compile $(1) --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet >> $(2)
endef

# The stamps stand for what is installed: nothing is installed again until pyproject.toml changes.
$(VENV)/.dev: pyproject.toml | $(VENV)/.made
	$(PIP) install --editable '.[dev]'
	@touch $(VENV)/.demo $@

# Less to install, so that a first look takes seconds; a full environment serves as well.
$(VENV)/.demo: pyproject.toml | $(VENV)/.made
	$(PIP) install --editable '.[demo]'
	@touch $@

# Each candidate is run, not only found: a pyenv shim may exist for a Python that is not selected.
$(VENV)/.made:
	@chosen=; \
	for candidate in $(PYTHONS); do \
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			chosen=$$candidate; break; \
		fi; \
	done; \
	if [ -z "$$chosen" ]; then \
		echo 'fastrouter needs Python 3.11 or newer. Tried: $(PYTHONS).' >&2; \
		echo 'Name one: make PYTHON=python3.13 ...' >&2; exit 1; \
	fi; \
	if ! "$$chosen" -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$$chosen has no venv module. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; \
	fi; \
	echo "Making $(VENV) with $$("$$chosen" -V)"; \
	rm -rf $(VENV); "$$chosen" -m venv $(VENV); touch $@
