"""The training DAG is wired as its page says."""

from __future__ import annotations

import itertools
import subprocess
import sys
from datetime import timedelta

import pytest
from airflow.dag_processing.dagbag import BundleDagBag

from compose.home import REPO
from ml.settings import CANDIDATE_NAMES

STEPS = ["load", "preprocess", "train", "evaluate", "register"]


@pytest.fixture(scope="module")
def dag():
    folder = REPO / "dags"
    bag = BundleDagBag(dag_folder=folder, bundle_path=folder, bundle_name="dags")
    assert bag.import_errors == {}
    return bag.dags["wdbc_training"]


def test_steps_run_in_the_order_of_the_page(dag):
    """Each step is a task named like it, downstream of the one before."""
    assert [task.task_id for task in dag.topological_sort()] == STEPS
    for earlier, later in itertools.pairwise(STEPS):
        assert later in dag.get_task(earlier).downstream_task_ids


def test_only_training_uses_the_training_workers(dag):
    """Queue and pool `cpu_train` belong to `train` alone."""
    for task in dag.tasks:
        trains = task.task_id == "train"
        assert (task.queue == "cpu_train", task.pool == "cpu_train") == (trains, trains)


def test_each_candidate_is_a_mapped_task(dag):
    """`train` expands over every candidate that the pipeline knows."""
    assert dag.get_task("train").op_kwargs_expand_input.value == {"name": list(CANDIDATE_NAMES)}


def test_runs_weekly_one_at_a_time_without_catching_up(dag):
    """A stack that was down for a month trains once, not four times."""
    assert dag.catchup is False
    assert dag.max_active_runs == 1
    assert dag.timetable.expression == "0 3 * * 1"


def test_every_task_has_its_limits_written_out(dag):
    """Timeout, retries, exponential backoff with a cap, and an owner."""
    for task in dag.tasks:
        assert timedelta(0) < task.execution_timeout <= timedelta(hours=1)
        assert task.retries == 2
        assert task.retry_exponential_backoff == 2.0
        assert task.max_retry_delay == timedelta(minutes=10)
        assert task.owner == "machine-learning"


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
