"""Airflow's own example DAGs end the same way on warm workers and as Airflow has it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from airflow import example_dags
from airflow.providers.standard import example_dags as standard_example_dags

from compose.home import REPO
from tests.integration.conftest import RunningStack, running_stack
from tests.waiting import wait_for
from tests.warm.conftest import PARSED_ONCE

pytestmark = pytest.mark.warm

# They need nothing but Airflow, no network and no person, and end within seconds.
CORE = {
    "example_branch_labels": "example_branch_labels",
    "example_complex": "example_complex",
    "example_dynamic_task_mapping": "example_dynamic_task_mapping",
    "example_dynamic_task_mapping_with_no_taskflow_operators": "example_dynamic_task_mapping_with_no_taskflow_operators",
    "example_failed_dag": "example_failed_dag",
    "example_nested_branch_dag": "example_nested_branch_dag",
    "example_outlet_event_extra": "asset_with_extra_by_yield",
    "example_params_trigger_ui": "example_params_trigger_ui",
    "example_setup_teardown": "example_setup_teardown",
    "example_setup_teardown_taskflow": "example_setup_teardown_taskflow",
    "example_simplest_dag": "example_simplest_dag",
    "example_skip_dag": "example_skip_dag",
    "example_task_group": "example_task_group",
    "example_task_group_decorator": "example_task_group_decorator",
    "example_time_delta_sensor_async": "example_time_delta_sensor_async",
    "example_xcom": "example_xcom",
    "example_xcomargs": "example_xcom_args",
    "tutorial_taskflow_api": "tutorial_taskflow_api",
}
STANDARD = {
    "example_bash_decorator": "example_bash_decorator",
    "example_bash_operator": "example_bash_operator",
    "example_short_circuit_decorator": "example_short_circuit_decorator",
    "example_short_circuit_operator": "example_short_circuit_operator",
}
DAG_IDS = [*CORE.values(), *STANDARD.values()]
SCHEDULE = re.compile(r"\bschedule=[^,\n]+")
# Slots enough for the CPU to be the limit: on Airflow's path an ended task may keep its own for seconds.
SETTINGS = {
    "POLICY_EXEMPT_PATHS": "examples",
    "RETRY_DELAY_S": "1",
    "TASK_RETRIES": "1",
    "WORKER_CONCURRENCY": "16",
}
ALL_OFF = {
    "WARM_IMPORTS": "none",
    "WARM_SUPERVISOR": "off",
    "WARM_TEMPLATES": "0",
    "WAKE_SCHEDULER": "off",
}
# What names one run and no other: its times, ids and process.
OF_A_RUN = re.compile(
    r"(manual__)?\d{4}-?\d\d-?\d\d[T ]?[\d:.+]*Z?|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|/tmp/\w+"
)
# What was skipped is noted in the order of a set, which differs from process to process.
XCOMS = """
SELECT task_id, map_index, key, value FROM xcom
WHERE dag_id = %s AND run_id = %s AND key <> 'skipmixin_key' ORDER BY 1, 2, 3
"""
# Each run draws or names something of its own.
DIFFERS_BY_ITSELF = {"example_bash_decorator", "example_bash_operator", "example_params_trigger_ui"}


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder of the files, below the folder that the policies leave alone.

    Without their schedules: only the test starts runs.
    """
    folder = tmp_path_factory.mktemp("dags") / "examples"
    folder.mkdir()
    for package, names in ((example_dags, CORE), (standard_example_dags, STANDARD)):
        for name in names:
            text = Path(str(package.__file__)).with_name(f"{name}.py").read_text()
            (folder / f"{name}.py").write_text(SCHEDULE.sub("schedule=None", text))
    return folder.parent


@contextmanager
def last_runs(
    examples: Path, *, rounds: int, **settings: str
) -> Iterator[tuple[RunningStack, dict[str, str]]]:
    """Run every example, all of them together, `rounds` times; give the last run of each DAG."""
    folder = REPO / ".stack-examples"
    scale = ("worker=1", "worker-cpu-train=0")
    with running_stack(folder, *scale, dags_of_tests=examples, **SETTINGS, **settings) as stack:
        for dag_id in DAG_IDS:
            wait_for(lambda: stack.client.find_dag(dag_id), bool, deadline_s=120)  # noqa: B023
            stack.set_paused(dag_id, False)
        for _ in range(rounds):
            runs = {dag_id: stack.client.trigger(dag_id) for dag_id in DAG_IDS}
            for dag_id, run_id in runs.items():
                stack.wait_for_end(dag_id, run_id)
        yield stack, runs


def outcome(stack: RunningStack, dag_id: str, run_id: str) -> dict[str, Any]:
    tasks = stack.client.tasks(dag_id, run_id)
    found: dict[str, Any] = {task.label: (task.state, task.try_number) for task in tasks}
    found["run"] = stack.client.run_state(dag_id, run_id)
    if dag_id not in DIFFERS_BY_ITSELF:
        rows = stack.metadata(XCOMS, dag_id, run_id)
        found["xcom"] = [OF_A_RUN.sub("…", f"{tuple(row)}") for row in rows]
    return found


def logs_of(stack: RunningStack, runs: dict[str, str]) -> dict[str, list[str]]:
    """Give the tasks' logs of each DAG that has any: a task that does nothing runs on no worker."""
    folders = {
        dag_id: stack.home.task_logs / f"dag_id={dag_id}/run_id={run_id}"
        for dag_id, run_id in runs.items()
    }
    found = {
        dag_id: [log.read_text() for log in folder.rglob("attempt=?.log")]
        for dag_id, folder in folders.items()
    }
    return {dag_id: logs for dag_id, logs in found.items() if logs}


def forked(logs: dict[str, list[str]]) -> set[str]:
    """Give the DAGs of which any task was forked from a template, as its log says."""
    return {dag_id for dag_id, texts in logs.items() if any(PARSED_ONCE in text for text in texts)}


def test_example_dags_end_alike_on_both_paths(examples: Path):
    """States, tries and XComs of mapping, branches, groups, deferral, bash, set-up and teardown."""
    with last_runs(examples, rounds=1, **ALL_OFF) as (stack, runs):
        stock = {dag_id: outcome(stack, dag_id, run_id) for dag_id, run_id in runs.items()}
        assert forked(logs_of(stack, runs)) == set()
    # Twice, and with room for every template, so that the tasks of the second runs find them.
    with last_runs(examples, rounds=2, WARM_TEMPLATES="32") as (stack, runs):
        warm = {dag_id: outcome(stack, dag_id, run_id) for dag_id, run_id in runs.items()}
        logs = logs_of(stack, runs)
        # A lone task may come while its template is still being made.
        assert forked(logs) >= {dag_id for dag_id, texts in logs.items() if len(texts) > 1}
    assert warm == stock
    assert {states["run"] for states in stock.values()} == {"success", "failed"}
