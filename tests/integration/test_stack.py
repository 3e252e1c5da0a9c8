"""What the running stack promises: XCom, policies, secrets, and workers that come back."""

from __future__ import annotations

from typing import Any

import psutil
import pytest

from celery_stack.queues import load_declarations
from celery_stack.warehouse.role import connection_limit
from celery_stack.why import Code
from compose.secret_files import read_secret
from compose.status import consumed_queues
from compose.supervise import Supervisor
from tests.integration.conftest import RunningStack
from tests.leaks import leaked
from tests.readme import refusals
from tests.stack_processes import all_secrets, look_at, open_doors, what_it_shows
from tests.waiting import wait_for

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def frames(stack: RunningStack) -> str:
    """Pass frames from task to task, once for this module; give the run."""
    return stack.run("frames")


def test_dataframes_travel_through_xcom_unchanged(stack: RunningStack, frames: str):
    """Values and types survive, below the threshold and above it."""
    small = stack.client.result("frames", frames, "measure_10")
    large = stack.client.result("frames", frames, "measure_20000")
    assert (small["rows"], large["rows"]) == (10, 20_000)
    assert small["types"] == large["types"]
    assert large["sum"] == _expected_sum(20_000)


def test_large_dataframe_stays_out_of_postgres(stack: RunningStack, frames: str):
    """Above the threshold the artifact store has the frame."""
    stored = [p for p in (stack.home.artifacts / "xcom").rglob("*") if frames in str(p)]
    assert any("make_20000" in str(path) for path in stored), stored
    assert not any("make_10/" in str(path) for path in stored), stored


@pytest.mark.either_path
def test_refused_dag_is_named_with_its_remedy_while_others_load(stack: RunningStack):
    """For every policy: DAG, task, expected, found, remedy, as the README says; the rest is there."""
    expected = refusals()
    errors = wait_for(
        stack.client.import_errors, lambda found: len(found) >= len(expected), deadline_s=60
    )
    assert set(errors) == set(expected)
    for file, line in expected.items():
        assert line in errors[file]
    for dag_id in ("frames", "knobs", "retries", "wdbc_training"):
        stack.client.wait_for_dag(dag_id, deadline_s=60)


@pytest.mark.either_path
def test_every_worker_consumes_its_queues(stack: RunningStack):
    """Asked over Redis, each worker names the queues of its pool."""
    assert consumed_queues(stack.home) == {
        "worker-1": ["default", "pg_io"],
        "worker-2": ["default", "pg_io"],
        "worker-cpu-train-1": ["cpu_train"],
    }


def test_workers_hold_no_way_into_the_metadata_database(stack: RunningStack):
    """Neither the environment nor the files that a worker is told of name it."""
    secret = read_secret(stack.home.secrets / "postgres/airflow")
    for told in look_at(stack, "worker", lambda process: " ".join(process.environ().values())):
        assert "sql_alchemy_conn" not in told
        assert secret not in told


@pytest.mark.either_path
def test_warehouse_is_migrated_and_its_role_limited(stack: RunningStack):
    """A start brings the tables, and the database itself holds the pool's line."""
    tables = stack.warehouse("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    assert {"observations", "predictions", "write_fences"} <= {row.tablename for row in tables}
    (role,) = stack.warehouse("SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user")
    assert role.rolconnlimit == connection_limit(load_declarations(stack.env))


def test_no_secret_is_on_a_command_line_or_in_an_environment(stack: RunningStack):
    """Every generated secret stays in its file."""
    secrets = all_secrets(stack)
    for name, shown in look_at(stack, "", what_it_shows):
        assert not leaked(secrets, shown), name


def test_no_secret_is_logged(stack: RunningStack):
    """No program's log and no task's log contains one."""
    secrets = all_secrets(stack)
    for log in (stack.home.root / "logs").rglob("*.log"):
        text = log.read_text(errors="replace")
        assert not leaked(secrets, text), log


@pytest.mark.either_path
def test_everything_listens_on_loopback_only(stack: RunningStack):
    """No port of the stack is open to other machines."""
    doors = [door for doors in look_at(stack, "", open_doors) for door in doors]
    assert len(doors) > 3, doors
    assert {address for _, address, _ in doors} <= {"127.0.0.1", "::1"}, doors


@pytest.mark.either_path
def test_why_says_that_no_scheduler_runs(stack: RunningStack):
    """Stopped, it is the answer; started again, it lets the task run."""
    supervisor = Supervisor(stack.home)._rpc.supervisor
    supervisor.stopProcess("control:scheduler")
    try:
        run_id = stack.client.trigger("errand")
        reason = wait_for(
            lambda: stack.why("errand", run_id, "run"),
            lambda found: found.code == Code.NO_SCHEDULER,
            deadline_s=60,
        )
    finally:
        supervisor.startProcess("control:scheduler", False)
    assert reason.text.endswith(": look at make status and its log.")
    assert stack.wait_for_end("errand", run_id) == "success"


@pytest.mark.either_path
def test_every_part_that_is_killed_comes_back_and_tasks_run(stack: RunningStack):
    """kill -9 of servers, components and a worker: all of it is healthy again, and a run succeeds.

    The other workers live on, and find the servers again.
    """
    killed = {p["name"]: p["pid"] for p in Supervisor(stack.home).processes() if _is_killed(p)}
    assert len(killed) == 9, killed
    for pid in killed.values():
        psutil.Process(pid).kill()
    wait_for(
        lambda: [
            p["name"]
            for p in Supervisor(stack.home).processes()
            if p["statename"] != "RUNNING" or p["pid"] == killed.get(p["name"])
        ],
        lambda down: not down,
        deadline_s=60,
    )
    # Every worker consumes, the one that was killed under its own name.
    wait_for(lambda: stack.command("status").returncode, lambda code: code == 0, deadline_s=60)
    run_id = stack.run("errand")
    assert stack.client.run_state("errand", run_id) == "success"


def _is_killed(program: dict[str, Any]) -> bool:
    return program["group"] != "workers" or program["name"] == "worker-2"


@pytest.mark.either_path
def test_status_names_every_program(stack: RunningStack):
    """`make status` exits 0 when all run and every worker consumes."""
    shown = stack.command("status")
    assert shown.returncode == 0, shown.stdout
    for name in ("postgres", "redis", "api-server", "scheduler", "dag-processor", "triggerer"):
        assert name in shown.stdout


def _expected_sum(rows: int) -> str:
    import numpy as np
    import pandas as pd

    return pd.Series(np.random.default_rng(0).normal(size=rows)).sum().hex()
