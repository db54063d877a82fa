# `make help` lists the targets. `make run` and `make test` install what they need.
.DEFAULT_GOAL := help
BIN := .venv/bin
PYTEST_ARGS ?=
# Compiled modules halve the start-up time.
unexport PYTHONDONTWRITEBYTECODE

.venv/.runtime-installed: requirements.lock requirements-installer.lock pyproject.toml scripts/install
	@scripts/install runtime

.venv/.dev-installed: requirements-dev.lock requirements-installer.lock pyproject.toml scripts/install
	@scripts/install dev

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

.PHONY: install
install: .venv/.dev-installed ## Install everything for development into .venv

.PHONY: run
run: .venv/.runtime-installed ## Start the service on embedded defaults
	@exec $(BIN)/byok serve

.PHONY: demo
demo: .venv/.dev-installed ## Show the main use cases against a fake provider
	@$(BIN)/python -m tests.demo

.PHONY: test
test: .venv/.dev-installed ## Run all tests
	@$(BIN)/python -m tests.run $(PYTEST_ARGS)

.PHONY: test-fast
test-fast: .venv/.dev-installed ## Run the unit and API tests, in about two minutes on two quiet cores
	@$(BIN)/python -m tests.run --fast

.PHONY: test-exhaustive
test-exhaustive: .venv/.dev-installed ## Run what the other tests sample or skip: every interrupted step, every state of the page, the image
	@scripts/install-image-tools
	@$(BIN)/python -m tests.run --exhaustive

.PHONY: coverage
coverage: .venv/.dev-installed ## Run all tests, and require 95 % coverage
	@$(BIN)/python -m tests.run --coverage

.PHONY: check
check: .venv/.dev-installed ## Format, lint, types, import contracts, migrations, OpenAPI and reference drift, language, rules of OpenAPI, types of the page
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.check_migrations
	$(BIN)/byok openapi --check openapi/openapi.json
	$(BIN)/python -m scripts.generate_reference --check
	$(BIN)/python -m scripts.check_language
	@scripts/check_openapi
	@scripts/check_page_types
	@echo "All checks passed. Next: make test"

.PHONY: format
format: .venv/.dev-installed ## Format the code and apply automatic fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: openapi
openapi: .venv/.dev-installed ## Generate openapi/openapi.json
	$(BIN)/byok openapi > openapi/openapi.json
	@echo "Wrote openapi/openapi.json. Next: git diff openapi"

.PHONY: reference
reference: .venv/.dev-installed ## Generate docs/reference/{api,settings,cli,errors}.md
	@$(BIN)/python -m scripts.generate_reference

.PHONY: bench
bench: .venv/.dev-installed ## Run the benchmarks
	@$(BIN)/python -m bench

.PHONY: lock
lock: .venv/.dev-installed ## Resolve the dependencies and write the lock files
	@scripts/lock

.PHONY: clean
clean: ## Remove .venv, caches and built files, but not .data
	rm -rf .venv scripts/*/node_modules scripts/openapi_clients/openapi.d.ts .mypy_cache .ruff_cache .pytest_cache .hypothesis .schemathesis .coverage* dist
	@echo "Cleaned. Your data in .data is untouched. Next: make run"
