# The stack's commands. `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
BIN := .venv/bin
LOCAL := $(BIN)/python -m compose.local
SCALE ?=
SERVICE ?=
DAGS ?= dags
PIP_AUDIT ?= 2.10.1

# What needs no stack: first, because a mistake shows at once, and on two cores.
WITHOUT_STACK = not e2e and not warm and not sla and not faults and not chaos and not slow and not integration

QUICK_FAULTS = worker-kill-write redis-kill postgres-restart scheduler-kill scale-down

# Universal: one file for every Python from 3.11 on; hashes, and no download addresses.
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
  --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

##@ Without Docker
demo: .venv/.ready  ## From nothing to a trained, registered model; stops everything at the end
	@$(LOCAL) demo --scale $(SCALE)

local: .venv/.ready  ## Start the stack and leave it running (SCALE="worker=4 worker-cpu-train=2")
	@$(LOCAL) up --scale $(SCALE)

logs: .venv/.ready  ## Follow the programs' logs (SERVICE=worker for some of them)
	@$(LOCAL) logs $(SERVICE)

airflow: .venv/.ready  ## Run an Airflow command on the running stack (ARGS="dags list")
	@$(LOCAL) airflow $(ARGS)

stop: .venv/.ready  ## Let running tasks finish, then stop everything
	@$(LOCAL) stop

##@ On the stack that is up, with Docker or without
train:  ## Trigger the training pipeline on the running stack and follow it
	@compose/on-stack train

models:  ## Registered models; choose the champion (ARGS="list", "promote VERSION", "rollback")
	@compose/on-stack models $(or $(ARGS),list)

status:  ## What runs, and which queues its workers consume
	@compose/on-stack status

why:  ## Why a task is not running (DAG=wdbc_training TASK=train[2]; RUN=… if not the latest)
	@compose/on-stack why '$(DAG)' '$(TASK)' $(if $(RUN),--run '$(RUN)') $(if $(MAP),--map '$(MAP)')

password:  ## Print the generated password of the first user
	@compose/on-stack password

##@ With Docker (docker compose up --scale worker=4; docker compose stop, logs, ps as usual)
backup:  ## Save databases, secrets and artifacts of the Compose stack (FILE=backup.tar)
	@compose/backup $(or $(FILE),backup-$(shell date +%Y%m%dT%H%M%S).tar)

restore:  ## Replace the Compose stack's data by those of a backup (FILE=backup.tar)
	@compose/restore $(FILE)

rotate-secrets:  ## New passwords of Redis and the database roles; the stack starts again
	@compose/rotate-secrets

images-offline:  ## Build equals of the third-party images, where no image registry can be reached
	@compose/images/offline/build

e2e: .venv/.ready  ## The Compose stack from a clean clone, on a real engine
	@$(BIN)/pytest -m e2e $(foreach part,stack mail sla browser hardening images overlays recovery monitoring cardinality alert_mail,tests/e2e/test_$(part).py) $(PYTEST_ARGS)

chaos: .venv/.ready  ## Faults on a Compose stack under load, into tests/chaos/RESULTS.md (FAULT="redis-kill scale" TASKS=60)
	@FAULT='$(FAULT)' TASKS=$(or $(TASKS),300) RECORD=1 $(BIN)/pytest -m chaos -s tests/chaos $(PYTEST_ARGS)

chaos-quick: .venv/.ready  ## A handful of them with few tasks, some six minutes; records nothing
	@FAULT='$(QUICK_FAULTS)' TASKS=$(or $(TASKS),60) $(BIN)/pytest -m chaos -s tests/chaos $(PYTEST_ARGS)

##@ Checks
test: .venv/.ready  ## Lint, types, unit tests, DAG integrity, integration on a stack of its own
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/pytest -m '$(WITHOUT_STACK)' -n 2 --dist loadscope --cov --cov-report= --cov-fail-under=0 $(PYTEST_ARGS)
	@$(BIN)/pytest -m integration --cov --cov-append --cov-report=term $(PYTEST_ARGS)

test-slow: .venv/.ready  ## Starts, stops and kills of whole stacks, three days of the DAG family, jams, 200 writes that never outnumber the slots of pg_io
	@POOL_TEST_WRITES=200 $(BIN)/pytest -m slow tests/integration $(PYTEST_ARGS)

test-warm: .venv/.ready  ## Warm workers under edits, abuse and load: as if each task had its own parse
	@$(BIN)/pytest -m warm tests/warm/test_warm_workers.py tests/warm/test_many_hands.py $(PYTEST_ARGS)

test-sla: .venv/.ready  ## Missed SLAs: records, mails, callbacks, whatever was down meanwhile
	@$(BIN)/pytest -m sla tests/sla $(PYTEST_ARGS)

test-faults: .venv/.ready  ## Faults, bad input and strangers, tried on a stack: nothing is lost
	@$(BIN)/pytest -m faults tests/faults $(PYTEST_ARGS)

test-stock: .venv/.ready  ## Airflow's example DAGs on both paths, then integration of tasks with every warm piece off
	@$(BIN)/pytest -m warm tests/warm/test_examples.py $(PYTEST_ARGS)
	@WARM_IMPORTS=none WARM_SUPERVISOR=off WARM_TEMPLATES=0 WAKE_SCHEDULER=off $(BIN)/pytest -m 'integration and not either_path' $(PYTEST_ARGS)

check-dags: .venv/.ready  ## Check the DAG files of a folder against the policies, without a stack (DAGS=folder)
	@$(BIN)/python -m celery_stack.check_dags $(DAGS)

bench: .venv/.ready  ## Against Airflow's official Compose configuration, into .bench, half an hour (ROUNDS=5; QUICK=1 a smoke run; RECORD=1 replaces tests/benchmarks/RESULTS.*)
	@$(BIN)/python -m tests.benchmarks.bench_stack $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(QUICK),--quick) $(if $(RECORD),--record)

bench-io: .venv/.ready  ## Rows per second into the warehouse, against other ways (ROWS=1000000)
	@$(BIN)/python -m tests.benchmarks.bench_io $(ROWS)

bench-isolation: .venv/.ready  ## What small tasks wait for beside a training backlog or a jam (SAMPLES=5)
	@$(BIN)/python -m tests.benchmarks.bench_isolation $(SAMPLES)

load: .venv/.ready  ## Many DAG files, tasks and messages, and a large frame: what they cost (SHARE=0.1 a smoke run)
	@$(BIN)/python -m tests.load.bench_load $(SHARE)

soak: .venv/.ready  ## Tasks without a pause: whether memory, connections or results grow (SOAK_MINUTES=30)
	@$(BIN)/python -m tests.load.bench_soak $(SOAK_MINUTES)

bench-model: .venv/.ready  ## What a trained model can be expected to reach: nested cross-validation (some ten minutes)
	@$(BIN)/python -m tests.benchmarks.bench_model $(REPEATS)

bench-threads: .venv/.ready  ## Two training slots that share the cores, against no limit on threads (ROUNDS=3)
	@$(BIN)/python -m tests.benchmarks.bench_threads $(ROUNDS)

audit: .venv/.ready  ## Known vulnerabilities of the locked packages, asked of a service on the internet
	@$(BIN)/uv tool run pip-audit==$(PIP_AUDIT) --requirement requirements-dev.lock --require-hashes --disable-pip --strict

##@ Keeping house
setup: .venv/.ready  ## Install the hash-locked packages into .venv

lock: .venv/.ready  ## Compile the lock files again (UPGRADE=1 for newer versions)
	@$(LOCK) pyproject.toml -o requirements.lock
	@$(LOCK) --all-extras -c requirements.lock pyproject.toml -o requirements-dev.lock

clean:  ## Stop the stack and delete its data, secrets, models and logs (keeps .venv)
	@[ ! -x $(BIN)/python ] || $(LOCAL) stop
	@rm -rf .stack
	@echo "deleted .stack"

# The stamp is older than what it was made from: install again.
.venv/.ready: requirements-dev.lock compose/redis-server.lock pyproject.toml compose/install.sh
	@PYTHON="$(PYTHON)" compose/install.sh

help:
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z0-9-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: help demo local train models status why logs password airflow stop backup restore rotate-secrets images-offline e2e \
  test test-slow test-warm test-sla test-faults test-stock check-dags audit load soak chaos chaos-quick \
  bench bench-io bench-isolation bench-model bench-threads setup lock clean
