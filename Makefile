# Everything here works without git, with an empty HOME, and with make 3.81 or newer.
# Another interpreter: make up PYTHON=/usr/bin/python3.13    More options: make up ARGS="--port 8090"

PYTHON =
ARGS =
RUN = .venv/bin/python -m
SHIPPED = services infra migrations loadtests

.DEFAULT_GOAL := help
.PHONY: help setup up down status doctor prove test check check-types check-rules coverage faults load peak growth pool-sweep bench-access bench-business bench-data bench-payments bench-login bench-events bench-live article report lock

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

setup: ## install what the lock file names into .venv (a no-op when nothing changed)
	@PYTHON="$(PYTHON)" sh infra/local/setup.sh

up: setup ## start the whole stack; Ctrl-C stops it (ARGS="--port 8090 --products 1000 --detach")
	@exec $(RUN) infra.cli up $(ARGS)

down: setup ## stop the stack; its data stays in .tercet
	@exec $(RUN) infra.cli down $(ARGS)

status: setup ## show each part: state, pid, address, memory
	@exec $(RUN) infra.cli status $(ARGS)

doctor: setup ## say what is missing or wrong on this machine
	@exec $(RUN) infra.cli doctor $(ARGS)

prove: setup ## check every invariant of the data of a running stack
	@exec $(RUN) infra.cli prove $(ARGS)

check: setup ## lint, format, types, import rules and security rules
	@$(MAKE) --no-print-directory --jobs 2 check-types check-rules

check-types:
	$(RUN) mypy

check-rules:
	$(RUN) ruff check $(SHIPPED) tests
	$(RUN) ruff format --check $(SHIPPED) tests
	.venv/bin/lint-imports --no-cache
	@# Its low severities are ruff's S rules, which are on and answered line by line.
	$(RUN) bandit --quiet --severity-level medium --configfile pyproject.toml --recursive $(SHIPPED)

test: check ## all of that, then every test on the embedded stack
	@sh tests/run.sh $(ARGS)

coverage: setup ## every test, and which lines they reach (the tests take twice as long)
	@COVERAGE=1 sh tests/run.sh $(ARGS)

faults: setup ## the long forms of the fault experiments
	$(RUN) pytest -m faults $(ARGS)

load: setup ## load a running stack, and see whether targets hold (SCENARIO=promotion PROFILE=stress; ARGS=--list)
	@exec $(RUN) loadtests.load $(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(PROFILE),--profile $(PROFILE)) $(ARGS)

peak: setup ## the promotion in small with everything breaking meanwhile, then the proof: one exit code
	@exec $(RUN) loadtests.peak $(ARGS)

growth: setup ## cost of a request from 1,000 to 1,000,000 products and 10 to 5,000 connections: flat or not
	@exec $(RUN) loadtests.growth $(ARGS)

pool-sweep: setup ## throughput and p99 by the size of access' pools, with Little's law beside it
	@exec $(RUN) loadtests.pool_sweep $(ARGS)

bench-access: setup ## access against Node, Go, Gin and nginx (QUICK=1: short; docs/benchmarks.md)
	@exec $(RUN) loadtests.bench_access $(ARGS)

bench-business: setup ## business against the usual way to write it (QUICK=1: short; docs/benchmarks.md)
	@exec $(RUN) loadtests.bench_business $(ARGS)
bench-data: setup ## the data tier against pgbench, asyncpg's pool and redis-py (QUICK=1: short)
	@exec $(RUN) loadtests.bench_data $(ARGS)
bench-payments: setup ## paying and claiming through all three tiers against pgbench (QUICK=1: short)
	@exec $(RUN) loadtests.bench_payments $(ARGS)
bench-login: setup ## logins on short connections; pages and payments beside a flood of them (QUICK=1: short)
	@exec $(RUN) loadtests.bench_login $(ARGS)
bench-events: setup ## behaviour events taken, counted and not lost by kills (QUICK=1: short)
	@exec $(RUN) loadtests.bench_events $(ARGS)
bench-live: setup ## ten thousand live streams: memory, a change to all of them, pages beside (QUICK=1: short)
	@exec $(RUN) loadtests.bench_live $(ARGS)

article: setup ## the article's four loads against its seven servers and Tercet's page (QUICK=1: short)
	@exec $(RUN) loadtests.article $(ARGS)

report: setup ## one HTML page of all results (ARGS=--readme: and the README's block of numbers)
	@exec $(RUN) loadtests.report_page $(ARGS)

lock: ## choose all versions anew from pyproject.toml and write requirements.lock
	@PYTHON="$(PYTHON)" sh infra/local/setup.sh lock
