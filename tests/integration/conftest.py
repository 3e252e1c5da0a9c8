"""A stack of the tests' own: folder, ports and DAGs apart from one that runs already."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import psycopg
import pytest
from psycopg.rows import namedtuple_row
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from celery_stack.live_workers import connect
from celery_stack.why import Reason, explain
from compose import launch
from compose.client import AirflowClient, TaskState
from compose.home import REPO, StackHome
from compose.programs import COMMAND_LINE
from compose.secret_files import read_secret
from compose.status import consumed_queues
from compose.supervise import Supervisor
from tests.waiting import wait_for

RUN_DEADLINE_S = 240
PARALLELISM = 12
"""Above the slots of the workers (two of 4, one of 2), and few enough to be reached in a test."""
WORKER_SLOTS = 8
"""Those of the two workers that consume `default` and `pg_io`."""


@dataclass(frozen=True)
class RunningStack:
    """A stack that is up, and what the tests ask of it."""

    home: StackHome
    env: dict[str, str]
    client: AirflowClient

    def run(
        self,
        dag_id: str,
        conf: dict[str, Any] | None = None,
        *,
        logical_date: str | None = None,
        deadline_s: float = RUN_DEADLINE_S,
    ) -> str:
        """Trigger `dag_id` and wait until the run ended; give its id."""
        self.client.wait_for_dag(dag_id, deadline_s=90)
        run_id = self.client.trigger(dag_id, conf, logical_date=logical_date)
        self.wait_for_end(dag_id, run_id, deadline_s=deadline_s)
        return run_id

    def wait_for_end(self, dag_id: str, run_id: str, *, deadline_s: float = RUN_DEADLINE_S) -> str:
        """Wait until the run ended; give its state."""
        return wait_for(
            lambda: self.client.run_state(dag_id, run_id),
            lambda state: state in ("success", "failed"),
            deadline_s=deadline_s,
        )

    def set_paused(self, dag_id: str, paused: bool) -> None:
        """Keep the clock from starting `dag_id` in the middle of a test, or let it again."""
        self.client._send("PATCH", f"/api/v2/dags/{dag_id}", json={"is_paused": paused})

    def tasks(self, dag_id: str, run_id: str) -> dict[str, TaskState]:
        return {task.label: task for task in self.client.tasks(dag_id, run_id)}

    @property
    def metadata_url(self) -> str:
        return read_secret(self.home.secrets / "control/sql_alchemy_conn")

    @property
    def broker_url(self) -> str:
        return read_secret(self.home.secrets / "control/broker_url")

    def metadata(self, query: str, *values: Any) -> list[Any]:
        """Ask the metadata database; give rows whose columns are attributes."""
        address = make_url(self.metadata_url).set(drivername="postgresql")
        return _rows(address.render_as_string(hide_password=False), query, values)

    def why(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> Reason:
        """Ask why a task is not running as `make why` does, in the stack's environment."""
        environment = json.loads(self.home.programs_file.read_text())[COMMAND_LINE]["env"]
        engine = create_engine(self.metadata_url, poolclass=NullPool)
        with patch.dict(os.environ, environment), Session(engine) as session:
            broker = connect(self.broker_url)
            return explain(dag_id, run_id, task_id, map_index, session=session, broker=broker)

    def warehouse(self, query: str, *values: Any) -> list[Any]:
        """Ask the warehouse, as the role that writes to it; give rows like `metadata`."""
        file = self.home.secrets / "worker/connections.json"
        return _rows(json.loads(file.read_text())["warehouse"], query, values)

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        return stack_command(self.env, *words)


def _rows(url: str, query: str, values: Sequence[Any]) -> list[Any]:
    with (
        psycopg.connect(url) as connection,
        connection.cursor(row_factory=namedtuple_row) as cursor,
    ):
        cursor.execute(query, values)
        return cursor.fetchall() if cursor.description else []


def stack_command(
    env: dict[str, str], *words: str, checkout: Path = REPO
) -> subprocess.CompletedProcess[str]:
    """Run `python -m compose.local …` of `checkout` for the stack that `env` describes."""
    return subprocess.run(
        [sys.executable, "-m", "compose.local", *words],
        env=env,
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )


def stack_environment(home: Path, **settings: str) -> dict[str, str]:
    """Give the environment for a stack in `home` whose ports start away from the usual ones."""
    ports = {"API_PORT": "18080", "FLOWER_PORT": "15555", "POSTGRES_PORT": "25432"}
    ports |= {"REDIS_PORT": "26379", "SUPERVISOR_PORT": "29001"}
    return os.environ | ports | {"STACK_HOME": str(home)} | settings


@pytest.fixture(scope="session")
def stack() -> Iterator[RunningStack]:
    """Start the whole topology with two workers, and stop it at the end."""
    # Tests take messages out of Redis, to see what is said of it.
    settings = {"PARALLELISM": str(PARALLELISM), "MESSAGE_CHECK_S": "600"}
    with running_stack(REPO / ".stack-test", "worker=2", **settings) as stack:
        yield stack


@contextmanager
def running_stack(
    folder: Path,
    *scale: str,
    dags_of_tests: Path = REPO / "tests/integration/dags",
    checkout: Path = REPO,
    **settings: str,
) -> Iterator[RunningStack]:
    """Start a stack in `folder`, from nothing, with the DAGs of the tests beside those of the stack."""
    home = StackHome(folder)
    Supervisor(home).stop(patience_s=10)
    shutil.rmtree(folder, ignore_errors=True)
    dags = folder / "dags"
    shutil.copytree(REPO / "dags", dags)
    shutil.copytree(dags_of_tests, dags, dirs_exist_ok=True)
    env = stack_environment(folder, DAGS_FOLDER=str(dags), **settings)
    started = stack_command(env, "up", "--scale", *scale, checkout=checkout)
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        stack = connect_to(home, env)
        stack.client.wait_for_dag("queue_canary", deadline_s=90)
        stack.set_paused("queue_canary", True)  # its tasks would take places that tests count
        yield stack
    finally:
        stopped = stack_command(env | {"WORKER_STOP_TIMEOUT_S": "5"}, "stop", checkout=checkout)
    assert stopped.returncode == 0, stopped.stdout
    assert living(home) == []


@contextmanager
def another(
    stack: RunningStack, program: str, *, name: str = "second", **settings: str
) -> Iterator[psutil.Process]:
    """Run another one of a program beside the supervisor's.

    Args:
        name: of its log, before the program's.
        settings: variables on top of the program's own.
    """
    own = json.loads(stack.home.programs_file.read_text())[program]["command"]
    changed = ["env", *(f"{key}={value}" for key, value in settings.items()), *own]
    command = [sys.executable, launch.__file__, str(stack.home.programs_file), program]
    command += changed if settings else []
    log = stack.home.program_logs / f"{name}-{program}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=stack.env, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def connect_to(home: StackHome, env: dict[str, str]) -> RunningStack:
    """Give the stack that runs in `home`, once all of its workers consume."""
    url = started_url(home)
    client = AirflowClient(url, user="admin", password=read_secret(home.secrets / "admin/password"))
    workers = sum(one["name"].startswith("worker") for one in Supervisor(home).processes())
    wait_for(lambda: consumed_queues(home), lambda queues: len(queues) == workers, deadline_s=60)
    return RunningStack(home, env, client)


def living(home: StackHome) -> list[str]:
    """Name every process that works in `home`, by its command line or its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            told = [*process.cmdline(), *process.environ().values()]
        except psutil.Error:
            continue
        own = process.pid == os.getpid()
        if not own and any(str(home.root) in text for text in told):
            found.append(" ".join(process.cmdline()))
    return found


def started_url(home: StackHome) -> str:
    return f"http://127.0.0.1:{json.loads(home.ports_file.read_text())['api']}"
