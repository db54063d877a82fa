# `make help` lists what there is. `make run` and `make test` install what they need themselves.
.DEFAULT_GOAL := help
BIN := .venv/bin
PYTEST_ARGS ?=
# Compiled modules halve the time to start.
unexport PYTHONDONTWRITEBYTECODE

.venv/.runtime-installed: requirements.lock pyproject.toml scripts/install
	@scripts/install runtime

.venv/.dev-installed: requirements-dev.lock pyproject.toml scripts/install
	@scripts/install dev

.PHONY: help
help: ## Show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

.PHONY: install
install: .venv/.dev-installed ## Install everything for development into .venv

.PHONY: run
run: .venv/.runtime-installed ## Start the service on embedded defaults
	@exec $(BIN)/byok serve

.PHONY: demo
demo: .venv/.dev-installed ## The whole story in one command, against a fake provider
	@$(BIN)/python -m tests.demo

.PHONY: test
test: .venv/.dev-installed ## The whole test suite, with coverage
	@$(BIN)/python -m tests.run $(PYTEST_ARGS)

.PHONY: check
check: .venv/.dev-installed ## Format, lint, types, import contracts, migrations, OpenAPI drift
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.check_migrations
	$(BIN)/byok openapi --check openapi/openapi.json
	@echo "All checks passed. Next: make test"

.PHONY: format
format: .venv/.dev-installed ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: openapi
openapi: .venv/.dev-installed ## Write openapi/openapi.json anew
	$(BIN)/byok openapi > openapi/openapi.json
	@echo "Wrote openapi/openapi.json. Next: git diff openapi"

.PHONY: bench
bench: .venv/.dev-installed ## The benchmarks: ratios measured in one run
	@$(BIN)/python -m bench

.PHONY: lock
lock: .venv/.dev-installed ## Resolve the dependencies anew
	@scripts/lock

.PHONY: clean
clean: ## Remove .venv, caches and built files; .data stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .schemathesis .coverage* dist
	@echo "Cleaned. Your data in .data is untouched. Next: make run"
