# guardtrail. `make demo` and `make test` are all you need; both set up everything first and are safe to repeat.
# Needs: Python 3.11+ with venv, git, a package index. PYTHON=/path/to/python picks the interpreter.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
SHELL := /bin/sh

PY := .venv/bin/python
DEV := -e '.[dev,mcp]'
SERVERS := examples/demo/requirements-servers.txt

# tools/setup.sh prints nothing, or the one line that says what is missing and how to get it.
ready = $(call stop,$(shell PYTHON="$(PYTHON)" sh tools/setup.sh $(1)))
stop = $(if $(1),$(error $(1)))

.PHONY: help
help: ## what can be made
	@printf 'guardtrail: authorization for the tool calls of AI agents\n\n'
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' Makefile
	@printf '\nThe first run makes .venv; after it everything works offline. Start with `make demo`.\n'

.PHONY: venv
venv: ## the development environment, .venv
	@$(call ready,.venv pyproject.toml $(DEV)):

.PHONY: demo-env
demo-env: # the MCP servers of the demo have their own environment: their pins are not ours
	@$(call ready,.venv-demo-servers $(SERVERS) -r $(SERVERS)):

.PHONY: demo
demo: venv demo-env ## a scripted agent on two real MCP servers: what is allowed, what is not, and the records
	@$(PY) examples/demo/run.py

.PHONY: adapter-envs
adapter-envs: venv # a framework's pins are not another's
	@$(PY) tools/adapters.py --usual --setup || exit 1

.PHONY: test-adapters
test-adapters: venv ## every adapter with the newest and the oldest release of its framework, each in an environment of its own
	@$(PY) tools/adapters.py $(ARGS)

.PHONY: test
test: venv demo-env adapter-envs ## the whole suite
	@$(PY) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m 'not campaign' $(ARGS)

.PHONY: test-agents
test-agents: venv ## Claude Code, Codex and Gemini CLI themselves (from npm), with a model on loopback: what is denied does not run
	@npm install --silent --no-audit --no-fund --no-save --prefix .venv-agents @anthropic-ai/claude-code@2.1.332 @openai/codex@0.171.0 @google/gemini-cli@0.61.0
	@$(PY) -m pytest -q tests/hook/test_agents.py $(ARGS)

.PHONY: check
check: venv ## format, lint, types, floors
	@$(PY) -m ruff format --check --quiet . || { printf 'run: make format\n'; exit 1; }
	@$(PY) -m ruff check --quiet .
	@$(PY) -m mypy --no-error-summary guard adapters _guardtrail_pytest.py
	@$(PY) tools/floors.py

.PHONY: format
format: venv ## let ruff format and fix what it can
	@$(PY) -m ruff check --quiet --fix-only .
	@$(PY) -m ruff format --quiet .

.PHONY: generate
generate: venv ## the generated pages: docs/reason-codes.md, docs/policy-schema.json
	@$(PY) tools/generate_docs.py

.PHONY: bench
bench: venv ## costs against references measured in the same run; writes benchmarks/results.json (BENCH=quick: a smoke test)
	@$(PY) -m benchmarks.run

.PHONY: bench-attacks
bench-attacks: venv ## recorded attacks of others through the real guard, one table; needs GUARDTRAIL_CORPORA
	@$(PY) -m benchmarks.attacks

.PHONY: bench-peers
bench-peers: venv ## the same beside what others take for a rule about the past, each in an environment of its own
	@$(PY) -m benchmarks.run --make-peers --only peers

.PHONY: campaign
campaign: venv ## the long searches: many more generated cases than `make test` takes
	@HYPOTHESIS_PROFILE=campaign $(PY) -m pytest -q -n 2 --dist loadfile --timeout 3600 $(ARGS)

.PHONY: standstill
standstill: venv demo-env adapter-envs ## the suite while its processes are stopped now and then: no verdict may hang on a clock
	@$(PY) tools/standstill.py --seed "$${SEED:-0}" -- $(PY) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m 'not campaign' $(ARGS)

.PHONY: oldest
oldest: ## the suite with the oldest versions of everything we depend on
	@$(call ready,.venv-oldest tools/oldest.txt -c tools/oldest.txt -e '.[dev]'):
	@.venv-oldest/bin/python -m pytest -q -n 2 --dist loadfile -m 'not campaign' -W ignore::DeprecationWarning --ignore tests/adapters --ignore tests/demo --ignore tests/gateway $(ARGS)

.PHONY: dist
dist: venv ## sdist and wheel, in dist/
	@$(PY) -m build --no-isolation --outdir dist . >/dev/null && ls dist

.PHONY: clean
clean: ## remove environments, caches and builds (records in .guardtrail stay)
	@rm -rf .venv .venv-* .hypothesis .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
