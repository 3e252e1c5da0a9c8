"""The README's queue `high_io`: one declaration, and with Docker one service, is all it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from celery_stack.check_dags import check_folder
from celery_stack.policies import read_rules
from celery_stack.queues import DECLARATION_FILE, Declarations, Queue, Worker, load_declarations
from celery_stack.settings import Settings
from compose.entrypoint import command_of
from compose.home import REPO, StackHome
from compose.programs import Plan, Program, airflow_programs
from tests.readme import code_block

NAME = "worker-high-io"
DAG = '''
"""Fetches."""

from datetime import timedelta

from airflow.sdk import dag, task


@dag(schedule=None, default_args={"owner": "data"}, doc_md=__doc__)
def fetch():
    @task(queue="high_io", execution_timeout=timedelta(minutes=5))
    def download(): ...

    download()


fetch()
'''


@pytest.fixture
def queues_file(tmp_path: Path) -> Path:
    """Give the stock declarations with the README's added."""
    file = tmp_path / "queues.toml"
    file.write_text(f"{DECLARATION_FILE.read_text()}\n{code_block('toml', 'high_io')}")
    return file


@pytest.fixture
def declared(queues_file: Path) -> Declarations:
    return load_declarations({"QUEUES_FILE": str(queues_file)})


def test_declaration_brings_queue_worker_pool_and_variables(declared: Declarations) -> None:
    """The stock ones stay as they are."""
    assert set(declared.queues) == {"default", "pg_io", "cpu_train", "high_io"}
    assert declared.queues["high_io"] == Queue(
        "high_io", "Downloads and uploads: many at once, hardly any CPU.", NAME
    )
    assert declared.workers[NAME] == Worker(NAME, ("high_io",), 16)
    new = declared.variables().keys() - load_declarations({}).variables().keys()
    assert new == {"HIGH_IO_CONCURRENCY", "HIGH_IO_QUEUES"}


def test_start_without_docker_supervises_its_workers(queues_file: Path, tmp_path: Path) -> None:
    """Two processes that consume the queue, as many tasks at once as the variable says."""
    env = {"QUEUES_FILE": str(queues_file), "HIGH_IO_CONCURRENCY": "3"}
    worker = programs(env, tmp_path, {NAME: 2})[NAME]
    assert worker.processes == 2
    options = " ".join(worker.command)
    assert "celery worker --queues high_io --concurrency 3" in options
    assert worker.env["QUEUES_FILE"] == str(queues_file)


def test_service_of_compose_is_a_worker_like_the_others(declared: Declarations) -> None:
    """Added to compose/airflow.yaml it differs from `worker` in its command and its variable alone."""
    services = with_service(code_block("yaml", NAME))
    new, stock = services[NAME], services["worker"]
    assert {key for key in stock if stock[key] != new.get(key)} == {
        "command",
        "environment",
        "scale",
    }
    assert new.keys() <= stock.keys()
    extra = new["environment"].keys() ^ stock["environment"].keys()
    assert extra == {"HIGH_IO_CONCURRENCY", "WORKER_CONCURRENCY"}
    command = command_of(new["command"][-1], Settings(), declared)
    assert command[command.index("--queues") + 1] == "high_io"


def test_policies_let_tasks_into_the_queue(
    queues_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same DAG is refused where nobody declared it."""
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "fetch.py").write_text(DAG)
    monkeypatch.delenv("QUEUES_FILE", raising=False)
    read_rules.cache_clear()
    assert "queue 'high_io' is not declared" in str(check_folder(dags))
    monkeypatch.setenv("QUEUES_FILE", str(queues_file))
    read_rules.cache_clear()
    assert check_folder(dags).findings == {}
    read_rules.cache_clear()


def programs(env: dict[str, str], home: Path, scale: dict[str, int]) -> dict[str, Program]:
    ports = dict.fromkeys(("api", "flower", "postgres", "redis"), 1024)
    plan = Plan(StackHome(home), env, Settings.from_env(env), load_declarations(env), ports, scale)
    return {program.name: program for program in airflow_programs(plan)}


def with_service(block: str) -> dict[str, Any]:
    """Give the services of compose/airflow.yaml with the block where the README puts it."""
    text = (REPO / "compose/airflow.yaml").read_text()
    before, below, after = text.partition("\n  flower:\n")
    assert "\n  worker-cpu-train:\n" in before
    content: dict[str, Any] = yaml.safe_load(f"{before}\n{block}{below}{after}")
    return dict(content["services"])
