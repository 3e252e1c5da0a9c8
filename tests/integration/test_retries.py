"""Retries as they were planned (the metadata says so) and as they happened."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any

import pytest

from celery_stack.retries import retry_delay, spread_of
from celery_stack.settings import Settings
from tests.integration.conftest import RunningStack

pytestmark = pytest.mark.integration
DAG = "retries"
SECOND = timedelta(seconds=1)
# Of what the scheduler goes by: the tries that ended, and the one that is the task's last.
TRIES = """
SELECT try_number, state, start_date, end_date, retry_delay_override AS delay_s, retry_reason
FROM (SELECT task_id, map_index, run_id, dag_id, try_number, state, start_date, end_date,
             retry_delay_override, retry_reason FROM task_instance_history
      UNION ALL
      SELECT task_id, map_index, run_id, dag_id, try_number, state, start_date, end_date,
             NULL, NULL FROM task_instance) AS tries
WHERE dag_id = 'retries' AND run_id = %s AND task_id = %s AND map_index = %s
ORDER BY try_number
"""


@pytest.fixture(scope="module")
def run_id(stack: RunningStack) -> str:
    """Run the DAG once for this module."""
    return stack.run(DAG)


def test_mapped_siblings_that_fail_together_are_retried_apart(stack: RunningStack, run_id: str):
    """Each has the delay that the formula gives for its index, and no two the same."""
    delays = [tries_of(stack, run_id, "heal", index)[0].delay_s for index in range(3)]
    assert delays == [planned_s(run_id, "heal", index, 1) for index in range(3)]
    assert len(set(delays)) == 3


def test_error_that_heals_is_retried_and_then_succeeds(stack: RunningStack, run_id: str):
    """The second try of every sibling does the work; the first says why there was another."""
    for index in range(3):
        first, second = tries_of(stack, run_id, "heal", index)
        assert (first.try_number, second.try_number, second.state) == (1, 2, "success")
        assert first.retry_reason.startswith("ConnectionError may heal: again in 1.")


def test_error_that_does_not_heal_fails_at_the_first_try(stack: RunningStack, run_id: str):
    """Three retries are left, none is used, and the log says why."""
    (only,) = tries_of(stack, run_id, "refuse")
    assert (only.try_number, only.state) == (1, "failed")
    log = stack.client.log_tail(DAG, run_id, stack.tasks(DAG, run_id)["refuse"])
    assert "Retry policy decision" in log


def test_delays_grow_up_to_the_cap_as_planned(stack: RunningStack, run_id: str):
    """Doubled from 1 s on, and the cap of 3 s at last, jitter included: to the microsecond."""
    *tries, last = tries_of(stack, run_id, "lose")
    assert last.state == "failed"
    delays = [one.delay_s for one in tries]
    assert delays == [planned_s(run_id, "lose", -1, number, cap=3 * SECOND) for number in (1, 2, 3)]
    first, second, third = delays
    assert 1 <= first < 1.5, "the task's own delay"
    assert second >= 2, "doubled"
    assert 2 <= third < 3, "doubled again it would be 4 and more"


def test_no_retry_starts_before_its_time(stack: RunningStack, run_id: str):
    """The scheduler waits as long as the worker said."""
    for task_id, index in (("lose", -1), ("heal", 0), ("heal", 1), ("heal", 2)):
        for failed, retried in itertools.pairwise(tries_of(stack, run_id, task_id, index)):
            assert retried.start_date - failed.end_date >= timedelta(seconds=failed.delay_s)


def tries_of(stack: RunningStack, run_id: str, task_id: str, index: int = -1) -> list[Any]:
    """Give the tries of a task instance, the first one first.

    `delay_s` is the delay before the next one, as recorded when the try failed.
    """
    return stack.metadata(TRIES, run_id, task_id, index)


def planned_s(
    run_id: str, task_id: str, index: int, number: int, *, cap: timedelta | None = None
) -> float:
    """Work the delay out again: a delay of 1 s, the stack's factor and jitter, and its cap or `cap`."""
    defaults = Settings()
    delay = retry_delay(
        number,
        base=SECOND,
        factor=defaults.RETRY_BACKOFF,
        cap=cap or timedelta(seconds=defaults.MAX_RETRY_DELAY_S),
        jitter=defaults.RETRY_JITTER,
        spread=spread_of(DAG, run_id, task_id, index, number),
    )
    return delay.total_seconds()
