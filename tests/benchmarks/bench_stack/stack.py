"""A running stack of one profile, started from nothing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import redis
from psycopg.rows import namedtuple_row
from sqlalchemy.engine import make_url

from compose.client import AirflowClient
from compose.home import REPO, StackHome
from compose.secret_files import read_secret
from compose.supervise import Supervisor
from tests.benchmarks.bench_stack.profiles import Profile
from tests.benchmarks.bench_stack.usage import Meter, make_meter
from tests.integration.conftest import connect_to, living, stack_command, stack_environment

HOME = StackHome(REPO / ".bench" / "stack")
DAGS = Path(__file__).with_name("dags")
KEPT_VARIABLES = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "USER")
"""Of the shell's; the settings of a stack are none of them: each profile runs on its defaults."""

CELERY_RESULTS = """
SELECT task_id, date_done::timestamptz AS date_done FROM celery_taskmeta
WHERE status IN ('SUCCESS', 'FAILURE') AND task_id = ANY(%s)
"""


@dataclass(frozen=True)
class BenchStack:
    """A stack that is up: its meter, its API and an open connection to its metadata."""

    profile: Profile
    home: StackHome
    meter: Meter
    client: AirflowClient
    connection: psycopg.Connection[Any]

    def rows(self, query: str, *values: Any) -> list[Any]:
        """Ask the metadata database; give rows whose columns are attributes."""
        return self.connection.execute(query, values).fetchall()

    def celery_results(self, ids: list[str]) -> dict[str, datetime]:
        """Give when Celery was done with each of the tasks `ids` that it has ended."""
        if self.profile.programs == "stock":
            return {row.task_id: row.date_done for row in self.rows(CELERY_RESULTS, ids)}
        url = read_secret(self.home.secrets / "control/result_backend")
        with redis.Redis.from_url(url) as client:
            found = client.mget([f"celery-task-meta-{one}" for one in ids])
        return ended_results([text for text in found if text])

    def stop_workers(self, *, above: int) -> None:
        """Stop the worker processes whose number is above `above`, tasks finished."""
        for process in Supervisor(self.home).processes():
            name, _, number = process["name"].rpartition("-")
            if name == "worker" and int(number) > above and process["statename"] == "RUNNING":
                Supervisor(self.home)._rpc.supervisor.stopProcess(f"workers:{process['name']}")


def ended_results(results: list[bytes]) -> dict[str, datetime]:
    """Read Celery's JSON results: task id → when it ended; those that have not are left out."""
    parsed = [json.loads(text) for text in results]
    return {
        one["task_id"]: datetime.fromisoformat(one["date_done"])
        for one in parsed
        if one["date_done"] is not None
    }


@contextlib.contextmanager
def running(profile: Profile, workload: dict[str, str]) -> Iterator[BenchStack]:
    """Start a stack of `profile` and stop it at the end.

    Args:
        workload: variables that the DAG files read.
    """
    Supervisor(HOME).stop(patience_s=10)
    shutil.rmtree(HOME.root, ignore_errors=True)
    env = _environment(profile, workload)
    meter = make_meter()
    try:
        _start(profile, env, meter)
        with _metadata_connection() as connection:
            yield BenchStack(profile, HOME, meter, connect_to(HOME, env).client, connection)
    finally:
        stopped = stack_command(env, "stop")
        meter.close()
    assert stopped.returncode == 0, stopped.stdout
    assert living(HOME) == []


def _environment(profile: Profile, workload: dict[str, str]) -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    stack = {
        name: value
        for name, value in stack_environment(HOME.root).items()
        if os.environ.get(name) != value
    }
    return kept | stack | {"DAGS_FOLDER": str(DAGS)} | workload | dict(profile.env)


def _start(profile: Profile, env: dict[str, str], meter: Meter) -> None:
    module = "tests.benchmarks.bench_stack.start"
    started = subprocess.run(
        [sys.executable, "-m", module, profile.programs, f"worker={profile.workers}"],
        env=env,
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=meter.enter,
    )
    assert started.returncode == 0, started.stdout + started.stderr


def _metadata_connection() -> psycopg.Connection[Any]:
    address = make_url(read_secret(HOME.secrets / "control/sql_alchemy_conn"))
    url = address.set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(url, autocommit=True, row_factory=namedtuple_row)
