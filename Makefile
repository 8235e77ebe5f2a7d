# Each target sets up its environment by itself; nothing else has to be installed first.

# `make test PYTHON=python3.13` and `make test REDIS=7` (redis-py's line) have environments
# of their own, .venv-3.13 and .venv-redis7, so that they live beside .venv.
PYTHON ?= python3
REDIS ?=
VERSION := 'import sys; print("-%d.%d" % sys.version_info[:2])'
OTHER := $(if $(filter-out python3,$(PYTHON)),$(or $(shell $(PYTHON) -c $(VERSION)),$(error PYTHON=$(PYTHON) does not run)))
VENV := .venv$(OTHER)$(REDIS:%=-redis%)
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
PEERS := .venv-peers/bin
PEERS_STAMP := .venv-peers/.ready
# A source distribution runs code of its own when it is installed. The one exception has no
# wheel: a part of a tool of the tests, pinned by its hash like everything else.
WHEELS := --only-binary :all: --no-binary forbiddenfruit

.PHONY: demo test check wheels docs conformance dropin chaos audit reordered failovers oracle compare bench bench-alerts bench-watch bench-bot bench-page growth curves metrics-cost hour lock lock-dropin clean

demo: $(STAMP)  ## talk to the bot in a browser, no account, no network
	@$(BIN)/oddsbot demo

N ?= 6
test: $(STAMP)  ## every test, N at a time: most wait; writes build/requirements.json for make docs
	@$(BIN)/pytest -n $(N) --dist worksteal

check: $(STAMP)  ## lint, types, layers, reaches of tests, docs, wheels
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/python .ci/check_reaches.py
	$(BIN)/python deploy/render.py --check
	@$(MAKE) --no-print-directory docs
	@$(MAKE) --no-print-directory wheels

wheels: $(STAMP)  ## both wheels in build/wheels, every module imported from them
	$(BIN)/python .ci/check_wheels.py

docs: $(STAMP)  ## build/docs/index.html; warnings and broken links are errors
	$(BIN)/python docs/render_features.py
	$(BIN)/sphinx-build -n -W --keep-going -q -b html docs build/docs
	$(BIN)/python .ci/check_docs.py

conformance: $(PEERS_STAMP)  ## redis-py's own asyncio tests with our Client, and the repros
	@$(PEERS)/python proofs/conformance/run.py
	@$(PEERS)/python proofs/conformance/instrumented.py

dropin: $(PEERS_STAMP)  ## programs built on redis-py, with our Client; ONLY=arq runs one
	@$(PEERS)/python proofs/dropin/run_programs.py $(ONLY)
ifndef ONLY
	@$(PEERS)/python proofs/conformance/dropin.py
	@$(PEERS)/python proofs/dropin/run.py
endif

lock-dropin: $(PEERS_STAMP)  ## requirements.lock of each program that make dropin runs, or ONLY
	@$(PEERS)/python proofs/dropin/lock.py $(ONLY)

chaos: $(PEERS_STAMP)  ## server and link broken under load: ours and its peers
	@$(PEERS)/python proofs/chaos/run.py $(if $(ROWS),--rows "$(ROWS)")

RECORDINGS ?= ../shared/polymarket-data
oracle: $(PEERS_STAMP)  ## Polymarket's own SDK against our models, on each payload; a minute
	@$(PEERS)/python proofs/oracle.py $(RECORDINGS)

SECONDS ?= 600
audit: $(PEERS_STAMP)  ## stale reads of the cache under faults, for SECONDS: ours and its peers
	@$(PEERS)/python proofs/audit/run.py --seconds $(SECONDS) $(if $(ONLY),--only $(ONLY)) $(if $(TOPOLOGY),--topology $(TOPOLOGY))

KILL_SECONDS := $(if $(filter command environment,$(firstword $(origin SECONDS))),$(SECONDS),300)
FAULT ?= none
kills: $(STAMP)  ## watchers and couriers killed under load; FAULT=empty|older|failover|sql|feed; 12 minutes
	@$(BIN)/python proofs/kills/run.py --seconds $(KILL_SECONDS) --fault $(FAULT) --page docs/results/kills.md

STRENGTH ?= 1
reordered: $(STAMP)  ## every test but those of speed, sockets heard late and in another order; 11 minutes
	@STRENGTH=$(STRENGTH) PYTHONPATH=$(CURDIR)/proofs/reordered $(BIN)/pytest -n $(N) --dist worksteal -m "not performance"

failovers: $(STAMP)  ## a source of record over 20 failovers, processes moved apart; 3 minutes
	@$(BIN)/python proofs/failovers.py

JSON ?=
compare: $(PEERS_STAMP)  ## a minute: ours beside redis-py and valkey-glide here; JSON=1
	@$(PEERS)/python benchmarks/compare.py $(if $(JSON),--json)

bench: $(PEERS_STAMP)  ## the figures of docs/results/performance.md, peers beside; ROWS="client cache"
	@$(PEERS)/python benchmarks/run.py $(if $(ROWS),--rows $(ROWS))

bench-alerts: $(STAMP)  ## a tick among 100,000 rules, and a recorded day of quotes; a minute
	@$(BIN)/python benchmarks/bench_alerts.py

bench-watch: $(STAMP)  ## tick to queue through the database, takeovers, and the recorded day; 8 minutes
	@$(BIN)/python proofs/kills/speed.py --page docs/results/alerts.md

bench-bot: $(STAMP)  ## the bot's answers at 200 commands a second, its start and memory with 50,000 rules; 2 minutes
	@$(BIN)/python benchmarks/bench_bot.py

bench-page: $(STAMP)  ## the demo's page in Chromium at 5,000 prices a second; a minute
	@$(BIN)/python benchmarks/bench_page.py

growth: $(PEERS_STAMP)  ## sessions from 10^3 to 10^6; 2 GB of memory, about 10 minutes
	@$(PEERS)/python benchmarks/growth.py $(SIZES)

curves: $(PEERS_STAMP)  ## each part on one server and on 1, 3, 6 primaries, by CPU time; 3 minutes; JSON=1
	@$(PEERS)/python benchmarks/curves.py $(if $(JSON),--json)

metrics-cost: $(STAMP)  ## what a get costs with every exporter on; a minute
	@$(BIN)/python benchmarks/metrics_cost.py

hour: $(STAMP)  ## a modelled hour of a bot, with the cache and without; 6 minutes
	@$(BIN)/python benchmarks/hour.py

lock: $(STAMP)  ## requirements.lock for .venv, requirements-peers.lock for .venv-peers
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	  --all-extras --group pyproject.toml:dev --no-emit-package oddswire --no-header \
	  --no-annotate -o requirements.lock oddswire/pyproject.toml oddsbot/pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	  --all-extras --group pyproject.toml:peers --no-emit-package oddswire --no-header \
	  --no-annotate -o requirements-peers.lock oddswire/pyproject.toml
	echo 'redis>=7.4,<8' | $(BIN)/uv pip compile --quiet --universal --generate-hashes \
	  --python-version 3.11 --no-deps --no-header --no-annotate -o requirements-redis7.lock -

# Without --no-build-isolation pip would fetch the build backend a second time, unhashed.
$(STAMP): requirements.lock $(REDIS:%=requirements-redis%.lock) oddswire/pyproject.toml oddsbot/pyproject.toml
	@echo "Setting up $(VENV) (once, about a minute)"
	@$(PYTHON) -c 'import sys; sys.exit("oddswire needs Python 3.11 or newer: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check $(WHEELS) --require-hashes -r requirements.lock
	@$(if $(REDIS),$(BIN)/python -m pip install -qq --disable-pip-version-check $(WHEELS) --require-hashes --no-deps -r requirements-redis$(REDIS).lock)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e oddswire -e oddsbot
	@touch $(STAMP)

# The clients we compare with, and their tests' tools: never in .venv.
$(PEERS_STAMP): requirements-peers.lock oddswire/pyproject.toml
	@echo "Setting up .venv-peers (once, about a minute)"
	@$(PYTHON) -m venv .venv-peers
	@$(PEERS)/python -m pip install -qq --disable-pip-version-check $(WHEELS) --require-hashes -r requirements-peers.lock
	@$(PEERS)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e oddswire
	@touch $(PEERS_STAMP)

clean:  ## everything that was built
	rm -rf .venv .venv-* build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
