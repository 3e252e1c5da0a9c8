"""Every limit on how much runs at once is reached and never exceeded; counted afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import pytest

from tests.integration.conftest import PARALLELISM, RunningStack

pytestmark = pytest.mark.integration
INSTANCES = """
SELECT run_id, task_id, pool_slots, queued_dttm, start_date, end_date, state
FROM task_instance WHERE dag_id = %s ORDER BY start_date
"""
RUNS = "SELECT start_date, end_date FROM dag_run WHERE dag_id = %s"


@pytest.fixture(scope="module")
def instances(stack: RunningStack) -> list[Any]:
    """Trigger three runs of `knobs` at once; give their task instances when all have ended."""
    stack.client.wait_for_dag("knobs", deadline_s=90)
    runs = [stack.client.trigger("knobs") for _ in range(3)]
    assert [stack.wait_for_end("knobs", run_id) for run_id in runs] == ["success"] * 3
    return stack.metadata(INSTANCES, "knobs")


def test_max_active_runs_bounds_the_runs(stack: RunningStack, instances: list[Any]):
    """Of three runs triggered together two are active, and the third waits."""
    assert (
        most_at_once((run.start_date, run.end_date) for run in stack.metadata(RUNS, "knobs")) == 2
    )


def test_max_active_tasks_bounds_each_run(instances: list[Any]):
    """Three tasks of a run, whichever they are."""
    for run_id in {one.run_id for one in instances}:
        assert most_at_once(map(place, of(instances, run_id=run_id))) == 3


def test_max_active_tis_per_dag_bounds_a_task_over_all_runs(instances: list[Any]):
    """Two of `narrow`, although two runs could take three each."""
    assert most_at_once(map(place, of(instances, task_id="narrow"))) == 2


def test_pool_slots_make_a_task_count_more_than_once(instances: list[Any]):
    """Tasks of 2 slots in a pool of 4: two at once."""
    heavy = of(instances, task_id="heavy")
    assert {one.pool_slots for one in heavy} == {2}
    assert most_at_once(map(place, heavy)) == 2


def test_parallelism_bounds_everything(stack: RunningStack):
    """Sixteen tasks that no other limit holds back: PARALLELISM of them are queued or running."""
    stack.run("crowd")
    crowd = stack.metadata(INSTANCES, "crowd")
    assert [one.state for one in crowd] == ["success"] * 16
    assert most_at_once(map(place, crowd)) == PARALLELISM


def test_priority_weight_orders_what_waits_for_a_place(stack: RunningStack):
    """One at a time, the heaviest first, in whatever order the file names them."""
    stack.run("priorities")
    order = [one.task_id for one in stack.metadata(INSTANCES, "priorities")]
    assert order == ["weight_100", "weight_10", "weight_1"]


def place(instance: Any) -> tuple[datetime, datetime]:
    """Give the time during which the instance counted: queued or running."""
    return instance.queued_dttm, instance.end_date


def of(instances: list[Any], **columns: str) -> list[Any]:
    return [one for one in instances if columns.items() <= one._asdict().items()]


def most_at_once(spans: Iterable[tuple[datetime, datetime]]) -> int:
    """Give the largest number of spans that overlap at any time."""
    changes = sorted(change for begin, end in spans for change in ((end, -1), (begin, 1)))
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most
