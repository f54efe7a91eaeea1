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

.PHONY: up down test check lock format bench manifests clean

define check_python
@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "Python 3.11, 3.12 or 3.13 is needed and $(PYTHON) is %d.%d: name another one, as in `make PYTHON=python3.12 $(MAKECMDGOALS)`" % v)'
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

up: $(STAMP) ## start a local cluster and show routed answers; ARGS="--port 8001" and so on go to it
	@$(BIN)/braid up $(ARGS)

down: $(STAMP) ## stop it; no process is left behind
	@$(BIN)/braid down

test: $(DEV) ## run all tests
	@$(BIN)/braid model fetch
	@$(BIN)/python -m pytest

check: $(DEV) ## lint, types, import direction, lock file
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m tools.lock --check

lock: ## resolve requirements.lock again; UPGRADE=1 takes the newest versions
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

clean: ## remove the environment and caches
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
