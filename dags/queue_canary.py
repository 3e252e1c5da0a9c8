"""### A tiny task on every queue

Every five minutes each queue that `queues.toml` declares runs one task, in the pool that the queue
names. A run that has not ended after four minutes fails: a queue has no worker, or is stuck behind
others.
"""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import CronTriggerTimetable, dag, task

from celery_stack.queues import DEFAULT_POOL, load_declarations


@dag(
    schedule=CronTriggerTimetable("*/5 * * * *", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(minutes=4),
    is_paused_upon_creation=False,
    default_args={
        "owner": "platform",
        "retries": 1,
        "retry_delay": timedelta(seconds=10),
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(minutes=1),
        "execution_timeout": timedelta(minutes=1),
    },
    tags=["canary"],
    doc_md=__doc__,
)
def queue_canary() -> None:
    """Wire a task per queue."""

    @task
    def sing() -> None:
        """Do nothing: that it ran is the message."""

    for queue in load_declarations(os.environ).queues.values():
        sing.override(task_id=queue.name, queue=queue.name, pool=queue.pool or DEFAULT_POOL)()


queue_canary()
