"""How long small tasks take beside a training backlog, and writers beside a jammed `default`.

    python -m tests.benchmarks.bench_isolation [SAMPLES]

Starts a stack of its own with the stock settings, one worker of each kind, and measures in the
metadata: for a task of `default`, from the trigger of its run to its end; for four writers of
`pg_io`, from queued to ended, which is how long each holds its slot. Each is measured on the idle
stack first, then under the load: training tasks at full CPU, ten times the slots of their pool; or
one-second tasks of `default`, twice as many as PARALLELISM lets out. How long these hold their own
slots, which is what writers would in the same queue, comes last.
"""

from __future__ import annotations

import sys
from statistics import median

from celery_stack.queues import load_declarations
from celery_stack.settings import Settings
from compose.home import REPO
from tests.integration.conftest import RunningStack, running_stack
from tests.waiting import wait_for

SAMPLES = 5
ERRAND = """
SELECT extract(epoch FROM ti.end_date - run.queued_at)::float AS seconds
FROM task_instance ti JOIN dag_run run USING (dag_id, run_id)
WHERE dag_id = 'errand' AND run_id = %s
"""
HELD = """
SELECT extract(epoch FROM end_date - queued_dttm)::float AS seconds
FROM task_instance WHERE dag_id = %s AND run_id = %s
"""
WAITING = """
SELECT count(*) FROM task_instance
WHERE dag_id = %s AND run_id = %s AND pool = %s AND state IN ('queued', 'running')
"""


def main(samples: int) -> None:
    """Measure, and print each time with its ratio to the idle stack's."""
    with running_stack(REPO / ".stack-bench", "worker=1") as stack:
        errand(stack)  # the first run of anything is slower
        idle, held = errands(stack, samples), writers(stack)
        show(f"task of default, idle stack ({samples} runs)", idle, idle)
        show("task of default, training backlog", beside_training(stack, samples), idle)
        show("slot of pg_io held, idle stack (4 writers)", held, held)
        beside, jam = beside_jam(stack)
        show("slot of pg_io held, jammed default", beside, held)
        show("slot held by a task of the jam itself", jam, held)


def errands(stack: RunningStack, samples: int) -> list[float]:
    return [errand(stack) for _ in range(samples)]


def errand(stack: RunningStack) -> float:
    """Give the seconds from the trigger of a run to the end of its task."""
    return float(stack.metadata(ERRAND, stack.run("errand"))[0].seconds)


def writers(stack: RunningStack) -> list[float]:
    return hold_times(stack, "writers", stack.run("writers"))


def hold_times(stack: RunningStack, dag_id: str, run_id: str) -> list[float]:
    """Give how many seconds each task of a run held its slot."""
    return [row.seconds for row in stack.metadata(HELD, dag_id, run_id)]


def beside_training(stack: RunningStack, samples: int) -> list[float]:
    slots = load_declarations(stack.env).pools["cpu_train"].slots
    release = stack.home.root / "release"
    load = {"tasks": 10 * slots, "release": str(release), "busy": True}
    backlog = begin(stack, "training_backlog", load, pool="cpu_train", waiting=slots)
    try:
        return errands(stack, samples)
    finally:
        release.touch()
        stack.wait_for_end("training_backlog", backlog)


def beside_jam(stack: RunningStack) -> tuple[list[float], list[float]]:
    """Give how long writers held their slots, and how long the tasks of the jam did."""
    most = Settings.from_env(stack.env).PARALLELISM
    load = {"tasks": 2 * most, "seconds": 1}
    jam = begin(stack, "jam", load, pool="default_pool", waiting=most * 3 // 4)
    beside = writers(stack)
    stack.wait_for_end("jam", jam)
    return beside, hold_times(stack, "jam", jam)


def begin(
    stack: RunningStack, dag_id: str, load: dict[str, object], *, pool: str, waiting: int
) -> str:
    """Trigger a load and wait until that many of its tasks are queued or running; give its run."""
    stack.client.wait_for_dag(dag_id, deadline_s=90)
    run_id = stack.client.trigger(dag_id, load)
    wait_for(
        lambda: stack.metadata(WAITING, dag_id, run_id, pool)[0].count,
        lambda count: count >= waiting,
        deadline_s=120,
    )
    return run_id


def show(what: str, seconds: list[float], idle: list[float]) -> None:
    ratio = median(seconds) / median(idle)
    line = (
        f"{what:45} median {median(seconds):5.1f} s   longest {max(seconds):5.1f} s   × {ratio:.1f}"
    )
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES)
