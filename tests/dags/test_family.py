"""What every DAG of the checkout holds to, and how the family hangs together."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

import pytest

from celery_stack.file_wait import FileWait
from celery_stack.queues import load_declarations
from compose.home import REPO

NAMES = ["queue_canary", "wdbc_generate", "wdbc_ingest", "wdbc_scoring", "wdbc_training"]
CRON = {
    "queue_canary": "*/5 * * * *",
    "wdbc_generate": "0 1 * * *",
    "wdbc_ingest": "15 */6 * * *",
    "wdbc_scoring": "0 4 * * *",
    "wdbc_training": "0 3 * * 1",
}


def clock_of(dag):
    """Give the part of a DAG's schedule that the clock drives."""
    return getattr(dag.timetable, "timetable", dag.timetable)


def test_these_are_the_dags(dags):
    """None is forgotten by the tests below."""
    assert sorted(dags) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_dag_has_a_page_an_owner_and_tags(dags, name):
    """Its docstring is its page, and somebody is to be asked."""
    dag = dags[name]
    assert dag.doc_md.startswith("### ")
    assert dag.tags
    assert {task.owner for task in dag.tasks} <= {"machine-learning", "platform"}


@pytest.mark.parametrize("name", NAMES)
def test_a_dag_runs_at_its_time_once_and_not_before(dags, name):
    """Active from the first start; no run before the first time, none for times that passed."""
    dag = dags[name]
    assert dag.is_paused_upon_creation is False
    assert dag.catchup is False
    assert dag.max_active_runs == 1
    assert clock_of(dag).expression == CRON[name]
    assert clock_of(dag).run_immediately is False


@pytest.mark.parametrize("name", NAMES)
def test_every_task_has_its_limits_written_out(dags, name):
    """Timeout, retries, exponential backoff with a cap."""
    for task in dags[name].tasks:
        assert timedelta(0) < task.execution_timeout <= timedelta(hours=1)
        assert task.retries >= 1
        assert task.retry_exponential_backoff == 2.0
        assert task.max_retry_delay <= timedelta(minutes=10)


def test_what_stores_rows_emits_the_asset_that_others_wait_for(dags):
    """Ingest drives scoring and training."""
    (outlet,) = dags["wdbc_ingest"].get_task("store").outlets
    for name in ("wdbc_scoring", "wdbc_training"):
        assert dags[name].timetable.asset_condition == outlet


def test_waiting_leaves_the_slot_and_ends_in_a_skip(dags):
    """A run waits in the triggerer, and is over before the next one is due."""
    for name, task_id in (("wdbc_ingest", "wait_for_file"), ("wdbc_training", "wait_for_data")):
        task = dags[name].get_task(task_id)
        assert isinstance(task, FileWait)
        assert task.soft_fail
        assert (
            task.timeout < timedelta(hours=6 if name == "wdbc_ingest" else 7 * 24).total_seconds()
        )


def test_the_canary_sings_on_every_queue_in_its_pool(dags):
    """A queue that is declared is watched."""
    declared = load_declarations({}).queues
    tasks = dags["queue_canary"].tasks
    assert {task.task_id: (task.queue, task.pool) for task in tasks} == {
        name: (name, queue.pool or "default_pool") for name, queue in declared.items()
    }


def test_parsing_imports_no_data_library():
    """The file is parsed for every task: pandas and scikit-learn would cost a second each time."""
    code = (
        "import sys; from celery_stack.check_dags import check_folder, private_airflow\n"
        "import os\n"
        "with private_airflow(os.environ):\n"
        "    check_folder(__import__('pathlib').Path('dags'))\n"
        "print({'pandas', 'sklearn', 'pandera', 'pyarrow'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == "set()"
