"""The runs that are timed. Every time is one of the metadata database, none of the watcher."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from tests.benchmarks.bench_stack.stack import BenchStack
from tests.waiting import wait_for

RUN_DEADLINE_S = 600
HELD_AFTER_S = 1.0
"""A slot counts as held when Celery is done with its task this long after the task itself."""

RUN = "SELECT state, queued_at, end_date FROM dag_run WHERE dag_id = %s AND run_id = %s"
TASKS = """
SELECT state, start_date, end_date, external_executor_id::text AS celery_id
FROM task_instance WHERE dag_id = %s AND run_id = %s ORDER BY end_date
"""


@dataclass(frozen=True)
class Sizes:
    """How much of each workload; names are those of the variables that the DAG files read."""

    warm_up: int = 32
    independent: int = 200
    chain: int = 20
    heavy: int = 50
    sleepers: int = 48
    sleep_s: float = 2.0
    singles: int = 5
    idle_s: float = 30.0  # as long as between two looks at a DAG file: one look is in it

    def variables(self) -> dict[str, str]:
        """Give the variables that the DAG files read."""
        return {f"BENCH_{name.upper()}": str(value) for name, value in asdict(self).items()}


QUICK = Sizes(warm_up=8, independent=16, chain=4, heavy=4, singles=2, idle_s=5.0)


@dataclass(frozen=True)
class Run:
    """A run that succeeded: its row and those of its tasks, in the order in which they ended."""

    row: Any
    tasks: list[Any]

    @property
    def seconds(self) -> float:
        """From the trigger to the end of the run."""
        return float((self.row.end_date - self.row.queued_at).total_seconds())

    @property
    def tasks_per_s(self) -> float:
        """Tasks per second, from the trigger to the end of the last task."""
        taken = self.tasks[-1].end_date - self.row.queued_at
        return len(self.tasks) / float(taken.total_seconds())

    @property
    def hop_s(self) -> float:
        """Seconds by which each further task of a chain makes it longer."""
        taken = self.tasks[-1].end_date - self.tasks[0].end_date
        return float(taken.total_seconds()) / (len(self.tasks) - 1)

    @property
    def working_s(self) -> float:
        """From the start of the first task to the end of the last."""
        first = min(task.start_date for task in self.tasks)
        return float((self.tasks[-1].end_date - first).total_seconds())


def run(stack: BenchStack, dag_id: str) -> Run:
    """Trigger `dag_id`, wait until the run and all its tasks have succeeded, and give it."""
    run_id = stack.client.trigger(dag_id)
    row = wait_for(
        lambda: stack.rows(RUN, dag_id, run_id)[0],
        lambda row: row.state in ("success", "failed"),
        deadline_s=RUN_DEADLINE_S,
    )
    tasks = stack.rows(TASKS, dag_id, run_id)
    found = Counter(task.state for task in tasks)
    assert row.state == "success", (
        f"Expected every task of {dag_id} to succeed on {stack.profile.name}, found {dict(found)}. "
        f"Their logs are in {stack.home.task_logs}; on a busy machine a file's imports may take "
        "longer than the 30 s that Airflow gives them."
    )
    return Run(row, tasks)


def run_idle(stack: BenchStack, dag_id: str) -> Run:
    """Like `run`, at a moment that is random to the scheduler's own rhythm."""
    time.sleep(random.uniform(1.0, 2.0))  # noqa: S311 - after a run it would be the same each time
    return run(stack, dag_id)


def wait_until_released(stack: BenchStack, tasks: list[Any]) -> int:
    """Wait until Celery is done with every task; give how many of them held their slot."""
    ids = [task.celery_id for task in tasks]
    done = wait_for(
        lambda: stack.celery_results(ids), lambda found: len(found) == len(ids), deadline_s=60
    )
    return slots_held({task.celery_id: task.end_date for task in tasks}, done)


def slots_held(ended: dict[str, Any], done: dict[str, Any]) -> int:
    """Count the tasks that Celery was done with a second or more after they had ended."""
    late = ((done[name] - ended[name]).total_seconds() for name in ended)
    return sum(seconds >= HELD_AFTER_S for seconds in late)
