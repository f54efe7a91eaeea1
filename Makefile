# Everything a newcomer, a developer and CI run. `make up` and `make test` work on a fresh machine with
# Python 3.11, 3.12 or 3.13, make and pip.

PYTHON ?= python3
TORCH ?= auto
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
PINNED := requirements.lock pyproject.toml

export RAY_USAGE_STATS_ENABLED := 0

.DEFAULT_GOAL := help
.PHONY: help up down unit cover types test vllm check hooks lock format bench manifests clean

# Tests that start processes of their own, or share a cluster or a model: one after another. All others run on every core.
ALONE := ray or redis or model or gpu
PARALLEL := -n logical --dist worksteal

# Without Ray, Redis and a base model; what is slow is left to `make test`.
UNIT := -p tests.support.unit_guard $(PARALLEL) -m "not ($(ALONE) or slow)" tests/cluster tests/router_service tests/deployments

define check_python
@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	found=$$($(PYTHON) --version 2>/dev/null) || found=; \
	echo "Python 3.11, 3.12 or 3.13 is needed, and $(PYTHON) is $${found:-not a working Python}: name another one, as in \`make PYTHON=python3.12 $(MAKECMDGOALS)\`" >&2; exit 1; }
endef

# TORCH=cpu or TORCH=default overrides what tools/install.py finds out about this machine.
$(STAMP): $(PINNED)
	$(check_python)
	@$(PYTHON) -m tools.install --torch $(TORCH)
	@touch $@

$(DEV): $(PINNED)
	$(check_python)
	@$(PYTHON) -m tools.install --torch $(TORCH) --dev
	@touch $(STAMP) $@

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: $(STAMP) ## start a local cluster and show routed answers; ARGS="--port 8001" and so on go to it
	@$(BIN)/braid up $(ARGS)

down: ## stop it; no process is left behind
	@if [ -x $(BIN)/braid ]; then $(BIN)/braid down; else \
	echo "nothing is installed in $(VENV); to stop a cluster that was started elsewhere, run \`make up\` first, then \`make down\`"; fi

unit: $(DEV) ## run the tests that take no Ray, Redis or model, in a minute; ARGS="-k name" and so on
	@COLUMNS=200 $(BIN)/python -m pytest $(UNIT) --quiet --durations=5 $(ARGS)

cover: $(DEV) ## run the unit tests and print which lines they reach; ARGS="--cov-report=html"
	@COLUMNS=200 $(BIN)/python -m pytest $(UNIT) --quiet --cov --cov-report= $(ARGS)
	@$(BIN)/python -m tools.cover

types: $(DEV) ## check types
	@$(BIN)/mypy

test: $(DEV) ## run all tests, in two parts, and print the slowest 20 of each
	@$(BIN)/braid model fetch
	@status=0; \
	COLUMNS=200 $(BIN)/python -m pytest $(PARALLEL) -m "not ($(ALONE))" --durations=20 || status=$$?; \
	$(BIN)/python -m pytest -m "$(ALONE)" --durations=20 || status=$$?; \
	exit $$status

vllm: $(DEV) ## install vLLM into an environment of its own, and run the tests that need it
	@$(BIN)/braid model fetch
	@$(BIN)/braid engine install vllm
	@$(BIN)/python -m pytest tests/cluster/engine/conformance tests/cluster/engine/hosted tests/integration/test_vllm.py --durations=5

check: $(DEV) ## lint, types, import direction, dead code, prose, lock file
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m tools.dead_code
	@$(BIN)/python -m tools.prose
	@$(BIN)/python -m tools.lock --check

hooks: $(DEV) ## run lint, types and prose before each commit of this checkout
	@$(BIN)/pre-commit install

lock: ## resolve the lock files again; UPGRADE=1 takes the newest versions
	$(check_python)
	@$(PYTHON) -m tools.install --only-uv
	@$(BIN)/python -m tools.lock $(if $(UPGRADE),--upgrade)

format: $(DEV) ## rewrite the code in the project's format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(DEV) ## measure kernels and engine on this machine
	@$(BIN)/python -m benchmarks.kernels
	@$(BIN)/python -m benchmarks.engine --out docs/results

manifests: $(DEV) ## regenerate the Serve configs inside the Kubernetes overlays
	@$(BIN)/python -m deployments.serve_config

clean: ## remove the environment, built files and caches; stop the cluster first
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage htmlcov
