"""The training DAG is wired as its page says."""

from __future__ import annotations

import itertools

import pytest

from ml.settings import CANDIDATE_NAMES

STEPS = ["wait_for_data", "load", "preprocess", "train", "evaluate", "challenge", "register"]


@pytest.fixture
def dag(dags):
    return dags["wdbc_training"]


def test_steps_run_in_the_order_of_the_page(dag):
    """Each step is a task named like it, downstream of the one before."""
    assert [task.task_id for task in dag.topological_sort()][: len(STEPS)] == STEPS
    assert dag.get_task("register").downstream_task_ids == {"promote", "record"}
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


def test_runs_weekly_and_after_an_ingest(dag):
    """Either trigger starts it; `load` decides whether there is something to train on."""
    assert dag.timetable.timetable.expression == "0 3 * * 1"
    assert dag.timetable.asset_condition.name == "wdbc_observations"


def test_only_what_reaches_the_warehouse_takes_a_slot_of_its_pool(dag):
    """Reading and recording, on its queue; nothing that computes for long."""
    for named in ("pool", "queue"):
        assert {t.task_id for t in dag.tasks if getattr(t, named) == "pg_io"} == {"load", "record"}
