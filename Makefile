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

# Universal: one file for every Python from 3.11 on; hashes, and no download addresses.
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
  --custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

##@ Without Docker
demo: .venv/.ready  ## From nothing to a trained, registered model; stops everything at the end
	@$(LOCAL) demo --scale $(SCALE)

local: .venv/.ready  ## Start the stack and leave it running (SCALE="worker=4 worker-cpu-train=2")
	@$(LOCAL) up --scale $(SCALE)

train: .venv/.ready  ## Trigger the training pipeline on the running stack and follow it
	@$(LOCAL) train

status: .venv/.ready  ## What runs, and which queues its workers consume
	@$(LOCAL) status

logs: .venv/.ready  ## Follow the programs' logs (SERVICE=worker for some of them)
	@$(LOCAL) logs $(SERVICE)

password: .venv/.ready  ## Print the generated password of the first user
	@$(LOCAL) password

airflow: .venv/.ready  ## Run an Airflow command on the running stack (ARGS="dags list")
	@$(LOCAL) airflow $(ARGS)

stop: .venv/.ready  ## Let running tasks finish, then stop everything
	@$(LOCAL) stop

##@ Checks
test: .venv/.ready  ## Lint, types, unit tests, DAG integrity, integration on a stack of its own
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/pytest -m 'not e2e' --cov --cov-report=term $(PYTEST_ARGS)

check-dags: .venv/.ready  ## Check the DAG files of a folder against the policies, without a stack (DAGS=folder)
	@$(BIN)/python -m celery_stack.check_dags $(DAGS)

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
	  /^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: help demo local train status logs password airflow stop test check-dags setup lock clean
