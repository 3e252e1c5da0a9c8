"""A Celery application whose tasks fail with a long traceback, as the supervisor's do; run as a worker by a test."""

from __future__ import annotations

import os

from celery import Celery

from celery_stack import small_errors  # noqa: F401 - connects to the worker's start

app = Celery("failing", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.task_acks_late = True
app.conf.worker_prefetch_multiplier = 1


@app.task(name="execute_workload")
def fail(characters: int) -> None:
    raise ValueError("x" * characters)
