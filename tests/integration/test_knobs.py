"""Every limit on how much runs at once is reached and never exceeded; counted afterwards."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.conftest import RunningStack
from tests.integration.places import most_at_once, place

pytestmark = pytest.mark.integration
INSTANCES = """
SELECT run_id, task_id, pool_slots, queued_dttm, end_date FROM task_instance WHERE dag_id = %s
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


def of(instances: list[Any], **columns: str) -> list[Any]:
    return [one for one in instances if columns.items() <= one._asdict().items()]
