"""What more than the stack is made for costs: `python -m tests.load.bench_load [SHARE]`.

Starts a stack of its own with one worker of four slots, and prints a line for each load:

- DAG files: 200 more, until all are known;
- a mapped task of 1,000 instances, until all are done;
- a DataFrame of 100 MB through XCom, and what it adds to the metadata;
- 10,000 messages in Redis, 4,000 of them of queued task instances, with no worker: what the scheduler takes of a
  core, and how long its look for lost messages takes.

SHARE scales all of it, down to one run of a thousand that wait: 0.1 is a smoke run. Half an hour at most.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from unittest.mock import patch

from airflow import settings as airflow_settings
from airflow.models.taskinstancekey import TaskInstanceKey
from celery import Celery
from celery.result import AsyncResult
from redis import Redis
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker

from celery_stack.messages import Broker
from celery_stack.republish import Republisher
from compose.home import REPO
from compose.supervise import Supervisor
from tests.benchmarks.bench_stack.usage import cpu_by_program
from tests.integration.conftest import RunningStack, running_stack
from tests.waiting import wait_for

FILES, MAPPED, FRAME_MIB, MESSAGES = 200, 1000, 100, 10_000
WAITING_RUNS, IN_A_RUN = 4, 1000
DEADLINE_S = 480
LOOKS = 5
WATCH_S = 20
DAG_FILE = '''
"""One of many."""
from datetime import timedelta
from airflow.sdk import dag, task

@dag("{name}", schedule=None, doc_md=__doc__, default_args={{"owner": "tests", "execution_timeout": timedelta(minutes=1)}})
def one():
    @task
    def step(): ...
    step()

one()
'''
WAITING = """
SELECT dag_id, task_id, run_id, try_number, map_index, external_executor_id, queued_by_job_id
FROM task_instance WHERE state = 'queued'
"""


def main(share: float) -> None:
    """Load a stack with one thing after the other."""
    limits = {"PARALLELISM": "4096", "DEFAULT_POOL_SLOTS": "4096", "DAG_REFRESH_S": "5"}
    with running_stack(
        REPO / ".stack-load", "worker=1", dags_of_tests=REPO / "tests/load/dags", **limits
    ) as stack:
        stack.client.wait_for_dag("many", deadline_s=90)
        for load in (files, mapped, frame, queued):
            load(stack, share)


def files(stack: RunningStack, share: float) -> None:
    count, folder = int(FILES * share), Path(stack.env["DAGS_FOLDER"])
    for number in range(count):
        name = f"one_{number:03}"
        (folder / f"{name}.py").write_text(DAG_FILE.format(name=name))
    took_s = seconds_until(lambda: known(stack) >= count)
    show(f"{count} DAG files", f"all known after {took_s:.0f} s")


def known(stack: RunningStack) -> int:
    query = "SELECT count(*) FROM dag WHERE dag_id LIKE 'one\\_%%' AND NOT is_stale"
    return int(stack.metadata(query)[0].count)


def mapped(stack: RunningStack, share: float) -> None:
    count = int(MAPPED * share)
    begin = time.monotonic()
    run_id = stack.client.trigger("many", {"tasks": count})
    state = stack.wait_for_end("many", run_id, deadline_s=DEADLINE_S)
    took_s = time.monotonic() - begin
    show(f"mapped task of {count}", f"{state} after {took_s:.0f} s, {count / took_s:.1f} a second")


def frame(stack: RunningStack, share: float) -> None:
    mib = max(1, int(FRAME_MIB * share))
    before, begin = size(stack), time.monotonic()
    run_id = stack.client.trigger("large_frame", {"mib": mib})
    state = stack.wait_for_end("large_frame", run_id, deadline_s=DEADLINE_S)
    took_s, added = time.monotonic() - begin, size(stack) - before
    show(
        f"DataFrame of {mib} MiB through XCom",
        f"{state} after {took_s:.0f} s, metadata grew {added / 2**20:.1f} MiB",
    )


def size(stack: RunningStack) -> int:
    return int(stack.metadata("SELECT pg_database_size(current_database()) AS size")[0].size)


def queued(stack: RunningStack, share: float) -> None:
    """Stop the worker, and measure the scheduler beside what waits for it."""
    runs, messages = max(1, int(WAITING_RUNS * share)), int(MESSAGES * share)
    count = runs * IN_A_RUN
    Supervisor(stack.home)._rpc.supervisor.stopProcess("workers:worker-1")
    idle = scheduler_share(stack)
    for _ in range(runs):
        stack.client.trigger("waiting")
    took_s = seconds_until(lambda: len(stack.metadata(WAITING)) >= count)
    fill(stack, messages)
    busy, looks = scheduler_share(stack), looks_s(stack)
    show(
        f"{count} queued, {messages} messages",
        f"queued after {took_s:.0f} s; the scheduler takes {busy:.0%} of a core, idle {idle:.0%}; "
        f"a look for lost messages takes {median(looks) * 1000:.0f} ms, "
        f"with nothing queued {nothing_s(stack) * 1000:.1f} ms",
    )


def fill(stack: RunningStack, messages: int) -> None:
    """Have as many messages wait in Redis, those of other stacks' tasks by their ids."""
    with Redis.from_url(stack.broker_url) as redis:
        message = redis.lindex("default", 0)
        for _ in range(max(0, messages - redis.llen("default"))):
            redis.lpush("default", message)


def scheduler_share(stack: RunningStack) -> float:
    """Give the share of a core that the scheduler takes."""
    before = cpu_by_program(stack.home)["scheduler"]
    time.sleep(WATCH_S)
    return (cpu_by_program(stack.home)["scheduler"] - before) / WATCH_S


def looks_s(stack: RunningStack) -> list[float]:
    """Look as the scheduler does, at what it has queued; give how long each look took."""
    waiting = stack.metadata(WAITING)
    celery = Celery(broker=stack.broker_url, set_as_current=False)
    workloads = {
        TaskInstanceKey(
            row.dag_id, row.task_id, row.run_id, row.try_number, row.map_index
        ): AsyncResult(row.external_executor_id, app=celery)
        for row in waiting
    }
    executor = SimpleNamespace(
        workloads=workloads, running=set(), job_id=waiting[0].queued_by_job_id, celery_app=celery
    )
    return timed(stack, Republisher(executor, Broker(celery), every_s=0))  # type: ignore[arg-type]


def nothing_s(stack: RunningStack) -> float:
    executor = SimpleNamespace(workloads={})
    celery = Celery(broker=stack.broker_url, set_as_current=False)
    return median(timed(stack, Republisher(executor, Broker(celery), every_s=0)))  # type: ignore[arg-type]


def timed(stack: RunningStack, republisher: Republisher) -> list[float]:
    sessions = sessionmaker(create_engine(stack.metadata_url))
    found = []
    with patch.object(airflow_settings, "Session", sessions):
        for _ in range(LOOKS):
            begin = time.perf_counter()
            republisher.look()
            found.append(time.perf_counter() - begin)
    assert not republisher._missing, "messages that are there were not found"
    return found


def seconds_until(reached: Callable[[], bool]) -> float:
    begin = time.monotonic()
    wait_for(reached, bool, deadline_s=DEADLINE_S)
    return time.monotonic() - begin


def show(what: str, found: str) -> None:
    sys.stdout.write(f"{what:40} {found}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)
