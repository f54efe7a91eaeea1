# Everything a newcomer, a developer and CI run. `make up` and `make test` work on a fresh machine with
# Python 3.11, make and pip.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export RAY_USAGE_STATS_ENABLED := 0

.PHONY: up down test check format bench manifests clean

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, this is {v.major}.{v.minor}")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned dependencies into $(VENV) (about 2 GB, a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

up: $(STAMP) ## start a local cluster and show routed answers
	@$(BIN)/braid up

down: $(STAMP) ## stop it; no process is left behind
	@$(BIN)/braid down

test: $(STAMP) ## run all tests
	@$(BIN)/braid model fetch
	@$(BIN)/python -m pytest

check: $(STAMP) ## lint, types, import direction
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(STAMP) ## rewrite the code in the project's format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(STAMP) ## measure kernels and engine on this machine
	@$(BIN)/python -m benchmarks.kernels
	@$(BIN)/python -m benchmarks.engine --out docs/results

manifests: $(STAMP) ## regenerate the Serve configs inside the Kubernetes overlays
	@$(BIN)/python -m deployments.serve_config

clean: ## remove the environment and caches
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
