# Two commands are all a newcomer needs: `make demo` and `make test`. Each sets up what it needs.
PYTHON ?= python3
STAMP := .venv/.set-up

.PHONY: help setup demo test check bench clean
.DEFAULT_GOAL := help

help: ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(STAMP) ## make .venv with the core, every plugin and the tools

$(STAMP): pyproject.toml constraints.txt package.json package-lock.json scripts/setup scripts/web_modules.py $(wildcard plugins/*/pyproject.toml)
	PYTHON="$(PYTHON)" scripts/setup
	@touch $@

demo: $(STAMP) ## server, agent and user as real processes: ping and speedtest, relayed and direct
	.venv/bin/python scripts/demo

test: $(STAMP) ## the whole test suite; ARGS="-k name" goes to pytest
	scripts/test $(ARGS)

check: $(STAMP) ## ruff, mypy --strict, the rules of ARCHITECTURE.md
	scripts/check

bench: $(STAMP) ## every benchmark, or ONLY=id; writes build/bench.json
	.venv/bin/python scripts/bench $(if $(ONLY),--only $(ONLY))

clean: ## remove what the other targets made
	rm -rf .venv node_modules build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
